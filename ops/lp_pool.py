"""LpPool and GlobalLpPool: the norm ‖x_w‖_q over each window of n entries.

Within a window |‖a‖_q − ‖b‖_q| ≤ ‖a − b‖_q ≤ h ‖a − b‖_p, h = n^(max(0, 1/q − 1/p)). An entry
lies in at most c windows, so Σ_w ‖δx_w‖_p^p ≤ c ‖δx‖_p^p:

    gain = h · c^(1/p)        (c = 1 for GlobalLpPool)

Padding adds zeros, which change no norm.

Source: ONNX operator specification, LpPool and GlobalLpPool; derived.
"""

import math
from collections.abc import Sequence

import numpy as np

from onnxlip.ops.families.disjoint_groups import box_of
from onnxlip.ops.families.windows import require_one_reading, window_counts, windows
from onnxlip.rounding import mul_up, norm_up
from onnxlip.rules import Box, Gain, Node, Rule, example, variable


def _holder(n: int, p: float, q: float) -> float:
    """n^(max(0, 1/q − 1/p)), rounded up."""
    exponent = 1 / q - 1 / p
    # pow is accurate to a few ulps, and the exponent to two of its own: 1e-14 · ln n covers both.
    return 1.0 if exponent <= 0 or n <= 1 else n**exponent * (1 + 1e-14 * (1 + math.log(n)))


def _window(node: Node) -> int:
    if node.op_type == "GlobalLpPool":
        return math.prod(node.x.shape[2:])
    return math.prod(node.attribute("kernel_shape"))


def _gain(node: Node, i: int, p: float, boxes: Sequence[Box | None]) -> float:
    most = 1
    if node.op_type == "LpPool":
        for counts in window_counts(node):
            most *= int(counts.max(initial=0))
    return mul_up(
        _holder(_window(node), p, float(node.attribute("p", 2))), norm_up([1.0] * most, p)
    )


def _image(node: Node, boxes: Sequence[Box | None], o: int) -> Box:
    if node.op_type == "LpPool":
        require_one_reading(node, windows(node))  # before what follows trips over another shape
    top = float(np.max(box_of(boxes).magnitude, initial=0.0))
    n, q = _window(node), float(node.attribute("p", 2))
    return Box.of(0.0, mul_up(top, _holder(n, math.inf, q)))


RULES = (
    Rule(
        "LpPool",
        Gain(_gain, _image),
        source="ONNX LpPool; derived: Hölder per window, an entry counts once per window",
        examples=(
            example(variable(1, 2, 6, 6), kernel_shape=[2, 2], strides=[2, 2]),
            example(variable(1, 1, 7), kernel_shape=[3], strides=[1], p=1),
            example(variable(1, 1, 5, 5), kernel_shape=[3, 2], strides=[2, 1], p=3),
            example(variable(1, 1, 6, 6), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
            example(variable(1, 1, 9, low=-1, high=2), kernel_shape=[3], dilations=[2]),
        ),
    ),
    Rule(
        "GlobalLpPool",
        Gain(_gain, _image),
        source="ONNX GlobalLpPool; derived: Hölder per channel",
        examples=(
            example(variable(2, 2, 3, 3)),
            example(variable(1, 2, 4), p=1),
            example(variable(1, 2, 4, low=0, high=1), p=3),
        ),
    ),
)
