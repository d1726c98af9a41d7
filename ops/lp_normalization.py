"""LpNormalization: x/‖x‖₂ or x/‖x‖₁ along an axis of length n; 0 where the norm is 0.

Discontinuous at x = 0, so only on boxes where the norm is at least r > 0 is there a gain.

ℓ2: J = (I − uuᵀ)/‖x‖, u = x/‖x‖: an orthogonal projection, so 1/r for p = 2, and
(1 + √n)/(2r) for p = 1 and ∞ (`families/normalization.py` with ε = 0, γ = 1/√n, not centred).
ℓ1: J = (I − q sᵀ)/‖x‖₁, q = x/‖x‖₁, s = sign x (the function is continuous and piecewise smooth).
As sᵀq = 1 and ‖q‖₁ = 1, J‖x‖₁ is the transpose of LogSoftmax's Jacobian up to signs:
2 for p = 1 (column j: 2(1 − |q_j|)), max(1, n − 1) for p = ∞ (row i: 1 + (n − 2)|q_i|), and
‖qsᵀ‖₂ = √n ‖q‖₂ ≤ √n for p = 2; each over r.

Source: ONNX operator specification, LpNormalization; derived.
"""

import math
from collections.abc import Sequence

import numpy as np

from onnxlip.ops.families.axis_groups import Groups, along
from onnxlip.ops.families.normalization import Normalization, normalization
from onnxlip.rounding import down, gamma, sqrt_up, up
from onnxlip.rules import Box, Gain, Node, Rule, example, variable

_REASON = (
    "x/‖x‖ jumps at x = 0; bound the input so that no slice along the axis can vanish, or add "
    "an epsilon to the norm in the model"
)


def _groups(node: Node) -> Groups:
    return along(node.x.shape, int(node.attribute("axis", -1)))


def _euclidean(node: Node) -> Normalization:
    groups = _groups(node)
    scale = np.asarray(up(1 / down(math.sqrt(max(groups.size, 1)))))  # x/‖x‖ = n^{−½} x/√(mean x²)
    return Normalization(groups, scale, np.zeros(()), epsilon=0.0, centred=False)


def _sum_gain(node: Node, i: int, p: float, boxes: Sequence[Box | None]) -> float:
    groups, box = _groups(node), boxes[0] or Box.whole()
    n = groups.size
    if node.x.size == 0:
        return 0.0
    low, high = np.broadcast_arrays(groups.rows(box.low), groups.rows(box.high))
    nearest = np.maximum(np.maximum(low, -high), 0.0)
    norm = nearest.mean(axis=1).min() * n * (1 - 2 * gamma(n + 8))
    if not norm > 0:
        return math.inf
    projection = 2.0 if p == 1 else sqrt_up(float(n)) if p == 2 else max(1.0, n - 1.0)
    return up(projection / float(norm))


def _unit(node: Node, boxes: Sequence[Box | None], o: int) -> Box:
    box = boxes[0] or Box.whole()
    return Box.of(-1.0 if np.any(box.low < 0) else 0.0, 1.0 if np.any(box.high > 0) else 0.0)


_GAINS = {1: Gain(_sum_gain, _unit), 2: normalization(_euclidean)}


def _order(node: Node) -> int:
    return int(node.attribute("p", 2))


RULES = (
    Rule(
        "LpNormalization",
        Gain(
            lambda node, i, p, boxes: _GAINS[_order(node)].gain(node, i, p, boxes),
            _unit,
            reason=_REASON,
        ),
        source="ONNX LpNormalization; derived",
        examples=(
            example(variable(2, 4, low=0.5, high=2)),
            example(variable(4, 3, low=-3, high=-1), axis=0),
            example(variable(2, 3, low=0.25, high=1), p=1),
            example(variable(2, 1, 4, low=1, high=2), axis=1, p=1),
        ),
        applies=lambda node: _order(node) in _GAINS,
    ),
)
