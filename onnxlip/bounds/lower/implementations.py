"""Ways to compute one node: onnxruntime, onnx's reference, and what its rule says of it.

Each makes a `Run`, from arrays by name to the node's outputs in float64, or fails in any way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.lower.extract import Array, Part, to_model, wide
from onnxlip.graph import Graph
from onnxlip.lowering import Lowerings
from onnxlip.operators import Operator, Session
from onnxlip.rules import Affine, Box, Elementwise, Form, Node, Value

__all__ = ["EXACT", "ROUNDED", "SINGLE", "Run", "Stated", "by_onnxruntime", "by_reference"]

EXACT, ROUNDED, SINGLE = "float64", "float64 but for constants", "float32"  # accuracies

Run = Callable[[Mapping[str, Array]], list[Array]]

_SHARP = 1e-12  # width of an image that serves as a value, relative


class Stated:
    """Nodes as their rules state them. Each raises KeyError or TypeError for a node of another
    form."""

    def __init__(self, graph: Graph, lowerings: Lowerings) -> None:
        self._nodes = {y.name: n for n in graph.nodes for y in n.outputs if y.name}
        self._rules, self._lowerings = graph.rules, lowerings

    def _find(self, proto: Any) -> tuple[Node, Form]:
        (output,) = (name for name in proto.output if name)
        node = self._nodes[output]
        return node, self._rules[node.name].rule.form

    def is_affine(self, proto: Any) -> bool:
        """Whether `affine` may know it."""
        try:
            return isinstance(self._find(proto)[1], Affine)
        except (KeyError, ValueError):
            return False

    def elementwise(
        self, part: Part, proto: Any, given: Mapping[str, Array], dtype: npt.DTypeLike
    ) -> Run:
        """f(x) by the image of a box that is one point, where that is sharp."""
        node, form = self._find(proto)
        if not isinstance(form, Elementwise):
            raise TypeError("not elementwise")

        def run(feeds: Mapping[str, Array]) -> list[Array]:
            x = feeds[node.x.name]
            box = form.image(node, Box(x, x))
            low, high = np.broadcast_to(box.low, x.shape), np.broadcast_to(box.high, x.shape)
            if not np.all(high - low <= _SHARP * (1 + np.abs(low) + np.abs(x))):
                raise TypeError("the image is wide")
            return [0.5 * low + 0.5 * high]

        return run

    def affine(
        self, part: Part, proto: Any, given: Mapping[str, Array], dtype: npt.DTypeLike
    ) -> Run:
        """Σ_i A_i x_i + b, b the value at 0 in float32."""
        node, form = self._find(proto)
        if not isinstance(form, Affine):
            raise TypeError("not affine")
        maps = [
            (node.value(i).name, Operator(form.linear(node, i, 0), self._lowerings, np.float64))
            for i in node.variables
        ]
        moving = {name for name, _ in maps}
        at_zero = {k: a * 0 if k in moving else a for k, a in given.items()}
        (constant,) = by_onnxruntime(part, proto, given, np.float32)(at_zero)

        def run(feeds: Mapping[str, Array]) -> list[Array]:
            total = constant.reshape(-1)
            for name, a in maps:
                total = total + a.matvec(feeds[name].reshape(-1))
            return [total.reshape(constant.shape)]

        run.accuracy = ROUNDED  # type: ignore[attr-defined]
        return run


def _one(part: Part, node: Any, given: Mapping[str, Array]) -> Part:
    """The node alone. What it reads that is no float stays as it is, a constant."""
    real = {k: a for k, a in given.items() if a.dtype.kind == "f" and k not in part.constants}
    sources = tuple(Value(k, a.shape, a.dtype) for k, a in real.items())
    fixed = {k: a for k, a in given.items() if k not in real}
    outputs = tuple(name for name in node.output if name)
    return Part((node,), fixed, sources, {}, outputs, part.shapes, part.opsets, part.ir_version)


def by_onnxruntime(part: Part, node: Any, given: Mapping[str, Array], dtype: npt.DTypeLike) -> Run:
    """onnxruntime's kernel in a type."""
    alone = _one(part, node, given)
    moving = [v.name for v in alone.sources]
    model, weights = to_model(alone, dtype)
    session = Session(model, optimise=False)

    def run(feeds: Mapping[str, Array]) -> list[Array]:
        results = session({**weights, **{k: wide(feeds[k], dtype) for k in moving}})
        return [_checked(y, dtype) for y in results]

    return run


def by_reference(part: Part, node: Any, given: Mapping[str, Array], dtype: npt.DTypeLike) -> Run:
    """onnx's reference implementation in a type."""
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
