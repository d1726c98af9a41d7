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
from collections.abc import Callable
from functools import partial

import numpy as np

from onnxlip.bounds.lbfgs import Value, path
from onnxlip.bounds.pairs.problem import Floats
from onnxlip.bounds.pairs.relaxation import Candidate, Relaxation
from onnxlip.norms.lapack import potrf, trsm

__all__ = ["descended"]

_STAGES = (0.03, 0.01, 0.003, 0.001)  # μ
_BARRIER = 0.1  # ν / μ
_MARGIN = 1.05
_ITERATIONS = 40  # per stage
_LONGEST = 1.0  # the largest change of an entry of θ in a step
_LEAST_WEIGHT = 1e-9


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
        points = path(
            partial(_value, problem, tau, _BARRIER * mu),
            theta,
            steps=_ITERATIONS,
            longest=_LONGEST,
            least_gain=1e-7,
        )
        for theta, rho in points:
            if rho < best.rho:
                best = Candidate(np.exp(theta), rho)
            if late():
                break
        if before - best.rho < tolerance * best.rho and mu != _STAGES[0]:
            break
    return best


def _value(problem: Relaxation, tau: float, nu: float, theta: Floats) -> Value | None:
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
    return Value(math.log(smooth) - nu * logdet, gradient, rho)
