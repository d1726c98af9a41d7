"""Compress: the slices of an axis (of the flattened tensor without one) that a constant marks.

A selection without repeats: norm 1 for every p.

Source: ONNX operator specification, Compress.
"""

import numpy as np

from onnxlip.ops.families.index_map import Ints, index_map
from onnxlip.rules import Node, Rule, constant, example, only_variable, variable


def _move(node: Node, x: Ints, o: int) -> Ints:
    kept = np.flatnonzero(node.constant(1))
    axis = node.attribute("axis")
    return np.take(x, kept, None if axis is None else int(axis))


RULES = (
    Rule(
        "Compress",
        index_map(_move),
        source="ONNX Compress",
        examples=(
            example(variable(3, 2), constant([False, True], dtype="bool"), axis=1),
            example(variable(3, 2), constant([False, True, True, False, True], dtype="bool")),
            example(variable(3, 2), constant([True, False], dtype="bool"), axis=-2),
        ),
        applies=only_variable(0),
    ),
)
