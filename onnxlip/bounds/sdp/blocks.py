"""A matrix by blocks, some of them sparse: the rows of N or of C in terms of v."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from onnxlip.bounds.sdp.implicit import array
from onnxlip.bounds.sdp.system import Floats, Matrix, is_sparse
from onnxlip.norms.lapack import gemm

__all__ = ["Band", "Blocks", "gram"]

_SPARSE = 0.03  # BLAS is about as many times faster per entry than a sparse product


@dataclass(frozen=True, eq=False)
class Band:
    """Some rows: matrices by the columns that they are for."""

    rows: slice
    parts: tuple[tuple[slice, Matrix], ...]

    @staticmethod
    def of(rows: slice, parts: Mapping[tuple[int, int], Matrix]) -> Band:
        """parts: by (first column, end)."""
        return Band(rows, tuple((slice(*place), _fast(a)) for place, a in sorted(parts.items())))


@dataclass(frozen=True, eq=False)
class Blocks:
    """bands: of disjoint rows; height: how many rows there are."""

    height: int
    bands: tuple[Band, ...]

    def times(self, y: Floats) -> Floats:
        """N y."""
        out = np.zeros((self.height, y.shape[1]))
        for band in self.bands:
            for columns, matrix in band.parts:
                _add(matrix, y[columns], out[band.rows])
        return out

    def pull(self, y: Floats, total: Floats) -> None:
        """total −= Nᵀ y in place."""
        for band in self.bands:
            for columns, matrix in band.parts:
                _add(matrix.T, y[band.rows], total[columns], -1.0)

    def square(self, y: Floats, ends: Sequence[int]) -> Floats:
        """y Nᵀ of y = N X, where it is on or above the diagonal blocks between these ends."""
        out = np.zeros((self.height, self.height))
        for band in self.bands:
            end = ends[int(np.searchsorted(ends, band.rows.stop))]
            for columns, matrix in band.parts:
                part = out[:end, band.rows]
                if is_sparse(matrix):
                    part += (matrix @ y[:end, columns].T).T
                else:
                    gemm(y[:end, columns], array(matrix).T, part)
        return out


def gram(left: Any, right: Any) -> Floats:
    """leftᵀ right, dense."""
    if is_sparse(left) or is_sparse(right):
        return array(left.T @ right)
    out = np.zeros((left.shape[1], right.shape[1]))
    gemm(left.T, right, out)
    return out


def _add(matrix: Any, y: Floats, total: Floats, sign: float = 1.0) -> None:
    if is_sparse(matrix):
        total += sign * (matrix @ y)
    else:
        gemm(matrix, y, total, sign)


def _fast(matrix: Any) -> Matrix:
    if not is_sparse(matrix):
        return np.ascontiguousarray(matrix)
    full = matrix.nnz > _SPARSE * matrix.shape[0] * matrix.shape[1]
    return np.ascontiguousarray(matrix.toarray()) if full else sp.csr_array(matrix)
