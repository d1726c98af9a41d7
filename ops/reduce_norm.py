"""ReduceL1 and ReduceL2: the norm ‖x_group‖_q of each group of n entries, q = 1 or 2.

|‖a‖_q − ‖b‖_q| ≤ ‖a − b‖_q ≤ n^(max(0, 1/q − 1/p)) ‖a − b‖_p, attained at a = t·(1 … 1), and the
groups are disjoint:

                p = 1   p = 2   p = ∞
    ReduceL1    1       √n      n
    ReduceL2    1       1       √n

Source: ONNX operator specification, ReduceL1 and ReduceL2; derived (Hölder's inequality).
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxlip.ops.families.axis_sums import reduced_axes
from onnxlip.ops.families.disjoint_groups import box_of, group_size
from onnxlip.rounding import gamma, sqrt_up
from onnxlip.rules import Box, Gain, Node, Rule, constant, example, only_variable, variable

Floats = npt.NDArray[np.float64]


def _gain(node: Node, p: float, q: int) -> float:
    n = float(group_size(node))
    if p <= q:
        return 1.0
    return n if (p, q) == (math.inf, 1) else sqrt_up(n)


def _image(node: Node, box: Box, q: int) -> Box:
    least = np.maximum(0.0, np.maximum(box.low, -box.high))
    low, high = (_norms(node, end, q) for end in (least, box.magnitude))
    n = group_size(node)
    slack = gamma(n + 3)
    # Squares below 2⁻¹⁰²² vanish; each adds at most 2⁻⁵¹¹ to the norm.
    high = high * (1 + slack) + math.sqrt(n) * 2.0**-510
    low = np.where(np.isfinite(low), low * (1 - slack), 0.0)
    return Box.of(np.maximum(low, 0.0), high).widened()


def _norms(node: Node, size: Floats, q: int) -> Floats:
    axes, full = reduced_axes(node), np.broadcast_to(size, node.x.shape)
    with np.errstate(over="ignore"):
        total = np.sum(full**q, axis=axes)
    return np.asarray(np.sqrt(total) if q == 2 else total).reshape(node.y.shape)


def _rule(q: int) -> Rule:
    def gain(node: Node, i: int, p: float, boxes: Sequence[Box | None]) -> float:
        return _gain(node, p, q)

    def image(node: Node, boxes: Sequence[Box | None], o: int) -> Box:
        return _image(node, box_of(boxes), q)

    return Rule(
        f"ReduceL{q}",
        Gain(gain, image),
        source=f"ONNX ReduceL{q}; derived: triangle and Hölder inequalities",
        examples=(
            example(variable(2, 3, 4), constant([1, -1])),
            example(variable(2, 3, low=0.5, high=1), keepdims=0),
            example(variable(2, 3, low=-2, high=-1), constant([0]), keepdims=0),
            example(variable(2, 3), noop_with_empty_axes=1),
        ),
        applies=only_variable(0),
    )


RULES = (_rule(1), _rule(2))
