"""TopK: the k largest (or smallest) entries along an axis, in order.

Sorting does not enlarge distances: pairing two vectors in sorted order minimises Σ |a − b|^p over
all pairings, and max |a − b| as well. Keeping k of the sorted entries is a projection. Gain 1
for every p.

This is said of the values. The indices, output 1, are integers: step functions of the input,
refused wherever they are used.

Source: ONNX operator specification, TopK; derived (rearrangement inequality).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.ops.families.derivatives import selection
from onnxlip.ops.families.disjoint_groups import box_of, uniform
from onnxlip.rules import (
    Box,
    Derivative,
    Gain,
    Node,
    Refusal,
    Rule,
    constant,
    example,
    variable,
)

Array = npt.NDArray[Any]


def _gain(node: Node, i: int, p: float, boxes: Sequence[Box | None]) -> float:
    return 1.0


def _image(node: Node, boxes: Sequence[Box | None], o: int) -> Box:
    axis = int(node.attribute("axis", -1))
    k = node.ints(1)[0]
    box = box_of(boxes)
    if o == 1:
        return Box.of(0, max(node.x.shape[axis] - 1, 0))
    same = uniform(box)
    if same:
        return same
    order = slice(None, None, -1 if node.attribute("largest", 1) else 1)
    ends = []
    for end in (box.low, box.high):  # every order statistic is nondecreasing in every entry
        ranked = np.moveaxis(np.sort(np.broadcast_to(end, node.x.shape), axis=axis), axis, -1)
        ends.append(np.moveaxis(ranked[..., order][..., :k], -1, axis))
    return Box.of(ends[0], ends[1])


def _derivative(node: Node, inputs: Sequence[Array | None]) -> Derivative:
    """The chosen entries."""
    x = inputs[0]
    assert x is not None
    axis = int(node.attribute("axis", -1)) % (x.ndim - 1) + 1
    ranked = np.argsort(-x if node.attribute("largest", 1) else x, axis=axis, kind="stable")
    chosen = np.take(ranked, np.arange(node.ints(1)[0]), axis=axis)
    table = np.broadcast_to(np.arange(node.x.size).reshape(1, *node.x.shape), x.shape)
    return selection(node, np.take_along_axis(table, chosen, axis=axis).reshape(len(x), -1))


RULES = (
    Rule(
        "TopK",
        Refusal(
            "it returns entries in no specified order (sorted = 0), or how many of them depends "
            "on the input; export it with sorted = 1 and a constant k"
        ),
        source="ONNX TopK",
    ),
    Rule(
        "TopK",
        Gain(_gain, _image, derivative=_derivative),
        source="ONNX TopK; derived: sorting is a contraction in every p-norm",
        examples=(
            example(variable(2, 5), constant([3])),
            example(variable(4, 2), constant([2]), axis=0, largest=0),
            example(variable(2, 4, 2, low=-1, high=1), constant([4]), axis=-2),
            example(variable(6), constant([1])),
        ),
        applies=lambda node: node.variables == (0,) and bool(node.attribute("sorted", 1)),
    ),
)
