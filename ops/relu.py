"""Relu: f(x) = max(x, 0), slopes in [0, 1]; on a box in x ≥ 0 exactly 1, in x ≤ 0 exactly 0.

Source: ONNX operator specification, Relu; Virmaux & Scaman 2018, section 2.
"""

import numpy as np

from onnxlip.ops.families.piecewise_linear import piecewise_linear
from onnxlip.rules import Rule, example, variable

RULES = (
    Rule(
        "Relu",
        piecewise_linear(
            breakpoints=lambda node: [0.0],
            slopes=lambda node: [0.0, 1.0],
            function=lambda node, x: np.maximum(x, 0.0),
        ),
        source="ONNX Relu; Virmaux & Scaman 2018, section 2",
        examples=(example(variable(2, 5)), example(variable(3, 4, low=-0.5, high=2.0))),
    ),
)
