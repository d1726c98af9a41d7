"""The best multipliers of LipSDP, on any system: a primal-dual interior-point method.

Least ρ over T ≥ 0 with M(ρ, T) = ρE − CᵀC + Σ_j T_j G_j ⪰ 0 (`implicit`; Fazlyab et al. 2019,
LipSDP-Neuron; with ties, LipSDP-Layer). The dual: moments X ⪰ 0 of v = [x; u] with tr EX = 1 and
tr G_jX = 0 (T_j > 0 follows from M ≻ 0), largest E‖y‖²: each such X bounds every ρ from below.

Path following with the HKM direction (Helmberg, Rendl, Vanderbei & Wolkowicz 1996) and Mehrotra's
predictor and corrector. Both sides start strictly feasible (`reduction`) and stay feasible, so that
every iterate is a bracket. With K = M⁻¹ and the aim XM = σμI, the step (dρ, dT) has

    O d = σμ tr(G_jK) − b (less the corrector),   O_jk = tr G_jXG_kK   (`atoms`),
    dX = σμK − X − sym((X dM + dX′ dM′) K),       ′ the predictor's,

b being 1 for ρ. X dM is a product with N, by its blocks, and of entrywise ones; two products of
matrices of order n are left to a step, an inverse, and a few Cholesky factorisations by which
step lengths are tried.

Memory: about 14 matrices of order n, the entries of v, of 8n² bytes each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.pairs.interior import solver
from onnxlip.bounds.sdp.atoms import Moments, joint
from onnxlip.bounds.sdp.implicit import implicit, lipsdp_matrix
from onnxlip.bounds.sdp.program import Point, inner, least
from onnxlip.bounds.sdp.reduction import FORCED, Reduced, reduced
from onnxlip.bounds.sdp.system import Floats, System, split
from onnxlip.norms.lapack import gemm, potrf

__all__ = ["Optimum", "minimised"]

_MARGIN = 1.2  # how far above the start's multipliers the search begins, to be well inside
# Multipliers of dying neurons are best infinite, while what rounding costs a proof grows with the
# largest: the least of these many times the start's that costs so much of the tolerance is enough.
_LARGEST, _CAPPED = (1e3, 1e4, 1e5, 1e6, 1e7, 1e8, math.inf), 0.5
_STEPS = 80
_SHARES = (0.97, 0.92, 0.85, 0.76, 0.66, 0.5, 0.33, 0.2, 0.1, 0.03, 0.01, 3e-3)  # of a step,
_TINY = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)  # and where starts are far from central
_INSIDE = 0.97
_LEAST_SIGMA = 0.01  # cubed
_SHORTEST = 1e-9  # shorter steps mean that rounding has stopped the search

Judge = Callable[[float, float], bool]
Told = Callable[[int, float, float], None]


@dataclass(frozen=True, eq=False)
class Optimum:
    """multipliers: flat, of the system; rho: with them M(ρ, T) ⪰ 0; lower: no multipliers give
    less (both in floating point); steps; stalled: rounding stopped the search before the
    tolerance was met; moments: (3, multipliers), T_j times E w_j², r_j² E z_j² and r_j E w_j z_j
    of w = u − cz, 0 for those that are no variables or not of one entry each."""

    multipliers: Floats
    rho: float
    lower: float
    steps: int
    stalled: bool
    moments: Floats


def minimised(
    system: System,
    start: Floats,
    tolerance: float,
    *,
    ties: npt.NDArray[np.int64] | None = None,
    enough: Judge = lambda rho, lower: False,
    late: Callable[[], bool] = lambda: False,
    progress: Told = lambda steps, rho, lower: None,
) -> Optimum | None:
    """The least ρ to a relative tolerance, from multipliers (flat) that prove something.

    ties: a number for every multiplier; those of equal numbers keep the ratio that they have at the
    start (equal numbers for a node and equal multipliers: LipSDP-Layer), but for those that are
    best infinite (`reduction`). It ends earlier where enough(ρ, lower bound of the least ρ) or
    late() says so, with what it has; progress(steps, ρ, lower) is told. None where the start
    proves nothing. Choose the orientation with `reduction.smaller`.
    """
    with np.errstate(all="ignore"):  # what is not finite ends the search
        if not system.multipliers:
            return _linear(system)
        if not (np.all(start > 0) and np.all(np.isfinite(start))):
            return None
        wide = start * _MARGIN
        problem = reduced(system, wide, ties)
        if problem is None:
            return None
        search = _Search(problem, tolerance, enough, late, progress)
        return search.optimum(system, wide)


def _linear(system: System) -> Optimum:
    form = implicit(system)
    rho = max(0.0, least(lipsdp_matrix(form, 0.0, ()), form.width))
    return Optimum(np.zeros(0), rho, rho, 0, False, np.zeros((3, 0)))


class _Search:
    def __init__(
        self,
        problem: Reduced,
        tolerance: float,
        enough: Judge,
        late: Callable[[], bool],
        progress: Told,
    ) -> None:
        self._problem, self._program, self._tolerance = problem, problem.program, tolerance
        self._enough, self._late, self._progress = enough, late, progress
        self._room = np.empty((self._program.order, self._program.order))

    def optimum(self, system: System, wide: Floats) -> Optimum | None:
        program, square = self._program, self._problem.square
        if not program.pieces:
            t, rho = self._restored(system, wide, np.zeros(0), 1.0)
            return Optimum(t, rho, square, 0, False, np.zeros((3, len(t))))
        point = self._inside()
        if point is None:
            return None
        x = program.moments(self._problem.moments)
        lower, steps, stalled = 0.0, 0, False
        while True:
            lower = max(lower, self._objective(x, point))
            self._progress(steps, point.rho * square, lower * square)
            if point.rho - lower <= self._tolerance * point.rho:
                break
            if self._enough(point.rho * square, lower * square) or self._late():
                break
            moved = self._moved(point, x) if steps < _STEPS else None
            if moved is None:
                stalled = not self._late()
                break
            point, x = moved
            steps += 1
        t, rho = self._restored(system, wide, point.t, point.rho)
        return Optimum(t, rho, lower * square, steps, stalled, self._seen(x, point.t))

    def _inside(self) -> Point | None:
        program = self._program
        ones = np.ones(program.variables)
        for rho in (1.25, 2.0, 4.0):
            point = program.point(rho, ones, program.matrix(rho, ones))
            if point is not None:
                return point
        return None

    def _restored(
        self, system: System, wide: Floats, variables: Floats, rho: float
    ) -> tuple[Floats, float]:
        """Multipliers of the system, and the ρ that they give."""
        problem, program = self._problem, self._program
        t = wide.copy()
        t[problem.alive] *= program.untied(variables)
        rho *= problem.square
        t[~problem.alive] *= FORCED
        if np.all(problem.alive) and np.all(t <= _LARGEST[0] * wide):
            return t, rho
        form = implicit(system)
        for largest in _LARGEST:
            capped = np.minimum(t, largest * wide)
            found = least(lipsdp_matrix(form, 0.0, split(system, capped)), form.width)
            if found <= rho * (1 + _CAPPED * self._tolerance):
                break
        return capped, max(rho, found)

    def _seen(self, x: Moments, variables: Floats) -> Floats:
        """`Optimum.moments`."""
        alive = self._problem.alive
        found = np.zeros((3, int(alive.sum())))
        for piece in self._program.pieces:
            if isinstance(piece.reach, np.ndarray):
                (ww, wz), (_, zz) = joint(piece, piece, x)
                found[0, piece.places] = np.diagonal(ww)
                found[1, piece.places] = np.diagonal(zz) * piece.reach
                found[2, piece.places] = np.diagonal(wz) * np.sqrt(piece.reach)
        whole = np.zeros((3, len(alive)))
        whole[:, alive] = self._problem.square * self._program.untied(variables) * found
        return whole

    def _objective(self, x: Moments, point: Point) -> float:
        """E‖y‖², less what rounding of the constraints is worth."""
        gap = self._program.traces(x)
        value = self._program.squares(x.whole) - float(np.maximum(gap[:-1], 0.0) @ point.t)
        return value / max(1.0, float(gap[-1]))

    def _moved(self, point: Point, x: Moments) -> tuple[Point, Moments] | None:
        """One predictor and one corrector; None where rounding or time allows no further step."""
        program = self._program
        matrix = point.matrix
        k = program.moments(program.inverse(point))
        solve = solver(program.system(x, k))
        if solve is None or self._late():
            return None
        b = np.append(np.zeros(program.variables), 1.0)
        gap = inner(matrix, x.whole)
        if not gap > 0:
            return None

        d = solve(-b)
        dx = self._symmetric(program.after(d, x.whole, x.z), k.whole)
        dx -= x.whole
        dm = program.linear(float(d[-1]), d[:-1])
        share_x, share_m = self._longest(x.whole, dx), self._longest(matrix, dm)
        after = gap + share_x * inner(matrix, dx)  # tr XM where the predictor leads
        after += share_m * (inner(dm, x.whole) + share_x * inner(dm, dx))
        sigma = min(1.0, max(_LEAST_SIGMA, after / gap) ** 3)
        mean = sigma * gap / program.order

        second = program.after(d, dx, program.n.times(dx))  # dM′ dX′
        d = solve(mean * program.traces(k) - program.mixed(second, k) - b)
        second += program.after(d, x.whole, x.z)
        dx = self._symmetric(second, k.whole)
        dx -= x.whole
        np.multiply(k.whole, mean, out=self._room)
        dx += self._room
        dm = program.linear(float(d[-1]), d[:-1])
        share_x, share_m = self._longest(x.whole, dx), self._longest(matrix, dm)
        if max(share_x, share_m) < _SHORTEST:
            return None
        dm *= share_m
        dm += matrix
        dx *= share_x
        dx += x.whole
        moved = program.point(point.rho + share_m * float(d[-1]), point.t + share_m * d[:-1], dm)
        return None if moved is None else (moved, program.moments(dx))

    def _symmetric(self, product: Floats, k: Floats) -> Floats:
        """−sym(productᵀ K)."""
        out = np.zeros_like(k)
        gemm(product.T, k, out, -0.5)
        out += np.ascontiguousarray(out.T)
        return out

    def _longest(self, at: Floats, along: Floats) -> float:
        """A share of a step that stays inside: 1, or `_INSIDE` of the first of `_SHARES` to."""
        room = self._room
        for share in (1.0, *_SHARES, *_TINY):
            np.multiply(along, share, out=room)
            np.add(room, at, out=room)
            if potrf(room.T):
                pivots = np.diagonal(room)
                if np.all((pivots > 0) & (pivots < math.inf)):
                    return share if share == 1.0 else _INSIDE * share
        return 0.0
