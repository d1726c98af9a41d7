"""Certified SeqLip of one pair: a proved upper bound of max_d ‖outer diag(d) inner‖₂.

The least of these, each rounded up, so that a new method can only help:

* "product": ‖outer‖₂ max|slope| ‖inner‖₂, of the pair as it comes and of the pair whose neurons are
  evened out (`scaling`).
* "triangle": ‖outer diag(c) inner‖₂ + ‖outer r^½‖₂‖r^½ inner‖₂. The norms are proved ones of
  computed matrices (`norms.dense`), whose errors are added: |fl((A diag c) B) − A diag(c) B| ≤
  γ_{n+1} Σ_j |c_j||a_j||b_j|ᵀ, and a factor s_j with s_j² ≥ r_j rounds once, ‖·‖₂ ≤ γ_2 ‖fl‖_F.
* "fixed": where no slope is free, the norm of one known matrix, outer diag(c) inner.
* "closed form", "semidefinite": multipliers of `relaxation`, and of `interior` (large pairs: of
  `descent`), proved by `proof`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxlip.bounds.pairs.descent import descended
from onnxlip.bounds.pairs.interior import minimised
from onnxlip.bounds.pairs.problem import Floats, Pair
from onnxlip.bounds.pairs.proof import proved_scaled, slopes, spread
from onnxlip.bounds.pairs.relaxation import Candidate, Relaxation, closed_form, relaxation
from onnxlip.bounds.pairs.scaling import LOST, Balanced, Places, balanced
from onnxlip.norms.dense import dense_norm
from onnxlip.norms.enclosure import Enclosure, euclid
from onnxlip.rounding import add_up, gamma, mul_up

__all__ = ["SEMIDEFINITE", "Certified", "best_proof", "certified", "fixed_norm"]

SEMIDEFINITE = 2200  # m + q up to which `interior` is used, and beyond it `descent`,
_HURRIED = 800  # whose every step is better than the one before: so too where time is limited
_NUDGES = (1.0, 1.0 + 1e-9, 1.0 + 1e-6, 1.0 + 1e-3)  # multipliers a little larger prove more easily


@dataclass(frozen=True, eq=False)
class Certified:
    """upper: proved; method: what proved it; weights: (n,), √T for `proof.proved`, where
    multipliers did."""

    upper: float
    method: str
    weights: Floats | None = None


def certified(pair: Pair, *, tolerance: float = 1e-4, seconds: float | None = None) -> Certified:
    """A proved upper bound of max_d ‖outer diag(d) inner‖₂, never above the product of norms.

    tolerance: relative, how far the multipliers may be from the best ones. seconds: when to stop
    searching for better ones; without it the result is the same on every run. Finite, unless the
    product of norms itself is beyond float64. Raises ValueError where the pair is not finite.
    """
    late = _clock(seconds)
    scaled = balanced(pair)
    if not scaled.kept.size:
        return Certified(0.0, "zero")
    here = scaled.pair
    found = [
        Certified(_product(pair), "product"),
        Certified(scaled.upper(_product(here)), "product"),
    ]
    if not here.free.size:
        found.append(Certified(scaled.upper(fixed_norm(here).upper), "fixed"))
        return _least(found)
    found.append(Certified(scaled.upper(_triangle(here)), "triangle"))
    problem = relaxation(here)
    start = None if late() else closed_form(problem, late)
    if start is not None:
        found.append(_proof(scaled, problem, start.multipliers, "closed form"))
        limit = SEMIDEFINITE if seconds is None else _HURRIED
        better = None if late() else _improved(problem, start, 2 * tolerance, late, limit)
        if better is not None:
            found.append(_proof(scaled, problem, better, "semidefinite"))
    return _least(found)


def _improved(
    problem: Relaxation, start: Candidate, tolerance: float, late: Callable[[], bool], limit: int
) -> Floats | None:
    if sum(problem.inner.shape) > limit:
        return descended(problem, start, tolerance, late).multipliers
    best = minimised(problem, start.multipliers, tolerance, late=late)
    return None if best is None else best.multipliers


def best_proof(pair: Pair, multipliers: Floats, free: Places) -> tuple[float, Floats]:
    """(`proof.proved_scaled`, weights) of a scaled pair for T on the free neurons, or for
    slightly larger T where rounding made that fail."""
    weights = np.ones(pair.size)
    value = math.inf
    for nudge in _NUDGES:
        weights[free] = np.sqrt(multipliers * nudge)
        value = proved_scaled(pair, weights)
        if value < math.inf:
            break
    return value, weights


def _proof(scaled: Balanced, problem: Relaxation, multipliers: Floats, method: str) -> Certified:
    value, weights = best_proof(scaled.pair, multipliers, problem.free)
    return Certified(scaled.upper(value), method, scaled.weights_there(weights))


def _least(found: list[Certified]) -> Certified:
    return min(found, key=lambda c: c.upper)


def _clock(seconds: float | None) -> Callable[[], bool]:
    """Whether the time is over."""
    if seconds is None:
        return lambda: False
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def _norm(matrix: Floats) -> float:
    return dense_norm(matrix[None]).upper


def _product(pair: Pair) -> float:
    return mul_up(_norm(pair.outer), pair.largest, _norm(pair.inner))


def fixed_norm(pair: Pair) -> Enclosure:
    """‖outer diag(c) inner‖₂ of a scaled pair, c as in `proof.slopes`."""
    centre, _ = slopes(pair)
    error = add_up(mul_up(gamma(pair.size + 1), spread(pair, centre)), LOST)
    return dense_norm(((pair.outer * centre) @ pair.inner)[None]).widened(error)


def _triangle(pair: Pair) -> float:
    _, radius = slopes(pair)
    root = np.where(radius > 0, np.nextafter(np.sqrt(radius), math.inf), 0.0)
    sides = (pair.outer * root, pair.inner * root[:, None])
    norms = (add_up(_norm(s), mul_up(gamma(2), euclid(s).upper), LOST) for s in sides)
    return add_up(fixed_norm(pair).upper, mul_up(*norms))
