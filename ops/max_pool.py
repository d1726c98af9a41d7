"""MaxPool: the maximum over each window.

|max_{j∈w} a_j − max_{j∈w} b_j| ≤ max_{j∈w} |a_j − b_j|, so with c the largest number of windows
that one entry lies in,

    p = ∞: 1,   p = 2: √c (a square of the difference is counted at most c times),   p = 1: c.

3×3 windows at stride 2 have c = 4: the gain is 2, not 1. Padding never wins, so it adds nothing.

Source: ONNX operator specification, MaxPool; derived (theory, section 3).
"""

from collections.abc import Sequence

import numpy as np

from onnxlip.ops.families.derivatives import extreme
from onnxlip.ops.families.windows import (
    require_one_reading,
    window_counts,
    window_picks,
    windows,
)
from onnxlip.rounding import norm_up
from onnxlip.rules import Box, Gain, Node, Rule, example, variable


def _gain(node: Node, i: int, p: float, boxes: Sequence[Box | None]) -> float:
    most = 1
    for counts in window_counts(node):
        most *= int(counts.max(initial=0))
    return norm_up(np.ones(most), p)


def _image(node: Node, boxes: Sequence[Box | None], o: int) -> Box:
    require_one_reading(node, windows(node))  # before what follows trips over another shape
    box = boxes[0]
    if box is None or o > 0:
        return Box.whole()
    return Box.of(box.low.min(), box.high.max())


RULES = (
    Rule(
        "MaxPool",
        Gain(
            _gain,
            _image,
            picks=window_picks,
            derivative=lambda node, inputs: extreme(node, inputs, window_picks(node)),
        ),
        source="ONNX MaxPool; derived: an entry counts once per window that covers it",
        examples=(
            example(variable(1, 2, 6, 6), kernel_shape=[2, 2], strides=[2, 2]),
            example(variable(1, 1, 7, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
            example(variable(1, 2, 9), kernel_shape=[3], strides=[1], dilations=[2]),
            example(variable(1, 1, 5, 5), kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1),
            example(variable(1, 1, 5, 4), kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
        ),
    ),
)
