"""Better multipliers for pairs too large for `interior`: first order, in θ = log T.

With S(T) = gᵀTg + MᵀG⁻¹M, G = I − AT⁻¹Aᵀ (`relaxation`), ρ(T) = λmax S is convex in T, and log ρ in
θ. We minimise

    log(τ log Σ_i e^{λ_i(S)/τ}) − ν log det G,   τ = μρ,

for falling μ, by L-BFGS: ρ itself has kinks where eigenvalues meet, and without the barrier steps
end where G is nearly singular. Gradient, by the envelope theorem: v_i eigenvectors,
π_i ∝ e^{λ_i/τ}, z = g v, w = T⁻¹AᵀG⁻¹M v: ∂λ_i/∂T_j = z_ij² − w_ij², and
∂ log det G/∂T_j = ‖G^{−½}a_j‖²/T_j². An evaluation costs O((p² + q²)m) and one eigenproblem of
order q. Every T on the way is feasible, the best one is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from onnxlip.bounds.pairs.problem import Floats
from onnxlip.bounds.pairs.relaxation import Candidate, Relaxation
from onnxlip.norms.lapack import potrf, trsm

__all__ = ["descended"]

_STAGES = (0.03, 0.01, 0.003, 0.001)  # μ
_BARRIER = 0.1  # ν / μ
_MARGIN = 1.05
_MEMORY = 15
_ITERATIONS = 40  # per stage
_LONGEST = 1.0  # the largest change of an entry of θ in a step
_LEAST_WEIGHT = 1e-9


@dataclass(frozen=True, eq=False)
class _Value:
    objective: float
    gradient: Floats
    rho: float


def descended(
    problem: Relaxation,
    start: Candidate,
    tolerance: float,
    late: Callable[[], bool] = lambda: False,
) -> Candidate:
    """Multipliers at least as good as the start's. It stops where a stage gains less than the
    relative tolerance, or late() says so; nothing bounds its distance from the best ones."""
    with np.errstate(all="ignore"):
        return _staged(problem, start, tolerance, late)


def _staged(
    problem: Relaxation, start: Candidate, tolerance: float, late: Callable[[], bool]
) -> Candidate:
    best = start
    theta = np.log(start.multipliers * _MARGIN)
    for mu in _STAGES:
        before, tau = best.rho, mu * best.rho
        if late():
            break
        path = _path(partial(_value, problem, tau, _BARRIER * mu), theta)
        for theta, rho in path:
            if rho < best.rho:
                best = Candidate(np.exp(theta), rho)
            if late():
                break
        if before - best.rho < tolerance * best.rho and mu != _STAGES[0]:
            break
    return best


def _value(problem: Relaxation, tau: float, nu: float, theta: Floats) -> _Value | None:
    """None where the multipliers are not feasible."""
    t = np.exp(theta)
    scaled = problem.outer / np.sqrt(t)
    first = np.asfortranarray(-(scaled @ scaled.T))
    np.einsum("ii->i", first)[...] += 1.0
    if not potrf(first):
        return None
    logdet = 2.0 * float(np.log(np.diagonal(first)).sum())
    pulled, solved = np.array(problem.mixed, order="F"), np.array(scaled, order="F")
    trsm(first, pulled, "L", "T")
    trsm(first, solved, "L", "T")
    weighted = problem.inner * np.sqrt(t)[:, None]
    try:
        values, vectors = np.linalg.eigh(weighted.T @ weighted + pulled.T @ pulled)
    except np.linalg.LinAlgError:
        return None
    rho = float(values[-1])
    if not (math.isfinite(logdet) and 0 < rho < math.inf):
        return None
    parts = np.exp((values - rho) / tau)
    smooth = rho + tau * math.log(float(parts.sum()))
    parts /= parts.sum()
    kept = parts > _LEAST_WEIGHT
    vectors, parts = vectors[:, kept], parts[kept]
    z, w = weighted @ vectors, solved.T @ (pulled @ vectors)
    gradient = (z * z - w * w) @ parts / smooth - nu * np.einsum("ij,ij->j", solved, solved)
    return _Value(math.log(smooth) - nu * logdet, gradient, rho)


def _path(f: Callable[[Floats], _Value | None], x: Floats) -> Iterator[tuple[Floats, float]]:
    """L-BFGS from x: yields (x, ρ) of every accepted step."""
    now = f(x)
    if now is None:
        return
    pairs: list[tuple[Floats, Floats]] = []
    yield x, now.rho
    for _ in range(_ITERATIONS):
        direction = -_scaled(pairs, now.gradient)
        slope = float(direction @ now.gradient)
        if slope >= 0:
            pairs, direction = [], -now.gradient
            slope = float(direction @ now.gradient)
        share = min(1.0, _LONGEST / max(float(np.abs(direction).max()), 1e-300))
        for _ in range(20):
            moved = f(x + share * direction)
            if moved and moved.objective <= now.objective + 1e-4 * share * slope:
                break
            share *= 0.4
        else:
            return
        step, change = share * direction, moved.gradient - now.gradient
        if step @ change > 1e-12 * np.linalg.norm(step) * np.linalg.norm(change):
            pairs = [*pairs[-_MEMORY + 1 :], (step, change)]
        gain = now.objective - moved.objective
        x, now = x + step, moved
        yield x, now.rho
        if gain < 1e-7:
            return


def _scaled(pairs: list[tuple[Floats, Floats]], gradient: Floats) -> Floats:
    """The two loops of L-BFGS (Nocedal & Wright, Numerical Optimization, Algorithm 7.4)."""
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
