"""Upper bounds of ‖A‖₂ that fail with probability at most δ, for any map: not certified bounds.

The random thing is the start. G is a vector of n independent standard normal numbers from a seeded
generator; the map must not have been chosen with regard to that seed. Lanczos on M = AᵀA from
q = G/‖G‖ gives, after k products, α_0 … α_{k−1}, β_0 … β_{k−1}, and with them the polynomials φ_0 …
φ_k that are orthonormal for μ = Σ_i (v_i·q)² δ(λ_i), (λ_i, v_i) the eigenpairs of M, λ_1 = ‖A‖₂².

Christoffel. Any polynomial p of degree ≤ k has μ({λ_1}) p(λ_1)² ≤ ∫ p² dμ, and the best p gives

    (v_1·q)² = μ({λ_1}) ≤ 1 / Σ_{j≤k} φ_j(λ_1)².

Start. v_1·G is standard normal whatever v_1 is, so P(|v_1·G| < t) ≤ t √(2/π) = δ with
t = δ √(π/2): with probability at least 1 − δ is (v_1·q)² ≥ t²/‖G‖² =: 1/ρ² (the event of
Kuczyński & Woźniakowski, SIAM J. Matrix Anal. 13 (1992), who bound λ_1 a priori from it). Beyond
the largest Ritz value ξ, above which no φ_j has a zero, Σφ_j² grows; hence

    λ_1 ≤ sup { x > ξ : Σ_{j≤k} φ_j(x)² ≤ ρ² }  with probability at least 1 − δ,

for all k at once, as the event is one of the start alone: k may be chosen as it goes.
No polynomial of degree ≤ k can do better from the same start.

Rounding. Everything runs in float64, with full reorthogonalisation, and what it did is measured.
Let Q hold the computed basis, ‖QQᵀ − I‖ ≤ ω, and M Q_k = Q T + F with T tridiagonal. F is
    made of the coefficients that reorthogonalisation took off beside α and β (known),
    of the products' errors, at most 2γ_terms cap² each (a theorem), and
    of the rounding of the sums, at most 2(k + 4)u ‖M‖ each.
With Q̂ = (QQᵀ)^{−½}Q, exactly orthonormal, F̂ = M Q̂_k − Q̂ T has ‖F̂‖ ≤ ‖F‖_F + 3ω(‖M‖ + ‖T‖), and
E = −F̂Q̂_kᵀ − Q̂_kF̂ᵀ + Q̂_kF̂ᵀQ̂_kQ̂_kᵀ is symmetric with (M + E)Q̂_k = Q̂ T: the computed numbers
are an exact run on M + E, and λ_1(M) ≤ λ_1(M + E) + 3‖F̂‖. This margin, some 10⁻¹² of ‖M‖, is added.
What stays a model and no theorem is that E, which depends on G through rounding errors, makes the
start no less normal: δ is held at 10⁻¹² or more, where t is still far above the rounding of q.

Union. The bounds of m blocks, each with δ_i, all hold with probability at least 1 − Σδ_i, whether
or not their starts are independent: `shared` splits one δ among blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onnxlip.errors import UsageError
from onnxlip.linear import Convolution, LinearMap, Matrix, Transposed
from onnxlip.norms.enclosure import euclid
from onnxlip.norms.krylov import is_outside, start_mass
from onnxlip.norms.structure import is_empty
from onnxlip.norms.workspace import Workspace, coefficient_error
from onnxlip.rounding import UNIT, add_up, down, gamma, mul_up, sqrt_up

__all__ = [
    "LEAST",
    "Probabilistic",
    "ProbabilisticBracket",
    "gaussian",
    "krylov_upper",
    "probabilistic_upper",
    "shared",
]

Floats = npt.NDArray[np.float64]

LEAST = 1e-12  # δ below this is not offered: the rounding of the start would no longer be small
_CHECK = 4  # products between two looks at the bound
_PRODUCTS = 400
_MEMORY = 1 << 28  # bytes that the basis may take


class Probabilistic(NamedTuple):
    """‖A‖₂ ≤ upper with probability at least 1 − δ, and the products AᵀA v that it took."""

    upper: float
    products: int


class ProbabilisticBracket(NamedTuple):
    """lower ≤ ‖A‖₂, proved, and ‖A‖₂ ≤ upper with probability at least 1 − delta."""

    lower: float
    upper: float
    delta: float
    lower_method: str
    products: int


def shared(delta: float, blocks: int) -> float:
    """δ of each of several blocks, so that all their bounds hold with probability ≥ 1 − delta."""
    return down(delta / max(1, blocks))


def gaussian(n: int, seed: int) -> Floats:
    """The start: n independent standard normal numbers."""
    return np.random.default_rng([seed, 0x6C616E63]).standard_normal(n)


def probabilistic_upper(
    a: LinearMap, work: Workspace, delta: float, tolerance: float = 1e-3
) -> Probabilistic:
    """An upper bound of ‖A‖₂ that fails with probability at most `delta`.

    It stops once the bound is within `tolerance` of the largest Ritz value's root, or after 400
    products, or where the basis would not fit in memory; the bound is sound wherever it stops.
    It is ∞ where nothing finite is known. Raises UsageError for a δ outside [1e-12, 1).
    """
    a = _plain(a)
    if not LEAST <= delta < 1:
        raise UsageError(f"--confidence {delta:g}: the probability of failure is in [1e-12, 1)")
    if is_empty(a):
        return Probabilistic(0.0, 0)
    cap = a.cap()
    if not math.isfinite(cap) or not work.fits(a):
        return Probabilistic(math.inf, 0)
    if cap < 1e-290:  # below, AᵀA/cap² has lost its digits; and it is nearly zero already
        return Probabilistic(cap, 0)
    operator = work.double(a)
    scale = 2.0 ** (math.frexp(cap)[1] - 1)  # M/scale² has norm ≤ 4, and this scaling is exact

    def product(x: Floats) -> Floats:
        y: Floats = operator.rmatvec(operator.matvec(x) / scale) / scale
        return y

    each = mul_up(2.01, gamma(a.terms + 2), 4.0)
    found = krylov_upper(product, gaussian(a.columns, work.seed), delta, tolerance, each)
    upper = add_up(mul_up(found.upper, scale), coefficient_error(a))
    return Probabilistic(min(upper, cap), found.products)


def _plain(a: LinearMap) -> LinearMap:
    """A smaller map of the same norm, where Kronecker factors of identity can be left out."""
    if isinstance(a, Transposed):
        return _plain(a.of)
    if isinstance(a, Convolution) and a.batch > 1:
        return replace(a, batch=1)
    if isinstance(a, Matrix) and a.outer * a.inner > 1:
        return replace(a, outer=1, inner=1)
    return a


def krylov_upper(
    product: Callable[[Floats], Floats],
    start: Floats,
    delta: float,
    tolerance: float,
    error: float = 0.0,
) -> Probabilistic:
    """√ of the bound for any M ⪰ 0 given by products that err by at most `error` each (‖q‖ = 1)."""
    n = start.size
    length = euclid(start)
    limit = start_mass(length.upper, delta) * (1 + 1e-12)
    most = max(2, min(n, _PRODUCTS, _MEMORY // (8 * n) - 1))
    basis = np.empty((most, n))
    basis[0] = start / length.upper
    alpha: list[float] = []
    beta: list[float] = []
    taken = 0.0  # squares of the coefficients beside the tridiagonal
    for k in range(1, most + 1):
        w = product(basis[k - 1])
        beside = np.zeros(k)
        for _ in range(2):
            overlap = basis[:k] @ w
            w = w - overlap @ basis[:k]
            beside += overlap
        alpha.append(float(beside[-1]))
        beta.append(float(np.linalg.norm(w)))
        beside[-1] = 0.0
        if k > 1:
            beside[-2] -= beta[-2]
        taken += float(beside @ beside)
        top = _largest(alpha, beta)
        done = beta[-1] <= 1e-13 * max(top, 1e-300) or k == n
        if done or k % _CHECK == 0 or k == most:
            rest = beta[-1] if done else 0.0  # the space is closed but for this
            margin = _margin(basis[:k], alpha, beta, math.sqrt(taken) + rest, error)
            edge = top if done else _edge(alpha, beta, top, limit)
            upper = sqrt_up(add_up(edge, margin))
            if done or k == most or upper <= (1 + tolerance) * math.sqrt(max(top, 0.0)):
                return Probabilistic(upper, k)
        if k < most:
            basis[k] = w / beta[-1]
    raise AssertionError("unreachable")


def _largest(alpha: list[float], beta: list[float]) -> float:
    off = np.asarray(beta[:-1])
    tridiagonal: npt.NDArray[Any] = np.diag(alpha) + np.diag(off, 1) + np.diag(off, -1)
    return float(np.linalg.eigvalsh(tridiagonal)[-1])


def _edge(alpha: list[float], beta: list[float], top: float, limit: float) -> float:
    """The least x found above `top` with Σφ_j(x)² > limit.

    Rounding in the recurrence is that of α and β by a few units in the last place; `_margin`
    counts it.
    """
    inner, outer, step = top, top * (1 + 1e-9), 1e-9
    while not is_outside(alpha, beta, outer, limit):
        inner, step = outer, 2 * step
        outer = top * (1 + step)
    for _ in range(60):
        middle = 0.5 * (inner + outer)
        if outer - inner <= 1e-10 * outer or not inner < middle < outer:
            break
        if is_outside(alpha, beta, middle, limit):
            outer = middle
        else:
            inner = middle
    return outer


def _margin(
    basis: Floats, alpha: list[float], beta: list[float], taken: float, error: float
) -> float:
    """3‖F̂‖ of the module's docstring, and the rounding of the polynomials and of ξ."""
    k, n = basis.shape
    gram = basis @ basis.T
    gram[np.diag_indices(k)] -= 1.0
    lost = float(np.linalg.norm(gram)) + gamma(n) * k
    size = 2 * (max(map(abs, alpha)) + max(beta))  # ≥ ‖T‖, and ‖M‖ where that has shown itself
    columns = error + 2 * (k + 4) * UNIT * size + gamma(n) * size
    return float(3.0 * (taken + math.sqrt(k) * columns + 6.0 * lost * size) + 100 * k * UNIT * size)
