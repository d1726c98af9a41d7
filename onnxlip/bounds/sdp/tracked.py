"""Matrices that carry how far they may be from the true ones, in the 2-norm.

For P within e of P̂ and A within ε of Â, the product that is computed is off by

    ‖fl(P̂Â) − PA‖ ≤ ‖fl(P̂Â) − P̂Â‖ + ‖P̂(Â − A)‖ + ‖(P̂ − P)A‖
                  ≤ γ_k ‖P̂‖_F ‖Â‖_F + ‖P̂‖_F ε + e ‖A‖,

since |fl(P̂Â) − P̂Â| ≤ γ_k |P̂||Â| entrywise, k being the most products that are summed in an entry
(Higham, Section 3.5), and ‖|P̂||Â|‖₂ ≤ ‖P̂‖_F‖Â‖_F. Where k = 1 and one factor has no other entries
than 0 and ±1, nothing is rounded. A sum rounds every entry once: u‖fl(X + Y)‖_F.

Underflow: fewer than 2⁵⁰ operations per matrix err by 2⁻¹⁰²² each: `LOST` covers them. What is not
finite has an infinite error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from onnxlip.bounds.sdp.system import Floats, Matrix
from onnxlip.norms.dense import dense_norm
from onnxlip.norms.enclosure import euclid
from onnxlip.rounding import UNIT, add_up, gamma, mul_up, norm_up

__all__ = ["LOST", "Tracked", "beside", "is_monomial", "matrix_norm"]

LOST = 2.0**-900
_SPARSE = 0.2  # share of entries up to which a matrix is kept sparse


@dataclass(frozen=True, eq=False)
class Tracked:
    """‖P − matrix‖₂ ≤ error, of the true P."""

    matrix: Matrix
    error: float = 0.0

    @cached_property
    def size(self) -> float:
        """At least ‖matrix‖_F."""
        return euclid(_values(self.matrix)).upper

    def times(self, a: Tracked, norm: float) -> Tracked:
        """PA; norm ≥ ‖A‖₂ of the true A."""
        k = min(_longest(self.matrix, 1), _longest(a.matrix, 0))
        is_exact = k <= 1 and (_is_choice(self.matrix) or _is_choice(a.matrix))
        rounding = 0.0 if is_exact else add_up(mul_up(gamma(k), self.size, a.size), LOST)
        error = add_up(rounding, mul_up(self.size, a.error), mul_up(self.error, norm))
        return Tracked(_slim(self.matrix @ a.matrix), error)

    def plus(self, other: Tracked) -> Tracked:
        """P + Q."""
        both = _slim(self.matrix + other.matrix)
        error = add_up(self.error, other.error, LOST)
        found = Tracked(both, error)
        return Tracked(both, add_up(error, mul_up(UNIT, found.size)))

    def weighted(self, columns: Floats) -> Tracked:
        """P diag(columns), columns ≥ 0: one rounding per entry."""
        top = float(columns.max(initial=0.0))
        if np.all(columns == 1.0):
            return self
        error = add_up(mul_up(self.error, top), mul_up(UNIT, self.size, top), LOST)
        if not sp.issparse(self.matrix):
            return Tracked(self.matrix * columns, error)
        diagonal = sp.diags_array(columns, format="csr")
        return Tracked(sp.csr_array(self.matrix @ diagonal), error)

    @cached_property
    def norm(self) -> float:
        """At least ‖P‖₂."""
        return add_up(matrix_norm(self.matrix), self.error)


def beside(parts: Sequence[Tracked]) -> Tracked:
    """[P₁ P₂ …]."""
    if len(parts) == 1:
        return parts[0]
    error = norm_up([p.error for p in parts], 2)
    matrices: Any = [p.matrix for p in parts]
    if all(sp.issparse(m) for m in matrices):
        return Tracked(_slim(sp.csr_array(sp.hstack(matrices, format="csr"))), error)
    return Tracked(np.concatenate([_dense(m) for m in matrices], axis=1), error)


def matrix_norm(matrix: Matrix) -> float:
    """At least ‖matrix‖₂."""
    if is_monomial(matrix):
        values = _values(matrix)
        return float(np.abs(values).max(initial=0.0)) if np.isfinite(values).all() else math.inf
    return dense_norm(_dense(matrix)[None]).upper


def is_monomial(matrix: Matrix) -> bool:
    """Whether it is stored sparse, with one entry per row and per column at most."""
    return sp.issparse(matrix) and max(_longest(matrix, 0), _longest(matrix, 1)) <= 1


def _longest(matrix: Matrix, axis: int) -> int:
    """Stored entries of the fullest row (axis 1) or column (axis 0)."""
    if not sp.issparse(matrix):
        return int(matrix.shape[axis])
    if axis:
        return int(np.diff(matrix.indptr).max(initial=0))
    return int(np.bincount(matrix.indices, minlength=1).max(initial=0))


def _is_choice(matrix: Matrix) -> bool:
    return sp.issparse(matrix) and bool(np.all(np.abs(matrix.data) == 1.0))


def _values(matrix: Matrix) -> Floats:
    return np.asarray(matrix.data if sp.issparse(matrix) else matrix)


def _dense(matrix: Matrix) -> Floats:
    return np.asarray(matrix.toarray() if sp.issparse(matrix) else matrix)


def _slim(matrix: Matrix) -> Matrix:
    """Dense where it is not sparse."""
    if not sp.issparse(matrix):
        return np.asarray(matrix)
    full = matrix.nnz > _SPARSE * matrix.shape[0] * matrix.shape[1]
    return _dense(matrix) if full else sp.csr_array(matrix)
