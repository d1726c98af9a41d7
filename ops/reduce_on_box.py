"""ReduceSumSquare, ReduceLogSum, ReduceProd: reductions that have a gain on some boxes only.

With G_j ≥ |∂y/∂x_j| over the box, the mean value theorem bounds each group's gain by the dual norm
of G: max G_j (p = 1), ‖G‖₂ (p = 2), Σ G_j (p = ∞); the groups are disjoint, so the largest counts.

    ReduceSumSquare  Σ x²     G_j = 2 max |x_j|
    ReduceLogSum     log Σ x  G_j = 1 / min Σ x       where every sum stays positive
    ReduceProd       Π x      G_j = Π_{i≠j} max |x_i|

Source: ONNX operator specification; derived.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from onnxlip.ops.families.axis_sums import reduced_axes
from onnxlip.ops.families.disjoint_groups import box_of, group_size
from onnxlip.rounding import gamma, up
from onnxlip.rules import Box, Example, Gain, Node, Rule, constant, example, only_variable, variable

Floats = npt.NDArray[np.float64]
Slopes = Callable[[Floats, Floats], Floats]
Image = Callable[[Floats, Floats], tuple[Floats, Floats]]


def _groups(node: Node, values: Floats) -> Floats:
    """One row per group."""
    axes = reduced_axes(node)
    kept = [a for a in range(len(node.x.shape)) if a not in axes]
    full = np.broadcast_to(values, node.x.shape).transpose(*kept, *axes)
    return full.reshape(-1, group_size(node))


def _slack(n: int) -> float:
    """At most 2n + 8 roundings lie between the box and a dual norm."""
    return up(1.0 + 2 * gamma(2 * n + 8))


def _dual(rows: Floats, p: float) -> float:
    if np.any(np.isnan(rows)) or not np.all(np.isfinite(rows)):
        return math.inf
    scale = float(rows.max(initial=0.0)) or 1.0  # keeps squares in range
    with np.errstate(over="ignore"):
        if p == 1:
            return up(scale)
        if p == 2:
            size = np.sqrt(((rows / scale) ** 2).sum(axis=1).max(initial=0.0)) * scale
        else:
            size = rows.sum(axis=1).max(initial=0.0)
    return up(float(size))


def _square_slopes(low: Floats, high: Floats) -> Floats:
    return 2 * np.maximum(np.abs(low), np.abs(high))


def _square_image(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    least = np.maximum(0.0, np.maximum(low, -high))
    most = np.maximum(np.abs(low), np.abs(high))
    with np.errstate(over="ignore"):
        least = np.minimum(least, np.float64(1e150))
        return (least * least).sum(axis=1), (most * most).sum(axis=1)


def _log_slopes(low: Floats, high: Floats) -> Floats:
    # The sum of lows may cancel: its error is relative to Σ |low|.
    n = low.shape[1]
    with np.errstate(invalid="ignore"):
        least = low.sum(axis=1) - 2 * gamma(n + 2) * np.abs(low).sum(axis=1)
    least = np.where(least > 0, least, 0.0)  # also where it is not a number
    with np.errstate(divide="ignore"):
        return np.broadcast_to((1.0 / least)[:, None], low.shape)


def _log_image(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    n = low.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        below = np.log(1.0 / _log_slopes(low, high)[:, 0])
        total = high.sum(axis=1) + 2 * gamma(n + 2) * np.abs(high).sum(axis=1)
        above = np.log(total)
    above = np.where(np.isnan(above), np.inf, above)
    # log is accurate to a few ulps, and turns relative errors into absolute ones.
    return below - 1e-14 * (1 + np.abs(below)), above + 1e-14 * (1 + np.abs(above))


def _factors(low: Floats, high: Floats) -> Floats:
    """max |x|; at least 1 in groups whose products might vanish by underflow on their way."""
    size = np.maximum(np.abs(low), np.abs(high))
    shrunk = np.minimum(size, 1.0).prod(axis=1, keepdims=True)
    return np.where(shrunk < 2.0**-900, np.maximum(size, 1.0), size)


def _product_slopes(low: Floats, high: Floats) -> Floats:
    size = _factors(low, high)
    if not np.all(np.isfinite(size)):
        return np.full(size.shape, np.inf)
    one = np.ones((len(size), 1))
    with np.errstate(over="ignore", invalid="ignore"):
        before = np.cumprod(np.hstack([one, size[:, :-1]]), axis=1)
        behind = np.cumprod(np.hstack([one, size[:, :0:-1]]), axis=1)[:, ::-1]
        return np.asarray(before * behind, np.float64)


def _product_image(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    with np.errstate(over="ignore"):
        most = _factors(low, high).prod(axis=1)
    return np.where(np.all(low >= 0, axis=1), 0.0, -most), most


def _rule(op_type: str, slopes: Slopes, image: Image, reason: str, *examples: Example) -> Rule:
    def gain(node: Node, i: int, p: float, boxes: Sequence[Box | None]) -> float:
        box = box_of(boxes)
        bound = _dual(slopes(_groups(node, box.low), _groups(node, box.high)), p)
        return up(bound * _slack(group_size(node)))

    def held(node: Node, boxes: Sequence[Box | None], o: int) -> Box:
        box = box_of(boxes)
        low, high = image(_groups(node, box.low), _groups(node, box.high))
        slack = _slack(group_size(node)) - 1
        with np.errstate(invalid="ignore"):
            low, high = low - slack * np.abs(low), high + slack * np.abs(high)
        low, high = np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)
        return Box.of(low.reshape(node.y.shape), high.reshape(node.y.shape)).widened()

    return Rule(
        op_type,
        Gain(gain, held, reason=reason),
        source=f"ONNX {op_type}; derived: dual norm of the gradient over the box",
        examples=examples,
        applies=only_variable(0),
    )


RULES = (
    _rule(
        "ReduceSumSquare",
        _square_slopes,
        _square_image,
        "it sums squares, whose slope grows without bound; bound the input, or use ReduceL2, "
        "which has a bound everywhere",
        example(variable(2, 3, 4, low=-1, high=2), constant([1, -1])),
        example(variable(2, 3, low=1, high=3), keepdims=0),
        example(variable(2, 3, low=-2, high=-1), noop_with_empty_axes=1),
    ),
    _rule(
        "ReduceLogSum",
        _log_slopes,
        _log_image,
        "it takes the logarithm of a sum that may come near 0; bound the input away from 0, or add "
        "a positive ε before it",
        example(variable(2, 3, 4, low=0.5, high=2), constant([1, -1])),
        example(variable(2, 3, low=0.25), constant([0]), keepdims=0),
    ),
    _rule(
        "ReduceProd",
        _product_slopes,
        _product_image,
        "it multiplies entries that all depend on the input, so its slope grows without bound; "
        "bound the input",
        example(variable(2, 3, 2, low=-1, high=2), constant([1, -1])),
        example(variable(2, 3, low=0.5, high=1.5), keepdims=0),
        example(variable(2, 3, low=-1, high=0), constant([0]), keepdims=0),
    ),
)
