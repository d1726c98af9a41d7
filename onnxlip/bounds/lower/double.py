"""The network in float64: what an attained quotient is computed with.

First the whole model as onnxruntime runs it in float64. It lacks many float64 kernels, so
otherwise node by node: onnxruntime's float64 kernel where there is one, else onnx's reference
implementation, else onnxruntime in float32, in this order; where the reference is slow and the op
affine, its linear maps in float64 and its value at 0 in float32 (a constant, of which quotients see
little). A float64 implementation is believed
only if it agrees with onnxruntime's float32 one at probes near and far, where there is one. The
reference may run an op by its function body, whose constants have float32 accuracy.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.lower.extract import Array, Part, between, to_model, wide
from onnxlip.errors import ModelError
from onnxlip.graph import Graph
from onnxlip.lowering import Lowerings
from onnxlip.model import Model
from onnxlip.operators import Operator, Session
from onnxlip.rules import Affine, Value

__all__ = ["EXACT", "ROUNDED", "SINGLE", "Double", "Nodes", "split"]

Floats = npt.NDArray[np.float64]
Run = Callable[[Mapping[str, Array]], list[Array]]

EXACT, ROUNDED, SINGLE = "float64", "float64 but for constants", "float32"  # accuracies

_SLOW = 0.3  # seconds for one node
_AGREE = 2e-5  # relative, of two implementations of which one is in float32


class Double:
    """f: ℝⁿ → ℝᵐ, all chosen inputs stacked and all chosen outputs stacked.

    accuracy: EXACT, ROUNDED or SINGLE, that of the least accurate node. Raises ModelError where no
    runtime knows an op.
    """

    def __init__(self, model: Model, graph: Graph, lowerings: Lowerings) -> None:
        self.inputs, self.outputs = tuple(graph.inputs), tuple(graph.outputs)
        self._part = between(model, graph, [v.name for v in graph.outputs])
        self._maps = _Maps(graph, lowerings)
        self._run, self.accuracy = self._choose() if self._part.nodes else (_nothing, EXACT)

    def __call__(self, x: Floats) -> Floats:
        """f(x), x of shape (n,). Raises ModelError where the values overflow."""
        feeds = dict(split(x, self.inputs))
        made = dict(zip(self._part.outputs, self._run(feeds), strict=True))
        values = [
            made.get(v.name, feeds.get(v.name, np.zeros(v.shape))).reshape(-1) for v in self.outputs
        ]
        return np.concatenate([np.zeros(0), *values]).astype(np.float64)

    def _choose(self) -> tuple[Run, str]:
        probe = {v.name: np.linspace(-1, 1, v.size).reshape(v.shape) for v in self.inputs}
        try:
            run = _whole(self._part)
            run(probe)
            return run, EXACT
        except Exception:  # a kernel is missing, or onnxruntime does not know an op at all
            nodes = Nodes(self._part, self._maps)
            nodes(probe)
            return nodes, nodes.accuracy


def split(x: Floats, values: Sequence[Value]) -> Iterator[tuple[str, Floats]]:
    """A stacked vector, tensor by tensor."""
    start = 0
    for v in values:
        yield v.name, x[start : start + v.size].reshape(v.shape)
        start += v.size


def _nothing(feeds: Mapping[str, Array]) -> list[Array]:
    return []


def _whole(part: Part) -> Run:
    model, weights = to_model(part, np.float64)
    session = Session(model, optimise=False)
    return lambda feeds: session({**weights, **feeds})


class Nodes:
    """A part of the network, node by node. `accuracy` is known once it has run."""

    def __init__(self, part: Part, maps: _Maps | None = None) -> None:
        self._part, self._maps = part, maps
        self._runs: dict[tuple[int, tuple[tuple[int, ...], ...]], Run] = {}
        self.accuracy = EXACT

    def __call__(self, feeds: Mapping[str, Array]) -> list[Array]:
        """The part's outputs in float64. Raises ModelError where nothing runs a node."""
        known = {k: wide(a, np.float64) for k, a in self._part.constants.items()}
        known |= {k: wide(a, np.float64) for k, a in (*self._part.held.items(), *feeds.items())}
        for k, node in enumerate(self._part.nodes):
            given = {name: known[name] for name in node.input if name}
            key = (k, tuple(a.shape for a in given.values()))
            if key not in self._runs:
                self._runs[key] = self._implementation(node, given)
            results = self._runs[key](given)
            known |= zip([name for name in node.output if name], results, strict=True)
        return [known[name] for name in self._part.outputs]

    def _implementation(self, node: Any, given: Mapping[str, Array]) -> Run:
        single = _attempt(lambda: _by_onnxruntime(self._part, node, given, np.float32), given)
        for build in (_by_onnxruntime, _by_reference):
            made = functools.partial(build, self._part, node, given, np.float64)
            start = time.perf_counter()
            run = _attempt(made, given)
            if time.perf_counter() - start > _SLOW and self._maps is not None and single:
                by_maps = functools.partial(self._maps.run, node, given, single)
                faster = _attempt(by_maps, given)
                run = run if faster is None else faster
            if run is not None and (single is None or _agree(run, single, given)):
                self._note(getattr(run, "accuracy", EXACT))
                return run
        if single is None:
            raise ModelError(
                f"no runtime computes {node.op_type} '{next(iter(node.output), '')}' here, so "
                "nothing is attained"
            )
        self._note(SINGLE)
        return single

    def _note(self, accuracy: str) -> None:
        order = (EXACT, ROUNDED, SINGLE)
        self.accuracy = max(self.accuracy, accuracy, key=order.index)


class _Maps:
    """Affine nodes by their linear maps: Σ_i A_i x_i + b."""

    def __init__(self, graph: Graph, lowerings: Lowerings) -> None:
        self._nodes = {y.name: n for n in graph.nodes for y in n.outputs if y.name}
        self._rules, self._lowerings = graph.rules, lowerings

    def run(self, node: Any, given: Mapping[str, Array], single: Run) -> Run:
        """Raises KeyError or TypeError where the node is no affine one with one output."""
        (output,) = (name for name in node.output if name)
        found = self._nodes[output]
        form = self._rules[found.name].rule.form
        if not isinstance(form, Affine):
            raise TypeError("not affine")
        maps = [
            (found.value(i).name, Operator(form.linear(found, i, 0), self._lowerings, np.float64))
            for i in found.variables
        ]
        moving = {name for name, _ in maps}
        (constant,) = single({k: a * 0 if k in moving else a for k, a in given.items()})

        def run(feeds: Mapping[str, Array]) -> list[Array]:
            total = constant.reshape(-1)
            for name, a in maps:
                total = total + a.matvec(feeds[name].reshape(-1))
            return [total.reshape(constant.shape)]

        run.accuracy = ROUNDED  # type: ignore[attr-defined]
        return run


def _attempt(make: Callable[[], Run], given: Mapping[str, Array]) -> Run | None:
    try:
        run = make()
        with np.errstate(all="ignore"):
            run(given)
    except Exception:  # whatever a runtime fails with, the next one is asked
        return None
    return run


def _agree(run: Run, single: Run, given: Mapping[str, Array]) -> bool:
    """Whether two implementations say the same, also where the input is large."""
    rng = np.random.default_rng(0)
    for scale in (0.0, 1.0, 100.0):
        moved = {
            k: a + scale * rng.standard_normal(a.shape) if a.dtype.kind == "f" else a
            for k, a in given.items()
        }
        moved = moved if scale else dict(given)
        with np.errstate(all="ignore"):
            pairs = zip(run(moved), single(moved), strict=True)
        for y, z in pairs:
            size = 1 + np.abs(z[np.isfinite(z)]).max(initial=0) if z.dtype.kind == "f" else 1
            if y.shape != z.shape or not np.allclose(y, z, _AGREE, _AGREE * size, True):
                return False
    return True


def _one(part: Part, node: Any, given: Mapping[str, Array]) -> Part:
    """The node alone. What it reads that is no float stays as it is, a constant."""
    real = {k: a for k, a in given.items() if a.dtype.kind == "f" and k not in part.constants}
    sources = tuple(Value(k, a.shape, a.dtype) for k, a in real.items())
    fixed = {k: a for k, a in given.items() if k not in real}
    outputs = tuple(name for name in node.output if name)
    return Part((node,), fixed, sources, {}, outputs, part.shapes, part.opsets, part.ir_version)


def _by_onnxruntime(part: Part, node: Any, given: Mapping[str, Array], dtype: npt.DTypeLike) -> Run:
    alone = _one(part, node, given)
    moving = [v.name for v in alone.sources]
    model, weights = to_model(alone, dtype)
    session = Session(model, optimise=False)

    def run(feeds: Mapping[str, Array]) -> list[Array]:
        results = session({**weights, **{k: wide(feeds[k], dtype) for k in moving}})
        return [_checked(y, dtype) for y in results]

    return run


def _by_reference(part: Part, node: Any, given: Mapping[str, Array], dtype: npt.DTypeLike) -> Run:
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpFunction

    alone = _one(part, node, given)
    moving = [v.name for v in alone.sources]
    model, weights = to_model(alone, dtype)
    evaluator: Any = ReferenceEvaluator(model)
    body = any(isinstance(n, OpFunction) for n in evaluator.rt_nodes_)

    def run(feeds: Mapping[str, Array]) -> list[Array]:
        with np.errstate(all="ignore"):
            results = evaluator.run(None, {**weights, **{k: feeds[k] for k in moving}})
        return [_checked(np.asarray(y), dtype) for y in results]

    run.accuracy = ROUNDED if body else EXACT  # type: ignore[attr-defined]
    return run


def _checked(y: Array, dtype: npt.DTypeLike) -> Array:
    """The result in float64, unless it was rounded to less than what was asked for."""
    if y.dtype.kind == "f" and y.dtype.itemsize < np.dtype(dtype).itemsize:
        raise TypeError(f"the result is in {y.dtype}")
    return wide(y, np.float64)
