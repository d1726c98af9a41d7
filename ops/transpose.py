"""Transpose: a permutation of the entries, norm 1 for every p.

Source: ONNX operator specification, Transpose.
"""

import numpy as np

from onnxlip.ops.families.index_map import index_map
from onnxlip.rules import Rule, example, variable

RULES = (
    Rule(
        "Transpose",
        index_map(lambda node, x, o: np.transpose(x, node.attribute("perm"))),
        source="ONNX Transpose",
        examples=(
            example(variable(2, 3, 4)),
            example(variable(1, 2, 3, 4), perm=[0, 2, 3, 1]),
        ),
    ),
)
