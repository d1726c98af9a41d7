"""Neg: y = −x.

Source: ONNX operator specification, Neg.
"""

import numpy as np

from onnxlip.linear import diagonal
from onnxlip.rules import Affine, Rule, example, variable

RULES = (
    Rule(
        "Neg",
        Affine(lambda node, i, o: diagonal(np.array(-1.0), node.y.shape)),
        source="ONNX Neg",
        examples=(example(variable(2, 3)), example(variable())),
        algebra=lambda node, operands: None if operands[0] is None else -operands[0],
    ),
)
