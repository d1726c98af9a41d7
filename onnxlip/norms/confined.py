"""Sharper than the torus: its top modes, confined to the image.

The torus (`torus`) bounds ‖A‖ for A = P C E, C circulant, by ‖C‖, as if nothing were cut off. On
small images that loses percents: each mode of C fills the whole torus, and the border that P
cuts off takes part of it away. Let Ĝ(ω) be the symbol of CCᴴ; choose τ and W(ω), few columns, with

    Ĝ(ω) ⪯ τ²I + W(ω)W(ω)ᴴ   at every ω                                   (1)

and W(−ω) the conjugate of W(ω). Then, 𝓦 being the modes N^{−½} w e^{iω·x} of all columns w,

    AAᵀ ⪯ P CCᴴ P ⪯ τ²I + P 𝓦𝓦ᴴ P,   ‖A‖₂² ≤ τ² + λmax(𝓦ᴴP𝓦).               (2)

Any W will do for the proof; good ones are top eigenvectors times √(λ − τ²), in single precision.
(1) is proved by one Cholesky per ω, (2) by one of the order of all columns: modes have closed
inner products, ⟨a, b⟩ = w_aᴴw_b D(ω_b − ω_a), with D real if the image is centred at 0:

    D(2πr/M) = Π (1/M) Σ_{x<L} cos(πr(2x − L + 1)/M)    (over the axes; L of M sites are the image)

(to move the image multiplies modes by phases; AᵀA with the input side is the same, mirrored).
A pair ±ω gives the real columns √2 Re a and √2 Im a, a frequency that is its own mirror Re a and
Im a: Re is all that a real vector sees of the right side of (2). In terms of
Z₁ = ⟨a, b⟩ and Z₂ = ⟨ā, b⟩ = w_aᵀw_b D(ω_a + ω_b) the entries are

    Re·Re: Re Z₁ + Re Z₂,   Re·Im: Im Z₁ + Im Z₂,   Im·Im: Re Z₁ − Re Z₂.

Errors. In (1): Ĝ errs by `Symbol.error`; WWᴴ, of k columns, by √2 γ_{2k+2} ‖W‖_F², as
|w_i||w_j| ≤ ‖w_i‖‖w_j‖ over its rows w_i; the difference by one rounding, ‖·‖_F ≤ 4u‖F̂‖_F for
either triangle. In (2): one axis of D, a sum of L numbers within u of the truth, divided by M ≥ L,
errs by γ_{L+4}, so D errs by γ_{ΣL+8d}; w_aᴴw_b has 2n products. An entry is two such products and
two scalings, so it errs by at most 2g‖w_a‖‖w_b‖, g = γ_{2n+ΣL+8d+8}, and 𝓦ᴴP𝓦 by
‖·‖_F ≤ 4g Σ‖w‖².
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from onnxlip.norms.definite import factored_margin, proved_margin
from onnxlip.norms.enclosure import UNDERFLOW
from onnxlip.norms.krylov import ritz
from onnxlip.norms.symbol import Grid, Symbol, roots
from onnxlip.rounding import UNIT, add_up, gamma, mul_up, up

__all__ = ["confined_square"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_LEVELS = (0.25, 0.5, 1.0)  # parts of the largest number of columns that are tried in turn
_CHUNK = 1 << 20  # complex entries of the Grams held at a time
_ROWS = 256  # rows of 𝓦ᴴP𝓦 made at a time
_SINGLE = 2.0**-20  # how far τ² lies above the cut, relative to the largest eigenvalue
_SLACKS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
_ROOT2 = up(math.sqrt(2.0))
_HALF = up(math.sqrt(0.5))  # larger columns only raise the bound


def confined_square(
    symbol: Symbol, grid: Grid, lengths: tuple[int, ...], goal: float, columns: int
) -> float:
    """U ≥ ‖A‖₂², ∞ where nothing was proved.

    symbol, grid: those of the torus; lengths: sites per axis that the image has, on the Gram's
    side. It stops early at U ≤ goal; columns: the order up to which 𝓦ᴴP𝓦 may be formed.
    """
    sites = grid.half()
    modes = _Modes.top(symbol, grid, sites, columns // 2)
    if modes.values.max() <= goal:
        return math.inf  # the torus itself is as close
    for part in _LEVELS:
        cut, chosen = modes.above(int(part * columns) // 2)
        gram = _restricted(chosen, grid, lengths)
        start = np.random.default_rng(len(gram)).standard_normal(len(gram))
        guess = max(0.0, ritz(partial(np.matmul, gram), start, 80, 1e-6)[0])
        if cut + guess <= goal:
            break
        if modes.exhausted(chosen):
            break
    return _proved(symbol, grid, sites, lengths, cut, chosen, guess, float(modes.values.max()))


@dataclass(frozen=True, eq=False)
class _Columns:
    """w (order, k), the site that each column belongs to, and its scale: 1 for a pair ±ω,
    √½ where ω is its own mirror."""

    w: npt.NDArray[np.complex128]
    sites: Ints
    places: Ints
    scales: Floats


@dataclass(frozen=True, eq=False)
class _Modes:
    """Top eigenpairs of Ĝ at every site, in single precision: estimates."""

    grid: Grid
    sites: Ints
    values: Floats  # (sites, r) ascending
    vectors: npt.NDArray[np.complex64]  # (sites, order, r)

    @staticmethod
    def top(symbol: Symbol, grid: Grid, sites: Ints, modes: int) -> _Modes:
        """Enough of them for so many modes, if these are not too unevenly spread."""
        from scipy.linalg import eigh

        n = symbol.order
        r = min(n, 4 + 2 * math.ceil(modes / len(sites)))
        values = np.empty((len(sites), r))
        vectors = np.empty((len(sites), n, r), np.complex64)
        step = max(1, _CHUNK // n**2)
        scale = 2.0 ** -math.frexp(symbol.cap)[1]  # float32 has a short range
        for i in range(0, len(sites), step):
            for j, gram in enumerate(symbol.grams(grid, sites[i : i + step]), i):
                values[j], vectors[j] = eigh(
                    (gram * scale).astype(np.complex64),
                    subset_by_index=(n - r, n - 1),
                    driver="evr",
                    check_finite=False,
                    overwrite_a=True,
                )
        return _Modes(grid, sites, values.astype(np.float64) / scale, vectors)

    def above(self, count: int) -> tuple[float, _Columns]:
        """(τ², W) with at most `count` columns."""
        ordered = np.sort(self.values, axis=None)[::-1]
        cut = float(ordered[count]) if count < ordered.size else 0.0
        if self.values.shape[1] < self.vectors.shape[1]:  # what was not computed lies below
            cut = max(cut, float(self.values[:, 0].max()))
        cut = max(cut, 0.0)
        j, k = np.nonzero(self.values > cut)
        w = self.vectors[j, :, k].T.astype(np.complex128)
        w *= np.sqrt(self.values[j, k] - cut)
        mirrored = (-self.sites - self.grid.twist) % self.grid.shape
        own = np.all(mirrored == self.sites, axis=1)[j]
        return cut, _Columns(w, self.sites[j], j, np.where(own, _HALF, 1.0))

    def exhausted(self, chosen: _Columns) -> bool:
        """Whether a lower cut would miss eigenvalues."""
        cut = float(self.values[:, 0].max())
        return chosen.places.size >= int((self.values > cut).sum())


def _restricted(chosen: _Columns, grid: Grid, lengths: tuple[int, ...]) -> Floats:
    """𝓦ᴴP𝓦 in real columns, in Fortran order; its upper triangle counts."""
    re, im = np.ascontiguousarray(chosen.w.real), np.ascontiguousarray(chosen.w.imag)
    k = re.shape[1]
    tables = [_kernel(m, length) for m, length in zip(grid.shape, lengths, strict=True)]
    gram = np.empty((2 * k, 2 * k), order="F")
    for i in range(0, k, _ROWS):
        rows = slice(i, min(k, i + _ROWS))
        minus = chosen.scales[rows, None] * chosen.scales
        plus = minus
        for a, (table, m, twist) in enumerate(zip(tables, grid.shape, grid.twist, strict=True)):
            mine, all_ = chosen.sites[rows, a][:, None], chosen.sites[None, :, a]
            minus = minus * table[(all_ - mine) % (2 * m)]
            plus = plus * table[(all_ + mine + twist) % (2 * m)]
        rr, ii = re[:, rows].T @ re, im[:, rows].T @ im
        first, second = (rr + ii) * minus, (rr - ii) * plus
        gram[rows, :k], gram[k + i : k + rows.stop, k:] = first + second, first - second
        ri, ir = re[:, rows].T @ im, im[:, rows].T @ re
        gram[rows, k:] = (ri - ir) * minus + (ri + ir) * plus
    gram[k:, :k] = gram[:k, k:].T
    return gram


def _kernel(m: int, length: int) -> Floats:
    """D of one axis for r = 0 … 2m − 1 (its period, as ω and ω + 2π differ by a sign if the
    image's centre lies between two sites)."""
    turns = np.arange(2 * m)[:, None] * (2 * np.arange(length) - length + 1)[None]
    table: Floats = roots(m).real[turns % (2 * m)].sum(axis=1) / m
    return table


def _proved(
    symbol: Symbol,
    grid: Grid,
    sites: Ints,
    lengths: tuple[int, ...],
    cut: float,
    chosen: _Columns,
    guess: float,
    modes_top: float,
) -> float:
    """The right side of (2), with all errors, for these columns."""
    if not chosen.places.size:
        return math.inf
    found = _dominated(symbol, grid, sites, cut, chosen, modes_top)
    top = _top(chosen, grid, lengths, guess)
    sizes = mul_up(float(np.square(np.abs(chosen.w)).sum()), up(1.0 + gamma(chosen.w.size + 4)))
    g = gamma(2 * symbol.order + sum(lengths) + 8 * len(lengths) + 8)
    return add_up(found, top, mul_up(4.0, g, sizes), UNDERFLOW)


def _top(chosen: _Columns, grid: Grid, lengths: tuple[int, ...], guess: float) -> float:
    """An upper bound of the eigenvalues of the computed 𝓦ᴴP𝓦."""
    for slack in _SLACKS:
        square = guess * (1.0 + slack) + UNDERFLOW
        margin = factored_margin(_restricted(chosen, grid, lengths), square)
        if margin is not None:
            return add_up(square, margin)
    return math.inf


def _dominated(
    symbol: Symbol, grid: Grid, sites: Ints, cut: float, chosen: _Columns, top: float
) -> float:
    """t ≥ 0 with Ĝ(ω) ⪯ tI + WWᴴ at all sites, all errors included: τ² and a little more."""
    n, square, worst = symbol.order, cut + _SINGLE * top + UNDERFLOW, 0.0
    step = max(1, _CHUNK // n**2)
    begins = np.searchsorted(chosen.places, np.arange(len(sites) + 1))
    for i in range(0, len(sites), step):
        grams = symbol.grams(grid, sites[i : i + step])
        error = 0.0
        for j, gram in enumerate(grams, i):
            w = chosen.w[:, begins[j] : begins[j + 1]]
            if w.shape[1]:
                gram -= w @ w.conj().T
                size = mul_up(float(np.square(np.abs(w)).sum()), up(1.0 + gamma(w.size + 4)))
                rest = float(np.linalg.norm(gram)) * (1.0 + 1e-9)
                lost = mul_up(_ROOT2, gamma(2 * w.shape[1] + 2), size)
                error = max(error, add_up(lost, mul_up(4.0 * UNIT, rest)))
        margin = proved_margin(grams, square)
        while margin is None:  # τ² = cut was too small for the eigenvectors' precision
            square += 2.0 * (square - cut)
            if not square <= 2.0 * (cut + top):
                return math.inf
            margin = proved_margin(grams, square)
        worst = max(worst, add_up(margin, error))
    return add_up(square, worst, symbol.error)
