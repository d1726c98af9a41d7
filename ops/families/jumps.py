"""Functions with jumps: straight pieces that do not meet.

A difference quotient of f on a box is (∫ slopes + Σ jumps)/length, so a jump upward inside the box
makes β infinite and leaves α the least slope; a jump downward the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxlip.ops.families.piecewise_linear import Floats, piecewise_linear
from onnxlip.ops.families.smooth import Booleans
from onnxlip.rules import Box, Elementwise, Node

__all__ = ["Jump", "with_jumps"]

Jump = tuple[float, float, bool]


def with_jumps(
    breakpoints: Callable[[Node], Sequence[float]],
    slopes: Callable[[Node], Sequence[float]],
    function: Callable[[Node, Floats], Floats],
    jumps: Callable[[Node], Sequence[Jump]],
    reason: str,
) -> Elementwise:
    """Pieces as in `piecewise_linear`; jumps (t, f(t+) − f(t−), whether t belongs to the left)."""
    continuous = piecewise_linear(breakpoints, slopes, function)

    def on_box(node: Node, box: Box) -> tuple[Floats, Floats]:
        alpha, beta = continuous.slopes(node, box)
        for jump in jumps(node):
            met, height = _meets(box, jump), jump[1]
            alpha = np.where(met & (height < 0), -np.inf, alpha)
            beta = np.where(met & (height > 0), np.inf, beta)
        return alpha, beta

    def image(node: Node, box: Box) -> Box:
        inside = continuous.image(node, box)
        low, high = inside.low, inside.high
        for jump in jumps(node):
            t, height, left = jump
            met = _meets(box, jump)
            there = float(function(node, np.asarray(t)))
            beyond = there + height if left else there - height
            low = np.where(met, np.minimum(low, beyond), low)
            high = np.where(met, np.maximum(high, beyond), high)
        return Box.of(low, high).widened()

    return Elementwise(on_box, image, reason=reason)


def _meets(box: Box, jump: Jump) -> Booleans:
    """Whether the box has points on both sides of the jump."""
    t, _, left = jump
    if left:
        return np.asarray((box.low <= t) & (box.high > t))
    return np.asarray((box.low < t) & (box.high >= t))
