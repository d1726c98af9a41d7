"""The network in float64: what an attained quotient is computed with.

First the whole model as onnxruntime runs it in float64. It lacks many float64 kernels, so
otherwise node by node, in this order: onnxruntime's float64 kernel; an elementwise op by what its
rule says of a box that is one point; onnx's reference implementation; an affine op by its linear
maps in float64, with its value at 0 in float32; onnxruntime in float32. What is said to be float64
is believed only if it is no staircase, and if it agrees with onnxruntime's float32 kernel, near and
far. The reference may run an op by its function body, whose constants have float32 accuracy.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.lower.extract import Array, Part, between, to_model, wide
from onnxlip.bounds.lower.implementations import (
    EXACT,
    ROUNDED,
    SINGLE,
    Run,
    Stated,
    by_onnxruntime,
    by_reference,
)
from onnxlip.errors import ModelError
from onnxlip.graph import Graph
from onnxlip.lowering import Lowerings
from onnxlip.model import Model
from onnxlip.operators import Session
from onnxlip.rules import Value

__all__ = ["EXACT", "ROUNDED", "SINGLE", "Double", "Nodes", "split"]

Floats = npt.NDArray[np.float64]

_TINY = 1e-7
_SLOW = 0.03  # seconds of this thread for one node
_AGREE = 2e-5  # relative, of two implementations of which one is in float32


class Double:
    """f: ℝⁿ → ℝᵐ, all chosen inputs stacked and all chosen outputs stacked.

    accuracy: EXACT, ROUNDED or SINGLE, that of the least accurate node. Raises ModelError where no
    runtime knows an op.
    """

    def __init__(self, model: Model, graph: Graph, lowerings: Lowerings) -> None:
        self.inputs, self.outputs = tuple(graph.inputs), tuple(graph.outputs)
        self._part = between(model, graph, [v.name for v in graph.outputs])
        self._rules = Stated(graph, lowerings)
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
            if _is_smooth(run, probe):
                return run, EXACT
        except Exception:  # a kernel is missing, or onnxruntime does not know an op at all
            pass
        nodes = Nodes(self._part, self._rules)
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

    def __init__(self, part: Part, rules: Stated) -> None:
        self._part, self._rules = part, rules
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
        single = _attempt(lambda: by_onnxruntime(self._part, node, given, np.float32), given)
        for build in (by_onnxruntime, self._rules.elementwise, by_reference, self._rules.affine):
            made = functools.partial(build, self._part, node, given, np.float64)
            run = _attempt(made, given)
            if run is None:
                continue
            if build is by_reference and self._rules.is_affine(node) and _is_slow(run, given):
                continue
            if _is_smooth(run, given) and (single is None or _agree(run, single, given)):
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


def _is_smooth(run: Run, given: Mapping[str, Array]) -> bool:
    """Whether values are not rounded to float32 on their way, which would make them a staircase:
    over tiny steps second differences vanish, but for kinks, which few random points are near."""
    rng = np.random.default_rng(1)
    for scale in (0.1, 1.0, 3.0):
        base = {
            k: a + scale * rng.standard_normal(a.shape) if a.dtype.kind == "f" else a
            for k, a in given.items()
        }
        way = {
            k: _TINY * rng.uniform(0.5, 1, a.shape) if a.dtype.kind == "f" else 0
            for k, a in base.items()
        }
        with np.errstate(all="ignore"):
            three = [run({k: a + t * way[k] for k, a in base.items()}) for t in range(3)]
        for a, b, c in zip(*three, strict=True):
            if a.dtype.kind == "f" and a.size:
                bend = np.abs(a - 2 * b + c) > 1e-3 * _TINY * (1 + np.abs(b))
                if bend.mean() > 0.05:
                    return False
    return True


def _attempt(make: Callable[[], Run], given: Mapping[str, Array]) -> Run | None:
    try:
        run = make()
        with np.errstate(all="ignore"):
            run(given)
    except Exception:  # whatever a runtime fails with, the next one is asked
        return None
    return run


def _is_slow(run: Run, given: Mapping[str, Array]) -> bool:
    start = time.thread_time()
    run(given)
    return time.thread_time() - start > _SLOW


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
