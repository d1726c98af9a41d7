"""ReduceMax, ReduceMin, GlobalMaxPool: the extreme entry of each group.

|max_j a_j − max_j b_j| ≤ max_j |a_j − b_j| ≤ ‖a − b‖_p and the groups are disjoint: gain 1 for
every p. (Windows of MaxPool overlap; there the gain is larger.)

Source: ONNX operator specification, ReduceMax, ReduceMin and GlobalMaxPool; derived.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxlip.ops.families.derivatives import extreme
from onnxlip.ops.families.disjoint_groups import (
    Reduction,
    box_of,
    group_picks,
    monotone_image,
    uniform,
)
from onnxlip.rules import Box, Example, Gain, Node, Rule, constant, example, only_variable, variable


def _gain(node: Node, i: int, p: float, boxes: Sequence[Box | None]) -> float:
    return 1.0


def _rule(op_type: str, reduce: Reduction, sign: float, *examples: Example) -> Rule:
    return Rule(
        op_type,
        Gain(
            _gain,
            lambda node, boxes, o: monotone_image(node, box_of(boxes), reduce),
            picks=group_picks,
            derivative=lambda node, inputs: extreme(node, inputs, group_picks(node), sign),
        ),
        source=f"ONNX {op_type}; derived: disjoint groups, |max a − max b| ≤ max |a − b|",
        examples=examples,
        applies=only_variable(0),
    )


def _spatial(node: Node) -> npt.NDArray[np.int64]:
    return group_picks(node, range(2, len(node.x.shape)))


def _pool_image(node: Node, boxes: Sequence[Box | None], o: int) -> Box:
    box, axes = box_of(boxes), tuple(range(2, len(node.x.shape)))
    same = uniform(box)
    if same:
        return same
    ends = [
        np.broadcast_to(end, node.x.shape).max(axis=axes, keepdims=True)
        for end in (box.low, box.high)
    ]
    return Box.of(ends[0], ends[1])


_EXAMPLES = (
    example(variable(2, 3, 4), constant([1, -1])),
    example(variable(2, 3, low=-1, high=1), keepdims=0),
    example(variable(2, 3), noop_with_empty_axes=1),
    example(variable(2, 3), constant([0]), keepdims=0),
)

RULES = (
    _rule("ReduceMax", lambda x, axes: x.max(axis=axes, keepdims=True), 1.0, *_EXAMPLES),
    _rule("ReduceMin", lambda x, axes: x.min(axis=axes, keepdims=True), -1.0, *_EXAMPLES),
    Rule(
        "GlobalMaxPool",
        Gain(
            _gain,
            _pool_image,
            picks=_spatial,
            derivative=lambda node, inputs: extreme(node, inputs, _spatial(node)),
        ),
        source="ONNX GlobalMaxPool; derived: as ReduceMax over the spatial axes",
        examples=(
            example(variable(2, 3, 4, 2)),
            example(variable(1, 2, 1, 5, low=0, high=1)),  # onnx's reference knows rank 4 only
        ),
    ),
)
