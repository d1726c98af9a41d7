"""Sqrt: f′ = 1/(2√x) falls on x > 0; slopes are finite on boxes that stay above 0.

Source: ONNX operator specification, Sqrt.
"""

import math

import numpy as np

from onnxlip.ops.families.smooth import Curve, smooth
from onnxlip.rules import Rule, example, variable

CURVE = Curve(
    value=np.sqrt,
    derivative=lambda x: 0.5 / np.sqrt(x),
    slope_limits=(math.inf, 0.0),
    value_limits=(0.0, math.inf),
    slope_range=(0.0, math.inf),
    image_range=(0.0, math.inf),
    domain=(0.0, math.inf),
)

RULES = (
    Rule(
        "Sqrt",
        smooth(
            CURVE,
            reason="its slope 1/(2√x) is infinite at 0; keep its input above some ε > 0, for "
            "instance by adding ε or by Clip",
        ),
        source="ONNX Sqrt",
        examples=(
            example(variable(3, 4, low=0.25, high=2.0)),
            example(variable(3, 4, low=1.5)),
        ),
    ),
)
