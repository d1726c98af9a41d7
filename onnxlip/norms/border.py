"""Sharper than the torus: its border released. Exact in the limit, at the price of a few columns.

The torus (`torus`) bounds A = P C F by ‖C‖: C a twisted circulant, F the embedding of the image on
one side and P the restriction to it on the other, as if nothing were cut off. On small images
that loses percents, as the few top modes of C fill the whole torus. Write Q for what lies beyond
P, F̄ for what lies beyond F, V for a few columns, and

    B = s²I − CCᴴ + VVᴴ ≻ 0                     (at every frequency ω its own small matrix).

Theorem. Let U = V on the image (PU = PV) and anything beyond it, T = F̄T anything beyond the other
side's image, Y = U − CT. If TᴴT + YᴴB⁻¹Y ⪯ κI with κ < 1, then ‖A‖₂ ≤ s.

Proof. Let x = Px and z = F̄Cᴴx. As P(U − V) = 0, Vᴴx = Uᴴx = Yᴴx + Tᴴz, so by Cauchy and Schwarz
‖Vᴴx‖² ≤ κ(xᴴBx + ‖z‖²) = κa, and ‖Aᴴx‖² = ‖Cᴴx‖² − ‖z‖² = s²‖x‖² + ‖Vᴴx‖² − a ≤ s²‖x‖².

T = 0 keeps the other side's border; with U = V as well it is the torus's own bound. The best U and
T leave no slack: κ ≤ 1 if and only if s ≥ ‖A‖ (the minimum over U and T is a Schur complement).
V needs modes above s² only (156 of 32,768 for 512 channels at 7×7, 4 of 57,600 for 256 at 14×14,
random weights), and few steps of a block conjugate gradient method come close enough to the best
U and T (`border_search`). Whatever they are, what is proved is proved from them as they are.

Columns are real. At ω and −ω their coefficients are w and w̄, then −iw and iw̄: so VVᴴ is 2wwᴴ at ω
and nothing between ω and −ω; at an ω that is its own mirror one column, w real, gives wwᴴ.

Errors. In place of B and Y there are, summed over all ω,

    L̂L̂ᴴ = B + E, ‖E‖₂ ≤ ε₁,    L̂X̂ = Y + R, ‖R‖_F ≤ ε₂,    TᵀT + X̂ᴴX̂ ⪯ κI.

Then Vᴴx + Rᴴx = X̂ᴴL̂ᴴx + Tᴴz and, with a = xᴴBx + ‖z‖² + ε₁ ≥ 0 and ‖x‖ = 1, ‖Vᴴx‖ ≤ √(κa) + ε₂, so

    s² − ‖Aᴴx‖² = a − ε₁ − ‖Vᴴx‖² ≥ a(1 − κ) − 2ε₂√(κa) − ε₂² − ε₁ ≥ −ε₁ − ε₂²/(1 − κ).

ε₁: Ĝ errs by `Symbol.error`; 2wwᴴ of k columns by √2 γ_{2k+4} 2‖w‖_F²; the difference by one
rounding, 4u‖·‖_F; Cholesky by `cholesky_margin`.
ε₂: a solve with L̂ leaves √2 γ_{2n+4} ‖L̂‖_F ‖X̂‖_F (Higham, Theorem 8.5, in complex numbers).
Waves N^{−½}e^{−iω·x} err by (4d + 3)u N^{−½}, sums over places x of D = U − V by √2 γ_{|Q|} Σ|D|,
and Σ_x |D_x| ≤ √|Q| ‖D‖ by Cauchy and Schwarz; likewise T; K̂ errs by √2 γ_{p+4d+1} M, where
M = Σ_q |K_q|, and its product with T̂, of 2r terms, by √2 γ_{2r+2} M|T̂|. All are within 4γ_m times
‖V‖_F + √|Q| ‖D‖_F + √|F̄| ‖M‖_F ‖T‖_F, m = 2(r + p + |Q| + |F̄|) + 16d + 32.
X̂ᴴX̂ and TᵀT: a product of X̂ goes through n additions at its site, two at each site of its chunk and
one at each chunk (so at most two per site and one more), one of T through r|F̄|: so their sum errs
by γ_{n+2·sites+r|F̄|+2} trace, twice which is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.norms.border_search import Release, released
from onnxlip.norms.definite import cholesky_margin, factored, factored_margin
from onnxlip.norms.enclosure import UNDERFLOW
from onnxlip.norms.frame import Frame
from onnxlip.norms.lapack import trsm
from onnxlip.norms.modes import Modes, modes_above
from onnxlip.parallel import give_back, shared
from onnxlip.rounding import UNIT, add_up, div_up, down, gamma, mul_up, sqrt_up, up

__all__ = ["border_square"]

Floats = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

_DEPTH = 0.01  # V holds the modes above s²(1 − depth): less deep, and B is nearly singular;
_SHARE, _DEEPEST = 0.25, 0.5  # … deeper where the torus is far above s²
_PARTS = (0.0, 0.25, 0.5)  # attempts: s² between the goal and what the torus has
_RAISES = 3  # … and with the same columns at an s² that is a little larger,
_NEAR = 1.1  # if κ is below this
_WIDE, _MANY = 2, 512  # the other side has so many times more channels: T costs too much
_CLEAR = 1e-9  # κ is at most 1 less this
_CHUNK = 1 << 18  # complex entries held at a time
_ROOT2 = up(math.sqrt(2.0))


def border_square(frame: Frame, goal: float, peak: float, columns: int, entries: int) -> float:
    """U ≥ ‖A‖₂²: `goal` and a little more if that can be proved, else something between it and
    `peak`, which the torus has; ∞ where nothing was proved.

    columns: of V, at most; entries: float64 numbers that may be held.
    """
    if frame.parts.shape[2] > max(_MANY, _WIDE * frame.parts.shape[1]):
        frame = frame.one_sided()
    excess = max(0.0, peak - goal)
    freed = 8 * frame.symbol.even.size  # what estimates need, and what it takes to make that
    for part in _PARTS:
        square = goal + part * excess
        depth = min(_DEEPEST, max(_DEPTH, _SHARE * (peak / square - 1.0)))
        modes = modes_above(frame, square * (1.0 - depth), columns)
        if modes is None:
            continue
        if modes.count > frame.columns(entries):
            frame = frame.one_sided()
        if modes.count > frame.columns(entries):
            continue
        give_back(freed)
        release = released(frame, modes, square, entries)
        for _ in range(_RAISES):
            if release is None or release.top > _NEAR:
                break
            frame.let_go()
            give_back(freed)
            found = _proved(frame, modes, release) if release.top < 1.0 else math.inf
            if math.isfinite(found):
                return found
            release = release.raised()
    return math.inf


@dataclass(frozen=True, eq=False)
class _Phases:
    """N^{−½} e^{−iω·x} of some places x at some sites."""

    cos: Floats
    sin: Floats

    @staticmethod
    def of(frame: Frame, sites: slice, places: npt.NDArray[np.int64]) -> _Phases:
        cos, sin = frame.grid.phases(frame.sites[sites], places)
        size = 1.0 / math.sqrt(math.prod(frame.grid.shape))
        return _Phases(cos * size, sin * size)

    def of_columns(self, at: Floats) -> Complex:
        """Σ_x wave(x) at[x], (sites, n, k), for real `at` (places, n, k)."""
        flat = at.reshape(len(at), math.prod(at.shape[1:]))
        value = np.empty((len(self.cos), *at.shape[1:]), np.complex128)
        value.real = (self.cos @ flat).reshape(value.shape)
        value.imag = (self.sin @ flat).reshape(value.shape)
        np.negative(value.imag, out=value.imag)
        return value


def _proved(frame: Frame, modes: Modes, release: Release) -> float:
    """s² and all errors, if κ < 1 for these U and T; else ∞."""
    square = release.square
    n, r, k = frame.symbol.order, frame.parts.shape[2], modes.count
    inner, outer = release.inner.astype(np.float64), release.outer.astype(np.float64)
    inner *= release.unit
    inner *= frame.inner_mask[:, :, None]  # exactly 0 within the image, whatever the search did
    outer *= frame.outer_mask[:, :, None]
    step = max(1, _CHUNK // (n * max(n, k)))

    def at(begin: int) -> tuple[Floats, float, float] | None:
        chunk = slice(begin, min(begin + step, len(frame.sites)))
        y = _Phases.of(frame, chunk, frame.beyond_inner).of_columns(inner)
        if outer.size:
            waves = _Phases.of(frame, chunk, frame.beyond_outer).of_columns(outer)
            y -= frame.symbols(chunk) @ waves
        part, worst, longest = np.zeros((k, k), order="F"), 0.0, 0.0
        for j, gram in enumerate(frame.symbol.triangles(frame.grid, frame.sites[chunk]), begin):
            w = modes.columns(j)
            y[j - begin][:, modes.where(j)] += w if frame.own[j] else np.hstack((w, -1j * w))
            factor, error, length = _factored(gram, w, square, frame.weights[j])
            if factor is None:
                return None
            worst, longest = max(worst, error), max(longest, length)
            _add_products(part, factor, y[j - begin], frame.weights[j])
        return part, worst, longest

    products = np.zeros((k, k), order="F")
    worst, longest = 0.0, 0.0
    for found in shared(at, range(0, len(frame.sites), step)):
        if found is None:
            return math.inf
        products += found[0]
        worst, longest = max(worst, found[1]), max(longest, found[2])
    flat = outer.reshape(-1, k)
    products += flat.T @ flat
    trace = mul_up(float(np.trace(products)), up(1.0 + gamma(k)))
    terms = n + 2 * len(frame.sites) + len(flat) + 8
    kappa = _largest(products)
    kappa = add_up(kappa, mul_up(2.0, gamma(terms), trace))
    if not kappa <= 1.0 - _CLEAR:
        return math.inf
    places = len(inner), len(outer)
    m = 2 * (r + len(frame.places) + sum(places)) + 16 * len(frame.grid.shape) + 32
    sizes = add_up(
        modes.size,
        mul_up(sqrt_up(float(places[0])), _frobenius(inner)),
        mul_up(sqrt_up(float(places[1])), frame.modulus, _frobenius(outer)),
    )
    solves = mul_up(_ROOT2, gamma(2 * n + 4), longest, sqrt_up(mul_up(2.0, trace)))
    lost = add_up(mul_up(4.0, gamma(m), sizes), solves, UNDERFLOW)
    rest = div_up(mul_up(lost, lost), down(1.0 - kappa))
    return add_up(square, worst, frame.symbol.error, rest, UNDERFLOW)


def _factored(
    gram: Complex, w: Complex, square: float, weight: float
) -> tuple[npt.NDArray[Any] | None, float, float]:
    """(L̂ of B at one site, its part of ε₁, ‖L̂‖_F); `gram`, a lower triangle, is overwritten."""
    n = len(gram)
    error = 0.0
    if w.shape[1]:
        gram -= weight * (w @ w.conj().T)
        size = mul_up(weight, _frobenius(w), _frobenius(w))
        rest = mul_up(_ROOT2, float(np.linalg.norm(gram)), 1.0 + 1e-9)  # of both triangles
        error = add_up(mul_up(_ROOT2, gamma(2 * w.shape[1] + 4), size), mul_up(4.0 * UNIT, rest))
    np.negative(gram, out=gram)
    diagonal = np.einsum("ii->i", gram)
    diagonal += square
    real = diagonal.real
    if not np.all(real > 0):
        return None, 0.0, 0.0
    trace, largest = float(real.sum()), float(real.max())
    if not factored(gram):
        return None, 0.0, 0.0
    pivots = np.einsum("ii->i", gram).real
    if not np.all((pivots > 0) & (pivots < math.inf)):
        return None, 0.0, 0.0
    error = add_up(error, cholesky_margin(n, trace, largest, is_complex=True))
    return gram, error, sqrt_up(mul_up(trace, 2.0))


def _add_products(products: Floats, factor: npt.NDArray[Any], y: Complex, weight: float) -> None:
    """products += weight Re X̂ᴴX̂ with L̂X̂ = y."""
    # In Fortran's order L̂ of C's is its transpose: an upper triangle, to be transposed again.
    x = np.array(y, order="F")
    trsm(factor.T, x, trans="T")
    for part in (np.asfortranarray(x.real), np.asfortranarray(x.imag)):
        products += weight * (part.T @ part)


def _largest(products: Floats) -> float:
    """An upper bound of the eigenvalues of a computed symmetric matrix, ∞ where none was proved."""
    if not products.size:
        return 0.0
    if not np.all(np.isfinite(products)):
        return math.inf
    guess = max(0.0, float(np.linalg.eigvalsh(products)[-1]))
    square = guess * (1.0 + 1e-6) + 1e-9
    margin = factored_margin(np.array(products, order="F"), square)
    return math.inf if margin is None else add_up(square, margin)


def _frobenius(x: npt.NDArray[np.generic]) -> float:
    size = float(np.linalg.norm(x.reshape(-1)))
    return mul_up(size, up(1.0 + gamma(2 * x.size + 4)))
