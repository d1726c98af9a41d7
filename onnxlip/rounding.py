"""Directed rounding: the only place where IEEE arithmetic is turned into proofs.

One floating-point operation is correctly rounded, so its true result lies within one
neighbour of the computed one: `up` and `down` step to that neighbour. Sums of many terms use
Higham's constant γ_k = k u/(1 − k u), u = 2⁻⁵³ (Accuracy and Stability of Numerical
Algorithms, 2nd ed., Lemma 3.1): for any order of summation, with or without fused
multiply-add, |fl(xᵀy) − xᵀy| ≤ γ_k |x|ᵀ|y| when there are k products.

Underflow: a rounding below the normal range errs by at most 2⁻¹⁰⁷⁵ absolutely instead. `TINY`
is added per operation where it could matter; operands are scaled near 1 beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

UNIT = 2.0**-53
TINY = 2.0**-1022

__all__ = [
    "TINY",
    "UNIT",
    "add_up",
    "div_up",
    "down",
    "gamma",
    "mul_up",
    "norm_up",
    "sqrt_up",
    "up",
]


def up(x: float) -> float:
    """Smallest float64 above x: at least the true result that was rounded to x."""
    return math.nextafter(x, math.inf)


def down(x: float) -> float:
    """Largest float64 below x, at least 0 for x ≥ 0 (norms are never negative)."""
    return max(math.nextafter(x, -math.inf), 0.0) if x >= 0 else math.nextafter(x, -math.inf)


def gamma(k: float) -> float:
    """γ_k, rounded up; infinite where k·u ≥ 1/2, where the theory says nothing useful."""
    t = k * UNIT
    return math.inf if t >= 0.5 else up(up(t) / (1.0 - 2 * t)) if k else 0.0


def mul_up(*factors: float) -> float:
    """Upper bound of a product of nonnegative factors; 0 · ∞ = 0, as for a zero operator."""
    if any(f == 0 for f in factors):
        return 0.0
    product = factors[0] if factors else 1.0
    for f in factors[1:]:
        rounded = product * f
        product = rounded if _is_exact(product, f, rounded) else up(rounded)
    return product


def _is_exact(a: float, b: float, product: float) -> bool:
    """Whether a · b was not rounded."""
    if a == 1 or b == 1 or not math.isfinite(product):
        return True
    return Fraction(a) * Fraction(b) == Fraction(product)


def add_up(*terms: float) -> float:
    """Upper bound of a sum of nonnegative terms; what is not rounded stays exact."""
    if not all(map(math.isfinite, terms)):
        return math.inf
    total = math.fsum(terms)  # the true sum, rounded once
    if not math.isfinite(total):
        return math.inf
    return total if math.fsum((*terms, -total)) == 0 else up(total)


def div_up(a: float, b: float) -> float:
    """Upper bound of a / b for a ≥ 0, b > 0."""
    return 0.0 if a == 0 else a if b == 1 else up(a / b)


def sqrt_up(x: float) -> float:
    """Upper bound of √x; exact squares stay exact."""
    root = math.sqrt(x)
    return root if math.isinf(x) or Fraction(root) ** 2 == Fraction(x) else up(root)


def norm_up(values: Iterable[float], p: float) -> float:
    """Upper bound of the p-norm (p ∈ {1, 2, ∞}) of nonnegative numbers."""
    v = [float(x) for x in values]
    if not v or max(v) == 0:
        return 0.0
    if p == math.inf or len(v) == 1:
        return max(v)
    if p == 1:
        return add_up(*v)
    top = max(v)
    if not math.isfinite(top):
        return math.inf
    scale = 2.0 ** (math.frexp(top)[1] - 1)  # a power of two: dividing by it is exact
    return mul_up(scale, sqrt_up(add_up(*(mul_up(x / scale, x / scale) for x in v))))
