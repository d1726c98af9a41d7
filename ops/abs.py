"""Abs: f(x) = |x|, slopes in [−1, 1]: −1 on a box in x ≤ 0 and 1 on one in x ≥ 0.

Source: ONNX operator specification, Abs; ||a| − |b|| ≤ |a − b|.
"""

import numpy as np

from onnxlip.ops.families.piecewise_linear import piecewise_linear
from onnxlip.rules import Rule, example, variable

RULES = (
    Rule(
        "Abs",
        piecewise_linear(
            breakpoints=lambda node: [0.0],
            slopes=lambda node: [-1.0, 1.0],
            function=lambda node, x: np.abs(x),
        ),
        source="ONNX Abs",
        examples=(example(variable(2, 5)), example(variable(3, 4, low=-0.5, high=2.0))),
    ),
)
