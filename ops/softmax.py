"""Softmax: p_i = e^{x_i} / Σ_j e^{x_j} along one axis; gain ½ for p = 1, 2 and ∞.

The Jacobian is diag(p) − ppᵀ. Row i has absolute sum p_i(1 − p_i) + Σ_{j≠i} p_i p_j =
2p_i(1 − p_i) ≤ ½, and it is symmetric: ‖J‖₁ = ‖J‖_∞ = max_i 2p_i(1 − p_i), and
‖J‖₂ ≤ √(‖J‖₁‖J‖_∞). Attained in the limit p → (½, ½, 0 … 0), where J has the eigenvalue ½ for
(1, −1). On a box each p_i lies in an interval, over which 2t(1 − t) is maximised.

Source: ONNX operator specification, Softmax (version 13); Gao & Pavel 2017 (½ for p = 2), and
derived as above.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.ops.families.softmax import groups, probabilities
from onnxlip.rules import Box, Derivative, Gain, Node, Rule, example, variable

Array = npt.NDArray[Any]


def _gain(node: Node, i: int, p: float, boxes: Sequence[Box | None]) -> float:
    if groups(node).size <= 1:
        return 0.0
    least, most = probabilities(node, boxes[0])
    nearest = np.clip(0.5, least, most)
    slope = 2 * nearest * (1 - nearest) * (1 + 2.0**-50)
    return min(float(slope.max(initial=0.0)), 0.5)


def _image(node: Node, boxes: Sequence[Box | None], o: int) -> Box:
    least, most = probabilities(node, boxes[0])
    return Box.of(groups(node).tensor(least), groups(node).tensor(most))


def _derivative(node: Node, inputs: Sequence[Array | None]) -> Derivative:
    """J = diag(p) − ppᵀ is symmetric."""
    x = inputs[0]
    assert x is not None
    axis = int(node.attribute("axis", -1)) % (x.ndim - 1) + 1
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    p = e / e.sum(axis=axis, keepdims=True)

    def apply(ways: Sequence[Array]) -> list[Array]:
        v = ways[0]
        return [p * (v - (p * v).sum(axis=axis, keepdims=True))]

    return apply, apply


RULES = (
    Rule(
        "Softmax",
        Gain(_gain, _image, derivative=_derivative),
        source="ONNX Softmax; Gao & Pavel 2017, Proposition 4; derived for p = 1, ∞",
        examples=(
            example(variable(1, 2)),
            example(variable(2, 5)),
            example(variable(2, 3, 4), axis=1),
            example(variable(3, 1), axis=1),
            example(variable(4, 2), axis=0),
            example(variable(2, 4, low=-0.5, high=0.5)),
            example(variable(7, low=1.0, high=60.0), axis=0),
        ),
    ),
)
