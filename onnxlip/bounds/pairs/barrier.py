"""The best multipliers of the pair problem: a semidefinite program, by Newton on its barrier.

With A = outer and g = r·inner of the free neurons, M = outer diag(c) inner (`relaxation`): least ρ
over T ≻ 0 with

    Z(ρ, T) = [[T − AᵀA, −AᵀM], [−MᵀA, ρI − gᵀTg − MᵀM]] ⪰ 0,

which is linear in (ρ, T): Z = Z₀ + ρE + Σ_j T_j G_j, G_j = f_jf_jᵀ − g_jg_jᵀ, f_j the unit vectors
of the first block and g_j the rows of g in the second. (The lemma of `proof`; the Schur complement
of the first block says the same of H.) Its dual: the moments X ⪰ 0 of (w, x) with tr EX = 1,
E w_j² = r_j² E z_j², largest E‖Mx + Aw‖²; every such X bounds ρ from below.

Barrier: tρ − log det Z, K = Z⁻¹; gradient −tr KG_j, Hessian tr KG_jKG_k: with K_ff, K_fg, K_gg the
matrices f_jᵀKf_k and so on, Q = K_ff² − K_fg² − (K_fg²)ᵀ + K_gg² entrywise. Only matrices of order
p and q are factored: det Z = det T · det H, H = [[I − AT⁻¹Aᵀ, M], [Mᵀ, ρI − gᵀTg]] = RᵀR, and with
W = R⁻ᵀ[AT⁻¹; 0] and V = R⁻ᵀ[0; gᵀ]

    K_ff = T⁻¹ + WᵀW,   K_fg = −WᵀV,   K_gg = VᵀV.

Newton's step Δ from (ρ, T) at t gives X = K(Z − ΔZ)K/t, which satisfies the dual's equations, and
is positive definite where Newton's decrement is below 1 (Boyd & Vandenberghe, Section 11.6 of
Convex Optimization); ρ − tr ZX = ρ − (m + q − tr KΔZ)/t is then a lower bound of all ρ. Steps
alternate as in a predictor-corrector method: Newton at t, and along the tangent −Q⁻¹e t of the
central path as far as Z stays positive definite.

Neurons are scaled so that T = 1 at the start, which makes Newton's steps (affine invariant) also
well conditioned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxlip.bounds.pairs.problem import Floats
from onnxlip.bounds.pairs.relaxation import Relaxation, value_at
from onnxlip.norms.lapack import potrf, trsm

__all__ = ["Optimum", "minimised"]

_MARGIN = 1.2  # how far above the start's multipliers the search begins, to be well inside
_STEPS = 60
_TRIES = 24


@dataclass(frozen=True, eq=False)
class Optimum:
    """multipliers: (m,); rho: what they give, at most; lower: no multipliers give less (both in
    floating point); moments: (3, m), the estimates of T_j E w_j², T_j r_j² E z_j² (equal at the
    optimum) and T_j r_j E w_j z_j; steps of Newton."""

    multipliers: Floats
    rho: float
    lower: float
    moments: Floats
    steps: int


@dataclass(frozen=True, eq=False)
class _Point:
    """(ρ, T) inside, with the factors of H there; logdet: log det Z."""

    rho: float
    t: Floats
    first: Floats
    coupling: Floats
    last: Floats
    logdet: float


@dataclass(frozen=True, eq=False)
class _Newton:
    """At a point: Q⁻¹∇ and Q⁻¹e (m + 1, with ρ at the end), ∇ the gradient of −log det Z."""

    gradient: Floats
    to_centre: Floats
    to_better: Floats
    moments: Floats

    def step(self, t: float) -> Floats:
        return -t * self.to_better - self.to_centre

    def decrement(self, t: float) -> float:
        """Newton's decrement at t, squared."""
        pull = self.gradient.copy()
        pull[-1] += t
        return float(-(pull @ self.step(t)))


def minimised(
    problem: Relaxation,
    start: Floats,
    tolerance: float,
    *,
    enough: Callable[[float, float], bool] = lambda rho, lower: False,
    late: Callable[[], bool] = lambda: False,
) -> Optimum | None:
    """The least ρ to a relative tolerance, from multipliers (m,) that are feasible.

    It stops earlier where enough(ρ, lower bound of the least ρ) or late() says so. None where the
    start is not feasible or the first step fails.
    """
    wider = start * _MARGIN
    square = value_at(problem, wider)
    if not 0 < square < math.inf:
        return None
    root, size = np.sqrt(wider), math.sqrt(square)
    a = np.asfortranarray(problem.outer / root)
    g = problem.inner * (root[:, None] / size)
    search = _Search(a, g, problem.mixed / size)
    found = search.run(tolerance, lambda rho, low: enough(rho * square, low * square), late)
    if found is None:
        return None
    return Optimum(
        found.multipliers * wider,
        found.rho * square,
        found.lower * square,
        found.moments,
        found.steps,
    )


class _Search:
    def __init__(self, a: Floats, g: Floats, mixed: Floats) -> None:
        self.a, self.g, self.mixed = a, g, mixed
        self.m, self.q = g.shape

    def run(
        self, tolerance: float, enough: Callable[[float, float], bool], late: Callable[[], bool]
    ) -> Optimum | None:
        point = self._inside()
        if point is None:
            return None
        newton = self._newton(point)
        if newton is None:
            return None
        t = (self.m + self.q) / (0.3 * point.rho)
        lower, steps = 0.0, 0
        moments = newton.moments / t
        while steps < _STEPS and not enough(point.rho, lower) and not late():
            steps += 1
            if newton.decrement(t) < 0.9:
                if self._at(point, -newton.step(t)) is not None:  # X is positive definite
                    gap = (self.m + self.q + newton.gradient @ newton.step(t)) / t
                    lower, moments = max(lower, point.rho - gap), newton.moments / t
                if point.rho - lower <= tolerance * point.rho:
                    break
                moved, t = self._predicted(point, newton, t)
            else:
                moved = self._descended(point, newton, t)
            if moved is None:
                break
            following = self._newton(moved)
            if following is None:
                break
            point, newton = moved, following
        return Optimum(point.t, point.rho, lower, moments * point.t, steps)

    def _inside(self) -> _Point | None:
        for rho in (1.1, 1.5, 2.0):
            point = self._factored(rho, np.ones(self.m))
            if point is not None:
                return point
        return None

    def _predicted(self, point: _Point, newton: _Newton, t: float) -> tuple[_Point | None, float]:
        """Along the central path, as far as it goes: t grows by 1/(1 − share)."""
        for share in (0.97, 0.93, 0.85, 0.7, 0.5, 0.3, 0.1):
            moved = self._at(point, newton.step(t) - share * t * newton.to_better)
            if moved is not None:
                return moved, t / (1.0 - share)
        return self._at(point, newton.step(t)), t

    def _descended(self, point: _Point, newton: _Newton, t: float) -> _Point | None:
        """Newton's step, shortened until the barrier falls."""
        step, decrement = newton.step(t), newton.decrement(t)
        before, share = t * point.rho - point.logdet, 1.0
        for _ in range(_TRIES):
            moved = self._at(point, share * step)
            if moved and t * moved.rho - moved.logdet <= before - 0.05 * share * decrement:
                return moved
            share *= 0.6
        return None

    def _at(self, point: _Point, step: Floats) -> _Point | None:
        return self._factored(point.rho + float(step[-1]), point.t + step[:-1])

    def _factored(self, rho: float, t: Floats) -> _Point | None:
        """The point (ρ, T), or None where it is not inside."""
        if not (np.all(t > 0) and np.all(np.isfinite(t)) and math.isfinite(rho)):
            return None
        scaled = self.a / np.sqrt(t)
        first = np.asfortranarray(-(scaled @ scaled.T))
        np.einsum("ii->i", first)[...] += 1.0
        if not potrf(first):
            return None
        coupling = np.array(self.mixed, order="F")
        trsm(first, coupling, "L", "T")
        scaled = self.g * np.sqrt(t)[:, None]
        last = np.asfortranarray(-(scaled.T @ scaled) - coupling.T @ coupling)
        np.einsum("ii->i", last)[...] += rho
        if not potrf(last):
            return None
        pivots = np.concatenate([np.diagonal(first), np.diagonal(last)])
        if not (np.all(pivots > 0) and np.all(np.isfinite(pivots))):
            return None
        logdet = float(np.log(t).sum() + 2.0 * np.log(pivots).sum())
        return _Point(rho, t, first, coupling, last, logdet)

    def _newton(self, point: _Point) -> _Newton | None:
        """Gradient and Hessian of the barrier; unknowns are scaled by T and ρ."""
        m, q, t = self.m, self.q, point.t
        w_first = np.asfortranarray(self.a / t)
        trsm(point.first, w_first, "L", "T")
        w_last = np.asfortranarray(-(point.coupling.T @ w_first))
        v = np.array(self.g.T, order="F")
        inverse = np.asfortranarray(np.eye(q))
        for right in (w_last, v, inverse):
            trsm(point.last, right, "L", "T")
        k_ff = w_first.T @ w_first
        k_ff += w_last.T @ w_last
        np.einsum("ii->i", k_ff)[...] += 1.0 / t
        k_fg, k_gg = -(w_last.T @ v), v.T @ v
        moments = np.stack([np.diagonal(k) for k in (k_ff, k_gg, k_fg)])
        hessian = np.empty((m + 1, m + 1), order="F")
        for k in (k_ff, k_fg, k_gg):
            np.multiply(k, k, out=k)
        k_ff += k_gg
        k_ff -= k_fg
        k_ff -= k_fg.T
        hessian[:m, :m] = k_ff
        k_xf, k_xg = inverse.T @ w_last, inverse.T @ v
        border = np.einsum("ij,ij->j", k_xf, k_xf) - np.einsum("ij,ij->j", k_xg, k_xg)
        k_xx = inverse.T @ inverse
        hessian[:m, m], hessian[m, m] = border, np.einsum("ij,ij->", k_xx, k_xx)
        gradient = np.append(moments[1] - moments[0], -np.trace(k_xx))
        scale = np.append(t, point.rho)
        return _solved(hessian, gradient, scale, moments)


def _solved(hessian: Floats, gradient: Floats, scale: Floats, moments: Floats) -> _Newton | None:
    """Newton's directions; a Hessian that rounding made indefinite is lifted a little."""
    hessian *= scale
    hessian *= scale[:, None]
    right = np.zeros((len(scale), 2), order="F")
    right[:, 0] = scale * gradient
    right[-1, 1] = scale[-1]
    diagonal = np.diagonal(hessian).copy()
    for lift in (1e-15, 1e-12, 1e-9):
        factor = np.array(hessian, order="F")
        np.einsum("ii->i", factor)[...] += lift * diagonal
        if potrf(factor):
            trsm(factor, right, "L", "T")
            trsm(factor, right, "L", "N")
            right *= scale[:, None]
            if np.all(np.isfinite(right)):
                return _Newton(gradient, right[:, 0].copy(), right[:, 1].copy(), moments)
            return None
    return None
