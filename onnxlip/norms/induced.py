"""‖A‖_∞ (largest row sum of |A|) and ‖A‖₁ (largest column sum), both ends certified.

Single ops have closed forms, borders included, exact but for rounding. Composed maps: the product
of moduli applied to ones bounds every row sum from above, loosely where what meets cancels. So
where the map can be written out, its own row sums do, and else those of what it merges into
(`merging`): |‖A‖ − ‖B‖| ≤ ‖A − B‖. From below: single rows, ‖Aᵀe_i‖₁. Side by side: sums of a row's
parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from onnxlip.linear import (
    Convolution,
    LinearMap,
    Matrix,
    Monomial,
    Product,
    Sum,
    Transposed,
)
from onnxlip.norms.enclosure import Enclosure
from onnxlip.norms.merging import Merged, neighbours
from onnxlip.norms.structure import is_empty
from onnxlip.norms.workspace import Bound, Workspace, product_error
from onnxlip.rounding import UNIT, add_up, down, gamma, mul_up, up

__all__ = ["induced_bounds", "stacked_rows"]

Floats = npt.NDArray[np.float64]

_ROWS_TRIED = 4
_CLOSE = 1e-6  # relative distance of the ends within which merging is not worth its while
_BYTES = 16  # of a bound's memory per number of a merged map: half of it


def induced_bounds(a: LinearMap, p: float, work: Workspace) -> tuple[Bound, Bound]:
    """(lower, upper) bounds of ‖A‖_p, p = 1 or ∞."""
    if is_empty(a):
        return Bound(0.0, "empty"), Bound(0.0, "empty")
    closed = _closed(a, p)
    if closed is not None:
        name = "row sums" if p == math.inf else "column sums"
        return Bound(closed.lower, name), Bound(closed.upper, name)
    turned = a if p == math.inf else a.adjoint
    found = _composed(turned, work)
    return found[0], min(found[1], Bound(a.cap(), "product of row and column sums"))


@singledispatch
def _closed(a: LinearMap, p: float) -> Enclosure | None:
    return None


@_closed.register
def _(a: Transposed, p: float) -> Enclosure | None:
    return _closed(a.of, 1.0 if p == math.inf else math.inf)


@_closed.register
def _(a: Monomial, p: float) -> Enclosure | None:
    upper = a.norm(p)
    longest = 1 if p == math.inf or a.injective else a.rows
    return _around(upper, 2 * gamma(longest + 2) + 4 * a.relative * UNIT)


@_closed.register
def _(a: Matrix, p: float) -> Enclosure | None:
    upper = a.sums[0 if p == 1 else 1]
    return _around(upper, 2 * gamma(max(a.blocks.shape[1:])) + 4 * a.relative * UNIT)


@_closed.register
def _(a: Convolution, p: float) -> Enclosure | None:
    size = np.abs(a.grouped.astype(np.float64))
    if not size.size:
        return Enclosure(0.0, 0.0)
    # Sums over the channels that are added up, then over the taps that a place really sees.
    taps = size.sum(axis=2) if p == math.inf else size.sum(axis=1)
    for seen in reversed(_seen(a, p)):
        taps = np.tensordot(taps, seen.astype(np.float64), axes=(taps.ndim - 1, 1))
        taps = np.moveaxis(taps, -1, 2)
    total = float(taps.max())
    if not math.isfinite(total):
        return Enclosure(0.0, math.inf)
    error = gamma(a.terms + len(a.taps))
    upper = mul_up(total, up(1.0 + error), up(1.0 + gamma(1.01 * a.relative)))
    return _around(upper, 2 * error + 4 * a.relative * UNIT)


def _seen(a: Convolution, p: float) -> list[npt.NDArray[np.bool_]]:
    """Per axis the distinct sets of taps that an output place reads within the image (p = ∞), or
    through which an input place is read (p = 1), as rows of booleans."""
    sets = []
    for h, o, k, s, d, b in zip(
        a.in_spatial, a.out_spatial, a.taps, a.strides, a.dilations, a.begin, strict=True
    ):
        reads = s * np.arange(o)[:, None] + d * np.arange(k)[None] - b
        inside = (reads >= 0) & (reads < h)
        if p == 1:
            place, tap = reads[inside], np.broadcast_to(np.arange(k), reads.shape)[inside]
            inside = np.zeros((h, k), bool)
            inside[place, tap] = True
        sets.append(np.unique(inside, axis=0))
    return sets


def _around(upper: float, relative: float) -> Enclosure:
    """An upper bound that is too large by at most this relative error, and a few roundings
    (below the normal range of float64: of absolute size)."""
    if not math.isfinite(upper):
        return Enclosure(0.0, math.inf)
    lower = down(upper * (1.0 - 1.1 * relative - 16 * UNIT)) - 16 * 2.0**-1074
    return Enclosure(max(0.0, lower), upper)


def stacked_rows(
    maps: Sequence[LinearMap], norms: Sequence[float], work: Workspace
) -> tuple[Bound, Bound]:
    """(lower, upper) bounds of ‖[A_1 … A_m]‖_∞: a row's sum is that of its parts' sums.

    norms: upper bounds of ‖A_j‖_∞, which no row of A_j exceeds. Of one map after the other, each in
    a workspace of its own, so that nothing written out is kept.
    """

    if not maps[0].rows:
        return Bound(0.0, "empty"), Bound(0.0, "empty")

    def spare() -> Workspace:
        return Workspace(work.lowerings, work.provider, work.seed, memory=work.memory)

    parts = []
    for a, norm in zip(maps, norms, strict=True):
        rows = _rows(a, spare)
        parts.append(rows._replace(upper=np.minimum(rows.upper, norm)))
    ends = _largest(parts)
    if not _is_loose(*ends):
        return ends
    for j, a in enumerate(maps):
        one = Merged(a) if parts[j].exact else _simpler(a, work.memory // _BYTES)
        if one.linear is not a:
            parts[j] = _nearer(parts[j], _widened(_rows(one.linear, spare), one.error))
    return _best(ends, _largest(parts))


def _composed(a: LinearMap, work: Workspace) -> tuple[Bound, Bound]:
    """p = ∞ of a composed map, as it stands or with what merges merged."""
    ends = _largest([_rows(a, lambda: work)])
    if not _is_loose(*ends):
        return ends
    one = _simpler(a, work.memory // _BYTES)
    if one.linear is a:
        return ends
    closed = _closed(one.linear, math.inf)
    if closed is None:
        return _best(ends, _largest([_widened(_rows(one.linear, lambda: work), one.error)]))
    found = closed.widened(one.error)
    return _best(
        ends, (Bound(found.lower, "merged, row sums"), Bound(found.upper, "merged, row sums"))
    )


class _Rows(NamedTuple):
    """lower_i ≤ ‖row i of A‖₁ ≤ upper_i; `made` gives lower bounds of the rows asked for, where
    the ends are not `exact` but for rounding."""

    lower: Floats
    upper: Floats
    made: Callable[[list[int]], list[float]]
    exact: bool
    method: str


def _rows(a: LinearMap, spare: Callable[[], Workspace]) -> _Rows:
    """spare: gives the workspace to compute in."""
    work, nothing = spare(), np.zeros(a.rows)

    def none(rows: list[int]) -> list[float]:
        return [0.0] * len(rows)

    if is_empty(a):
        return _Rows(nothing, nothing, none, True, "empty")
    single = _is_single(a)
    written = None if single else work.materialised(a)
    if written is not None:
        sums, error = np.abs(written.matrix).sum(axis=1), gamma(a.columns)
        upper = _outward(sums, up(1.0 + error), written.error, math.inf)
        lower = _outward(sums, down(1.0 - 2 * error), -written.error, -math.inf)
        return _Rows(lower, upper, none, True, "written out, row sums")
    if not work.fits(a):
        return _Rows(nothing, np.full(a.rows, math.inf), none, False, "too large")
    sums = work.modulus(a).matvec(np.ones(a.columns))
    relative, absolute = gamma(a.terms), product_error(a)[1]
    stored = _outward(sums, up(1.0 + 2 * relative), mul_up(absolute, 2.0), math.inf)
    upper = _outward(stored, up(1.0 + gamma(1.01 * a.ulps)), 0.0, math.inf)
    if single:  # |A| itself, whose coefficients may all be smaller
        lower = _outward(sums, down(1.0 - 2 * relative), -absolute, -math.inf)
        lower = _outward(lower, down(1.0 - 1.01 * a.ulps * UNIT), 0.0, -math.inf)
        return _Rows(lower, upper, none, True, "row sums")

    def made(rows: list[int]) -> list[float]:
        operator, sizes = spare().double(a), []
        for i in rows:
            basis = np.zeros(a.rows)
            basis[i] = 1.0
            size, most = float(np.abs(operator.rmatvec(basis)).sum()), float(stored[i])
            lost = add_up(mul_up(relative, most), absolute, mul_up(a.ulps * UNIT, 1.01, most))
            sizes.append(down(down(size * (1.0 - 2 * gamma(a.columns))) - lost))
        return sizes

    return _Rows(nothing, upper, made, False, "row sums of moduli")


def _is_single(a: LinearMap) -> bool:
    """Whether its modulus is what is applied as such."""
    return isinstance(a.of if isinstance(a, Transposed) else a, (Monomial, Matrix, Convolution))


def _outward(values: Floats, factor: float, shift: float, towards: float) -> Floats:
    """values · factor + shift, rounded up (towards = ∞) or down (to 0 at least): what is no number
    says nothing."""
    moved = np.nextafter(np.nextafter(values * factor, towards) + shift, towards)
    worst = math.inf if towards > 0 else 0.0
    known = np.isfinite(values) & np.isfinite(moved)  # one step below ∞ is a number again
    return np.maximum(0.0, np.where(known, moved, worst))


def _widened(rows: _Rows, error: float) -> _Rows:
    """For a map within `error` of the other: no row's sum differs by more."""
    return _Rows(
        _outward(rows.lower, 1.0, -error, -math.inf),
        _outward(rows.upper, 1.0, error, math.inf),
        lambda chosen: [down(size - error) for size in rows.made(chosen)],
        rows.exact,
        f"merged, {rows.method}",
    )


def _nearer(a: _Rows, b: _Rows) -> _Rows:
    """Two that are bounds of the same, of which rows of the second are more likely the largest."""
    return _Rows(
        np.maximum(a.lower, b.lower),
        np.minimum(a.upper, b.upper),
        b.made,
        a.exact or b.exact,
        b.method,
    )


def _largest(parts: Sequence[_Rows]) -> tuple[Bound, Bound]:
    """(lower, upper) bounds of the largest sum of a row over all parts."""
    total = parts[0].upper
    for part in parts[1:]:
        total = np.nextafter(total + part.upper, math.inf)
    count = min(_ROWS_TRIED, total.size)
    chosen = sorted(int(i) for i in np.argpartition(-total, count - 1)[:count])
    sizes = [0.0] * count
    for part in parts:
        made = [0.0] * count if part.exact else part.made(chosen)
        known = [max(float(part.lower[i]), size) for i, size in zip(chosen, made, strict=True)]
        sizes = [down(size + more) for size, more in zip(sizes, known, strict=True)]
    best = max(sizes)
    methods = {part.method for part in parts}
    method = methods.pop() if len(methods) == 1 else "row sums"
    top = float(total.max(initial=0.0))
    exact = all(part.exact for part in parts)
    return Bound(best if math.isfinite(best) else 0.0, "row sums" if exact else "row of A"), Bound(
        top, method
    )


def _is_loose(lower: Bound, upper: Bound) -> bool:
    return not upper.value <= lower.value * (1.0 + _CLOSE)


def _best(first: tuple[Bound, Bound], second: tuple[Bound, Bound]) -> tuple[Bound, Bound]:
    return max(first[0], second[0], key=lambda b: b.value), min(
        first[1], second[1], key=lambda b: b.value
    )


def _simpler(a: LinearMap, memory: int) -> Merged:
    """The map with everything within it merged that can be; `linear` is the map itself if nothing
    can."""
    if is_empty(a):
        return Merged(a)
    if isinstance(a, Transposed) and isinstance(a.of, (Product, Sum)):
        return _simpler(a.of.adjoint, memory)
    return _product(a, memory) if isinstance(a, Product) else _sum(a, memory)


def _product(a: Product, memory: int) -> Merged:
    """Π(B_k + E_k) is within Σ_k ‖E_k‖ Π_{j≠k}(‖B_j‖ + ‖E_j‖) of ΠB_k."""
    found = neighbours(a, memory)
    parts = [_sum(part.linear, memory) if part.error == 0 else part for part in found]
    if len(parts) == 1:
        return parts[0]
    if len(parts) == len(a.factors) and all(
        part.linear is factor for part, factor in zip(parts, a.factors, strict=True)
    ):
        return Merged(a)
    sizes = [add_up(part.linear.cap(), part.error) for part in parts]
    errors = [mul_up(part.error, *sizes[:k], *sizes[k + 1 :]) for k, part in enumerate(parts)]
    return Merged(Product(tuple(part.linear for part in parts)), add_up(*errors))


def _sum(a: LinearMap, memory: int) -> Merged:
    """Branches that do not merge into one may do so each."""
    if not isinstance(a, Sum):
        return Merged(a)
    (whole,) = neighbours(a, memory)
    if whole.linear is not a:
        return whole
    parts = [_simpler(s, memory) for s in a.summands]
    if all(part.linear is s for part, s in zip(parts, a.summands, strict=True)):
        return Merged(a)
    return Merged(
        Sum(tuple(part.linear for part in parts)), add_up(*(part.error for part in parts))
    )
