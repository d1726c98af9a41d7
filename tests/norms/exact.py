"""Matrices of integers times a power of two, and comparisons of their norms without rounding.

float64 weights are such numbers, and so are products and sums of them: the truth about a composed
map is then an integer matrix, and whether its norm exceeds a float64 number can be decided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from .oracle import definiteness

Array = npt.NDArray[Any]

_FAR = 1e-12  # float64 SVDs of matrices as small as these are good to 1e-14


@dataclass(frozen=True, eq=False)
class Exact:
    """ints · 2^exponent, ints an array of Python's integers."""

    ints: Array
    exponent: int = 0

    @staticmethod
    def of(values: Array) -> Exact:
        """The same numbers, none rounded."""
        fractions = [Fraction(float(x)) for x in values.reshape(-1)]
        bits = max((f.denominator.bit_length() - 1 for f in fractions), default=0)
        ints = np.array([int(f * (1 << bits)) for f in fractions], object)
        spare = min((_zeros(int(i)) for i in ints if i), default=0)
        return Exact((ints // (1 << spare)).reshape(values.shape), spare - bits)

    @property
    def T(self) -> Exact:  # noqa: N802 (as in numpy)
        return Exact(self.ints.T, self.exponent)

    def __matmul__(self, other: Exact) -> Exact:
        return Exact(self.ints.dot(other.ints), self.exponent + other.exponent)

    def __add__(self, other: Exact) -> Exact:
        low = min(self.exponent, other.exponent)
        a, b = (x.ints * (1 << (x.exponent - low)) for x in (self, other))
        return Exact(a + b, low)

    def moved(self, ulps: float, signs: Array) -> Exact:
        """Every entry times 1 ± ulps · 2⁻⁵³."""
        assert ulps == int(ulps)
        steps = (signs > 0).astype(object) * 2 - 1
        return Exact(self.ints * ((1 << 53) + int(ulps) * steps), self.exponent - 53)

    def rounded(self) -> tuple[Array, int]:
        """(m, e): m · 2^e in float64, the largest entry of m near 1."""
        top = max((abs(int(i)).bit_length() for i in self.ints.reshape(-1)), default=0)
        scale = 1 << top
        near = [int(i) / scale for i in self.ints.reshape(-1)]
        return np.array(near, np.float64).reshape(self.ints.shape), self.exponent + top

    def singular(self) -> tuple[Array, Fraction, Array]:
        """(u, σ, v) of the top singular value, as float64 knows them."""
        near, e = self.rounded()
        u, s, vt = np.linalg.svd(near, full_matrices=False)
        return u[:, 0], Fraction(float(s[0])) * Fraction(2) ** e, vt[0]

    def norm_is_at_least(self, value: float) -> bool:
        """value ≤ ‖A‖₂."""
        if value <= 0:
            return True
        if not self.ints.size:
            return False
        u, near, _ = self.singular()
        if Fraction(value) <= near * (1 - Fraction(_FAR)):
            return True
        # A quotient at integers near the top singular vector: off by the square of their error.
        w = np.array([int(x) for x in np.round(u * 2.0**52)], object)
        image = self.ints.T.dot(w)
        ratio = Fraction(int(image.dot(image)), int(w.dot(w))) * Fraction(4) ** self.exponent
        return Fraction(value) ** 2 <= ratio or not _is_definite(self._shifted(value))

    def norm_is_at_most(self, value: float) -> bool:
        """‖A‖₂ ≤ value."""
        if math.isinf(value) or not self.ints.size:
            return value >= 0
        if Fraction(value) >= self.singular()[1] * (1 + Fraction(_FAR)) > 0:
            return True
        shifted = self._shifted(value)
        if _is_definite(shifted):
            return True
        return definiteness([[Fraction(int(x)) for x in row] for row in shifted]) >= 0

    def _shifted(self, value: float) -> Array:
        """value² I − AAᵀ times a power of four, on the smaller side."""
        a = self.ints if self.ints.shape[0] <= self.ints.shape[1] else self.ints.T
        ratio = Fraction(value) / Fraction(2) ** self.exponent
        bits = ratio.denominator.bit_length() - 1
        whole = int(ratio * (1 << bits))
        gram = -(a.dot(a.T) * (1 << (2 * bits)))
        gram[np.diag_indices(len(gram))] += whole * whole
        return np.asarray(gram)

    def sums(self, p: float) -> Fraction:
        """‖A‖_p, p = 1 or ∞."""
        totals = np.abs(self.ints).sum(axis=0 if p == 1 else 1)
        return Fraction(int(max(totals, default=0))) * Fraction(2) ** self.exponent


def _zeros(i: int) -> int:
    return (i & -i).bit_length() - 1


def _is_definite(a: Array) -> bool:
    """Whether an integer symmetric matrix is positive definite: the signs of its leading minors,
    by Bareiss' elimination (Math. Comp. 22, 1968), whose divisions leave no remainder."""
    a, previous = a.copy(), 1
    for k in range(len(a)):
        pivot = a[k, k]
        if pivot <= 0:
            return False
        rest = a[k + 1 :, k]
        a[k + 1 :, k + 1 :] = (a[k + 1 :, k + 1 :] * pivot - np.outer(rest, rest)) // previous
        previous = pivot
    return True
