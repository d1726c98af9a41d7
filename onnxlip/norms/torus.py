"""Certified 2-norm of a convolution: the twisted minimal torus, and the size-free supremum.

Per axis let a convolution read n = s·p + d·t − b for outputs p < O, and let the image fill
[0, H). Put it on a circle of N = s·M sites with

    N ≥ H + max(b, overhang),     overhang = what the last window reads beyond H − 1.

Outputs whose window begins beyond the image are zero and left out, so O ≤ ⌈(H + b)/s⌉ ≤ M. Reads
below 0 wrap to [N − b, N) and reads beyond H stay below N, so all of them land on zeros,
and they may pick up any phase e^{±2πiθ} on the way round. So the convolution is P C E with E an
isometric embedding, C a circulant that is twisted by θ, and P a restriction to O of M outputs:
‖A‖₂ ≤ ‖C‖₂ = max_j σ_max K̂(2π(j + θ)/M). Taps whose shifts have a common step g (dilation) decouple
into g circles of M/g sites, if g divides M: M is rounded up. Axes multiply. θ ∈ {0, ½} keeps the
symmetry of ±ω; the θ with the least maximum is taken, groups of channels together.

Any size. Let ω* maximise σ_max K̂ over one axis, with singular vectors u, v. Shifted to the
middle, f(ω) = uᴴ K̂(ω) v e^{−iωD/2} is of exponential type D/2 (D the degree, the largest shift).
Its real part, turned to be maximal at ω*, is at least cos(D(ω − ω*)/2) times that maximum while
|ω − ω*| ≤ π/D (M. Riesz; Duffin & Schaeffer 1938 for half-integer frequencies), and one of M
equidistant points is within π/M of ω*. So for M > D, whatever the offset of the grid,
sup ≤ max over the M-grid / cos(πD/2M); axis by axis. This replaces the torus where that would
need many more frequencies.

For every frequency λmax of the Gram symbol Ĝ (`symbol`) is at most ‖Ĝ‖_F, or is shown to be below
s² + μ by Cholesky (`definite`), with s² just above the maximum that a search found; a frequency
where that fails has its own eigenvalue computed, and s² grows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.linear import Convolution
from onnxlip.norms.border import border_square
from onnxlip.norms.definite import proved_margin
from onnxlip.norms.dense import dense_norm
from onnxlip.norms.enclosure import UNDERFLOW, Enclosure, exponent_of, float64, rescaled
from onnxlip.norms.frame import frame
from onnxlip.norms.peaks import Search, largest, swept
from onnxlip.norms.symbol import Grid, Shifts, Symbol, autocorrelation, roots, shifts, whole
from onnxlip.parallel import give_back
from onnxlip.rounding import UNIT, add_up, div_up, down, gamma, mul_up, sqrt_up, up

__all__ = ["Effort", "TorusBound", "any_size_bound", "torus_bound", "torus_shape"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_CHUNK = 1 << 19  # complex entries of the Grams held at a time (8 MiB, times a few)
_MEMORY = 1 << 27  # float64 entries of all correlations of one group (1 GiB)
_BUDGET = 4e9  # floating-point operations per group above which a coarser grid is taken
_GENEROUS = 20  # … times so much for a grid whose loss is within tolerance
_LOSSES = (5e-4, 1e-3, 2.5e-3, 5e-3)  # relative losses per axis that a coarser grid may have
_SLACK = 2.0**-38  # how far s² lies above the maximum that was found
_SWEEP = 2e10  # sites times cubes of orders up to which an estimate is cheaper than a proof
_EVERY = 1 << 40  # output sites on an image that stands for all: its torus is never exact
_SHARPENED = 64  # groups with one channel on a side that `border` is asked for, at most
_ROOT2 = up(math.sqrt(2.0))


@dataclass(frozen=True)
class TorusBound:
    """upper ≥ ‖A‖₂; the group of channels that it comes from; which theorem it is.

    cost > 0: so many operations, roughly, would sharpen it. proved is False where `upper` is only
    an estimate of what the torus would give, and the proof was put off, as `Effort.postpone`
    allows. grid: what to hand on then as `Effort.grid`.
    """

    upper: float
    group: int
    method: str
    cost: float = 0.0
    proved: bool = True
    grid: tuple[Grid, float] | None = None


def _outputs(conv: Convolution) -> tuple[int, ...]:
    """Output places per axis whose windows begin within the image: all others are zero."""
    places = zip(conv.out_spatial, conv.in_spatial, conv.begin, conv.strides, strict=True)
    return tuple(min(o, (h - 1 + b) // s + 1) for o, h, b, s in places)


def torus_shape(conv: Convolution) -> tuple[int, ...]:
    """The least number of output sites per axis on which the convolution is a compression."""
    sites = []
    for h, o, k, s, d, b in zip(
        conv.in_spatial,
        _outputs(conv),
        conv.taps,
        conv.strides,
        conv.dilations,
        conv.begin,
        strict=True,
    ):
        overhang = s * (o - 1) + d * (k - 1) - b - (h - 1)
        length = h + max(b, overhang)
        sites.append(-(-length // s))
    return tuple(sites)


@dataclass(frozen=True)
class Effort:
    """How far to go. tolerance: relative slack that is good enough; known: a lower bound of ‖A‖₂
    when asked for one, or 0; columns: how many `border` may have, or 0 to leave it; entries:
    float64 numbers that a group may take; postpone: an estimate will do where
    the torus is not within tolerance; grid: which one to take and what its
    maximum seems to be, if that is known."""

    tolerance: float = 2e-3
    known: Callable[[], float] = lambda: 0.0
    columns: int = 0
    entries: int = 1 << 27
    postpone: bool = False
    grid: tuple[Grid, float] | None = None


def torus_bound(conv: Convolution, effort: Effort = Effort()) -> TorusBound | None:
    """Upper bound of ‖A‖₂ for the stored kernel, or None where it would take too much memory."""
    grouped = conv.grouped
    if not grouped.size or not conv.rows or not conv.columns:
        return TorusBound(0.0, 0, "zero")
    top = max(float(grouped.max()), -float(grouped.min()))
    if not math.isfinite(top):
        return TorusBound(math.inf, 0, "not finite")
    if top == 0:
        return TorusBound(0.0, 0, "zero")
    exponent = exponent_of(top)
    shifted = shifts(float64(grouped, exponent), conv.strides, conv.dilations)
    shape = tuple(
        -(-m // g) if degree else 1
        for m, g, degree in zip(torus_shape(conv), shifted.steps, shifted.degrees, strict=True)
    )
    p, _, m, k = shifted.parts.shape
    if p == 1:
        found = _one_shift(shifted)
    else:
        lags = p if min(m, k) == 1 else math.prod(2 * n + 1 for n in shifted.degrees) // 2 + 1
        if lags * min(m, k) ** 2 > min(_MEMORY, effort.entries // 2):
            return None
        grid, factor = _grid_shape(shifted, shape, lags, min(m, k), effort.tolerance)
        goal = math.ldexp(effort.known(), -exponent) * (1.0 + effort.tolerance)
        sharper = None
        wanted = effort.columns or effort.postpone or effort.grid
        if wanted and factor == 1.0 and goal > 0:
            sharper = _Sharper(conv, shifted, shape, goal, effort)
        bound = _scalar if min(m, k) == 1 else _matrices
        found = bound(shifted, grid, factor, sharper)
    upper = rescaled(Enclosure(0.0, found.upper), exponent).upper
    return replace(found, upper=upper)


def any_size_bound(conv: Convolution, tolerance: float = 2e-3) -> float | None:
    """Upper bound of ‖A‖₂ for the stored kernel at every image size and any pads, dilations and
    strides as they are: for open heights and widths. None where it would take too much memory.

    At most some `tolerance` above the supremum, which large images come close to.
    """
    channels = (conv.c_out // conv.groups, conv.c_in // conv.groups)
    every = replace(
        conv,
        in_spatial=tuple(_EVERY * s for s in conv.strides),
        out_spatial=(_EVERY,) * len(conv.taps),
        begin=(0,) * len(conv.taps),
        batch=1,
    )
    if 0 in channels or 0 in conv.taps:
        return 0.0
    found = torus_bound(every, Effort(tolerance))
    return None if found is None else found.upper


def _one_shift(shifted: Shifts) -> TorusBound:
    """No window overlaps another: the symbol is one matrix."""
    norms = [dense_norm(part[None]).upper for part in shifted.parts[0]]
    return TorusBound(max(norms), int(np.argmax(norms)), "dense Cholesky")


def _grid_shape(
    shifted: Shifts, exact: tuple[int, ...], lags: int, n: int, tolerance: float
) -> tuple[tuple[int, ...], float]:
    """Frequencies per axis, and the factor that the bound then has (1 on the torus itself)."""

    def cost(shape: tuple[int, ...]) -> float:
        return math.prod(shape) / 2 * (4 / 3 * n**3 + 4 * lags * n**2 + 1e4)

    if cost(exact) <= _BUDGET:
        return exact, 1.0
    shape, factor = exact, 1.0
    tolerated = 0.2 * tolerance / len(exact)
    for loss in sorted({tolerated, *(x for x in _LOSSES if x > tolerated)}):
        coarse = [math.ceil(math.pi * n / (2 * math.sqrt(2 * loss))) for n in shifted.degrees]
        shape = tuple(min(m, max(c, 1)) for m, c in zip(exact, coarse, strict=True))
        if cost(shape) <= _BUDGET * (1 if loss > tolerance / 2 else _GENEROUS):
            break
    for m, exactly, degree in zip(shape, exact, shifted.degrees, strict=True):
        if m < exactly:  # cos(πD/2M), from the table for 2M
            factor = mul_up(factor, div_up(1.0, down(float(roots(2 * m)[degree].real) - UNIT)))
    return shape, factor


def _method(factor: float) -> str:
    return "twisted torus" if factor == 1.0 else "supremum over all sizes"


def _grids(shape: tuple[int, ...]) -> list[Grid]:
    """All twists of the axes that have more than one site."""
    choices = [(1, 0) if m > 1 else (0,) for m in shape]
    return [Grid(shape, twist) for twist in itertools.product(*choices)]


@dataclass(frozen=True)
class _Sharper:
    """What to do with a group of channels whose torus is above `goal`: `border`."""

    conv: Convolution
    shifted: Shifts
    shape: tuple[int, ...]
    goal: float
    effort: Effort

    def bound(self, group: int, symbol: Symbol) -> TorusBound:
        """The torus's bound of one group, or that of `border` where it is not within tolerance."""
        hint = self.effort.grid
        grid, peak = hint or Search(symbol).best_grid(_grids(self.shape))
        limit, certain = self.goal * self.goal, None
        cost, proved = _cost(self.conv, symbol, grid), True
        # To look at all of a large grid costs as much as to prove it, so it is proved at once.
        at_once = self.effort.postpone and len(grid.half()) * symbol.order**3 > _SWEEP
        at_once = at_once or not (self.effort.columns or self.effort.postpone)
        if peak <= limit or at_once:  # the torus is perhaps as close as is asked for
            certain = _certify_on(symbol, grid, peak, 0.0, math.inf if at_once else limit)
        if certain is None and self.effort.postpone:
            peak, proved = swept(symbol, grid, max(peak, limit)), False
            certain = peak, 0.0
        if certain is None:
            of = frame(self.conv, _outputs(self.conv), self.shifted, group, symbol, grid)
            square = border_square(of, limit, peak, self.effort.columns, self.effort.entries)
            if math.isfinite(square) and (square <= peak or peak <= limit):
                return TorusBound(sqrt_up(square), group, "torus, border released")
            certain = _certify_on(symbol, grid, peak, 0.0, math.inf)
        assert certain is not None
        square, margin = certain
        upper = sqrt_up(add_up(square, margin, symbol.error, UNDERFLOW))
        left = cost if upper > self.goal else 0.0
        hint = (grid, square) if self.conv.groups == 1 else None
        return TorusBound(upper, group, _method(1.0), left, proved, hint)

    def largest(self, groups: Ints, others: float) -> TorusBound:
        """The largest bound of these groups, in this order; `others` bounds all the rest."""
        found = TorusBound(others, int(groups[0]), _method(1.0))
        for j in groups:
            symbol = autocorrelation(self.shifted.places, self.shifted.parts[:, j])
            give_back(8 * symbol.even.size)
            if symbol.cap <= mul_up(found.upper, found.upper):
                continue
            here = self.bound(int(j), symbol)
            best = here if here.upper > found.upper else found
            proved = found.proved and here.proved
            found = replace(best, cost=found.cost + here.cost, proved=proved)
        return found


def _cost(conv: Convolution, symbol: Symbol, grid: Grid) -> float:
    """Operations that `border` takes, roughly: factorisations, Grams and symbols at all sites."""
    t, n = len(symbol.lags), symbol.order
    r = math.prod(conv.grouped.shape[1:]) / n
    each: float = 12.0 * n**3 + 20.0 * t * n**2 + 100.0 * n * r + 1e5
    return each * math.prod(grid.shape) / 2


def _scalar(
    shifted: Shifts, shape: tuple[int, ...], factor: float, sharper: _Sharper | None = None
) -> TorusBound:
    """Groups with one channel on a side: K̂ is a vector, and every frequency is evaluated.

    Re K̂_f and Im K̂_f are sums of p products with cos and sin within 4du, so K̂_f errs by
    √2 γ_{p+4d} Σ|K_f|; the vector errs by the norm of these. The norm of r computed pairs has
    2r squares: γ_{2r}.
    """
    p, g = shifted.parts.shape[:2]
    taps = shifted.parts.reshape(p, -1)  # (p, g · r)
    r = taps.shape[1] // g
    worst = np.full(g, np.inf)
    step = max(1, _CHUNK // (g * r))
    for grid in _grids(shape):
        sites, best = grid.half(), np.zeros(g)
        for i in range(0, len(sites), step):
            cos, sin = grid.phases(sites[i : i + step], shifted.places)
            squares = (cos @ taps) ** 2 + (sin @ taps) ** 2
            best = np.maximum(best, squares.reshape(-1, g, r).sum(axis=2).max(axis=0))
        worst = np.minimum(worst, best)
    sums = np.abs(taps).sum(axis=0).reshape(g, r)
    sizes = mul_up(sqrt_up(float((sums**2).sum(axis=1).max())), up(1.0 + gamma(p + r + 3)))
    error = mul_up(_ROOT2, gamma(p + 4 * len(shape)), sizes)

    def bound(square: float) -> float:
        root = sqrt_up(add_up(mul_up(square, up(1.0 + gamma(2 * r + 2))), UNDERFLOW))
        return mul_up(add_up(root, error), factor)

    order = np.argsort(-worst, kind="stable")
    if sharper is not None and bound(float(worst[order[0]])) > sharper.goal:
        above = order[:_SHARPENED][worst[order[:_SHARPENED]] > 0.99 * sharper.goal**2]
        rest = float(worst[order[len(above)]]) if len(above) < g else 0.0
        if len(above) and bound(rest) <= sharper.goal:
            return sharper.largest(above, bound(rest))
    return TorusBound(bound(float(worst[order[0]])), int(order[0]), _method(factor))


def _matrices(
    shifted: Shifts, shape: tuple[int, ...], factor: float, sharper: _Sharper | None = None
) -> TorusBound:
    """Groups in the order of their size; all are shown to stay below one square."""
    order = np.argsort(-np.square(shifted.parts).sum(axis=(0, 2, 3)), kind="stable")
    if sharper is not None:
        return sharper.largest(order, 0.0)
    square = margin = error = 0.0
    best = int(order[0])
    for j in order:
        symbol = autocorrelation(shifted.places, shifted.parts[:, j])
        if symbol.cap <= square:
            continue
        raised, slack = _certify(symbol, shape, square)
        if raised > square:
            square, best = raised, int(j)
        margin, error = max(margin, slack), max(error, symbol.error)
    upper = sqrt_up(add_up(square, margin, error, UNDERFLOW))
    return TorusBound(mul_up(upper, factor), best, _method(factor))


def _certify(symbol: Symbol, shape: tuple[int, ...], floor: float) -> tuple[float, float]:
    """(s², μ) with λmax(Ĝ(ω)) ≤ s² + μ at all sites of the grid with the best twist; s² ≥ floor."""
    found = _certify_on(symbol, *Search(symbol).best_grid(_grids(shape)), floor, math.inf)
    assert found is not None
    return found


def _certify_on(
    symbol: Symbol, grid: Grid, peak: float, floor: float, limit: float
) -> tuple[float, float] | None:
    """The same on one grid, where `peak` is thought to be the largest eigenvalue; None once s²
    would have to be above `limit`."""
    square, margin = max(floor, peak * (1.0 + _SLACK)), 0.0
    sites = grid.half()
    step = max(1, _CHUNK // symbol.order**2)
    for i in range(0, len(sites), step):
        grams = symbol.triangles(grid, sites[i : i + step])
        square, slack = _prove(_unproved(grams, square), square)
        margin = max(margin, slack)
        if square > limit * (1.0 + 2 * _SLACK):
            return None
    return square, margin


def _unproved(grams: npt.NDArray[Any], square: float) -> npt.NDArray[Any]:
    """Those whose Frobenius norm does not already bound λmax by `square`; lower triangles."""
    n = grams.shape[1]
    flat = grams.reshape(len(grams), -1).view(np.float64)
    diagonal = np.einsum("bii->bi", grams).real
    twice = 2.0 * np.einsum("bi,bi->b", flat, flat) * up(1.0 + gamma(2 * n * n + 4))
    frobenius = twice - np.einsum("bi,bi->b", diagonal, diagonal) * down(1.0 - gamma(n + 4))
    frobenius *= up(1.0 + gamma(1))
    keep = ~(frobenius <= down(square * square))
    return grams if keep.all() else grams[keep]


def _prove(grams: npt.NDArray[Any], square: float) -> tuple[float, float]:
    """(s², μ) for a stack of lower triangles: s² = square if possible, else as little more as found
    necessary."""
    margin = proved_margin(grams, square)
    if margin is not None:
        return square, margin
    if len(grams) > 1:
        half = len(grams) // 2
        square, first = _prove(grams[:half], square)
        square, second = _prove(grams[half:], square)
        return square, max(first, second)
    guess, slack = max(square, largest(whole(grams.copy())[0])), _SLACK
    while margin is None:
        square = guess * (1.0 + slack) + UNDERFLOW
        margin, slack = proved_margin(grams, square), slack * 8
        if slack > 8:
            return math.inf, 0.0
    return square, margin
