"""Elementwise functions made of straight pieces: slopes and images are exact on any box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.rules import Box, Elementwise, Node
from onnxlip.univariate import Expression

__all__ = ["piecewise_linear"]

Floats = npt.NDArray[np.float64]


def piecewise_linear(
    breakpoints: Callable[[Node], Sequence[Any]],
    slopes: Callable[[Node], Sequence[Any]],
    function: Callable[[Node, Floats], Floats],
    gate: Callable[[Node, Expression], tuple[float, float] | None] | None = None,
) -> Elementwise:
    """A continuous function with slopes s₀ … s_m between breakpoints t₁ ≤ … ≤ t_m.

    Breakpoints and slopes may be arrays that broadcast to the input (a slope per channel). A
    difference quotient is a mean of the slopes of the pieces between its two points, so the
    slope interval is their hull over the pieces that overlap the box; a box that is one point
    has no quotient and takes the hull of all pieces that touch it. `function` must be exact or
    correctly rounded: images are taken at the box's ends and at breakpoints inside it.
    """

    def on_box(node: Node, box: Box) -> tuple[Floats, Floats]:
        t = [-np.inf, *breakpoints(node), np.inf]
        s = slopes(node)
        shape = np.broadcast_shapes(box.low.shape, *(np.shape(v) for v in (*t, *s)))
        alpha, beta = np.full(shape, np.inf), np.full(shape, -np.inf)
        for left, right, slope in zip(t[:-1], t[1:], s, strict=True):
            overlaps = (box.low < right) & (box.high > left)
            touches = (box.low == box.high) & (box.low <= right) & (box.high >= left)
            inside = overlaps | touches
            alpha = np.where(inside, np.minimum(alpha, slope), alpha)
            beta = np.where(inside, np.maximum(beta, slope), beta)
        return alpha, beta

    def image(node: Node, box: Box) -> Box:
        ends = [function(node, box.low), function(node, box.high)]
        for t in breakpoints(node):
            inside = np.clip(np.asarray(t, np.float64), box.low, box.high)
            ends.append(function(node, inside))
        low, high = ends[0], ends[0]
        for value in ends[1:]:
            low, high = np.minimum(low, value), np.maximum(high, value)
        return Box.of(low, high).widened()

    return Elementwise(on_box, image, gate)
