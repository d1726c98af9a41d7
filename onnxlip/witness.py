"""The witness of a rule: the op itself, run on given inputs, in float64 if at all possible."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.errors import RuleError
from onnxlip.rules import Constant, Example, Node, Rule, Value, Variable

__all__ = ["Reference", "Witness"]

Array = npt.NDArray[Any]
Reference = Callable[..., Sequence[Array]]

OPSET = 21  # version at which examples are run, unless a rule is newer


def _version(rule: Rule) -> int:
    """The opset at which a rule's examples are run."""
    return min(max(OPSET, rule.since), rule.until or OPSET + rule.since)


def _inside(spec: Variable) -> Array:
    """A point well inside the example's box, not constant: 0/0 for some normalisations."""
    ramp = np.linspace(0.25, 0.75, math.prod(spec.shape)).reshape(spec.shape)
    if math.isfinite(spec.low) and math.isfinite(spec.high):
        return spec.low + (spec.high - spec.low) * ramp
    return np.clip(0.5 + ramp, spec.low, spec.high)


class Witness:
    """Runs the example's op on given variable inputs, in float64 if at all possible."""

    def __init__(self, rule: Rule, use: Example, reference: Reference | None) -> None:
        self._use = use
        self._reference = reference
        self._run: Callable[[list[Array]], Sequence[Array]] | None = None
        self._double = True
        self._evaluator: Any = None
        arrays = [i.array() if isinstance(i, Constant) else None for i in use.inputs]
        self._constants = arrays
        probe = [_inside(i) for i in use.inputs if isinstance(i, Variable)]
        self._rule = rule
        outputs = self._first_run(probe)
        values: list[Value | None] = []
        for k, (given, array) in enumerate(zip(use.inputs, arrays, strict=True)):
            if given is None:
                values.append(None)
            elif isinstance(given, Variable):
                values.append(Value(f"x{k}", given.shape, np.dtype(np.float32)))
            else:
                assert array is not None
                values.append(Value(f"x{k}", array.shape, array.dtype, array))
        self.node = Node(
            rule.op_type,
            tuple(values),
            tuple(Value(f"y{k}", y.shape, np.dtype(np.float32)) for k, y in enumerate(outputs)),
            dict(use.attributes),
            rule.domain,
            _version(rule),
            f"example of {rule.op_type}",
        )

    def __call__(self, variables: Sequence[Array]) -> list[Array]:
        """All outputs, in float64, for the variable inputs in order."""
        assert self._run is not None
        return [np.asarray(y, np.float64) for y in self._run(list(variables))]

    @property
    def tolerance(self) -> float:
        """Relative accuracy of the witness."""
        return 1e-9 if self._double else 3e-5

    def _first_run(self, probe: list[Array]) -> list[Array]:
        attempts: list[tuple[bool, Callable[[list[Array]], Sequence[Array]]]]
        if self._reference is not None:
            attempts = [(True, self._by_function)]
        else:
            attempts = [(True, self._by_onnx_reference), (False, self._by_onnxruntime)]
        failures = []
        for double, run in attempts:
            try:
                self._run, self._double = run, double
                outputs = self(probe)
                if all(np.all(np.isfinite(y)) for y in outputs):
                    self._double = double and not self._is_single(probe, outputs)
                    return outputs
                failures.append(f"{run.__name__}: non-finite output")
            except Exception as error:  # whatever a witness fails with, the next one is asked
                failures.append(f"{run.__name__}: {type(error).__name__}: {error}")
        raise RuleError(f"{self._rule.op_type}: nothing can run the example: {'; '.join(failures)}")

    def _is_single(self, probe: list[Array], outputs: list[Array]) -> bool:
        """Whether the witness has float32 accuracy only, whatever its input: function bodies hold
        float32 constants, and one that rounds to float32 on its way is a staircase."""
        from onnx.reference.op_run import OpFunction

        if any(isinstance(n, OpFunction) for n in getattr(self._evaluator, "rt_nodes_", ())):
            return True
        step = 1e-7
        once, twice = (self([x + k * step for x in probe]) for k in (1, 2))
        return any(
            bool(np.any(np.abs(a - 2 * b + c) > 1e-9 * (1 + np.abs(a))))
            for a, b, c in zip(outputs, once, twice, strict=True)
        )

    def _inputs(self, variables: list[Array], dtype: type) -> list[Array | None]:
        given = iter(variables)
        full: list[Array | None] = []
        for spec, array in zip(self._use.inputs, self._constants, strict=True):
            if isinstance(spec, Variable):
                full.append(np.asarray(next(given)).astype(dtype))
            elif array is not None and array.dtype.kind == "f":
                full.append(array.astype(dtype))
            else:
                full.append(array)
        return full

    def _model(self, dtype: type, inputs: list[Array | None]) -> Any:
        from onnx import helper

        names = ["" if a is None else f"x{k}" for k, a in enumerate(inputs)]
        results = [f"y{k}" for k in range(self._use.outputs)]
        domain = self._rule.domain
        node = helper.make_node(
            self._rule.op_type, names, results, domain=domain, **self._use.attributes
        )
        tensors = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in zip(names, inputs, strict=True)
            if a is not None
        ]
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        graph = helper.make_graph(
            [node],
            "example",
            tensors,
            [helper.make_tensor_value_info(name, kind, None) for name in results],
        )
        version = _version(self._rule) if not domain else self._rule.since
        opsets = [helper.make_opsetid("", OPSET if domain else version)]
        if domain:
            opsets.append(helper.make_opsetid(domain, version))
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def _by_function(self, variables: list[Array]) -> Sequence[Array]:
        assert self._reference is not None
        return self._reference(*self._inputs(variables, np.float64))

    def _by_onnx_reference(self, variables: list[Array]) -> Sequence[Array]:
        from onnx.reference import ReferenceEvaluator

        inputs = self._inputs(variables, np.float64)
        if self._evaluator is None:
            self._evaluator = ReferenceEvaluator(self._model(np.float64, inputs))
        feeds = {f"x{k}": a for k, a in enumerate(inputs) if a is not None}
        with np.errstate(all="ignore"):
            results: Sequence[Array] = self._evaluator.run(None, feeds)
        narrow = (np.float32, np.float16)
        if any(np.asarray(y).dtype in narrow for y in results[:1]):
            raise TypeError("the reference implementation did not stay in float64")
        return results

    def _by_onnxruntime(self, variables: list[Array]) -> Sequence[Array]:
        import onnxruntime as ort

        inputs = self._inputs(variables, np.float32)
        if not hasattr(self, "_session"):
            options = ort.SessionOptions()
            options.log_severity_level = 4
            model = self._model(np.float32, inputs).SerializeToString()
            self._session = ort.InferenceSession(model, options, ["CPUExecutionProvider"])
        feeds = {f"x{k}": a for k, a in enumerate(inputs) if a is not None}
        results: Sequence[Array] = self._session.run(None, feeds)
        return results
