"""Split: consecutive parts of one axis as several outputs.

Each output is a selection without repeats: norm 1 for every p. Sizes are given as an input, or
are equal but for a smaller last one.

Source: ONNX operator specification, Split.
"""

import numpy as np

from onnxlip.ops.families.coefficients import require
from onnxlip.ops.families.index_map import Ints, index_map
from onnxlip.rules import Node, Rule, constant, example, only_variable, variable


def _move(node: Node, x: Ints, o: int) -> Ints:
    axis = int(node.attribute("axis", 0))
    length = x.shape[axis]
    if node.has(1):
        sizes = list(node.ints(1))
    else:
        parts = int(node.attribute("num_outputs", len(node.outputs)))
        each = -(-length // parts)
        sizes = [each] * parts
    require(len(sizes) == len(node.outputs), node, "some of its outputs have no name")
    start = sum(sizes[:o])
    return np.take(x, range(start, min(start + sizes[o], length)), axis)


RULES = (
    Rule(
        "Split",
        index_map(_move),
        source="ONNX Split",
        examples=(
            example(variable(2, 6), outputs=3, axis=1, num_outputs=3),
            example(variable(7, 2), outputs=3, num_outputs=3),
            example(variable(2, 6), constant([1, 0, 5]), outputs=3, axis=-1),
        ),
        since=13,
        applies=only_variable(0),
    ),
)
