"""Atanh: f′ = 1/(1 − x²) on |x| < 1, at least 1, finite on boxes that stay away from ±1.

Source: ONNX operator specification, Atanh.
"""

import math

import numpy as np

from onnxlip.ops.families.smooth import Curve, smooth
from onnxlip.rules import Rule, example, variable

CURVE = Curve(
    value=np.arctanh,
    derivative=lambda x: 1.0 / ((1.0 - x) * (1.0 + x)),
    slope_limits=(math.inf, math.inf),
    value_limits=(-math.inf, math.inf),
    slope_range=(1.0, math.inf),
    bends=((0.0, 1.0),),
    domain=(-1.0, 1.0),
)

RULES = (
    Rule(
        "Atanh",
        smooth(
            CURVE,
            reason="its slope 1/(1 − x²) is infinite at ±1; keep its input inside (−1, 1), "
            "for instance by Clip",
        ),
        source="ONNX Atanh",
        examples=(
            example(variable(3, 4, low=-0.5, high=0.75)),
            example(variable(3, 4, low=0.1, high=0.9)),
        ),
    ),
)
