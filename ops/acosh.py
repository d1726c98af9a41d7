"""Acosh: f′ = 1/√(x² − 1) on x > 1, finite on boxes that stay away from 1.

Source: ONNX operator specification, Acosh.
"""

import math

import numpy as np

from onnxlip.ops.families.smooth import Curve, smooth
from onnxlip.rules import Rule, example, variable

CURVE = Curve(
    value=np.arccosh,
    derivative=lambda x: 1.0 / (np.sqrt(x - 1.0) * np.sqrt(x + 1.0)),
    slope_limits=(math.inf, 0.0),
    value_limits=(0.0, math.inf),
    slope_range=(0.0, math.inf),
    image_range=(0.0, math.inf),
    domain=(1.0, math.inf),
)

RULES = (
    Rule(
        "Acosh",
        smooth(CURVE, reason="its slope 1/√(x² − 1) is infinite at 1; keep its input above 1"),
        source="ONNX Acosh",
        examples=(
            example(variable(3, 4, low=1.25, high=9.0)),
            example(variable(3, 4, low=1.5)),
        ),
    ),
)
