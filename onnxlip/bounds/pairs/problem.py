"""The pair problem, as a value.

SeqLip (Virmaux & Scaman 2018, Section 5) bounds a chain by a product over its nonlinearities of

    max_{d ∈ [α, β]} ‖outer diag(d) inner‖₂,   outer = Σ̃_{i+1} V_{i+1}ᵀ,   inner = U_i Σ̃_i.

The norm is convex in d, so the maximum is at a vertex of the box: d_j ∈ {α_j, β_j}.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

__all__ = ["Found", "Pair"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pair:
    """outer: (p, n); inner: (n, q); alpha, beta: (n,) with alpha ≤ beta; all float64 and finite."""

    outer: Floats
    inner: Floats
    alpha: Floats
    beta: Floats

    @property
    def size(self) -> int:
        """n: how many slopes there are to choose."""
        return int(self.outer.shape[1])

    @cached_property
    def centre(self) -> Floats:
        """(α + β)/2."""
        return 0.5 * self.alpha + 0.5 * self.beta

    @cached_property
    def free(self) -> npt.NDArray[np.int64]:
        """Where α < β: the others are fixed."""
        return np.flatnonzero(self.alpha < self.beta)

    @cached_property
    def largest(self) -> float:
        """max_j max(|α_j|, |β_j|)."""
        return float(np.maximum(np.abs(self.alpha), np.abs(self.beta)).max(initial=0.0))

    def at(self, d: Floats) -> Floats:
        """outer diag(d) inner."""
        return np.asarray((self.outer * d) @ self.inner)

    def value(self, d: Floats) -> float:
        """‖outer diag(d) inner‖₂ as computed: an estimate."""
        matrix = self.at(d)
        return float(np.linalg.norm(matrix, 2)) if matrix.size else 0.0


@dataclass(frozen=True, eq=False)
class Found:
    """A d that a search found and what ‖outer diag(d) inner‖₂ is there: an estimate of the maximum
    from below. steps: how many products, eigenvalue problems or flips that took; complete: False
    where time was up before the search ended."""

    value: float
    d: Floats
    steps: int = 0
    complete: bool = True
