"""LogSoftmax: y_i = x_i − log Σ_j e^{x_j} along one axis of length n.

The Jacobian is J = I − 1pᵀ with p = softmax(x), p ≥ 0, Σp = 1. For n ≥ 2 (0 for n = 1):

    p = ∞: row i has absolute sum 2(1 − p_i), so ‖J‖_∞ = 2(1 − min p) ≤ 2
    p = 1: column j has 1 − p_j + (n − 1) p_j, so ‖J‖₁ = 1 + (n − 2) max p ≤ n − 1
    p = 2: 1pᵀ is a projection (pᵀ1 = 1), neither 0 nor I, and ‖I − Q‖₂ = ‖Q‖₂ for every such
           projection: ‖J‖₂ = ‖1‖₂‖p‖₂ = √n ‖p‖₂ ≤ √n

These are equalities, and each supremum is approached as p tends to a vertex of the simplex.

Source: ONNX operator specification, LogSoftmax (version 13); derived; ‖I − Q‖ = ‖Q‖: Kato 1960.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.ops.families.softmax import groups, probabilities
from onnxlip.rounding import gamma, sqrt_up, up
from onnxlip.rules import Box, Derivative, Gain, Node, Rule, example, variable

Array = npt.NDArray[Any]


def _gain(node: Node, i: int, p: float, boxes: Sequence[Box | None]) -> float:
    n = groups(node).size
    if n <= 1:
        return 0.0
    least, most = probabilities(node, boxes[0])
    if p == math.inf:
        bound = 2 * (1 - float(least.min(initial=1.0)))
        return bound if bound == 2 else up(bound * (1 + 2.0**-50))
    top = most.max(axis=1)
    if p == 1:
        bound = 1 + (n - 2) * float(top.max(initial=0.0))
        return bound if bound == round(bound) else up(bound * (1 + 2.0**-50))
    if most.shape[1] == 1:
        return sqrt_up(float(n))
    # Σp² ≤ max p · Σp = max p, and Σp² ≤ Σ(p⁺)²
    square = np.minimum((most**2).sum(axis=1) * (1 + gamma(2 * n)), top)
    return sqrt_up(min(up(n * float(square.max(initial=0.0))), float(n)))


def _image(node: Node, boxes: Sequence[Box | None], o: int) -> Box:
    least, most = probabilities(node, boxes[0])
    with np.errstate(divide="ignore"):
        low, high = np.log(least), np.log(most)
    low, high = low - 1e-15 * np.abs(low), np.minimum(high + 1e-15 * np.abs(high), 0.0)
    return Box.of(groups(node).tensor(low), groups(node).tensor(high))


def _derivative(node: Node, inputs: Sequence[Array | None]) -> Derivative:
    """J = I − 1pᵀ."""
    x = inputs[0]
    assert x is not None
    axis = int(node.attribute("axis", -1)) % (x.ndim - 1) + 1
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    p = e / e.sum(axis=axis, keepdims=True)

    def push(ways: Sequence[Array]) -> list[Array]:
        return [ways[0] - (p * ways[0]).sum(axis=axis, keepdims=True)]

    def pull(gradients: Sequence[Array]) -> list[Array]:
        return [gradients[0] - p * gradients[0].sum(axis=axis, keepdims=True)]

    return push, pull


RULES = (
    Rule(
        "LogSoftmax",
        Gain(_gain, _image, derivative=_derivative),
        source="ONNX LogSoftmax; derived: I − 1pᵀ is a projection",
        examples=(
            example(variable(1, 2)),
            example(variable(2, 5)),
            example(variable(2, 3, 4), axis=1),
            example(variable(3, 1), axis=1),
            example(variable(4, 3), axis=0),
            example(variable(2, 4, low=-0.5, high=0.5)),
            example(variable(7, low=1.0, high=20.0), axis=0),
        ),
    ),
)
