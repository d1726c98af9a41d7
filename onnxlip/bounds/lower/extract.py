"""The nodes between the chosen tensors, as a model of its own in one floating type.

What is evaluated is the idealised network that the upper bound speaks of: every floating type
becomes the same one, so a cast between two of them is the identity. Tensors that are held fixed
may have any value (the upper bound holds at each): floats get ½, all others 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.graph import Graph, is_real
from onnxlip.model import Model
from onnxlip.rules import Value

__all__ = ["Array", "Part", "between", "in_type", "to_model"]

Array = npt.NDArray[Any]

_EMBEDDED = 1 << 20  # bytes: larger constants are fed, which saves copies of them
_TYPES = ("to", "dtype", "stash_type")  # attributes that name an element type


@dataclass(frozen=True, eq=False)
class Part:
    """Nodes in topological order, what they read besides each other, and what they are to give.

    sources: tensors fed from outside; held: values of those that stay fixed; shapes: of every
    tensor by name; outputs: names of the tensors wanted, all of them made by the nodes.
    """

    nodes: tuple[Any, ...]
    constants: dict[str, Array]
    sources: tuple[Value, ...]
    held: dict[str, Array]
    outputs: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    opsets: dict[str, int]
    ir_version: int

    def up_to(self, outputs: Sequence[str], sources: Sequence[Value]) -> Part:
        """The nodes that lead from some tensors to others."""
        needed, cut, kept = set(outputs), {v.name for v in sources}, []
        for node in reversed(self.nodes):
            if needed & (set(node.output) - cut):
                kept.append(node)
                needed |= set(node.input)
        return Part(
            tuple(reversed(kept)),
            {k: a for k, a in self.constants.items() if k in needed},
            tuple(sources),
            {k: a for k, a in self.held.items() if k in needed},
            tuple(outputs),
            self.shapes,
            self.opsets,
            self.ir_version,
        )


def between(model: Model, graph: Graph, outputs: Sequence[str]) -> Part:
    """What computes these tensors, as far as the graph's nodes make them, from its inputs."""
    sources = {v.name for v in graph.inputs}
    made = {y.name for n in graph.nodes for y in n.outputs if y.name} - sources
    nodes = tuple(_cut(n, sources) for n in model.nodes if made & set(n.output))
    read = {name for n in nodes for name in n.input if name}
    constants = {}
    for name in read - made - sources:
        value = graph.values.get(name)
        data = model.constants.get(name) if value is None else value.constant
        if data is not None:
            constants[name] = data
    held = {v.name: np.full(v.shape, 0.5 if is_real(v) else 0, _kind(v)) for v in graph.held}
    shapes = {name: value.shape for name, value in graph.values.items()}
    wanted = tuple(dict.fromkeys(name for name in outputs if name in made))
    part = Part(
        nodes,
        constants,
        tuple(graph.inputs),
        held,
        wanted,
        shapes,
        dict(model.opsets),
        max(8, min(model.ir_version, 10)),
    )
    return part.up_to(wanted, graph.inputs)


def _kind(value: Value) -> Any:
    return np.float64 if is_real(value) else value.dtype


def _cut(node: Any, sources: set[str]) -> Any:
    """The node, as the runtimes bear it: an output that is a chosen input gets another name, and
    so does an unnamed one among any number of them."""
    from onnx import NodeProto

    copy = NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("name")
    spare = next((name for name in node.output if name), "")
    several = len(node.output) > 1 and _is_variadic(node)
    for k, name in enumerate(node.output):
        if name in sources or (several and not name):
            copy.output[k] = f"output {k} beside {spare}"
    return copy


def _is_variadic(node: Any) -> bool:
    from onnx import defs

    try:
        schema = defs.get_schema(node.op_type, "" if node.domain == "ai.onnx" else node.domain)
    except defs.SchemaError:
        return False
    last = schema.outputs[-1] if schema.outputs else None
    return last is not None and last.option == type(last.option).Variadic


def wide(array: Array, dtype: npt.DTypeLike) -> Array:
    """Floats of any kind in one type, others as they are."""
    floats = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return np.asarray(array, dtype=dtype) if floats else np.asarray(array)


def in_type(node: Any, dtype: npt.DTypeLike) -> Any:
    """The node with every floating type that it names, and tensors that it holds, in one type."""
    from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    copy = NodeProto()
    copy.CopyFrom(node)
    for a in copy.attribute:
        if a.name in _TYPES and a.i in floats:
            a.i = kind
        if a.type == AttributeProto.TENSOR and a.t.data_type in floats:
            a.t.CopyFrom(numpy_helper.from_array(wide(numpy_helper.to_array(a.t), dtype)))
    return copy


def to_model(
    part: Part, dtype: npt.DTypeLike, lead: tuple[Any, ...] | None = None
) -> tuple[Any, dict[str, Array]]:
    """(the model, what is to be fed besides the sources).

    lead: None keeps all shapes. ("batch",) puts an axis before all others of the sources; () opens
    their first one, and with it the first entry of what constants say of a tensor's whole shape.
    """
    from onnx import ValueInfoProto, helper, numpy_helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs, feeds, initializers = [], {}, []
    for value in part.sources:
        dims = value.shape if lead is None else (*lead, *value.shape)
        dims = ("batch", *value.shape[1:]) if lead == () else dims
        inputs.append(helper.make_tensor_value_info(value.name, kind, dims))
    stated = _stated_shapes(part) if lead == () else {}
    for name, given in (*part.constants.items(), *part.held.items()):
        array = wide(np.asarray(stated.get(name, given)), dtype)
        if array.nbytes <= _EMBEDDED:
            initializers.append(numpy_helper.from_array(np.array(array, order="C"), name))
            continue
        stored = helper.np_dtype_to_tensor_dtype(array.dtype)
        inputs.append(helper.make_tensor_value_info(name, stored, array.shape))
        feeds[name] = np.ascontiguousarray(array)
    nodes = [in_type(node, dtype) for node in part.nodes]
    outputs = [ValueInfoProto(name=name) for name in part.outputs]
    graph = helper.make_graph(nodes, "part", inputs, outputs, initializers)
    opsets = [helper.make_opsetid(d, v) for d, v in part.opsets.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=part.ir_version), feeds


def _stated_shapes(part: Part) -> dict[str, Array]:
    """Constants that are the whole shape of the tensor that they lead to, whose first entry is 1,
    with that entry open: a network for one example then serves a batch."""
    found = {}
    for node in part.nodes:
        shape = part.shapes.get(next(iter(node.output), ""), ())
        for name in node.input:
            array = part.constants.get(name)
            if array is None or array.dtype != np.int64 or array.ndim != 1 or not array.size:
                continue
            fits = len(array) == len(shape) and all(
                a in (-1, s) for a, s in zip(array.tolist(), shape, strict=True)
            )
            if fits and shape[0] == 1:
                found[name] = np.array([-1, *shape[1:]], np.int64)
    return found
