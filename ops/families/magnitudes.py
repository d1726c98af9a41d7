"""Norms of every matrix B with |B| ≤ M entry by entry, M ≥ 0: ‖B‖_p ≤ ‖M‖_p for p = 1, 2, ∞.

‖M‖₂² is the spectral radius of MᵀM, and for every positive vector v it is at most
max_i (MᵀMv)_i / v_i (Collatz and Wielandt). v = (1 … 1) gives a bound below ‖M‖₁‖M‖_∞; some
steps of the power method make it sharp. All results are rounded up.

Source: Horn & Johnson, Matrix Analysis, 2nd ed., theorems 8.1.18 and 8.1.26.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxlip.rounding import TINY, gamma, up

__all__ = ["squared_spectral"]

Floats = npt.NDArray[np.float64]

STEPS = 12


def squared_spectral(m: Floats) -> Floats:
    """‖M_j‖₂² for each matrix of a stack (…, k, n) of finite nonnegative ones, rounded up."""
    k, n = m.shape[-2:]
    if not (k and n):
        return np.zeros(m.shape[:-2])
    # Powers of two are exact to divide by and bring the largest entry into [1, 2).
    scale = np.ldexp(1.0, np.frexp(m.max(axis=(-2, -1), keepdims=True))[1] - 1)
    m = m / scale
    v = np.ones((*m.shape[:-2], n, 1))
    best = np.full((*m.shape[:-2], 1, 1), np.inf)
    for _ in range(STEPS):
        w = np.swapaxes(m, -1, -2) @ (m @ v)
        # Nonnegative sums err by at most γ relatively; v ≥ 2⁻³⁰, so underflow is covered too.
        best = np.minimum(best, (w / v).max(axis=-2, keepdims=True))
        v = w / np.maximum(w.max(axis=-2, keepdims=True), TINY) + 2.0**-30
    slack = up(1.0 + 2 * gamma(k + n + 4))
    bound = (best * slack + (k * n) * 2.0**-960) * scale * scale
    return np.asarray(np.nextafter(bound, np.inf)[..., 0, 0])
