"""Log: f′ = 1/x falls on x > 0; slopes are finite on boxes that stay above 0.

Log(1 + Exp(e)) is Softplus(e), which has finite slopes everywhere.
Source: ONNX operator specification, Log.
"""

import math

import numpy as np

from onnxlip.ops.families import stable_softplus
from onnxlip.ops.families.smooth import Curve, smooth
from onnxlip.rules import Rule, example, variable

CURVE = Curve(
    value=np.log,
    derivative=lambda x: 1.0 / x,
    slope_limits=(math.inf, 0.0),
    value_limits=(-math.inf, math.inf),
    slope_range=(0.0, math.inf),
    domain=(0.0, math.inf),
)

RULES = (
    Rule(
        "Log",
        smooth(
            CURVE,
            reason="its slope 1/x is infinite at 0; keep its input above some ε > 0, for instance "
            "by Clip, Max or a bounded domain",
        ),
        source="ONNX Log",
        examples=(
            example(variable(3, 4, low=0.25, high=2.0)),
            example(variable(3, 4, low=1.5)),
        ),
        algebra=stable_softplus.log,
    ),
)
