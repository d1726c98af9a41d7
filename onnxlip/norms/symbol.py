"""The symbol of a convolution, and its Gram matrix at any frequency, with error bounds.

A strided convolution is one of phases: with d·t = s·q + f per axis, tap t reads phase f of the
image at shift q, so the symbol is K̂(ω) = Σ_q K_q e^{iω·q}, K_q of shape (c_out, c_in · phases).
(Where an image begins only renames phases: a unitary factor.) On the smaller side

    G(ω) = K̂ K̂ᴴ = Σ_τ R_τ e^{iω·τ},   R_τ = Σ_{q − q′ = τ} K_q K_q′ᵀ,   R_{−τ} = R_τᵀ:

    G(ω) = Σ_τ cos(ω·τ) (R_τ + R_τᵀ) + i Σ_τ sin(ω·τ) (R_τ − R_τᵀ),

sums over half of the lags, R_0 halved (exactly). K̂ᴴK̂ is the same with K_qᵀ, at −ω.

Errors. R_τ is one product with at most r·p terms (r = c_in · phases or c_out, p shifts), so it errs
by γ_{rp} times the same sum of moduli; with cos and sin within 4du of the truth (`Grid`), a sum of
T lags and one more addition, the real and the imaginary part each err by at most
γ_{rp + 4d + T + 1} B_ij (Higham, Lemma 3.3), B = Σ_τ Σ |K_q||K_q′|ᵀ = MMᵀ, M = Σ_q |K_q|. So

    ‖Ĝ − G‖₂ ≤ √2 γ ‖B‖₂ ≤ √2 γ ‖M‖₁ ‖M‖_∞.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.parallel import shared
from onnxlip.rounding import gamma, mul_up, up

__all__ = ["Grid", "Shifts", "Symbol", "autocorrelation", "roots", "shifts", "whole"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_ROOT2 = up(math.sqrt(2.0))
_BITS = 192
_PI = 3141592653589793238462643383279502884197169399375105820974944592307816406286208998  # · 10⁻⁸¹


@lru_cache(maxsize=64)
def roots(m: int) -> npt.NDArray[np.complex128]:
    """e^{iπj/m}, j = 0 … 2m − 1, each within 2⁻⁵³ of the truth, whatever the C library does.

    Taylor's series and repeated multiplication in fixed point with 192 bits: the series errs by
    less than 2⁻¹⁸⁰ and 2m products by 2m times that; Python rounds quotients of integers
    correctly, so both parts err by 2⁻⁵⁴.
    """
    one = 1 << _BITS
    angle = _PI * one // (10**81 * m)
    series = [0, 0, 0, 0]  # Σ angleᵏ/k! over k ≡ 0, 1, 2, 3 mod 4
    term, k = one, 0
    while term:
        series[k % 4] += term
        k += 1
        term = term * angle // (k * one)
    cos, sin = series[0] - series[2], series[1] - series[3]
    c, s = one, 0
    table = np.empty(2 * m, np.complex128)
    for j in range(2 * m):
        table[j] = complex(c / one, s / one)
        c, s = (c * cos - s * sin) >> _BITS, (s * cos + c * sin) >> _BITS
    table.setflags(write=False)
    return table


@dataclass(frozen=True)
class Grid:
    """Frequencies ω_a = 2π(j_a + θ_a)/M_a, `shape` the M_a, `twist` the 2θ_a ∈ {0, 1}."""

    shape: tuple[int, ...]
    twist: tuple[int, ...]

    def phases(self, sites: Ints, lags: Ints) -> tuple[Floats, Floats]:
        """cos(ω·τ) and sin(ω·τ), shape (sites, lags).

        ω·τ is Σ_a π m_a/M_a with integers m_a. Table entries err by u, and each of at most two
        complex products by √2 γ_2: u, 5u and 9u for d = 1, 2, 3, so 4du covers all.
        """
        value: npt.NDArray[np.complex128] | None = None
        for a, (m, twist) in enumerate(zip(self.shape, self.twist, strict=True)):
            turns = (2 * sites[:, a] + twist)[:, None] * lags[None, :, a]
            factor = roots(m)[turns % (2 * m)]
            value = factor if value is None else value * factor
        assert value is not None
        return np.ascontiguousarray(value.real), np.ascontiguousarray(value.imag)

    def half(self) -> Ints:
        """One site of every pair ±ω: at −ω the symbol is conjugate."""
        sites = np.indices(self.shape, dtype=np.int64).reshape(len(self.shape), -1).T
        mirrored = (-sites - self.twist) % self.shape
        places = np.cumprod((1, *self.shape[:0:-1]))[::-1]
        return np.ascontiguousarray(sites[sites @ places <= mirrored @ places])

    def canonical(self, site: tuple[int, ...]) -> tuple[int, ...]:
        """The representative of ±ω, after wrapping round."""
        here = tuple(j % m for j, m in zip(site, self.shape, strict=True))
        turned = zip(here, self.twist, self.shape, strict=True)
        return min(here, tuple((-j - t) % m for j, t, m in turned))


@dataclass(frozen=True, eq=False)
class Shifts:
    """A kernel by shifts: parts[q] is K_q, over all groups.

    places: (p, d) shifts, divided by their common step per axis; parts: (p, groups, c_out, c_in ·
    phases); steps: the common divisors; degrees: the largest shift per axis; phases: per axis, what
    a tap may read between two shifts.
    """

    places: Ints
    parts: Floats
    steps: tuple[int, ...]
    degrees: tuple[int, ...]
    phases: tuple[tuple[int, ...], ...]


def shifts(grouped: Floats, strides: tuple[int, ...], dilations: tuple[int, ...]) -> Shifts:
    """The polyphase form of a kernel (groups, c_out, c_in, *taps)."""
    g, c_out, c_in = grouped.shape[:3]
    taps = grouped.shape[3:]
    reads = [
        [divmod(d * t, s) for t in range(k)]
        for k, s, d in zip(taps, strides, dilations, strict=True)
    ]
    phases = tuple(tuple(sorted({f for _, f in axis})) for axis in reads)
    order = {f: j for j, f in enumerate(itertools.product(*phases))}
    found: dict[tuple[int, ...], Floats] = {}
    flat = grouped.reshape(g, c_out, c_in, -1)
    for j, tap in enumerate(itertools.product(*(range(k) for k in taps))):
        place = tuple(axis[t][0] for axis, t in zip(reads, tap, strict=True))
        phase = order[tuple(axis[t][1] for axis, t in zip(reads, tap, strict=True))]
        part = found.setdefault(place, np.zeros((g, c_out, c_in, len(order))))
        part[..., phase] = flat[..., j]
    places = np.array(list(found), dtype=np.int64).reshape(len(found), len(taps))
    parts = np.stack(list(found.values())).reshape(len(found), g, c_out, c_in * len(order))
    steps = tuple(int(np.gcd.reduce(column)) or 1 for column in places.T)
    places //= np.array(steps)
    return Shifts(places, parts, steps, tuple(int(column.max()) for column in places.T), phases)


@dataclass(frozen=True, eq=False)
class Symbol:
    """G(ω) of one group of channels; see the module.

    lags: (T, d); even, odd: (T, n(n + 1)/2), the lower triangles of R_τ + R_τᵀ and R_τ − R_τᵀ, that
    of lag 0 halved; error ≥ ‖Ĝ(ω) − G(ω)‖₂ and cap ≥ ‖G(ω)‖₂ for every ω.
    """

    lags: Ints
    even: Floats
    odd: Floats
    error: float
    cap: float

    @cached_property
    def order(self) -> int:
        """n."""
        return (math.isqrt(8 * self.even.shape[1] + 1) - 1) // 2

    @cached_property
    def _below(self) -> Ints:
        """Where a matrix as one row has its lower triangle."""
        i, j = np.tril_indices(self.order)
        return np.asarray(i * self.order + j, np.int64)

    def triangles(self, grid: Grid, sites: Ints) -> npt.NDArray[np.complex128]:
        """The lower triangles of Ĝ at these sites, (sites, n, n), zeros above."""
        cos, sin = grid.phases(sites, self.lags)
        packed = np.empty((len(sites), self.even.shape[1]), np.complex128)
        packed.real = cos @ self.even
        packed.imag = sin @ self.odd
        gram = np.zeros((len(sites), self.order**2), np.complex128)
        gram[:, self._below] = packed
        return gram.reshape(-1, self.order, self.order)

    def grams(self, grid: Grid, sites: Ints) -> npt.NDArray[np.complex128]:
        """Ĝ at these sites, exactly Hermitian."""
        return whole(self.triangles(grid, sites))

    def estimates(self, grid: Grid, sites: Ints) -> npt.NDArray[np.complex64]:
        """Ĝ/unit² in single precision, for searches."""
        cos, sin = (x.astype(np.float32) for x in grid.phases(sites, self.lags))
        even, odd = self._singles
        gram = np.empty((len(sites), self.order, self.order), np.complex64)
        gram.real = (cos @ even).reshape(gram.shape)
        gram.imag = (sin @ odd).reshape(gram.shape)
        return gram

    @cached_property
    def unit(self) -> float:
        """A power of two near √cap: Ĝ/unit² is at most 1, as single precision has a short range."""
        return 2.0 ** (math.frexp(self.cap)[1] // 2 + 1)

    def hold(self) -> None:
        """Make what `estimates` needs: threads that ask for it at once would each make it."""
        self._singles  # noqa: B018

    def let_go(self) -> None:
        """Drop what only estimates need; it is made again when asked for."""
        self.__dict__.pop("_singles", None)

    @cached_property
    def _singles(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Both as whole matrices: to turn every Gram round would take longer than all else."""
        found = []
        for triangle, sign in ((self.even, 1), (self.odd, -1)):
            full = np.empty((len(triangle), self.order**2), np.float32)
            for row, packed in zip(full, triangle, strict=True):  # never a copy of all
                row[self._below] = packed * self.unit**-2
            above = self._below % self.order * self.order + self._below // self.order
            full[:, above] = sign * full[:, self._below]
            found.append(full)
        return found[0], found[1]


def whole(triangles: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Hermitian matrices from their lower triangles (b, n, n), in place."""
    i, j = np.tril_indices(triangles.shape[1], -1)
    triangles[:, j, i] = triangles[:, i, j].conj()
    return triangles


def autocorrelation(places: Ints, parts: Floats) -> Symbol:
    """The symbol of one group: parts (p, c_out, c_in · phases) at shifts `places` (p, d)."""
    p, m, k = parts.shape
    d = places.shape[1]
    if m > k:
        parts, m, k = parts.transpose(0, 2, 1), k, m
    pairs: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for i, j in itertools.product(range(p), range(p)):
        lag = tuple(int(a) for a in places[i] - places[j])
        if lag >= (0,) * d:
            pairs.setdefault(lag, []).append((i, j))
    lags = np.array(list(pairs), dtype=np.int64).reshape(len(pairs), d)
    below = np.tril_indices(m)
    even, odd = np.empty((2, len(pairs), len(below[0])))

    def at(t: int) -> None:
        correlation = np.zeros((m, m))
        for i, j in members[t]:
            correlation += parts[i] @ parts[j].T
        if not any(lags[t]):
            correlation *= 0.5
        even[t] = (correlation + correlation.T)[below]
        odd[t] = (correlation - correlation.T)[below]

    members = list(pairs.values())
    for _ in shared(at, range(len(members))):
        pass
    size = np.abs(parts).sum(axis=0)
    norms = float(size.sum(axis=0).max()), float(size.sum(axis=1).max())
    cap = mul_up(*norms, up(1.0 + gamma(2 * p + 2 * m + 2 * k)))
    terms = k * p + 4 * d + len(pairs) + 1
    error = mul_up(_ROOT2, gamma(terms), cap)
    return Symbol(lags, even, odd, error, cap)
