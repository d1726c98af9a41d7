"""Softplus: f(x) = log(1 + eˣ), slopes in [0, 1]: f′ = σ(x) grows.

Source: ONNX operator specification, Softplus; Dugas et al. 2001.
"""

import numpy as np

from onnxlip.ops.families.logistic import sigmoid
from onnxlip.ops.families.smooth import Curve, Floats, smooth
from onnxlip.rules import Rule, example, variable


def softplus(x: Floats) -> Floats:
    """log(1 + eˣ) without overflow."""
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


CURVE = Curve(
    value=softplus,
    derivative=sigmoid,
    slope_limits=(0.0, 1.0),
    value_limits=(0.0, np.inf),
    slope_range=(0.0, 1.0),
    image_range=(0.0, np.inf),
)

RULES = (
    Rule(
        "Softplus",
        smooth(CURVE),
        source="ONNX Softplus; Dugas et al. 2001",
        examples=(example(variable(2, 5)), example(variable(3, 4, low=-0.5, high=2.0))),
    ),
)
