"""Tanh: slopes in [0, 1]. f′ = sech²(x) is even and falls with |x|.

x·tanh(kx + ax³) (GELU's tanh form) and x·tanh(softplus(x)) (Mish): families/gates.py.
Source: ONNX operator specification, Tanh.
"""

import numpy as np

from onnxlip.ops.families.gates import tanh_gate
from onnxlip.ops.families.smooth import Curve, Floats, smooth
from onnxlip.rules import Rule, example, variable


def sech2(x: Floats) -> Floats:
    """1 − tanh², without its cancellation."""
    e = np.exp(-2.0 * np.abs(x))
    return 4.0 * e / (1.0 + e) ** 2


CURVE = Curve(
    value=np.tanh,
    derivative=sech2,
    slope_limits=(0.0, 0.0),
    value_limits=(-1.0, 1.0),
    slope_range=(0.0, 1.0),
    image_range=(-1.0, 1.0),
    bends=((0.0, 1.0),),
)

RULES = (
    Rule(
        "Tanh",
        smooth(CURVE, tanh_gate),
        source="ONNX Tanh; gates derived",
        examples=(example(variable(2, 5)), example(variable(3, 4, low=-0.5, high=2.0))),
    ),
)
