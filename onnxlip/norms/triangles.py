"""Cholesky factors of Hermitian matrices in half the memory: two triangles share one square.

An array of n + 1 rows holds L of one matrix below its diagonal, from the second row on, and Lᴴ of
the next on and above it. LAPACK looks at one triangle only and takes both as they are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxlip.norms.definite import factored
from onnxlip.norms.lapack import trsm

__all__ = ["Triangles"]

Complex = npt.NDArray[np.complex64]


class Triangles:
    """Factors of a stack (b, n, n) of which lower triangles are read, and which is overwritten.
    Raises LinAlgError where one is not positive definite."""

    def __init__(self, stack: Complex) -> None:
        count, n, _ = stack.shape
        self._squares = np.empty((-(-count // 2), n + 1, n), stack.dtype)
        below = np.tri(n, dtype=np.bool_)
        for j, matrix in enumerate(stack):
            if not factored(matrix):
                raise np.linalg.LinAlgError("not positive definite")
            if j % 2:
                np.conjugate(matrix.T, out=self._squares[j // 2, :n], where=below.T)
            else:
                np.copyto(self._squares[j // 2, 1:], matrix, where=below)

    @staticmethod
    def size(count: int, n: int) -> int:
        """Entries that so many factors take."""
        return -(-count // 2) * (n + 1) * n

    def solve(self, j: int, y: Complex) -> None:
        """y ← B⁻¹y in place, y (n, k): as zᵀ = yᵀ conj(B)⁻¹, as Fortran's order sees transposes."""
        square = self._squares[j // 2]
        if j % 2:  # conj(B) = MMᴴ with M a lower triangle there
            factor = square[:-1].T
            trsm(factor, y.T, "R", "C", uplo="L")
            trsm(factor, y.T, "R", uplo="L")
        else:  # conj(B) = UᴴU with U an upper one
            factor = square[1:].T
            trsm(factor, y.T, "R")
            trsm(factor, y.T, "R", "C")
