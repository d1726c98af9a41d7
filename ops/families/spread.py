"""Gains of ops on several tensors that are broadcast to one shape.

For one input, |δy| ≤ w ∘ |S δx| with S its broadcast and w ≥ 0 entry by entry, so the gain is at
most ‖diag(w) S‖_p: an entry that meets m output entries counts m times for p = 1, √m for p = 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxlip.linear import Monomial
from onnxlip.ops.families.broadcast import repeated, scaled
from onnxlip.rounding import add_up, norm_up
from onnxlip.rules import Node

__all__ = ["common_shape", "joint_of", "spread_norm"]


def common_shape(node: Node) -> tuple[int, ...]:
    """The shape to which all inputs broadcast; `applies` may not ask the output for it."""
    return np.broadcast_shapes(*(v.shape for v in node.inputs if v is not None))


def spread_norm(
    node: Node, i: int, p: float, weight: npt.NDArray[np.float64] | None = None
) -> float:
    """‖diag(weight) S_i‖_p, rounded up; infinite where a weight is."""
    a = repeated(node, i) if weight is None else scaled(node, i, weight)
    assert isinstance(a, Monomial)
    return a.norm(p)


def joint_of(gains: Sequence[float], p: float) -> float:
    """Bound with all inputs moved together: max of Σ g_i t_i over ‖t‖_p ≤ 1, the dual norm.

    f(x₁, x₂) − f(y₁, y₂) is a sum of steps that move one input each, the others in their boxes.
    """
    if p == 1:
        return max(gains)
    return add_up(*gains) if p == math.inf else norm_up(gains, 2)
