"""‖A‖_∞ (largest row sum of |A|) and ‖A‖₁ (largest column sum), both ends certified.

Single ops have closed forms, borders included, exact but for rounding. Composed maps: the product
of moduli applied to ones bounds every row sum from above; where the map can be written out, its
own row sums do. From below: single rows of A itself, ‖Aᵀe_i‖₁.
"""

from __future__ import annotations

import math
from functools import singledispatch

import numpy as np
import numpy.typing as npt

from onnxlip.linear import Convolution, LinearMap, Matrix, Monomial, Transposed
from onnxlip.norms.enclosure import Enclosure
from onnxlip.norms.structure import is_empty
from onnxlip.norms.workspace import Bound, Workspace, product_error
from onnxlip.rounding import UNIT, add_up, down, gamma, mul_up, up

__all__ = ["induced_bounds"]

Floats = npt.NDArray[np.float64]

_ROWS_TRIED = 4


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


def _composed(a: LinearMap, work: Workspace) -> tuple[Bound, Bound]:
    """p = ∞ of a composed map."""
    written = work.materialised(a)
    if written is not None:
        sums = np.abs(written.matrix).sum(axis=1)
        total, error = float(sums.max()), gamma(a.columns)
        upper = add_up(mul_up(total, up(1.0 + error)), written.error)
        lower = down(down(total * (1.0 - 2 * error)) - written.error)
        return Bound(max(0.0, lower), "row sums"), Bound(upper, "written out, row sums")
    if not work.fits(a):
        return Bound(0.0, "too large"), Bound(math.inf, "")
    sums = work.modulus(a).matvec(np.ones(a.columns))
    relative, absolute = gamma(a.terms), product_error(a)[1]
    total = float(sums.max())
    if not math.isfinite(total):
        return Bound(0.0, ""), Bound(math.inf, "")
    exact = add_up(mul_up(total, up(1.0 + 2 * relative)), absolute)
    upper = mul_up(exact, up(1.0 + gamma(1.01 * a.ulps)))
    best = 0.0
    rows = np.argpartition(-sums, min(_ROWS_TRIED, a.rows) - 1)[:_ROWS_TRIED]
    for i in sorted({int(r) for r in rows}):
        basis = np.zeros(a.rows)
        basis[i] = 1.0
        row = np.abs(work.double(a).rmatvec(basis))
        size = down(float(row.sum()) * (1.0 - 2 * gamma(a.columns)))
        lost = add_up(mul_up(relative, exact), absolute, mul_up(a.ulps * UNIT, 1.01, exact))
        best = max(best, down(size - lost))
    return Bound(best if math.isfinite(best) else 0.0, "row of A"), Bound(
        upper, "row sums of moduli"
    )
