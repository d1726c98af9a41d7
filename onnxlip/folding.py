"""Folding: every tensor's shape, and the value of every tensor that is constant.

One walk in topological order. A node whose inputs are all constants is a constant; so is one
whose rule says that it depends on shapes only (form `Fixed`). Constant nodes are collected and
run together in onnxruntime, only when a shape downstream hangs on their values or at the end.
Shapes come from each op's own schema, node by node with all constants known, which is reliable
where inference over a whole graph is not; where a schema knows none, the rule says it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.errors import ModelError
from onnxlip.model import Model, has_subgraph, reads
from onnxlip.registry import RuleSet
from onnxlip.rules import Node, Value

__all__ = ["MAX_ENTRIES", "MAX_FOLDED_BYTES", "UNUSED", "fold"]

MAX_FOLDED_BYTES = 2**30  # one folded constant; AlexNet's largest weight is 151 MB
UNUSED = Value("", (), np.dtype(np.float32))  # an optional output that the file leaves out
MAX_ENTRIES = 2**27  # of one variable tensor: 1 GiB of positions
_SMALL = 4096  # entries: constants that a shape may hang on are at most this large

Array = npt.NDArray[Any]


def fold(
    model: Model, rules: RuleSet, wanted: Callable[[Any], bool] | None = None
) -> tuple[list[Node], dict[str, Value]]:
    """All non-constant nodes in topological order, and all tensors by name.

    wanted: which nodes of the model's graph to look at (all, if None).
    Raises ModelError where a shape cannot be known or a constant would be too large.
    """
    walk = _Walk(model, rules)
    nodes = [n for n in model.nodes if wanted is None or wanted(n)]
    walk.collect_constants(nodes)
    for proto in nodes:
        walk.visit(proto)
    walk.flush()
    return walk.finished()


def attributes_of(proto: Any) -> dict[str, Any]:
    """A node's attributes in plain Python."""
    from onnx import AttributeProto, helper, numpy_helper

    plain: dict[str, Any] = {}
    for attribute in proto.attribute:
        if attribute.type == AttributeProto.TENSOR:
            plain[attribute.name] = numpy_helper.to_array(attribute.t)
            continue
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        elif attribute.type == AttributeProto.STRINGS:
            value = [v.decode(errors="replace") for v in value]
        elif isinstance(value, (list, tuple)) or hasattr(value, "extend"):
            value = list(value)
        plain[attribute.name] = value
    return plain


class _Walk:
    def __init__(self, model: Model, rules: RuleSet) -> None:
        self.model = model
        self.rules = rules
        self.constants: dict[str, Array] = dict(model.constants)
        self.pending: list[Any] = []
        self.promised: dict[str, Any] = {}  # constants not run yet: name → TypeProto or None
        self.variables: dict[str, tuple[tuple[int, ...], int]] = dict(model.inputs)
        self.found: list[tuple[Any, dict[str, Any]]] = []
        self._schemas: dict[tuple[str, str], Any] = {}
        self._names: set[str] = set()
        for name, (shape, _) in model.inputs.items():
            self._refuse_endless(f"input '{name}'", shape)

    # ── constants ─────────────────────────────────────────────────────────────────────────

    def collect_constants(self, nodes: list[Any]) -> None:
        """First, everything that no input reaches at all."""
        for proto in nodes:
            if self._all_constant(proto):
                self._promise(proto)

    def _known(self, name: str) -> bool:
        return name in self.constants or name in self.promised

    def _all_constant(self, proto: Any) -> bool:
        if has_subgraph(proto):
            return False  # a loop may be endless: what is in a file is not run unseen
        return all(self._known(name) for name in proto.input if name) and self._deterministic(proto)

    def _deterministic(self, proto: Any) -> bool:
        schema = self._schema(proto)
        kind = getattr(schema, "node_determinism", None)
        return kind is None or not str(kind).endswith("NonDeterministic")

    def _schema(self, proto: Any) -> Any:
        from onnx import defs

        key = (proto.domain, proto.op_type)
        if key not in self._schemas:
            domain = "" if proto.domain == "ai.onnx" else proto.domain
            version = self.model.opsets.get(domain, 1)
            try:
                self._schemas[key] = defs.get_schema(proto.op_type, version, domain)
            except defs.SchemaError:
                self._schemas[key] = None
        return self._schemas[key]

    def _promise(self, proto: Any) -> None:
        """Note a constant node; refuse it if its result would be too large."""
        types = self._infer(proto)
        if types is None and self.pending:
            self.flush()
            types = self._infer(proto)
        named = [name for name in proto.output if name]
        if types is not None and all(0 in (_static(types[name]) or ()) for name in named):
            self.constants |= {name: _empty(types[name]) for name in named}
            return  # runtimes stumble over nodes that have nothing to compute
        for name in named:
            kind = (types or {}).get(name)
            self._refuse_large(proto, name, kind)
            self.promised[name] = kind
        self.pending.append(proto)

    def _refuse_large(self, proto: Any, name: str, kind: Any) -> None:
        from onnx import helper

        if kind is None or not kind.HasField("tensor_type"):
            return
        dims = _static(kind)
        if dims is None:
            return
        item = np.dtype(helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)).itemsize
        size = math.prod(dims) * item
        if size > MAX_FOLDED_BYTES:
            raise ModelError(
                f"{self.model.name}: the constant '{name}' of {proto.op_type} "
                f"'{_label(proto)}' would unfold to {size / 2**30:.1f} GiB "
                f"(at most {MAX_FOLDED_BYTES / 2**30:.0f}): refused; is a shape wrong?"
            )

    def flush(self) -> None:
        """Run all pending constant nodes in one session."""
        if not self.pending:
            return
        for name, value in zip(
            self.promised, self._run_constants(self.pending, list(self.promised)), strict=True
        ):
            if value.nbytes > MAX_FOLDED_BYTES:
                raise ModelError(f"{self.model.name}: the constant '{name}' is too large to fold")
            self.constants[name] = value
        self.pending.clear()
        self.promised.clear()

    def _run_constants(self, nodes: list[Any], wanted: list[str]) -> list[Array]:
        from onnx import ValueInfoProto, helper, numpy_helper

        from onnxlip.operators import run_graph

        made = {name for proto in nodes for name in proto.output}
        needed = {name for proto in nodes for name in proto.input if name} - made
        inputs, feeds, initializers = [], {}, []
        for name in sorted(needed):
            array = np.asarray(self.constants[name])
            if array.nbytes <= _SMALL:
                initializers.append(numpy_helper.from_array(np.array(array, order="C"), name))
                continue
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            inputs.append(helper.make_tensor_value_info(name, kind, array.shape))
            feeds[name] = array
        outputs = [ValueInfoProto(name=name) for name in wanted]
        graph = helper.make_graph(nodes, "constants", inputs, outputs, initializers)
        self._make_runnable(graph.node)
        opsets = [helper.make_opsetid(d, v) for d, v in self.model.opsets.items()]
        proto = helper.make_model(
            graph, opset_imports=opsets, ir_version=max(8, min(self.model.ir_version, 10))
        )
        try:
            return run_graph(proto, feeds)
        except Exception as first:  # a type or an op that onnxruntime lacks on CPU
            from onnx.reference import ReferenceEvaluator

            try:
                feeds |= {i.name: numpy_helper.to_array(i) for i in initializers}
                with np.errstate(all="ignore"), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # means of nothing, and the like
                    ran: Any = ReferenceEvaluator(proto).run(None, feeds)
                return [np.asarray(v) for v in ran]
            except Exception:
                names = ", ".join(sorted({n.op_type for n in nodes}))
                reason = str(first).strip().splitlines()[-1][:200]
                raise ModelError(
                    f"{self.model.name}: constants cannot be folded (ops {names}): {reason}"
                ) from None

    def _make_runnable(self, nodes: Any) -> None:
        """Two things that onnxruntime does not bear, changed in place.

        At an unnamed output among any number of them it ends the process; what a schema calls
        optional stays unnamed, for naming that can change what a node does. And it may refuse
        nodes that share a name.
        """
        seen = set()
        for proto in nodes:
            if proto.name in seen:
                proto.ClearField("name")
            seen.add(proto.name)
            schema = self._schema(proto)
            if all(proto.output) or schema is None or not schema.outputs:
                continue
            last = schema.outputs[-1]
            if last.option == type(last.option).Variadic:
                named = next(filter(None, proto.output), _label(proto))
                for k, name in enumerate(proto.output):
                    proto.output[k] = name or f"output {k} beside {named}"

    # ── shapes ────────────────────────────────────────────────────────────────────────────

    def _type(self, name: str) -> Any:
        from onnx import helper

        if name in self.constants:
            array = self.constants[name]
            stored = helper.np_dtype_to_tensor_dtype(array.dtype)
            return helper.make_tensor_type_proto(stored, array.shape)
        if name in self.promised:
            return self.promised[name]
        if name in self.variables:
            shape, kind = self.variables[name]
            return helper.make_tensor_type_proto(kind, shape)
        return None

    def _infer(self, proto: Any) -> dict[str, Any] | None:
        """Types of the outputs by the op's schema, None if it does not say all of them."""
        from onnx import numpy_helper, shape_inference

        schema = self._schema(proto)
        if schema is None:
            return None
        types = {name: self._type(name) for name in proto.input if name}
        if any(t is None for t in types.values()):
            return None
        data = {
            name: numpy_helper.from_array(np.array(self.constants[name], order="C"), name)
            for name in types
            if name in self.constants and self.constants[name].size <= _SMALL
        }
        from onnx import helper

        opsets = [helper.make_opsetid(d, v) for d, v in self.model.opsets.items()]
        try:
            inferred = shape_inference.infer_node_outputs(
                schema, proto, types, data, opset_imports=opsets, ir_version=self.model.ir_version
            )
        except Exception as error:  # the C++ inference raises its own types
            self._reason = str(error).strip().splitlines()[-1][:200]
            return None
        complete = all(
            name in inferred and _static(inferred[name]) is not None
            for name in proto.output
            if name
        )
        return dict(inferred) if complete else None

    # ── variables ─────────────────────────────────────────────────────────────────────────

    def visit(self, proto: Any) -> None:
        """Fold the node, or give its outputs their shapes."""
        if all(self._known(name) for name in proto.output if name):
            return
        if self._all_constant(proto):
            self._promise(proto)
            return
        if any(
            name in self.promised and _entries(self.promised[name]) <= _SMALL
            for name in proto.input
        ):
            self.flush()
        for name in reads(proto):
            if not self._known(name) and name not in self.variables:
                raise ModelError(
                    f"{self.model.name}: {proto.op_type} '{_label(proto)}' reads '{name}', "
                    "which nothing produces"
                )
        attributes = attributes_of(proto)
        node = self._node(proto, attributes, outputs=())
        fixed = self.rules.fixed(node)
        if fixed is not None:
            for name, value in zip(proto.output, fixed.value(node), strict=False):
                self.constants[name] = np.asarray(value)
            return
        types = self._infer(proto)
        said = self.rules.shape_of(node) if self._schema(proto) is None else None
        if types is None and said is not None:
            kind = self._type(node.x.name).tensor_type.elem_type
            for name, dims in zip(proto.output, said, strict=False):
                self._note(proto, name, tuple(dims), kind)
        elif types is None:
            self._run_for_shapes(proto)
        else:
            for name in filter(None, proto.output):
                dims_ = _static(types[name])
                assert dims_ is not None
                self._note(proto, name, dims_, types[name].tensor_type.elem_type)
        if not all(name in self.constants for name in proto.output if name):
            self.found.append((proto, attributes))

    def _refuse_endless(self, what: str, shape: tuple[int, ...]) -> None:
        if math.prod(shape) > MAX_ENTRIES:
            raise ModelError(
                f"{self.model.name}: {what} would have {math.prod(shape):.1e} entries (at most "
                f"{MAX_ENTRIES:.1e}): refused; is a shape wrong?"
            )

    def _note(self, proto: Any, name: str, shape: tuple[int, ...], kind: int) -> None:
        """A variable; one without entries has nothing that could vary, and is a constant."""
        from onnx import helper

        self._refuse_endless(f"'{name}' of {proto.op_type} '{_label(proto)}'", shape)
        if 0 in shape:
            self.constants[name] = np.zeros(shape, helper.tensor_dtype_to_np_dtype(kind))
        else:
            self.variables[name] = (shape, kind)

    def _run_for_shapes(self, proto: Any) -> None:
        """Where the schema says nothing: run the node once, on zeros."""
        from onnx import helper

        if has_subgraph(proto):
            raise ModelError(
                f"{self.model.name}: the output shape of {proto.op_type} '{_label(proto)}' "
                "depends on what its subgraph does; export the model without control flow"
            )
        self.flush()
        zeros = {
            name: np.zeros(shape, helper.tensor_dtype_to_np_dtype(kind))
            for name, (shape, kind) in self.variables.items()
            if name in proto.input
        }
        outputs = [name for name in proto.output if name]
        known, self.constants = self.constants, {**self.constants, **zeros}
        try:
            results = self._run_constants([proto], outputs)
        except ModelError as error:
            reason = getattr(self, "_reason", str(error))
            raise ModelError(
                f"{self.model.name}: the output shape of {proto.op_type} '{_label(proto)}' "
                f"cannot be known ({reason})"
            ) from None
        finally:
            self.constants = known
        for name, value in zip(outputs, results, strict=True):
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            self._note(proto, name, value.shape, kind)

    def _value(self, name: str) -> Value:
        from onnx import helper

        if name in self.constants:
            array = self.constants[name]
            return Value(name, array.shape, array.dtype, array)
        if name in self.promised:
            shape = _static(self.promised[name])
            return Value(name, shape or (), np.dtype(np.float32), np.zeros(()))
        shape, kind = self.variables[name]
        return Value(name, shape, np.dtype(helper.tensor_dtype_to_np_dtype(kind)))

    def _node(self, proto: Any, attributes: Mapping[str, Any], outputs: tuple[str, ...]) -> Node:
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        return Node(
            proto.op_type,
            tuple(self._value(name) if name else None for name in proto.input),
            tuple(self._value(name) if name else UNUSED for name in outputs),
            attributes,
            domain,
            self.model.opsets.get(domain, 1),
            _label(proto),
        )

    def finished(self) -> tuple[list[Node], dict[str, Value]]:
        """Nodes with all their values, once everything is folded; names are unique."""
        nodes = []
        for proto, attributes in self.found:
            node = self._node(proto, attributes, tuple(proto.output))
            name, k = node.name, 1
            while name in self._names:
                k += 1
                name = f"{node.name}_{k}"
            self._names.add(name)
            nodes.append(node if name == node.name else _renamed(node, name))
        names = [*self.variables, *self.constants]
        return nodes, {name: self._value(name) for name in names}


def _renamed(node: Node, name: str) -> Node:
    from dataclasses import replace

    return replace(node, name=name)


def _label(proto: Any) -> str:
    """The node's name; of a nameless one, its first output, which is unique."""
    return str(proto.name or next(filter(None, proto.output), proto.op_type))


def _static(kind: Any) -> tuple[int, ...] | None:
    """The dimensions of a TypeProto, None if any is open (or the type is)."""
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    if not kind.tensor_type.elem_type:
        return None
    dims = kind.tensor_type.shape.dim
    if not all(d.HasField("dim_value") for d in dims):
        return None
    return tuple(d.dim_value for d in dims)


def _empty(kind: Any) -> Array:
    """The only tensor of a type that has no entries."""
    from onnx import helper

    dtype = helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)
    return np.zeros(_static(kind) or (0,), dtype)


def _entries(kind: Any) -> float:
    dims = _static(kind)
    return 0 if dims is None else math.prod(dims)
