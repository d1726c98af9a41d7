"""CenterCropPad: crops or zero-pads the middle of some axes to given lengths.

No entry is read twice: norm 1 for every p. Where an odd number of entries is cut, one more goes
at the end; where it is added, likewise.

Source: ONNX operator specification, CenterCropPad.
"""

import numpy as np

from onnxlip.ops.families.index_map import Ints, index_map
from onnxlip.rules import Node, Rule, constant, example, only_variable, variable


def _move(node: Node, x: Ints, o: int) -> Ints:
    lengths = node.ints(1)
    axes = node.attribute("axes") or range(x.ndim)
    for axis, length in zip(axes, lengths, strict=True):
        n = x.shape[axis]
        start = abs(n - length) // 2
        if length <= n:
            x = np.take(x, range(start, start + length), axis)
        else:
            added = [(0, 0)] * x.ndim
            added[axis] = (start, length - n - start)
            x = np.pad(x, added, constant_values=-1)
    return x


RULES = (
    Rule(
        "CenterCropPad",
        index_map(_move),
        source="ONNX CenterCropPad",
        examples=(
            example(variable(5, 4), constant([2, 4])),
            example(variable(4, 5), constant([7, 2])),
            example(variable(2, 5, 4), constant([8, 1]), axes=[-2, 2]),
        ),
        since=18,
        applies=only_variable(0),
    ),
)
