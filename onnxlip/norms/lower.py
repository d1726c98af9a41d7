"""Certified lower ends of ‖A‖₂: quotients ‖Av‖/‖v‖ at a vector that a search found.

Any v ≠ 0 gives a theorem: ‖A‖₂ ≥ (‖fl(Âv)‖ − e)/‖v‖ with e ≥ ‖fl(Âv) − Âv‖ + ‖(Â − A)v‖. In float64
‖fl(Âv) − Âv‖ ≤ γ_terms ‖|Â||v|‖, and |Â − A| ≤ ulps · 2⁻⁵³ |Â|. The search may be as rough as it
likes: float32, on any provider. It may also look at less than A, as deleting rows and columns
raises no norm: a convolution is searched on one image, one group of channels and a crop.

The search is the power method of Virmaux & Scaman 2018, Algorithm 2: v ← AᵀAv/‖AᵀAv‖ from a random
start. Matrices and maps that can be written out have the quotient of `dense` instead.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import singledispatch

import numpy as np
import numpy.typing as npt

from onnxlip.linear import Convolution, LinearMap, Matrix, Monomial, Product, Transposed
from onnxlip.norms.enclosure import euclid
from onnxlip.norms.structure import is_empty, isometric_core
from onnxlip.norms.workspace import Bound, Workspace, multiplications, product_error
from onnxlip.operators import Operator
from onnxlip.rounding import UNIT, add_up, down, gamma, mul_up

__all__ = ["power_method", "quotient", "spectral_lower"]

Floats = npt.NDArray[np.float64]

_STEPS = 100  # at most, and fewer where they would take more than _WORK multiplications
_FEWEST = 20
_WORK = 2e11
_TOLERANCE = 1e-6  # relative growth per step of ‖AᵀAv‖ below which it stops
_PIXELS = 4096  # a convolution is searched on at most so many outputs per channel


def spectral_lower(a: LinearMap, work: Workspace) -> Bound:
    """A lower bound of ‖A‖₂ and the method that gave it; 0 where nothing was found."""
    if is_empty(a):
        return Bound(0.0, "empty")
    found = work.once(a, "lower", lambda: _lower(a, work))
    return found if math.isfinite(found.value) else Bound(0.0, "")


@singledispatch
def _lower(a: LinearMap, work: Workspace) -> Bound:
    dense = work.dense(a)
    if dense is not None:
        return Bound(dense.lower, "quotient at a singular vector")
    if not work.fits(a):
        return Bound(0.0, "too large")
    rng = np.random.default_rng(work.seed)
    return Bound(quotient(a, power_method(a, work, rng), work), "power method")


@_lower.register
def _(a: Monomial, work: Workspace) -> Bound:
    """AᵀA is diagonal, so ‖A‖₂ = ‖Ae_k‖ for some k, whose entries are exact weights."""
    weights = a.dense_weight()
    sums, _ = Monomial(a.n, a.index, weights / (float(weights.max()) or 1.0)).column_sums(2)
    k = int(sums.argmax())
    column = weights[[k]] if a.index is None else weights[a.index == k]
    size = euclid(column)
    return Bound(size.widened(mul_up(UNIT, a.ulps, 1.01, size.upper)).lower, "closed form")


@_lower.register
def _(a: Matrix, work: Workspace) -> Bound:
    return Bound(work.matrix(a).lower, "quotient at a singular vector")


@_lower.register
def _(a: Transposed, work: Workspace) -> Bound:
    return spectral_lower(a.of, work)


@_lower.register
def _(a: Product, work: Workspace) -> Bound:
    core = isometric_core(a)
    if core is None:
        return _lower.dispatch(LinearMap)(a, work)
    inner = spectral_lower(core[0], work)
    return Bound(down(inner.value * core[1].lower), inner.method)


@_lower.register
def _(a: Convolution, work: Workspace) -> Bound:
    if a.batch > 1:  # I ⊗ A
        return spectral_lower(work.once(a, "one image", lambda: replace(a, batch=1)), work)
    dense = work.dense(a)
    if dense is not None:
        return Bound(dense.lower, "quotient at a singular vector")
    window = _full_window(a)
    if window is not None:  # no two windows overlap: one of them is the whole symbol
        return spectral_lower(window, work)
    smaller = _cropped(a, work)
    if smaller is not a:
        return spectral_lower(smaller, work)
    return _lower.dispatch(LinearMap)(a, work)


def _full_window(a: Convolution) -> Matrix | None:
    """One output place's matrix, if windows do not overlap and one lies within the image."""
    for h, o, k, s, d, b in zip(
        a.in_spatial, a.out_spatial, a.taps, a.strides, a.dilations, a.begin, strict=True
    ):
        span = d * (k - 1) + 1
        first = -(-b // s)  # the first window that begins within the image
        if span > s or first >= o or s * first - b + span > h:
            return None
    blocks = a.grouped.reshape(a.groups, a.c_out // a.groups, -1)
    return Matrix(blocks, relative=a.relative)


def _cropped(a: Convolution, work: Workspace) -> Convolution:
    """A submatrix of the convolution with nearly its norm, or itself if it is small already."""
    side = max(1, math.floor(_PIXELS ** (1 / len(a.taps))))
    out = tuple(min(o, side) for o in a.out_spatial)
    reach = zip(a.in_spatial, out, a.taps, a.strides, a.dilations, a.begin, strict=True)
    image = tuple(max(1, min(h, s * (o - 1) + d * (k - 1) + 1 - b)) for h, o, k, s, d, b in reach)
    kernel = a.kernel
    if a.groups > 1:
        torus = work.torus(a)
        kernel = a.grouped[torus.group if torus else 0]
    if kernel is a.kernel and out == a.out_spatial and image == a.in_spatial:
        return a
    return replace(a, kernel=kernel, groups=1, in_spatial=image, out_spatial=out)


def power_method(a: LinearMap, work: Workspace, rng: np.random.Generator) -> Floats:
    """A unit vector near the top right singular vector, for any A; an estimate.

    float32 where its range holds AᵀA, else float64 with a normalisation between the factors.
    """
    v = _normalised(rng.standard_normal(a.columns))[0]
    cap = a.cap()
    operator = work.single(a) if 1e-15 < cap < 1e15 else work.double(a)
    previous = 0.0
    for _ in range(max(_FEWEST, min(_STEPS, int(_WORK / (2.0 * multiplications(a) + 1.0))))):
        w, size = _step(operator, v)
        if not (math.isfinite(size) and size > 0):
            break  # not a number that float32 can hold, or zero
        v = w
        if size <= previous * (1.0 + _TOLERANCE):
            break
        previous = size
    return v


def _step(operator: Operator, v: Floats) -> tuple[Floats, float]:
    """(AᵀAv normalised, a number that grows to ‖A‖ or to ‖A‖²)."""
    if operator.dtype == np.float32:
        return _normalised(operator.gram(v).astype(np.float64))
    return _normalised(operator.rmatvec(_normalised(operator.matvec(v))[0]))


def _normalised(x: Floats) -> tuple[Floats, float]:
    """(x/‖x‖, ‖x‖), without squares that leave the range of float64."""
    top = float(np.abs(x).max(initial=0.0))
    if not (math.isfinite(top) and top > 0):
        return x, 0.0
    x = x / top
    size = float(np.linalg.norm(x))
    return x / size, size * top


def quotient(a: LinearMap, v: Floats, work: Workspace) -> float:
    """‖Av‖/‖v‖ rounded down, in float64: never above ‖A‖₂."""
    size = float(np.abs(v).max(initial=0.0))
    if not (math.isfinite(size) and size > 0):
        return 0.0
    v = np.ascontiguousarray(v / size)  # any vector will do, so this rounding costs nothing
    y, length = euclid(work.double(a).matvec(v)), euclid(v).upper
    relative, absolute = product_error(a)
    rate = gamma(a.terms) + 1.01 * a.ulps * UNIT
    error = add_up(mul_up(add_up(relative, mul_up(1.01 * UNIT, a.ulps, a.cap())), length), absolute)
    if error > 1e-10 * y.lower:  # the cap may be far above ‖|A||v|‖, which is what counts
        moduli = euclid(work.modulus(a).matvec(np.abs(v))).upper
        sharper = mul_up(rate, 1.000001, add_up(mul_up(moduli, 1.000001), absolute))
        error = min(error, add_up(sharper, absolute))
    found = down(down(y.lower - error) / length)
    return found if found > 0 and math.isfinite(found) else 0.0
