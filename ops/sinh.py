"""Sinh and Cosh: each is the other's derivative; slopes are finite on bounded boxes only.

Source: ONNX operator specification, Sinh and Cosh.
"""

import math

import numpy as np

from onnxlip.ops.families.smooth import Curve, smooth
from onnxlip.rules import Rule, example, variable

SINH = Curve(
    value=np.sinh,
    derivative=np.cosh,
    slope_limits=(math.inf, math.inf),
    value_limits=(-math.inf, math.inf),
    slope_range=(1.0, math.inf),
    bends=((0.0, 1.0),),
)

COSH = Curve(
    value=np.cosh,
    derivative=np.sinh,
    slope_limits=(-math.inf, math.inf),
    value_limits=(math.inf, math.inf),
    slope_range=(-math.inf, math.inf),
    image_range=(1.0, math.inf),
    turns=((0.0, 1.0),),
)

_REASON = "its slope grows exponentially with |x|; bound its input on both sides"
_EXAMPLES = (
    example(variable(3, 4, low=-0.5, high=2.0)),
    example(variable(3, 4, low=0.5, high=1.0)),
)

RULES = (
    Rule("Sinh", smooth(SINH, reason=_REASON), source="ONNX Sinh", examples=_EXAMPLES),
    Rule("Cosh", smooth(COSH, reason=_REASON), source="ONNX Cosh", examples=_EXAMPLES),
)
