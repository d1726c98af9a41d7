"""The best multipliers of the pair problem: a semidefinite program, by an interior-point method.

With A = outer and g = r·inner of the free neurons, M = outer diag(c) inner (`relaxation`): least ρ
over T ≻ 0 with

    Z(ρ, T) = [[T − AᵀA, −AᵀM], [−MᵀA, ρI − gᵀTg − MᵀM]] ⪰ 0,

linear in (ρ, T): Z = Z₀ + ρE + Σ_j T_j G_j, G_j = f_jf_jᵀ − g_jg_jᵀ, f_j the unit vectors of the
first block, g_j the rows of g in the second. (H of `proof` says the same: it is a Schur
complement.) The dual: moments X ⪰ 0 of (w, x) with tr EX = 1 and tr G_jX = E w_j² − r_j² E z_j² =
0, largest E‖Aw + Mx‖²: each such X bounds every ρ from below.

Primal-dual path following with the HKM direction (Helmberg, Rendl, Vanderbei & Wolkowicz 1996) and
Mehrotra's predictor and corrector; both sides stay feasible, so every iterate is a bracket. With
K = Z⁻¹ and the aim XZ = σμI, the step (dρ, dT) has O·d = σμ·tr(G_jK) − b (less the corrector),

    O_jk = tr G_jXG_kK = X_ff K_ff − X_fg K_fg − (X_fg K_fg)ᵀ + X_gg K_gg   (entrywise),

where X_fg has the entries f_jᵀXg_k and so on, and dX = σμK − X − sym(X dZ K) − sym(dX′ dZ′ K), with
′ the predictor. dZ is diagonal and a block of order q, so that X dZ costs little.

Starts: neurons scaled so that T = 1 (any feasible multipliers, a little larger); X: x of covariance
I/q, and w_j independent of it and of one another with variance r_j² E z_j².
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxlip.bounds.pairs.problem import Floats
from onnxlip.bounds.pairs.program import Block, Moments, Point, Program, system
from onnxlip.bounds.pairs.relaxation import Relaxation, value_at
from onnxlip.norms.lapack import potrf, trsm

__all__ = ["Optimum", "minimised", "solver"]

_MARGIN = 1.2  # how far above the start's multipliers the search begins, to be well inside
_STEPS = 60
_SHARES = (0.93, 0.82, 0.66, 0.5, 0.33, 0.2, 0.1, 0.03, 0.01, 1e-3, 1e-4)  # of a step
_INSIDE = 0.97
_LEAST_SIGMA = 0.01  # cubed
_SHORTEST = 1e-5  # shorter steps mean that rounding has stopped the search
_ALWAYS: Callable[[float, float], bool] = lambda rho, lower: False  # noqa: E731


@dataclass(frozen=True, eq=False)
class Optimum:
    """multipliers: (m,); rho: what they give, at most; lower: no multipliers give less (both in
    floating point); moments: (3, m), T_j times E w_j², r_j² E z_j² and r_j E w_j z_j; steps."""

    multipliers: Floats
    rho: float
    lower: float
    moments: Floats
    steps: int


def minimised(
    problem: Relaxation,
    start: Floats,
    tolerance: float,
    *,
    enough: Callable[[float, float], bool] = _ALWAYS,
    late: Callable[[], bool] = lambda: False,
) -> Optimum | None:
    """The least ρ to a relative tolerance, from multipliers (m,) that are feasible.

    It stops earlier where enough(ρ, lower bound of the least ρ) or late() says so. None where the
    start is not feasible.
    """
    with np.errstate(all="ignore"):  # what is not finite ends the search
        return _followed(problem, start * _MARGIN, tolerance, enough, late)


def _followed(
    problem: Relaxation,
    wider: Floats,
    tolerance: float,
    enough: Callable[[float, float], bool],
    late: Callable[[], bool],
) -> Optimum | None:
    square = value_at(problem, wider)
    if not 0 < square < math.inf:
        return None
    root, size = np.sqrt(wider), math.sqrt(square)
    program = Program(
        np.asfortranarray(problem.outer / root),
        problem.inner * (root[:, None] / size),
        problem.mixed / size,
    )
    point, x = _inside(program), program.moments(_start(program))
    if point is None:
        return None
    lower, steps = 0.0, 0
    while True:
        lower = max(lower, program.objective(x, point))
        close = point.rho - lower <= tolerance * point.rho
        if close or enough(point.rho * square, lower * square) or steps == _STEPS or late():
            break
        moved = _moved(program, point, x)
        if moved is None:
            break
        point, x = moved
        steps += 1
    parts = np.stack([np.diagonal(x.whole)[: program.m], np.diagonal(x.gg), np.diagonal(x.fg)])
    return Optimum(point.t * wider, point.rho * square, lower * square, parts * point.t, steps)


def _inside(program: Program) -> Point | None:
    for rho in (1.1, 1.5, 2.0):
        point = program.factored(rho, np.ones(program.m))
        if point is not None:
            return point
    return None


def _start(program: Program) -> Floats:
    squares, q = np.einsum("ij,ij->i", program.g, program.g), program.g.shape[1]
    return np.diag(np.append(squares, np.ones(q)) / q)


def _moved(program: Program, point: Point, x: Moments) -> tuple[Point, Moments] | None:
    """One predictor and one corrector; None where rounding allows no further step."""
    k = program.moments(program.inverse(point))
    solve = solver(system(x, k))
    if solve is None:
        return None
    aim = np.append(np.zeros(program.m), 1.0)
    gap = program.gap(x.whole, point)
    if not gap > 0:
        return None

    def step(right: Floats, rest: Floats) -> tuple[Floats, Block, Floats]:
        """(dρ and dT, dZ, dX), dX = rest − X − sym(X dZ K)."""
        d = solve(right - aim)
        dz = program.block(d)
        return d, dz, rest - x.whole - _symmetric(dz.after(x.whole) @ k.whole)

    def shares(d: Floats, dx: Floats) -> tuple[float, float]:
        return (
            _longest(lambda s: _definite(x.whole + s * dx)),
            _longest(lambda s: program.along(point, d, s) is not None),
        )

    d, dz, dx = step(np.zeros(program.m + 1), np.zeros_like(x.whole))
    share_x, share_z = shares(d, dx)
    both = share_z * (dz.trace(x.whole) + share_x * dz.trace(dx))
    after = gap + share_x * program.gap(dx, point) + both  # tr XZ where the predictor leads
    sigma = min(1.0, max(_LEAST_SIGMA, after / gap) ** 3)
    mean = sigma * gap / program.order
    second = _symmetric(dz.after(dx) @ k.whole)
    d, dz, dx = step(mean * k.traces() - program.moments(second).traces(), mean * k.whole - second)
    share_x, share_z = shares(d, dx)
    moved = program.along(point, d, share_z)
    if moved is None or max(share_x, share_z) < _SHORTEST:
        return None
    return moved, program.moments(x.whole + share_x * dx)


def _symmetric(matrix: Floats) -> Floats:
    return np.asarray(0.5 * (matrix + matrix.T))


def _definite(matrix: Floats) -> bool:
    factor = np.array(matrix.T, order="F")
    if not potrf(factor):
        return False
    return bool(np.all(np.diagonal(factor) > 0))


def _longest(inside: Callable[[float], bool]) -> float:
    """A share of a step that stays inside: 1, or `_INSIDE` of the first of `_SHARES` that does."""
    if inside(1.0):
        return 1.0
    return next((_INSIDE * share for share in _SHARES if inside(share)), 0.0)


def solver(matrix: Floats) -> Callable[[Floats], Floats] | None:
    """Solves with O, scaled to a unit diagonal, and lifted where rounding made it indefinite."""
    root = 1.0 / np.sqrt(np.maximum(np.diagonal(matrix), 1e-300))
    matrix *= root
    matrix *= root[:, None]
    for lift in (0.0, 1e-14, 1e-11, 1e-8):
        factor = np.array(matrix, order="F")
        np.einsum("ii->i", factor)[...] += lift
        if potrf(factor):
            break
    else:
        return None

    def solve(right: Floats) -> Floats:
        solution = np.array((root * right)[:, None], order="F")
        trsm(factor, solution, "L", "T")
        trsm(factor, solution, "L", "N")
        return np.asarray(root * solution[:, 0])

    return solve
