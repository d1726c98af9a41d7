"""Asinh: slopes in [0, 1]. f′ = 1/√(1 + x²) is even and falls with |x|.

Source: ONNX operator specification, Asinh.
"""

import math

import numpy as np

from onnxlip.ops.families.smooth import Curve, smooth
from onnxlip.rules import Rule, example, variable

CURVE = Curve(
    value=np.arcsinh,
    derivative=lambda x: 1.0 / np.hypot(1.0, x),
    slope_limits=(0.0, 0.0),
    value_limits=(-math.inf, math.inf),
    slope_range=(0.0, 1.0),
    bends=((0.0, 1.0),),
)

RULES = (
    Rule(
        "Asinh",
        smooth(CURVE),
        source="ONNX Asinh",
        examples=(example(variable(2, 5)), example(variable(3, 4, low=-0.5, high=2.0))),
    ),
)
