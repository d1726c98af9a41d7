"""A quadratic form over named tensors, by blocks of pairs of them; matrices sparse or dense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from onnxlip.bounds.sdp.system import Floats, Matrix

__all__ = ["Form", "Popped", "dense", "product", "turned"]

_SPARSE = 0.1  # share of entries up to which a block is kept sparse


@dataclass(frozen=True, eq=False)
class Popped:
    """What one tensor t had in a form: tᵀ own t + 2 Σ tᵀ others[o] o."""

    own: Matrix
    others: Mapping[str, Matrix]


class Form:
    """Σ t ᵀQ_tt t + 2 Σ_{t<o} tᵀQ_to o. Absent blocks are zero."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes
        self._blocks: dict[tuple[str, str], Matrix] = {}

    def square(self, t: str, matrix: Matrix) -> None:
        """+ tᵀ matrix t, matrix symmetric."""
        self._add((t, t), matrix)

    def cross(self, t: str, o: str, matrix: Matrix) -> None:
        """+ 2 tᵀ matrix o, where t may be o."""
        if t == o:
            self._add((t, t), _sum(matrix, turned(matrix)))
        elif t < o:
            self._add((t, o), matrix)
        else:
            self._add((o, t), turned(matrix))

    def _add(self, key: tuple[str, str], matrix: Matrix) -> None:
        present = self._blocks.get(key)
        self._blocks[key] = _slim(matrix if present is None else _sum(present, matrix))

    def has(self, t: str) -> bool:
        """Whether t occurs."""
        return any(t in key for key in self._blocks)

    def pop(self, t: str) -> Popped:
        """Take out every block of t."""
        n = self._sizes[t]
        own = self._blocks.pop((t, t), sp.csr_array((n, n)))
        others = {}
        for a, b in [key for key in self._blocks if t in key]:
            matrix = self._blocks.pop((a, b))
            others[b if a == t else a] = matrix if a == t else turned(matrix)
        return Popped(own, others)

    def whole(self, tensors: Sequence[str]) -> Floats:
        """The form of these tensors, stacked, as one symmetric matrix."""
        edges = np.cumsum([0, *(self._sizes[t] for t in tensors)])
        total = np.zeros((edges[-1], edges[-1]))
        places = {t: slice(*edges[k : k + 2]) for k, t in enumerate(tensors)}
        for (a, b), matrix in self._blocks.items():
            block = dense(matrix)
            total[places[a], places[b]] = block
            total[places[b], places[a]] = block.T
        return total


def dense(matrix: Matrix) -> Floats:
    """As an array."""
    return matrix.toarray() if sp.issparse(matrix) else matrix


def turned(matrix: Matrix) -> Matrix:
    """The transpose; a view of a dense matrix."""
    return sp.csr_array(matrix.T) if sp.issparse(matrix) else matrix.T


def product(a: Matrix, b: Matrix) -> Matrix:
    """a b. SciPy multiplies by dense matrices in C's order row by row, and copies others."""
    if sp.issparse(a):
        return _slim(a @ b) if sp.issparse(b) else a @ np.ascontiguousarray(b)
    if sp.issparse(b):
        return (sp.csr_array(b.T) @ np.ascontiguousarray(a.T)).T
    return a @ b


def _sum(a: Matrix, b: Matrix) -> Matrix:
    """a + b; a may be overwritten."""
    if isinstance(a, np.ndarray):
        a += np.asarray(dense(b))
        return a
    return sp.csr_array(a + b) if sp.issparse(b) else np.asarray(a + b)


def _slim(matrix: Matrix) -> Matrix:
    if not sp.issparse(matrix):
        return matrix
    full = matrix.nnz > _SPARSE * matrix.shape[0] * matrix.shape[1]
    return matrix.toarray() if full else matrix
