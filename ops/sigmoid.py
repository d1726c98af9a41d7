"""Sigmoid: f(x) = σ(x) = 1/(1 + e^{−x}), slopes in [0, ¼].

f′ = σ(x)σ(−x) is even and falls with |x|. x·σ(bx) has slopes in [−0.0998, 1.0998]
(families/gates.py): that is how exporters write SiLU.
Source: ONNX operator specification, Sigmoid; Ramachandran et al. 2017 (SiLU).
"""

import numpy as np

from onnxlip.ops.families.gates import sigmoid_gate
from onnxlip.ops.families.logistic import sigmoid
from onnxlip.ops.families.smooth import Curve, Floats, smooth
from onnxlip.rules import Rule, example, variable


def _derivative(x: Floats) -> Floats:
    e = np.exp(-np.abs(x))
    return e / (1.0 + e) ** 2


CURVE = Curve(
    value=sigmoid,
    derivative=_derivative,
    slope_limits=(0.0, 0.0),
    value_limits=(0.0, 1.0),
    slope_range=(0.0, 0.25),
    image_range=(0.0, 1.0),
    bends=((0.0, 0.25),),
)

RULES = (
    Rule(
        "Sigmoid",
        smooth(CURVE, sigmoid_gate),
        source="ONNX Sigmoid; gate: Ramachandran et al. 2017 and derived",
        examples=(example(variable(2, 5)), example(variable(3, 4, low=-0.5, high=2.0))),
    ),
)
