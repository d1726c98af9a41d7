"""Atan: slopes in [0, 1]. f′ = 1/(1 + x²) is even and falls with |x|.

Source: ONNX operator specification, Atan.
"""

import math

import numpy as np

from onnxlip.ops.families.smooth import Curve, outside, smooth
from onnxlip.rules import Rule, example, variable

CURVE = Curve(
    value=np.arctan,
    derivative=lambda x: 1.0 / (1.0 + x * x),
    slope_limits=(0.0, 0.0),
    value_limits=(-math.pi / 2, math.pi / 2),
    slope_range=(0.0, 1.0),
    image_range=outside(-math.pi / 2, math.pi / 2),
    bends=((0.0, 1.0),),
)

RULES = (
    Rule(
        "Atan",
        smooth(CURVE),
        source="ONNX Atan",
        examples=(example(variable(2, 5)), example(variable(3, 4, low=-0.5, high=2.0))),
    ),
)
