"""L-BFGS for an objective that is finite on part of the space only (barriers, feasible sets).

Nocedal & Wright, Numerical Optimization, Algorithm 7.4, with backtracking: a step to where there
is no value is shortened like one that does not descend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Value", "path"]

Floats = npt.NDArray[np.float64]

_MEMORY = 15
_SHORTER = 0.4
_TRIES = 20
_ENOUGH = 1e-4  # of the descent that the slope promises (Armijo)


@dataclass(frozen=True, eq=False)
class Value:
    """At a point: what is minimised, its gradient, and what the caller wants to know of it."""

    objective: float
    gradient: Floats
    rho: float


def path(
    f: Callable[[Floats], Value | None],
    x: Floats,
    *,
    steps: int,
    longest: float,
    least_gain: float,
) -> Iterator[tuple[Floats, float]]:
    """From x: yields (x, its rho) at the start, if f has a value there, and after every step.

    longest: no entry of x changes by more in a step. It ends after so many steps, after one that
    gains less than least_gain, and where no step descends.
    """
    now = f(x)
    if now is None:
        return
    pairs: list[tuple[Floats, Floats]] = []
    yield x, now.rho
    for _ in range(steps):
        direction = -_scaled(pairs, now.gradient)
        slope = float(direction @ now.gradient)
        if slope >= 0:
            pairs, direction = [], -now.gradient
            slope = float(direction @ now.gradient)
        share = min(1.0, longest / max(float(np.abs(direction).max()), 1e-300))
        for _ in range(_TRIES):
            moved = f(x + share * direction)
            if moved and moved.objective <= now.objective + _ENOUGH * share * slope:
                break
            share *= _SHORTER
        else:
            return
        step, change = share * direction, moved.gradient - now.gradient
        if step @ change > 1e-12 * np.linalg.norm(step) * np.linalg.norm(change):
            pairs = [*pairs[-_MEMORY + 1 :], (step, change)]
        gain = now.objective - moved.objective
        x, now = x + step, moved
        yield x, now.rho
        if gain < least_gain:
            return


def _scaled(pairs: list[tuple[Floats, Floats]], gradient: Floats) -> Floats:
    """The inverse Hessian's estimate times the gradient."""
    q = gradient.copy()
    if not pairs:
        return q * min(1.0, 0.5 / max(float(np.abs(q).max()), 1e-300))
    factors = []
    for s, y in reversed(pairs):
        factors.append(float(s @ q) / float(s @ y))
        q -= factors[-1] * y
    s, y = pairs[-1]
    q *= float(s @ y) / float(y @ y)
    for (s, y), factor in zip(pairs, reversed(factors), strict=True):
        q += s * (factor - float(y @ q) / float(s @ y))
    return q
