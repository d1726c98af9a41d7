"""Softsign: f(x) = x/(1 + |x|), slopes in [0, 1]: f′ = 1/(1 + |x|)².

Source: ONNX operator specification, Softsign.
"""

import numpy as np

from onnxlip.ops.families.smooth import Curve, smooth
from onnxlip.rules import Rule, example, variable

CURVE = Curve(
    value=lambda x: x / (1.0 + np.abs(x)),
    derivative=lambda x: 1.0 / (1.0 + np.abs(x)) ** 2,
    slope_limits=(0.0, 0.0),
    value_limits=(-1.0, 1.0),
    slope_range=(0.0, 1.0),
    image_range=(-1.0, 1.0),
    bends=((0.0, 1.0),),
)

RULES = (
    Rule(
        "Softsign",
        smooth(CURVE),
        source="ONNX Softsign",
        examples=(example(variable(2, 5)), example(variable(3, 4, low=-0.5, high=2.0))),
    ),
)
