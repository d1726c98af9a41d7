"""Pad: more entries on both sides of an axis; negative pads cut entries off.

mode   constant  new entries are an offset: norm 1 for every p
       edge      copies of the outermost entry
       reflect   mirror images without the outermost entry
       wrap      the axis goes on from its other end
An entry that occurs m times (in all, over all axes) has norm m^(1/p). Cutting comes first: what
is mirrored or wrapped is what negative pads leave.

Source: ONNX operator specification, Pad.
"""

from typing import Any

import numpy as np

from onnxlip.ops.families.index_map import Ints, index_map
from onnxlip.rules import Node, Rule, constant, example, only_variable, variable


def _move(node: Node, x: Ints, o: int) -> Ints:
    pads = node.ints(1)
    axes = node.ints(3, default=range(x.ndim))
    widths = [(0, 0)] * x.ndim
    for axis, begin, end in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        widths[axis] = (begin, end)
    cut = tuple(
        slice(max(0, -begin), n - max(0, -end))
        for n, (begin, end) in zip(x.shape, widths, strict=True)
    )
    added = [(max(0, begin), max(0, end)) for begin, end in widths]
    mode: Any = node.attribute("mode", "constant")
    if mode == "constant":
        return np.pad(x[cut], added, constant_values=-1)
    return np.pad(x[cut], added, mode=mode)


RULES = (
    Rule(
        "Pad",
        index_map(_move),
        source="ONNX Pad",
        examples=(
            example(variable(2, 3), constant([0, 1, 2, 0])),
            example(variable(2, 3), constant([1, 1]), constant(0.5), constant([-1])),
            example(variable(4, 5), constant([-1, 2, 1, -2])),
            example(variable(1, 4, 3), constant([0, 3, 2, 0, 1, 0]), mode="reflect"),
            example(variable(2, 3), constant([0, 4, 1, 2]), mode="edge"),
            example(variable(2, 3), constant([0, 1, 0, 3]), mode="wrap"),
        ),
        since=11,
        applies=only_variable(0),
    ),
)
