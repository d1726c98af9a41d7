"""Gelu: f(x) = x·Φ(x), slopes in [−0.1290, 1.1290].

Exact form: f′ = Φ(x) + xφ(x), f″ = φ(x)(2 − x²), so f′ has its extrema at ±√2.
Tanh form: f = x·(1 + tanh u)/2, u = √(2/π)(x + 0.044715 x³); f′ − ½ is odd with one maximum on
x > 0 (families/gates.py). Its slopes are wider by 9e-5.

Source: ONNX operator specification, Gelu; Hendrycks & Gimpel 2016.
"""

import math

import numpy as np

from onnxlip.ops.families.logistic import sigmoid
from onnxlip.ops.families.smooth import Curve, Floats, outside
from onnxlip.ops.tanh import sech2
from onnxlip.rounding import UNIT
from onnxlip.rules import Box, Elementwise, Node, Rule, example, variable

ROOT_HALF = math.sqrt(0.5)
ERF_STEEPEST = 1.1289041451851547  # Φ(√2) + √2 φ(√2)
ERF_FALLING = -0.12890414518515478  # 1 minus it
ERF_TURN, ERF_MINIMUM = -0.7517915246935645, -0.16997120747990366  # Φ(x) + xφ(x) = 0

SCALE = math.sqrt(2.0 / math.pi)
CUBIC = 0.044715
TANH_BEND = 1.4185040087908283
TANH_STEEPEST, TANH_FALLING = 1.1289930686587717, -0.12899306865877178
TANH_TURN, TANH_MINIMUM = -0.7524614220710163, -0.17004075057125406


def _phi(x: Floats) -> Floats:
    from scipy.special import erfc

    return np.asarray(0.5 * erfc(-ROOT_HALF * x))


def _erf_derivative(x: Floats) -> Floats:
    return _phi(x) + x * np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


def _argument(x: Floats) -> Floats:
    return SCALE * x * (1.0 + CUBIC * x * x)


def _tanh_derivative(x: Floats) -> Floats:
    # Beyond ±40, u is beyond ±2000 and f′ is 0 or 1 to more digits than there are floats.
    x = np.clip(x, -40.0, 40.0)
    u = _argument(x)
    return sigmoid(2.0 * u) + 0.5 * SCALE * x * (1.0 + 3.0 * CUBIC * x * x) * sech2(u)


ERF = Curve(
    value=lambda x: x * _phi(x),
    derivative=_erf_derivative,
    slope_limits=(0.0, 1.0),
    value_limits=(0.0, math.inf),
    slope_range=outside(ERF_FALLING, ERF_STEEPEST),
    image_range=(outside(ERF_MINIMUM, 0.0)[0], math.inf),
    bends=((-math.sqrt(2.0), ERF_FALLING), (math.sqrt(2.0), ERF_STEEPEST)),
    turns=((ERF_TURN, ERF_MINIMUM),),
    absolute=64 * UNIT,
)

TANH = Curve(
    value=lambda x: x * sigmoid(2.0 * _argument(x)),
    derivative=_tanh_derivative,
    slope_limits=(0.0, 1.0),
    value_limits=(0.0, math.inf),
    slope_range=outside(TANH_FALLING, TANH_STEEPEST),
    image_range=(outside(TANH_MINIMUM, 0.0)[0], math.inf),
    bends=((-TANH_BEND, TANH_FALLING), (TANH_BEND, TANH_STEEPEST)),
    turns=((TANH_TURN, TANH_MINIMUM),),
    absolute=64 * UNIT,
)


def _curve(node: Node) -> Curve:
    return TANH if node.attribute("approximate", "none") == "tanh" else ERF


def _slopes(node: Node, box: Box) -> tuple[Floats, Floats]:
    return _curve(node).slopes(box.low, box.high)


def _image(node: Node, box: Box) -> Box:
    return Box.of(*_curve(node).image(box.low, box.high))


RULES = (
    Rule(
        "Gelu",
        Elementwise(_slopes, _image),
        source="ONNX Gelu; Hendrycks & Gimpel 2016",
        examples=(
            example(variable(2, 5)),
            example(variable(2, 5), approximate="tanh"),
            example(variable(3, 4, low=-0.5, high=2.0)),
            example(variable(3, 4, low=-3.0, high=-1.0), approximate="tanh"),
        ),
        since=20,
    ),
)
