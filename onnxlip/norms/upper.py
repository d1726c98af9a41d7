"""Certified upper bounds of ‖A‖₂, by what kind of map A is.

Each kind's bound holds for the true coefficients: that of the stored ones plus
ulps · 2⁻⁵³ ‖|Â|‖ (`coefficient_error`). cap ≥ √(‖A‖₁‖A‖_∞) ≥ ‖A‖₂ is what remains where nothing
better is known, and caps everything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch

from onnxlip.certificate import LIMITED
from onnxlip.linear import Convolution, LinearMap, Matrix, Monomial, Product, Sum, Transposed
from onnxlip.norms.enclosure import Enclosure
from onnxlip.norms.lower import spectral_lower
from onnxlip.norms.merging import Merged, merged, neighbours
from onnxlip.norms.structure import is_empty, isometric_core, overlap, without_isometries
from onnxlip.norms.workspace import Bound, Workspace, coefficient_error
from onnxlip.rounding import add_up, down, mul_up, norm_up, sqrt_up

__all__ = ["least", "meeting", "spectral_upper"]

_BYTES = 16  # of a bound's memory per number of a merged map: half of it
_ONE = Enclosure(1.0, 1.0)
_SHARP = 1e-9  # a written-out matrix whose error is below this needs no other bound


def spectral_upper(a: LinearMap, work: Workspace) -> Bound:
    """U ≥ ‖A‖₂ and the method that gave it; ∞ where nothing finite is known."""
    if is_empty(a):
        return Bound(0.0, "empty")
    found = work.once(a, "upper", lambda: _upper(a, work))
    limited = LIMITED if found.method.endswith(LIMITED) else ""
    return least(found, Bound(a.cap(), "row and column sums" + limited))


def least(*bounds: Bound) -> Bound:
    """The least of some bounds; NaN, which comes of overflow, counts as ∞."""
    sound = [b if b.value == b.value else Bound(math.inf, b.method) for b in bounds]
    return min(sound, key=lambda b: b.value)


@singledispatch
def _upper(a: LinearMap, work: Workspace) -> Bound:
    """A kind of map that this module does not know (a user's)."""
    return _written_out(a, work) or Bound(math.inf, "")


@_upper.register
def _(a: Monomial, work: Workspace) -> Bound:
    return Bound(a.norm(2), "closed form")


@_upper.register
def _(a: Matrix, work: Workspace) -> Bound:
    fits = min(a.blocks.shape[1:]) <= max(1, work.largest)
    return Bound(work.matrix(a).upper, "dense Cholesky" if fits else "Frobenius norm" + LIMITED)


@_upper.register
def _(a: Transposed, work: Workspace) -> Bound:
    return spectral_upper(a.of, work)


@_upper.register
def _(a: Convolution, work: Workspace) -> Bound:
    if a.batch > 1:  # I ⊗ A
        return spectral_upper(work.one_image(a), work)
    written = _written_out(a, work)  # the exact norm: no torus is below it
    if written is not None:
        return written
    torus = work.sharpest_torus(a, lambda: spectral_lower(a, work).value)
    if torus is None:
        return Bound(a.cap(), "row and column sums" + LIMITED)
    return Bound(add_up(torus.upper, coefficient_error(a)), torus.method)


@_upper.register
def _(a: Product, work: Workspace) -> Bound:
    core = isometric_core(a)
    if core is not None:
        inner = spectral_upper(core[0], work)
        return Bound(mul_up(inner.value, core[1].upper), inner.method)
    written = _written_out(a, work)
    if written is not None and _is_sharp(a, written.value, work):
        return written
    composed = _composed(a, work)
    return composed if written is None else least(written, composed)


@_upper.register
def _(a: Sum, work: Workspace) -> Bound:
    written = _written_out(a, work)
    if written is not None and _is_sharp(a, written.value, work):
        return written
    one = merged(a, work.memory // _BYTES)
    columns = overlap(tuple(s.adjoint for s in a.summands))

    def met(bound: Callable[[LinearMap, Workspace], Bound]) -> Bound:
        norms = [bound(s, work).value for s in a.summands]
        return Bound(meeting(norms, overlap(a.summands), columns), "sum of branches")

    if one is None:
        found = met(spectral_upper)
    else:
        found = _tightest(a, work, met, lambda: _of_merged(a, one, work, _ONE))
    return found if written is None else least(written, found)


def meeting(norms: list[float], rows: int, columns: int) -> float:
    """‖Σ A_j‖₂ when at most `rows` of the maps write to one output entry and at most `columns`
    of them read one input entry.

    ‖Σ A_j x‖² ≤ rows Σ‖A_j x‖² (Cauchy and Schwarz, entry by entry), and ‖A_j x‖ ≤ ‖A_j‖‖x_j‖ with
    Σ‖x_j‖² ≤ columns ‖x‖², x_j the part of x that A_j reads. So concatenated branches give
    √Σ‖A_j‖², and blocks on a diagonal max‖A_j‖.
    """
    r, c = float(rows), float(columns)
    root = norm_up(norms, 2)
    return min(
        add_up(*norms),
        mul_up(sqrt_up(r), root),
        mul_up(sqrt_up(c), root),
        mul_up(sqrt_up(mul_up(r, c)), max(norms)),
    )


def _composed(a: Product, work: Workspace) -> Bound:
    """The product of the factors' norms, or with neighbours merged."""
    rest, scale = without_isometries(a)
    parts = neighbours(Product(rest), work.memory // _BYTES)

    def product(bound: Callable[[LinearMap, Workspace], Bound]) -> Bound:
        norms = [bound(f, work).value for f in rest]
        return Bound(mul_up(scale.upper, *norms), "product of factors")

    def merging() -> Bound:
        if len(parts) == 1:
            return _of_merged(a, parts[0], work, scale)
        norms = [add_up(spectral_upper(p.linear, work).value, p.error) for p in parts]
        return Bound(mul_up(scale.upper, *norms), "product of factors, merged")

    if len(parts) == len(rest):
        return product(spectral_upper)
    return _tightest(a, work, product, merging)


def _tightest(
    a: LinearMap,
    work: Workspace,
    apart: Callable[[Callable[[LinearMap, Workspace], Bound]], Bound],
    merging: Callable[[], Bound],
) -> Bound:
    """What `merging` gives, or `apart`, the bound by the parts' own, if that is as close as is
    asked for or may be closer: made of lower ends it is the least that it can come to, and what
    that takes is little."""
    goal = spectral_lower(a, work).value * (1.0 + work.tolerance)
    least_apart = apart(spectral_lower).value
    found = [apart(spectral_upper)] if least_apart <= goal else []
    if not found or found[0].value > goal:
        found.append(merging())
        if len(found) == 1 and found[0].value > least_apart:
            found.append(apart(spectral_upper))
    return least(*found)


def _of_merged(a: LinearMap, one: Merged, work: Workspace, scale: Enclosure) -> Bound:
    """‖A‖ = scale·‖B + E‖ ≤ scale(‖B‖ + ‖E‖). What is known of A from below serves for B."""
    b = one.linear.of if isinstance(one.linear, Transposed) else one.linear
    lower = spectral_lower(a, work)
    known = max(0.0, down(down(lower.value / scale.upper) - one.error))
    work.once(b, "lower", lambda: Bound(known, lower.method))
    upper = spectral_upper(b, work)
    return Bound(mul_up(scale.upper, add_up(upper.value, one.error)), f"merged, {upper.method}")


def _written_out(a: LinearMap, work: Workspace) -> Bound | None:
    dense = work.dense(a)
    return None if dense is None else Bound(dense.upper, "written out, dense Cholesky")


def _is_sharp(a: LinearMap, value: float, work: Workspace) -> bool:
    written = work.materialised(a)
    return written is not None and written.error <= _SHARP * value
