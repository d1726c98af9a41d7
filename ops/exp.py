"""Exp: f′ = eˣ grows; slopes are finite on boxes that are bounded from above.

Source: ONNX operator specification, Exp.
"""

import math

import numpy as np

from onnxlip.ops.families.smooth import Curve, smooth
from onnxlip.rules import Rule, example, variable

CURVE = Curve(
    value=np.exp,
    derivative=np.exp,
    slope_limits=(0.0, math.inf),
    value_limits=(0.0, math.inf),
    slope_range=(0.0, math.inf),
    image_range=(0.0, math.inf),
)

RULES = (
    Rule(
        "Exp",
        smooth(
            CURVE,
            reason="its slope eˣ grows without bound; bound its input from above, for instance by "
            "Clip or Min",
        ),
        source="ONNX Exp",
        examples=(
            example(variable(3, 4, low=-3.0, high=2.0)),
            example(variable(3, 4, high=1.5)),
        ),
    ),
)
