"""HardSwish: f(x) = x·clip(x/6 + ½, 0, 1), slopes in [−½, 3/2].

f is 0 for x ≤ −3, x for x ≥ 3 and x²/6 + x/2 between, where its slope x/3 + ½ grows from −½
to 3/2. (The operator's function body has the float32 neighbour a of 1/6 instead. That moves none
of the extremes: the slope 2ax + ½ is −½ and 3/2 at −½/a and ½/a for every a.)

Source: ONNX operator specification, HardSwish; Howard et al. 2019 (MobileNetV3).
"""

import numpy as np

from onnxlip.ops.families.smooth import Floats, widen
from onnxlip.rounding import UNIT
from onnxlip.rules import Box, Elementwise, Node, Rule, example, variable

_ROUNDED = 4 * UNIT  # absolute error of x/3 + ½ and x/6 + ½ on [−3, 3]


def _slopes(node: Node, box: Box) -> tuple[Floats, Floats]:
    low, high = box.low, box.high
    first = np.clip(low, -3.0, 3.0) / 3.0 + 0.5
    last = np.clip(high, -3.0, 3.0) / 3.0 + 0.5
    alpha, beta = widen(first, last, (-0.5, 1.5), absolute=_ROUNDED)
    point = low == high
    middle = (high > -3.0) & (low < 3.0) | point & (np.abs(low) == 3.0)
    alpha, beta = np.where(middle, alpha, np.inf), np.where(middle, beta, -np.inf)
    left = (low < -3.0) | point & (low == -3.0)
    right = (high > 3.0) | point & (high == 3.0)
    for outside, slope in ((left, 0.0), (right, 1.0)):
        alpha = np.where(outside, np.minimum(alpha, slope), alpha)
        beta = np.where(outside, np.maximum(beta, slope), beta)
    return alpha, beta


def _value(x: Floats) -> Floats:
    inside = np.clip(x, -3.0, 3.0)
    return np.where(x > 3.0, x, inside * (inside / 6.0 + 0.5))


def _image(node: Node, box: Box) -> Box:
    # f falls from −3 to its least value −3/8 at −3/2 and grows from there.
    ends = _value(box.low), _value(box.high), _value(np.clip(-1.5, box.low, box.high))
    low, high = np.minimum(np.minimum(*ends[:2]), ends[2]), np.maximum(*ends[:2])
    return Box.of(*widen(low, high, (-0.375, np.inf), absolute=4 * _ROUNDED))


RULES = (
    Rule(
        "HardSwish",
        Elementwise(_slopes, _image),
        source="ONNX HardSwish; Howard et al. 2019",
        examples=(
            example(variable(2, 5)),
            example(variable(2, 5, low=-3.0, high=3.0)),
            example(variable(2, 5, low=-1.0, high=0.5)),
            example(variable(2, 5, low=3.25, high=7.0)),
        ),
        since=14,
    ),
)
