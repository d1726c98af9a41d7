"""Largest eigenvalues by Lanczos: estimates, which proofs use as guesses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ritz", "ritz_values"]

Array = npt.NDArray[Any]


def ritz(
    product: Callable[[Array], Array], start: Array, steps: int, tolerance: float
) -> tuple[float, Array]:
    """(largest Ritz value, its unit vector) of a Hermitian positive semidefinite operator.

    Lanczos with full reorthogonalisation. It stops where the estimated error of the value,
    residual²/gap, is below `tolerance` times the value, or the Krylov space is exhausted.
    """
    n = start.size
    steps = min(steps, n)
    basis = np.empty((steps, n), start.dtype)
    alpha, beta = np.zeros(steps), np.zeros(steps)
    size = float(np.linalg.norm(start))
    if not size:
        return 0.0, start
    vector = start / size
    used = 0
    for j in range(steps):
        basis[j], used = vector, j + 1
        vector = product(vector)
        for _ in range(2):  # twice is enough
            overlap = basis[:used].conj() @ vector
            alpha[j] += overlap[j].real
            vector = vector - overlap @ basis[:used]
        beta[j] = np.linalg.norm(vector)
        exhausted = not beta[j] > 1e-15 * np.abs(alpha[:used]).max()
        if exhausted or j % 5 == 4:
            values, vectors = _tridiagonal(alpha, beta, used)
            residual = beta[j] * abs(vectors[-1, -1])
            gap = values[-1] - values[-2] if used > 1 else values[-1]
            if exhausted or residual**2 <= tolerance * values[-1] * max(gap, residual):
                break
        vector = vector / beta[j]
    values, vectors = _tridiagonal(alpha, beta, used)
    top = vectors[:, -1] @ basis[:used]
    return float(values[-1]), top / np.linalg.norm(top)


def _tridiagonal(alpha: Array, beta: Array, used: int) -> tuple[Array, Array]:
    off = beta[: used - 1]
    values, vectors = np.linalg.eigh(np.diag(alpha[:used]) + np.diag(off, 1) + np.diag(off, -1))
    return values, vectors


def ritz_values(stack: Array, steps: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Estimates of the largest eigenvalue of every matrix of a Hermitian stack (b, n, n)."""
    b, n, _ = stack.shape
    if n <= 32 or steps >= n:
        return np.linalg.eigvalsh(stack)[:, -1].astype(np.float64)
    basis = np.zeros((b, steps, n), stack.dtype)
    projected = np.zeros((b, steps, steps))
    start = rng.standard_normal(n) + (1j * rng.standard_normal(n) if stack.dtype.kind == "c" else 0)
    vector = np.broadcast_to(start / np.linalg.norm(start), (b, n))
    for j in range(steps):
        basis[:, j] = vector
        vector = (stack @ vector[:, :, None])[:, :, 0]
        for _ in range(2):
            overlap = basis[:, : j + 1].conj() @ vector[:, :, None]
            projected[:, j, j] += overlap[:, j, 0].real
            vector = vector - (overlap.transpose(0, 2, 1) @ basis[:, : j + 1])[:, 0]
        size = np.linalg.norm(vector, axis=1)
        if j + 1 < steps:
            projected[:, j, j + 1] = projected[:, j + 1, j] = size
        vector = vector / np.maximum(size, 1e-300)[:, None]
    return np.linalg.eigvalsh(projected)[:, -1].astype(np.float64)
