"""Smooth elementwise functions: slopes and images on any box from a few facts about f.

If f′ is continuous, the difference quotients of f on [a, b] are means of f′ over subintervals,
and they come as close to any f′(x) as one likes: the slope interval is the range of f′ on [a, b].
Between two neighbouring extrema of f′ (its *bends*) f′ is monotone, so that range is the hull of
f′(a), f′(b) and f′ at the bends inside. Likewise for f itself and its *turns*. At an open end
(±∞, or where the domain of a logarithm ends) limits stand for values.

Rounding. f and f′ are evaluated in float64 by numpy (exp, log1p, tanh, …) and scipy (erf, erfc),
each within a few units in the last place, so a formula without cancellation errs by less than
`RELATIVE` = 2⁻⁴⁷ (64 units of 2⁻⁵³) relatively. Two things break this: terms that cancel
(Φ(x) + xφ(x), σ(x)(1 + x σ(−x))), and an argument rounded before exp (e^{−x²} errs by x²·2⁻⁵³
relatively). Both errors are below 64 units of 2⁻⁵³ *absolutely* as long as the terms are bounded
by 1 or so, for sup x²e^{−x²} = 1/e; such curves state `absolute`. Intervals are widened by both,
and then cut to the range over all of ℝ, which is stated in closed form and rounded outward. That
the evaluations err by less than half of what is allowed, and that bends, turns and ranges are
right, is tested against mpmath (tests/ops/test_activations.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxlip.rounding import TINY, UNIT
from onnxlip.rules import Box, Elementwise, Node
from onnxlip.univariate import Expression, Interval

__all__ = ["RELATIVE", "Booleans", "Curve", "Floats", "outside", "smooth", "widen"]

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
Point = tuple[float, float]

RELATIVE = 64 * UNIT
_LARGEST = float(np.finfo(np.float64).max)
_EVERYTHING: Interval = (-math.inf, math.inf)


def outside(low: float, high: float) -> Interval:
    """The interval between two correctly rounded numbers, made to hold the exact ones."""
    return math.nextafter(low, -math.inf), math.nextafter(high, math.inf)


def widen(
    low: Floats,
    high: Floats,
    within: Interval = _EVERYTHING,
    relative: float | Floats = RELATIVE,
    absolute: float = 0.0,
) -> tuple[Floats, Floats]:
    """Computed ends moved outward by their error, then cut to what is known to hold them.

    An overflow says that a value is beyond the largest float, not that it is infinite: a lower
    end of +∞ becomes that float (and an upper end of −∞ its negative).
    """
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        lower = np.where(low == np.inf, _LARGEST, low - (relative * np.abs(low) + absolute + TINY))
        upper = np.where(
            high == -np.inf, -_LARGEST, high + (relative * np.abs(high) + absolute + TINY)
        )
    return np.asarray(np.maximum(lower, within[0])), np.asarray(np.minimum(upper, within[1]))


@dataclass(frozen=True)
class Curve:
    """f with what is needed to enclose it and its slopes on any interval.

    value, derivative    f and f′ on arrays inside the open `domain`
    slope_limits         f′ at the two ends of the domain; value_limits likewise for f
    slope_range          range of f′ over the domain, rounded outward; image_range of f
    bends                all interior extrema of f′: (position, value), correctly rounded
    turns                all interior extrema of f: (position, value), correctly rounded
    absolute             absolute error of computed f and f′, besides the relative one
    """

    value: Callable[[Floats], Floats]
    derivative: Callable[[Floats], Floats]
    slope_limits: Interval
    value_limits: Interval
    slope_range: Interval
    image_range: Interval = _EVERYTHING
    bends: tuple[Point, ...] = ()
    turns: tuple[Point, ...] = ()
    domain: Interval = _EVERYTHING
    absolute: float = 0.0

    def slopes(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """[α, β] of f on [low, high], elementwise."""
        return self._range(
            self.derivative, low, high, self.slope_limits, self.bends, self.slope_range
        )

    def image(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """The range of f on [low, high], elementwise."""
        return self._range(self.value, low, high, self.value_limits, self.turns, self.image_range)

    def _range(
        self,
        f: Callable[[Floats], Floats],
        low: Floats,
        high: Floats,
        limits: Interval,
        extrema: tuple[Point, ...],
        within: Interval,
    ) -> tuple[Floats, Floats]:
        ends = self._at(f, low, limits), self._at(f, high, limits)
        least, most = np.minimum(*ends), np.maximum(*ends)
        for position, value in extrema:
            # The exact position is within an ulp of the stored one; who is near takes part.
            margin = 4 * UNIT * abs(position)
            inside = (low <= position + margin) & (high >= position - margin)
            least = np.where(inside, np.minimum(least, value), least)
            most = np.where(inside, np.maximum(most, value), most)
        return widen(least, most, within, absolute=self.absolute)

    def _at(self, f: Callable[[Floats], Floats], x: Floats, limits: Interval) -> Floats:
        start, end = self.domain
        anchor = 0.0 if start < 0 < end else start + 1.0
        inside = (x > start) & (x < end)
        with np.errstate(all="ignore"):
            y = f(np.where(inside, x, anchor))
        return np.where(x <= start, limits[0], np.where(x >= end, limits[1], y))


def smooth(
    curve: Curve,
    gate: Callable[[Node, Expression], Interval | None] | None = None,
    reason: str | None = None,
) -> Elementwise:
    """The elementwise form of a function without parameters."""

    def slopes(node: Node, box: Box) -> tuple[Floats, Floats]:
        return curve.slopes(box.low, box.high)

    def image(node: Node, box: Box) -> Box:
        return Box.of(*curve.image(box.low, box.high))

    return (
        Elementwise(slopes, image, gate)
        if reason is None
        else Elementwise(slopes, image, gate, reason)
    )
