"""A certificate of the pair problem from multipliers, rounding included.

The theorem (theory: "Lemma (diagonal multiplier)"; LipSDP-Neuron of Fazlyab et al. 2019 for one
hidden layer, in Woodbury's form). A = outer (p, n), B = inner (n, q), slopes d_j ∈ [c_j − r_j,
c_j + r_j], U = {r > 0}, T ≻ 0 diagonal on U, E = A_U T^{−½}, F = (T^½ r B)_U, M = A diag(c) B,

    H(ρ) = [[I − EEᵀ, M], [Mᵀ, ρI − FᵀF]] ⪰ −εI   ⇒   max_d ‖A diag(d) B‖² ≤ (1 + ε)(ρ + ε).

Proof, ε = 0. Let x be a vector, z = Bx, w_j = (d_j − c_j) z_j, so that A diag(d) B x = Mx + A_U w
(w_j = 0 off U: a fixed slope needs no multiplier; it is the limit 1/T_j → 0, r_j²T_j → 0).
As w_j² ≤ r_j² z_j², the vector e = T^½ w has ‖e‖ ≤ ‖Fx‖. For every y

    2yᵀ(Mx + Ee) ≤ 2yᵀMx + yᵀEEᵀy + eᵀe ≤ 2yᵀMx + yᵀEEᵀy + ‖Fx‖²,

and H(ρ) ⪰ 0 at (−y, x) says 2yᵀMx ≤ yᵀ(I − EEᵀ)y + xᵀ(ρI − FᵀF)x. Together 2yᵀ(A diag(d) B x)
≤ ‖y‖² + ρ‖x‖²; y = A diag(d) B x gives ‖A diag(d) B x‖² ≤ ρ‖x‖².
With ε: divide the first block of rows and columns of H + εI by √(1 + ε), and multiply the second
by it: that is H for T (1 + ε) and (1 + ε)(ρ + ε). So an error costs a relative ε of the bound, and
no multiplier need stay away from where I − EEᵀ is singular.

Rounding, u = 2⁻⁵³. The multipliers are the squares of the given floats s_j: T is exact. The slopes
are widened: c_j any float (α_j itself where α_j = β_j), r_j ≥ max(β_j − c_j, c_j − α_j).
‖|X||Y|ᵀ‖₂ ≤ ‖X‖_F‖Y‖_F is used throughout, and γ_j(1 + γ_k) ≤ γ_{j+k} (Higham, Lemma 3.3).

* E: one division, Ê = E(1 + δ), |δ| ≤ u; a product of two entries has two roundings more than
  that of the sum of n: |fl(ÊÊᵀ) − EEᵀ| ≤ γ_{n+2}|E||E|ᵀ, and ‖E‖_F² ≤ (1 + γ_2)‖Ê‖_F².
  So ‖·‖₂ ≤ γ_{n+4}‖Ê‖_F².
* F: two products each: γ_{n+4}|F|ᵀ|F|, ‖F‖_F² ≤ (1 + γ_4)‖F̂‖_F²: ‖·‖₂ ≤ γ_{n+8}‖F̂‖_F².
* M: |fl((A diag c) B) − M| ≤ γ_{n+1} Σ_j |c_j||a_j||b_j|ᵀ entrywise, a_j and b_j column and row j:
  ‖·‖₂ ≤ γ_{n+1} Σ_j |c_j|‖a_j‖‖b_j‖, which no rescaling of neurons changes.
* The blocks have ‖[[X, Y], [Yᵀ, Z]]‖₂ ≤ max(‖X‖, ‖Z‖) + ‖Y‖.
* The diagonal of the computed H is rounded once more, and one Cholesky factorisation proves it
  positive definite but for `definite.cholesky_margin`.

Underflow: matrices and slopes come scaled (`scaling`), and inner is scaled again by 2^−e, |e| ≤ 40,
so that ρ ≈ 1. If the factorisation succeeds, the entries of E and F are at most 2 in modulus, so
each of at most 2⁵⁰ operations errs by less than 2⁹⁰ · 2⁻¹⁰²²: in all less than `_LOST`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxlip.bounds.pairs.problem import Floats, Pair
from onnxlip.bounds.pairs.scaling import balanced
from onnxlip.norms.definite import cholesky_margin
from onnxlip.norms.enclosure import euclid
from onnxlip.norms.krylov import ritz
from onnxlip.norms.lapack import potrf, trsm
from onnxlip.rounding import add_up, gamma, mul_up, sqrt_up, up

__all__ = ["intervals", "largest_eigenvalue", "proved", "proved_scaled", "slopes", "spread"]

_LOST = 2.0**-800
_WIDEST = 40  # binary exponents of √ρ in the scaled pair's units
_SLACKS = tuple(2.0**e for e in range(-46, -1, 4))  # how far ρ lies above the guess, relatively
_DIRECT = 200  # up to this order eigenvalues come from an eigenvalue solver


def proved(pair: Pair, weights: Floats) -> float:
    """A theorem: max_d ‖outer diag(d) inner‖₂ ≤ the value, by the multipliers T = weights².

    weights: (n,), positive (what stands at fixed slopes is not read). Infinite where the
    multipliers prove nothing: where I − EEᵀ is not positive definite, or a weight is not positive
    and finite. Raises ValueError where weights are not (n,) or the pair is not finite.
    """
    weights = np.asarray(weights, np.float64)
    if weights.shape != (pair.size,):
        raise ValueError(f"{pair.size} weights are needed, not an array of shape {weights.shape}")
    scaled = balanced(pair)
    return scaled.upper(proved_scaled(scaled.pair, scaled.weights_here(weights)))


def proved_scaled(pair: Pair, weights: Floats) -> float:
    """`proved`, for a pair that comes scaled (`scaling.balanced`)."""
    if 0 in pair.outer.shape or 0 in pair.inner.shape:
        return 0.0
    parts = _parts(pair, weights)
    if parts is None:
        return math.inf
    guess = _guess(parts)
    if guess is None or not 0 < guess < math.inf:
        return math.inf
    exponent = round(math.log2(guess) / 2)
    if abs(exponent) > _WIDEST:
        return math.inf
    small = parts.scaled(exponent)
    for slack in _SLACKS:
        rho = math.ldexp(guess, -2 * exponent) * (1.0 + slack)
        error = _proved_error(small, rho)
        if error is not None:
            square = mul_up(add_up(1.0, error), add_up(rho, error))
            return math.ldexp(sqrt_up(square), exponent)
    return math.inf


@dataclass(frozen=True, eq=False)
class _Parts:
    """Of H as computed: first = I − EEᵀ (p, p), mixed = M (p, q), last = FᵀF (q, q); and upper
    bounds of the 2-norms of their errors."""

    first: Floats
    mixed: Floats
    last: Floats
    first_error: float
    mixed_error: float
    last_error: float

    def scaled(self, exponent: int) -> _Parts:
        """With inner divided by 2^exponent."""
        return _Parts(
            self.first,
            np.ldexp(self.mixed, -exponent),
            np.ldexp(self.last, -2 * exponent),
            self.first_error,
            math.ldexp(self.mixed_error, -exponent),
            math.ldexp(self.last_error, -2 * exponent),
        )


def slopes(pair: Pair) -> tuple[Floats, Floats]:
    """(c, r), both (n,): [c − r, c + r] contains [α, β], and r = 0 where α = β."""
    return intervals(pair.alpha, pair.beta)


def intervals(alpha: Floats, beta: Floats) -> tuple[Floats, Floats]:
    """The same of slope intervals [α, β]."""
    centre = np.where(alpha < beta, 0.5 * alpha + 0.5 * beta, alpha)
    above, below = _difference_up(beta, centre), _difference_up(centre, alpha)
    return centre, np.maximum(above, below)


def _difference_up(a: Floats, b: Floats) -> Floats:
    """At least a − b. Knuth's TwoSum tells whether the rounded difference is below the true one."""
    d = a - b
    z = d - a
    error = (a - (d - z)) - (b + z)
    return np.where(error > 0, np.nextafter(d, math.inf), d)


def _parts(pair: Pair, weights: Floats) -> _Parts | None:
    centre, radius = slopes(pair)
    free = radius > 0
    s, n = weights[free], pair.size
    if not (np.all(s > 0) and np.all(s < math.inf)):
        return None
    with np.errstate(all="ignore"):
        e = pair.outer[:, free] / s
        f = (radius[free] * s)[:, None] * pair.inner[free]
        first, last = -(e @ e.T), f.T @ f
    mixed = (pair.outer * centre) @ pair.inner
    np.einsum("ii->i", first)[...] += 1.0
    e_size, f_size = euclid(e).upper, euclid(f).upper
    return _Parts(
        first,
        mixed,
        last,
        mul_up(gamma(n + 4), e_size, e_size),
        mul_up(gamma(n + 1), spread(pair, centre)),
        mul_up(gamma(n + 8), f_size, f_size),
    )


def spread(pair: Pair, slope: Floats) -> float:
    """An upper bound of Σ_j |slope_j| ‖a_j‖ ‖b_j‖, which is at least ‖|A| diag|slope| |B|‖₂."""
    terms = np.abs(slope) * _lengths(pair.outer.T) * _lengths(pair.inner)
    roundings = pair.outer.shape[0] + pair.inner.shape[1] + pair.size + 16
    return add_up(mul_up(float(terms.sum()), up(1.0 + gamma(roundings))), _LOST)


def _lengths(rows: Floats) -> Floats:
    """The Euclidean norms of rows that are not 0; each is divided by its largest entry first."""
    top = np.abs(rows).max(axis=1, initial=0.0)
    unit = rows / np.where(top > 0, top, 1.0)[:, None]
    return np.asarray(top * np.sqrt(np.einsum("ij,ij->i", unit, unit)))


def largest_eigenvalue(matrix: Floats) -> float:
    """λmax of a symmetric matrix, an estimate. Raises LinAlgError where that fails."""
    n = len(matrix)
    if n <= _DIRECT:
        return float(np.linalg.eigvalsh(matrix)[-1])
    start = np.random.default_rng(n).standard_normal(n)
    return ritz(lambda x: matrix @ x, start, 300, 1e-12)[0]


def _guess(parts: _Parts) -> float | None:
    """λmax(FᵀF + Mᵀ(I − EEᵀ)⁻¹M): the least ρ, as an estimate. None where I − EEᵀ fails."""
    factor, solved = np.array(parts.first, order="F"), np.array(parts.mixed, order="F")
    if not (np.isfinite(factor).all() and np.isfinite(parts.last).all() and potrf(factor)):
        return None
    trsm(factor, solved, "L", "T")
    try:
        return largest_eigenvalue(parts.last + solved.T @ solved)
    except np.linalg.LinAlgError:
        return None


def _proved_error(parts: _Parts, rho: float) -> float | None:
    """ε with H(ρ) ⪰ −εI, or None where the computed H is not (numerically) positive definite."""
    p, q = parts.mixed.shape
    h = np.zeros((p + q, p + q), order="F")  # the upper triangle is read
    h[:p, :p], h[:p, p:], h[p:, p:] = parts.first, parts.mixed, -parts.last
    diagonal = np.einsum("ii->i", h)
    diagonal[p:] += rho
    if not np.all(diagonal > 0):  # also refuses NaN
        return None
    trace, largest = float(diagonal.sum()), float(diagonal.max())
    if not potrf(h):
        return None
    if not np.all((diagonal > 0) & (diagonal < math.inf)):
        return None
    margin = cholesky_margin(p + q, trace, largest, is_complex=False)
    blocks = max(parts.first_error, parts.last_error)
    error = add_up(margin, blocks, parts.mixed_error, _LOST)
    return error if error < math.inf else None
