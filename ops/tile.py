"""Tile and Expand: copies of the input.

With m copies of each entry the norms are 1 for p = ∞, √m for p = 2 and m for p = 1.

Source: ONNX operator specification, Tile and Expand.
"""

import numpy as np

from onnxlip.ops.families.index_map import index_map
from onnxlip.rules import Rule, constant, example, only_variable, variable

RULES = (
    Rule(
        "Tile",
        index_map(lambda node, x, o: np.tile(x, node.ints(1))),
        source="ONNX Tile",
        examples=(
            example(variable(2, 3), constant([2, 2])),
            example(variable(2, 3), constant([1, 3])),
            example(variable(2, 3), constant([0, 1])),
        ),
        since=6,
        applies=only_variable(0),
    ),
    Rule(
        "Expand",
        # The shape asked for may be smaller than the input's along some axes: both broadcast.
        index_map(
            lambda node, x, o: np.broadcast_to(x, np.broadcast_shapes(x.shape, node.ints(1)))
        ),
        source="ONNX Expand",
        examples=(
            example(variable(3, 1), constant([2, 1, 6])),
            example(variable(3, 4), constant([1])),
            example(variable(), constant([2, 2])),
        ),
        applies=only_variable(0),
    ),
)
