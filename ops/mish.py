"""Mish: f(x) = x·tanh(log(1 + eˣ)), slopes in [−0.1126, 1.0885].

With w = eˣ and n = w(w + 2): tanh(log(1 + w)) = n/(n + 2) =: T, T′ = 4w(1 + w)/(n + 2)², and

    f″ = 2T′ + xT″ = 4w/(n + 2)³ · (2(1 + w)(n + 2) + x(2 + 2w − 3w² − 2w³))

vanishes where x = −2(1 + w)(n + 2)/(2 + 2w − 3w² − 2w³): once on each side of the pole of the
right side, which falls on both while x = log w grows. So f′ falls from 0 to its minimum at
−2.2564, grows to its maximum at 1.4906 and falls to 1.

Source: ONNX operator specification, Mish; Misra 2019.
"""

import numpy as np

from onnxlip.ops.families.gates import MISH
from onnxlip.ops.families.smooth import Curve, Floats, outside, smooth
from onnxlip.rounding import UNIT
from onnxlip.rules import Rule, example, variable

MINIMUM = -0.30884341301725043  # f at −1.19243, its one turn


def _gate(x: Floats) -> tuple[Floats, Floats]:
    """T and T′ from e^{−|x|}, without overflow."""
    q = np.exp(-np.abs(x))
    left, right = q * (q + 2.0), 1.0 + 2.0 * q
    value = np.where(x < 0, left, right) / np.where(x < 0, left + 2.0, right + 2.0 * q * q)
    slope = np.where(x < 0, 4.0 * q * (1.0 + q), 4.0 * q * q * (1.0 + q))
    return value, slope / np.where(x < 0, left + 2.0, right + 2.0 * q * q) ** 2


def _derivative(x: Floats) -> Floats:
    value, slope = _gate(x)
    return value + x * slope


CURVE = Curve(
    value=lambda x: x * _gate(x)[0],
    derivative=_derivative,
    slope_limits=(0.0, 1.0),
    value_limits=(0.0, np.inf),
    slope_range=MISH,
    image_range=(outside(MINIMUM, 0.0)[0], np.inf),
    bends=((-2.256376396360793, -0.11252612238946255), (1.4905711794854284, 1.088498161251728)),
    turns=((-1.1924312145154952, MINIMUM),),
    absolute=64 * UNIT,
)

RULES = (
    Rule(
        "Mish",
        smooth(CURVE),
        source="ONNX Mish; Misra 2019",
        examples=(
            example(variable(2, 5)),
            example(variable(3, 4, low=-0.5, high=2.0)),
            example(variable(3, 4, low=-4.0, high=-1.0)),
        ),
        since=18,
    ),
)
