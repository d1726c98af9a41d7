"""The probabilities p = softmax(x) on a box, as Softmax and LogSoftmax need them.

p_i = e^{x_i} / (e^{x_i} + Σ_{j≠i} e^{x_j}) increases in x_i and decreases in every other x_j, so
its extremes on a box are at corners: x_i at one end, all others at the opposite one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxlip.ops.families.axis_groups import Groups, along
from onnxlip.rounding import TINY, gamma
from onnxlip.rules import Box, Node

__all__ = ["groups", "probabilities"]

Floats = npt.NDArray[np.float64]

# Rounding of x − m (below 2⁻⁴³ where the exponential does not vanish) and the exponential's own.
_EXPONENTIAL = 2.0**-40


def groups(node: Node) -> Groups:
    """One group per slice along `axis`."""
    return along(node.x.shape, int(node.attribute("axis", -1)))


@np.errstate(over="ignore")
def probabilities(node: Node, box: Box | None) -> tuple[Floats, Floats]:
    """(p⁻, p⁺) of shape (groups, n), rounded outward: p⁻ ≤ p ≤ p⁺ on the box."""
    g = groups(node)
    if box is None or not box.is_bounded:
        return np.zeros((1, 1)), np.ones((1, 1))
    low, high = np.broadcast_arrays(g.rows(box.low), g.rows(box.high), np.empty((1, g.size)))[:2]
    top = high.max(axis=1, keepdims=True)
    small, large = np.exp(low - top), np.exp(high - top)
    slack = _EXPONENTIAL + gamma(2 * g.size)
    others_small, others_large = _sum_of_others(small), _sum_of_others(large)
    # TINY per term is for exponentials that underflow.
    most = (large + TINY) / ((large + TINY) + others_small)
    least = small / (small + (others_large + g.size * TINY))
    return np.maximum(least * (1 - 4 * slack), 0.0), np.minimum(most * (1 + 4 * slack), 1.0)


def _sum_of_others(values: Floats) -> Floats:
    """Σ_{j≠i} v_j by partial sums from both ends: subtracting v_i from the total would cancel."""
    before, after = np.zeros_like(values), np.zeros_like(values)
    before[:, 1:] = np.cumsum(values, axis=1)[:, :-1]
    after[:, :-1] = np.cumsum(values[:, ::-1], axis=1)[:, ::-1][:, 1:]
    return before + after
