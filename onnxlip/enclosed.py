"""Matrices and norms with proved errors: what `onnxlip.verify` computes with.

Scalars are exact fractions; u = 2⁻⁵³, γ_k = ku/(1 − ku) (Higham, Accuracy and Stability, 2nd ed.,
Lemma 3.1: sums of k products in any order, with or without fused multiply-add). `gamma(k)` is at
least γ_k/(1 − γ_k).

Matrices: ‖A − Â‖₂ ≤ e and ‖|Â|‖₂ ≤ size, from sums of |Â|: the Frobenius norm, or √(‖Â‖₁‖Â‖_∞).
Products: e = (size_A + e_A) e_B + e_A size_B + γ_k size_A size_B, k the longest sum. A linear map's
own e is that of its products with unit vectors, γ_terms ‖|A|‖, and its coefficients' ulps.

Cholesky of a computed symmetric M (order N) that runs to completion has R̂ᵀR̂ = M + E: an entry is a
sum of at most N products and a division (maybe by a reciprocal) or a root, so |E| ≤ γ_{N+3} |R̂|ᵀ|R̂|
(Higham, Theorem 10.3; Rump 2006); column i has ‖r̂_i‖² ≤ m_ii/(1 − γ_{N+3}), hence

    |E_ij| ≤ γ_{N+3}/(1 − γ_{N+3}) √(m_ii m_jj),   vᵀMv ≥ −γ/(1 − γ) (Σ_s √trace_s ‖v_s‖)²

for v made of segments s. Norms: ‖Â‖² ≤ s² + γ_{n+3} trace + γ_{k+2}(s² + size²) by Cholesky of
s²I − ÂÂᵀ (n × n, sums of k products and a diagonal), where size alone is not small enough.

Underflow: an operation errs by at most 2⁻¹⁰²² on top; `LOST` covers 2⁵⁰ of them and more, each
times the next factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from onnxlip.errors import OnnxlipError
from onnxlip.linear import LinearMap, Product, Sum, Transposed
from onnxlip.lowering import Lowerings
from onnxlip.operators import Operator

__all__ = [
    "LOST",
    "ORDER",
    "Enclosed",
    "Floats",
    "VerificationError",
    "array",
    "factored",
    "float_up",
    "gamma",
    "proved_norm",
    "root",
    "trace",
    "written",
]

Floats = npt.NDArray[np.float64]

ORDER = 10_000  # of the largest matrix that is factored (800 MB)
LOST = Fraction(1, 2**960)
_ENTRIES = 1 << 26  # stored entries of a map
_BATCH = 1 << 22  # entries of a map written out at a time
_ROOM = 2.0**-40  # so that a claim that is attained is proved as well


class VerificationError(OnnxlipError):
    """The certificate proves nothing, or less than it says; the message tells why."""

    exit_code = 1


def gamma(k: int) -> Fraction:
    """At least γ_k/(1 − γ_k) = ku/(1 − 2ku), for k < 2³¹."""
    return Fraction(k, 2**53) * (1 + Fraction(1, 2**20))


def root(x: Fraction) -> Fraction:
    """At least √x, by less than 2⁻¹²⁸ relative to 1/denominator."""
    wide = x.numerator * x.denominator << 256
    return Fraction(math.isqrt(wide) + 1, x.denominator << 128) if x else x


def float_up(x: Fraction) -> float:
    """The least float64 that is at least x ≥ 0."""
    try:
        near = float(x)
    except OverflowError:
        return math.inf
    return near if Fraction(near) >= x else math.nextafter(near, math.inf)


@dataclass(frozen=True, eq=False)
class Enclosed:
    """‖A − matrix‖₂ ≤ error (1. above); matrix: dense or sparse."""

    matrix: Any
    error: Fraction = Fraction(0)

    @cached_property
    def size(self) -> Fraction:
        """At least the 2-norm of the matrix of moduli."""
        sums, longest, squares, count = self._sums
        if not math.isfinite(squares):
            raise VerificationError("a product of maps overflows")
        mixed = root(Fraction(sums[0]) * Fraction(sums[1])) * (1 + gamma(longest + 1))
        return min(mixed, root(Fraction(squares)) * (1 + gamma(count + 1))) + LOST

    @property
    def terms(self) -> int:
        """Of the longest sum in a product with a vector."""
        return self._sums[1]

    @cached_property
    def _sums(self) -> tuple[tuple[float, float], int, float, int]:
        a = abs(self.matrix)
        sums = [float(np.max(a.sum(axis=k), initial=0.0)) for k in (0, 1)]
        counts = [int(np.max((a != 0).sum(axis=k), initial=0)) for k in (0, 1)]
        return (sums[0], sums[1]), max(counts), float((a * a).sum()), int((a != 0).sum())

    def __matmul__(self, inner: Enclosed) -> Enclosed:
        error = (self.size + self.error) * inner.error + self.error * inner.size
        error += gamma(self.terms) * self.size * inner.size + LOST
        return Enclosed(_slim(self.matrix @ inner.matrix), error)

    def __add__(self, other: Enclosed) -> Enclosed:
        error = self.error + other.error + gamma(1) * (self.size + other.size)
        return Enclosed(_slim(self.matrix + other.matrix), error)

    @property
    def transposed(self) -> Enclosed:
        """Aᵀ."""
        return Enclosed(self.matrix.T, self.error)


def _is_sparse(matrix: Any) -> bool:
    return bool(sp.issparse(matrix))


def _slim(matrix: Any) -> Any:
    """Sparse up to a fifth of all entries."""
    if _is_sparse(matrix):
        full = matrix.nnz > 0.2 * math.prod(matrix.shape)
        return matrix.toarray() if full else sp.csr_array(matrix)
    return sp.csr_array(matrix) if np.count_nonzero(matrix) <= 0.2 * matrix.size else matrix


def array(matrix: Any) -> Floats:
    """Dense, whatever it is."""
    return np.asarray(matrix.toarray() if _is_sparse(matrix) else matrix)


def _growth(a: LinearMap) -> Fraction:
    """What a product with a map may magnify an underflow by."""
    if isinstance(a, Transposed):
        return _growth(a.of)
    if isinstance(a, Product):
        return math.prod((_growth(f) for f in a.factors), start=Fraction(1))
    if isinstance(a, Sum):
        return sum((_growth(s) for s in a.summands), start=Fraction(1))
    return 1 + Fraction(a.cap())


def written(a: LinearMap, lowerings: Lowerings, name: str) -> Enclosed:
    """The map's products with unit vectors, from its shorter side."""
    if not math.isfinite(a.cap()):
        raise VerificationError(f"block '{name}' has a coefficient that is not finite")
    n = min(a.rows, a.columns)
    operator, step = Operator(a, lowerings, np.float64), max(1, _BATCH // (a.rows + a.columns))
    product = operator.matvec if a.columns == n else operator.rmatvec
    parts: list[Any] = []
    stored = 0
    for i in range(0, n, step):
        parts.append(_slim(product(np.eye(min(step, n - i), n, i))))
        stored += parts[-1].nnz if _is_sparse(parts[-1]) else parts[-1].size
        if stored > _ENTRIES or n > ORDER:
            raise VerificationError(f"block '{name}' is too large to be written out as a matrix")
    sparse = all(map(_is_sparse, parts))
    whole: Any = sp.vstack(parts, "csr") if sparse else np.concatenate([*map(array, parts)])
    error = Fraction(a.cap()) * (gamma(a.terms) + Fraction(1.000001 * a.ulps) / 2**53)
    error += LOST * a.terms * (a.rows + a.columns) * _growth(a)
    return Enclosed(whole.T if a.columns == n else whole, error)


def proved_norm(parts: Sequence[Enclosed], claim: float, name: str) -> Fraction:
    """‖[A_1 … A_m]‖₂, at most about the claim (≥ 0)."""
    error = sum((p.error for p in parts), Fraction(0))
    whole = parts[0].matrix
    if len(parts) > 1:
        whole = sp.csr_array(sp.hstack([sp.csr_array(p.matrix) for p in parts]))
    size = Enclosed(whole).size
    square = claim * claim * (1 + _ROOM)
    if size <= claim * (1 + Fraction(_ROOM)) + LOST * 4:
        return size + error
    a: Any = whole if whole.shape[0] <= whole.shape[1] else whole.T
    n, k = a.shape
    if n > ORDER:
        raise VerificationError(f"block '{name}' is too large for its norm to be proved")
    m = -array(a @ a.T)
    np.einsum("ii->i", m)[...] += square
    total = trace(m)
    if not factored(m):
        raise VerificationError(f"block '{name}' has a larger norm than {claim!r}")
    more = gamma(n + 3) * total + gamma(k + 2) * (Fraction(square) + size**2) + LOST
    return root(Fraction(square) + more) + error


def trace(m: Floats) -> Fraction:
    """At least the sum of a diagonal that Cholesky will find positive."""
    if not np.isfinite(m.diagonal()).all():
        raise VerificationError("a number is too large, or none")
    return sum((Fraction(abs(x)) for x in m.diagonal().tolist()), Fraction(0))


def factored(m: Floats) -> bool:
    """Whether Cholesky runs to completion; m's lower triangle is read, and m overwritten."""
    from scipy.linalg.lapack import dpotrf

    if not (np.isfinite(m.diagonal()).all() and (m.diagonal() > 0).all()):
        return False
    factor, info = dpotrf(m.T, overwrite_a=1, clean=0)
    pivots = factor.diagonal()  # a NaN that LAPACK let pass is in one of these
    return bool(info == 0 and np.isfinite(pivots).all() and (pivots > 0).all())
