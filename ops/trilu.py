"""Trilu: the upper or lower triangle of the last two axes, zeros elsewhere.

Norm 1 for every p (0 where nothing is kept). With diagonal k, upper keeps column − row ≥ k and
lower keeps column − row ≤ k.

Source: ONNX operator specification, Trilu.
"""

import numpy as np

from onnxlip.ops.families.index_map import Ints, index_map
from onnxlip.rules import Node, Rule, constant, example, only_variable, variable


def _move(node: Node, x: Ints, o: int) -> Ints:
    rows, columns = x.shape[-2:]
    diagonal = np.arange(columns)[None] - np.arange(rows)[:, None]
    k = node.ints(1, default=0)[0]
    kept = diagonal >= k if node.attribute("upper", 1) else diagonal <= k
    return np.where(kept, x, -1)


RULES = (
    Rule(
        "Trilu",
        index_map(_move),
        source="ONNX Trilu",
        examples=(
            example(variable(2, 3, 4)),
            example(variable(3, 4), constant(-1), upper=1),
            example(variable(4, 3), constant(1), upper=0),
            example(variable(2, 2), constant(5)),
        ),
        applies=only_variable(0),
    ),
)
