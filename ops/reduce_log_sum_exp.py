"""ReduceLogSumExp: log Σ_j e^{x_j} over each group.

The gradient is the softmax s > 0, Σ s = 1, so every dual norm of it is at most ‖s‖₁ = 1 and the
groups are disjoint: gain 1 for every p.

Source: ONNX operator specification, ReduceLogSumExp; derived.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxlip.ops.families.axis_sums import reduced_axes
from onnxlip.ops.families.disjoint_groups import box_of, group_size
from onnxlip.rules import Box, Gain, Node, Rule, constant, example, only_variable, variable

Floats = npt.NDArray[np.float64]


def _gain(node: Node, i: int, p: float, boxes: Sequence[Box | None]) -> float:
    return 1.0


def _value(node: Node, end: Floats) -> tuple[Floats, Floats]:
    """The function at a corner of the box, from below and above."""
    axes = reduced_axes(node)
    full = np.broadcast_to(end, node.x.shape)
    top = full.max(axis=axes, keepdims=True)
    shift = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(over="ignore", divide="ignore"):
        total = np.log(np.sum(np.exp(full - shift), axis=axes, keepdims=True))
    value = np.where(np.isfinite(top), shift + total, top)
    n = max(group_size(node), 1)
    # A term e^t, t ≤ 0, errs by 2⁻⁵³·|t|eᵗ (the difference's rounding) and a few ulps of exp;
    # the sum lies in [1, n], and log turns its relative error into an absolute one.
    slack = (n + 16) * 2.0**-50 + np.where(np.isfinite(value), np.abs(value), 0.0) * 2.0**-50
    least = np.maximum(value - slack, top)
    most = np.minimum(
        value + slack, np.nextafter(top + math.nextafter(math.log(n), math.inf), math.inf)
    )
    shape = node.y.shape
    return least.reshape(shape), np.maximum(most, least).reshape(shape)


def _image(node: Node, boxes: Sequence[Box | None], o: int) -> Box:
    box = box_of(boxes)
    return Box.of(_value(node, box.low)[0], _value(node, box.high)[1])


RULES = (
    Rule(
        "ReduceLogSumExp",
        Gain(_gain, _image),
        source="ONNX ReduceLogSumExp; derived: its gradient is a softmax",
        examples=(
            example(variable(2, 3, 4), constant([1, -1])),
            example(variable(2, 3, low=-1, high=2), keepdims=0),
            example(variable(2, 3), constant([0]), keepdims=0),
            example(variable(2, 3), noop_with_empty_axes=1),
        ),
        applies=only_variable(0),
    ),
)
