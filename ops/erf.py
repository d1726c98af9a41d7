"""Erf: slopes in [0, 2/√π]. f′ = (2/√π)e^{−x²} is even and falls with |x|.

x·erf(bx) has slopes in [−1.2578, 1.2578] (families/gates.py): with it ½x(1 + erf(x/√2)), GELU, has
[−0.1290, 1.1290]. Source: ONNX operator specification, Erf; Hendrycks & Gimpel 2016 (GELU).
"""

import numpy as np

from onnxlip.ops.families.gates import erf_gate
from onnxlip.ops.families.smooth import Curve, Floats, outside, smooth
from onnxlip.rounding import UNIT
from onnxlip.rules import Rule, example, variable

STEEPEST = 1.1283791670955126  # 2/√π


def _erf(x: Floats) -> Floats:
    from scipy.special import erf

    return np.asarray(erf(x))


CURVE = Curve(
    value=_erf,
    derivative=lambda x: STEEPEST * np.exp(-x * x),
    slope_limits=(0.0, 0.0),
    value_limits=(-1.0, 1.0),
    slope_range=(0.0, outside(0.0, STEEPEST)[1]),
    image_range=(-1.0, 1.0),
    bends=((0.0, STEEPEST),),
    absolute=64 * UNIT,
)

RULES = (
    Rule(
        "Erf",
        smooth(CURVE, erf_gate),
        source="ONNX Erf; gate: Hendrycks & Gimpel 2016 and derived",
        examples=(example(variable(2, 5)), example(variable(3, 4, low=-0.5, high=2.0))),
    ),
)
