"""Certified lower ends of ‖A‖₂: quotients ‖Av‖/‖v‖ at a vector that a search found.

Any v ≠ 0 gives a theorem: ‖A‖₂ ≥ (‖fl(Âv)‖ − e)/‖v‖ with e ≥ ‖fl(Âv) − Âv‖ + ‖(Â − A)v‖. In float64
‖fl(Âv) − Âv‖ ≤ γ_terms ‖|Â||v|‖, and |Â − A| ≤ ulps · 2⁻⁵³ |Â|. The search may be as rough as it
likes: float32, on any provider. It may also look at less than A, as deleting rows and columns
raises no norm: a convolution is searched on one image, one group of channels and a crop, whose
vector then starts a short search on the whole image (`lifting`).

The search is Lanczos' (`krylov.lanczos`), on CUDA with a block of vectors for large matrices. The
power method of Virmaux & Scaman 2018, Algorithm 2, is kept as a method of its own: v ← AᵀAv/‖AᵀAv‖
from a random start, on the whole map. Small matrices and maps that can be written out have the
quotient of `dense` instead.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from functools import singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.linear import Convolution, LinearMap, Matrix, Monomial, Product, Transposed
from onnxlip.norms.enclosure import euclid
from onnxlip.norms.krylov import lanczos
from onnxlip.norms.lifting import lifted
from onnxlip.norms.structure import is_empty, isometric_core
from onnxlip.norms.workspace import Bound, Workspace, product_error
from onnxlip.operators import NonFiniteError, resolve
from onnxlip.rounding import UNIT, add_up, down, gamma, mul_up

__all__ = ["power_method", "quotient", "search", "spectral_lower"]

Floats = npt.NDArray[np.float64]

_DOUBT = 0.05  # probability, at most, that it stops at an eigenvalue below the top one
_BLOCK = 8  # vectors that go through a large matrix together on CUDA; on a CPU eight of them take
# three to four times as long as one and save but two steps in five, so there it is one
_DENSE = 512  # matrices up to this order (the lesser side) have their Gram factored instead
_PIXELS = 2304  # a convolution is searched on a crop of at most so many outputs per channel …
_POLISH, _FINISH = 8, 1e-4  # … and then with at most so many products on the whole image
_WAVES = 4  # leading vectors of the crop that may be the best on the whole image
_ENTRIES = 1 << 18  # float64 entries of a matrix converted at a time: 2 MiB, which caches hold

# The power method's, as published, but that steps end where the quotient no longer grows.
_STEPS = 500
_GROWTH = 1e-8
_AT_ONCE = 4  # steps between normalisations, where float32 holds (AᵀA)⁴v


def spectral_lower(a: LinearMap, work: Workspace) -> Bound:
    """A lower bound of ‖A‖₂ and the method that gave it; 0 where nothing was found."""
    if is_empty(a):
        return Bound(0.0, "empty")
    found = work.once(a, "lower", lambda: _lower(a, work))
    return found if math.isfinite(found.value) else Bound(0.0, "")


@singledispatch
def _lower(a: LinearMap, work: Workspace) -> Bound:
    if work.search == "lanczos":
        dense = work.dense(a)
        if dense is not None:
            return Bound(dense.lower, "quotient at a singular vector")
    if not work.fits(a):
        return Bound(0.0, "too large")
    rng = np.random.default_rng(work.seed)
    if work.search == "power":
        return Bound(quotient(a, power_method(a, work, rng), work), "power method")
    return Bound(quotient(a, search(a, work, rng)[0], work), "Lanczos")


@_lower.register
def _(a: Monomial, work: Workspace) -> Bound:
    """AᵀA is diagonal, so ‖A‖₂ = ‖Ae_k‖ for some k, whose entries are exact weights."""
    weights = a.dense_weight()
    top = float(weights.max(initial=0.0))
    if a.injective:
        return Bound(_less(top, a.ulps), "closed form")
    sums, _ = Monomial(a.n, a.index, weights / (top or 1.0)).column_sums(2)
    column = weights[a.index == int(sums.argmax())]
    size = euclid(column).lower
    if len(column) <= 64 and 1e-100 < top < 1e100:  # few enough to be summed exactly
        square = sum((Fraction(float(w)) ** 2 for w in column), Fraction(0))
        root = math.sqrt(square)
        size = max(size, root if Fraction(root) ** 2 <= square else down(root))
    return Bound(_less(size, a.ulps), "closed form")


def _less(size: float, ulps: float) -> float:
    """size(1 − ulps · 2⁻⁵³), rounded down; itself for exact weights."""
    return max(0.0, down(size - mul_up(UNIT, ulps, 1.01, size))) if ulps else size


@_lower.register
def _(a: Matrix, work: Workspace) -> Bound:
    if work.search == "power":
        return _lower.dispatch(LinearMap)(a, work)
    b, m, k = a.blocks.shape
    if b > 1 or min(m, k) <= _DENSE or work.knows(a, "norm"):
        return Bound(work.matrix(a).lower, "quotient at a singular vector")
    plain = a if a.rows == m else Matrix(a.blocks, relative=a.relative)
    rng = np.random.default_rng(work.seed)
    return Bound(quotient(plain, search(plain, work, rng)[0], work), "Lanczos")


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
        return spectral_lower(work.one_image(a), work)
    if work.search == "power":
        return _lower.dispatch(LinearMap)(a, work)
    dense = work.dense(a)
    if dense is not None:
        return Bound(dense.lower, "quotient at a singular vector")
    window = _full_window(a)
    if window is not None:  # no two windows overlap: one of them is the whole symbol
        return spectral_lower(window, work)
    if not work.fits(a):
        return Bound(0.0, "too large")
    whole = _one_group(a, work)
    crop = _cropped(whole)
    vectors = search(crop, work, np.random.default_rng(work.seed), leading=_WAVES)
    found = quotient(crop, vectors[0], work)
    if crop is whole:
        return Bound(found, "Lanczos")
    start = lifted(vectors, crop, whole)
    if np.any(start):
        vectors = _lanczos(whole, work, start[None], _FINISH, steps=_POLISH)
        found = max(found, quotient(whole, vectors[0], work))
    return Bound(found, "Lanczos")


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


def _one_group(a: Convolution, work: Workspace) -> Convolution:
    """The group of channels where the norm is largest; which one that is, the torus tells."""
    if a.groups == 1:
        return a
    torus = work.torus(a)
    return replace(a, kernel=a.grouped[torus.group if torus else 0], groups=1)


def _cropped(a: Convolution) -> Convolution:
    """The convolution onto fewer outputs, half as many per axis or less: itself if it is small."""
    most = max(2, round(_PIXELS ** (1 / len(a.taps))))
    out = []
    for o, k, s, d, b in zip(a.out_spatial, a.taps, a.strides, a.dilations, a.begin, strict=True):
        window = -(-(4 * (d * (k - 1) + 1) + b) // s)  # some windows' width at least
        half = min(most, max(-(-o // 2), -(-2 * most // 7)))
        out.append(min(o, max(half, window)) if 2 * o >= most else o)
    reach = zip(a.in_spatial, out, a.taps, a.strides, a.dilations, a.begin, strict=True)
    image = tuple(max(1, min(h, s * (o - 1) + d * (k - 1) + 1 - b)) for h, o, k, s, d, b in reach)
    if tuple(out) == a.out_spatial:
        return a
    return replace(a, in_spatial=image, out_spatial=tuple(out))


def search(a: LinearMap, work: Workspace, rng: np.random.Generator, leading: int = 1) -> Floats:
    """Vectors (≤ leading, columns) near the leading right singular ones, the top one first, by
    Lanczos from a random start; estimates."""
    wide = isinstance(a, Matrix) and min(a.rows, a.columns) > 8 * _BLOCK
    block = _BLOCK if wide and resolve(work.provider) == "cuda" else 1
    start = rng.standard_normal((block, a.columns))
    return _lanczos(a, work, start, work.closeness, doubt=_DOUBT, leading=leading)


def _lanczos(
    a: LinearMap, work: Workspace, start: Floats, tolerance: float, **options: Any
) -> Floats:
    """float32 where its range holds AᵀA, else AᵀA/cap² in float64, which does not overflow."""
    cap = a.cap()
    if not 0 < cap < math.inf:
        return start[:1]
    if _is_float32(a):
        try:
            found = lanczos(work.single(a).gram, start.astype(np.float32), tolerance, **options)
            if found.value > 0:
                return found.vectors.astype(np.float64)
        except NonFiniteError:
            pass
    operator = work.double(a)

    def scaled(x: Floats) -> Floats:
        y: Floats = operator.rmatvec(operator.matvec(x) / cap) / cap
        return y

    return np.asarray(lanczos(scaled, start, tolerance, **options).vectors, np.float64)


def _is_float32(a: LinearMap) -> bool:
    """Whether float32's range holds AᵀA, as far as can be told beforehand."""
    return 1e-10 < a.cap() < 1e15


def power_method(a: LinearMap, work: Workspace, rng: np.random.Generator) -> Floats:
    """A unit vector near the top right singular vector, for any A; an estimate.

    float32 where its range holds AᵀA, else float64 with a normalisation between the factors.
    """
    v = _normalised(rng.standard_normal(a.columns))[0]
    single, previous = _is_float32(a), 0.0
    times = _AT_ONCE if 1e-2 < a.cap() < 1e3 else 1
    for _ in range(0, _STEPS, times):
        if single:
            w, size = _normalised(work.single(a).iterate(v, times).astype(np.float64))
        else:
            double = work.double(a)
            w, size = _normalised(double.rmatvec(_normalised(double.matvec(v))[0]))
        if not (math.isfinite(size) and size > 0):
            break  # not a number that float32 can hold, or zero
        v = w
        if size <= previous * (1.0 + _GROWTH):
            break
        previous = size
    return v


def _normalised(x: npt.NDArray[Any]) -> tuple[Floats, float]:
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
    y, length = euclid(_applied(a, v, work)), euclid(v).upper
    relative, absolute = product_error(a)
    rate = gamma(a.terms) + 1.01 * a.ulps * UNIT
    error = add_up(mul_up(add_up(relative, mul_up(1.01 * UNIT, a.ulps, a.cap())), length), absolute)
    if error > 1e-10 * y.lower:  # the cap may be far above ‖|A||v|‖, which is what counts
        moduli = euclid(_applied(a, np.abs(v), work, modulus=True)).upper
        sharper = mul_up(rate, 1.000001, add_up(mul_up(moduli, 1.000001), absolute))
        error = min(error, add_up(sharper, absolute))
    found = down(down(y.lower - error) / length)
    return found if found > 0 and math.isfinite(found) else 0.0


def _applied(a: LinearMap, v: Floats, work: Workspace, modulus: bool = False) -> Floats:
    """Âv or |Â|v in float64; a matrix is converted piece by piece, never as a whole."""
    if not isinstance(a, Matrix) or a.rows != a.blocks.shape[1]:
        y: Floats = (work.modulus(a) if modulus else work.double(a)).matvec(v)
        return y
    block = a.blocks[0]
    step = max(1, _ENTRIES // a.columns)
    parts = (block[i : i + step].astype(np.float64) for i in range(0, a.rows, step))
    pieces = [(np.abs(part) if modulus else part) @ v for part in parts]
    return np.asarray(np.concatenate(pieces), np.float64)
