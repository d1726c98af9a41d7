"""Swish: f(x) = x·σ(αx), slopes in [−0.0998, 1.0998] for every α ≠ 0 (SiLU: α = 1).

With t = αx, f(x) = g(t)/α for g(t) = t σ(t), so f′(x) = g′(t) = σ(t)(1 + t σ(−t)), whose
extrema are at ±2 s, s tanh s = 1 (families/gates.py): there g′ = (1 ± s)/2. α = 0 is x/2.

Source: ONNX operator specification, Swish; Ramachandran et al. 2017.
"""

import numpy as np

from onnxlip.ops.families.attributes import single
from onnxlip.ops.families.logistic import sigmoid
from onnxlip.ops.families.smooth import RELATIVE, Curve, Floats, outside, widen
from onnxlip.rounding import UNIT
from onnxlip.rules import Box, Elementwise, Node, Rule, example, variable

BEND = 2.3993572805154675
STEEPEST, FALLING = 1.099839320128867, -0.09983932012886691
TURN = -1.2784645427610737
MINIMUM = -0.2784645427610738  # g at its turn; equals 1 + TURN

CURVE = Curve(
    value=lambda t: t * sigmoid(t),
    derivative=lambda t: sigmoid(t) * (1.0 + t * sigmoid(-t)),
    slope_limits=(0.0, 1.0),
    value_limits=(0.0, np.inf),
    slope_range=outside(FALLING, STEEPEST),
    image_range=(outside(MINIMUM, 0.0)[0], np.inf),
    bends=((-BEND, FALLING), (BEND, STEEPEST)),
    turns=((TURN, MINIMUM),),
    absolute=64 * UNIT,
)


def _alpha(node: Node) -> float:
    return single(node, "alpha", 1.0)


def _scaled(box: Box, alpha: float) -> tuple[Floats, Floats]:
    """The box of t = αx, rounded outward."""
    with np.errstate(over="ignore"):
        ends = alpha * box.low, alpha * box.high
    low, high = (ends[0], ends[1]) if alpha > 0 else (ends[1], ends[0])
    return np.nextafter(low, -np.inf), np.nextafter(high, np.inf)


def _slopes(node: Node, box: Box) -> tuple[Floats, Floats]:
    alpha = _alpha(node)
    return CURVE.slopes(*_scaled(box, alpha)) if alpha else (np.asarray(0.5), np.asarray(0.5))


def _image(node: Node, box: Box) -> Box:
    alpha = _alpha(node)
    if not alpha:
        return Box.of(0.5 * box.low, 0.5 * box.high).widened()
    low, high = CURVE.image(*_scaled(box, alpha))
    low, high = low / alpha, high / alpha
    return Box.of(*widen(np.minimum(low, high), np.maximum(low, high), relative=RELATIVE))


RULES = (
    Rule(
        "Swish",
        Elementwise(_slopes, _image),
        source="ONNX Swish; Ramachandran et al. 2017",
        examples=(
            example(variable(2, 5)),
            example(variable(2, 5), alpha=1.702),
            example(variable(2, 5), alpha=-0.5),
            example(variable(3, 4, low=-0.5, high=2.0)),
        ),
        since=24,
    ),
)
