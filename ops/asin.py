"""Asin and Acos: f′ = ±1/√(1 − x²) on |x| < 1, finite on boxes that stay away from ±1.

Source: ONNX operator specification, Asin and Acos.
"""

import math

import numpy as np

from onnxlip.ops.families.smooth import Curve, Floats, outside, smooth
from onnxlip.rules import Rule, example, variable


def _slope(x: Floats) -> Floats:
    return 1.0 / (np.sqrt(1.0 - x) * np.sqrt(1.0 + x))


ASIN = Curve(
    value=np.arcsin,
    derivative=_slope,
    slope_limits=(math.inf, math.inf),
    value_limits=(-math.pi / 2, math.pi / 2),
    slope_range=(1.0, math.inf),
    image_range=outside(-math.pi / 2, math.pi / 2),
    bends=((0.0, 1.0),),
    domain=(-1.0, 1.0),
)

ACOS = Curve(
    value=np.arccos,
    derivative=lambda x: -_slope(x),
    slope_limits=(-math.inf, -math.inf),
    value_limits=(math.pi, 0.0),
    slope_range=(-math.inf, -1.0),
    image_range=(0.0, outside(0.0, math.pi)[1]),
    bends=((0.0, -1.0),),
    domain=(-1.0, 1.0),
)

_REASON = (
    "its slope 1/√(1 − x²) is infinite at ±1; keep its input inside (−1, 1), for instance by Clip"
)
_EXAMPLES = (
    example(variable(3, 4, low=-0.5, high=0.75)),
    example(variable(3, 4, low=0.1, high=0.9)),
)

RULES = (
    Rule("Asin", smooth(ASIN, reason=_REASON), source="ONNX Asin", examples=_EXAMPLES),
    Rule("Acos", smooth(ACOS, reason=_REASON), source="ONNX Acos", examples=_EXAMPLES),
)
