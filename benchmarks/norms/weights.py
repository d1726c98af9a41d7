"""Weights of two kinds, seeded: random ones, and ones whose singular values fall like a power.

Trained layers have a few large singular values, kernels that are smooth, and a floor of noise
(Martin & Mahoney 2021 measure power laws); random ones have the bulk of Marchenko and Pastur,
whose edge is dense, so that power methods creep.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["KINDS", "Initializer", "kaiming", "power_law", "power_law_matrix"]

Floats = npt.NDArray[np.float32]
Initializer = Callable[[np.random.Generator, tuple[int, ...]], Floats]

_DENSE, _CONV = 0.7, 0.5  # exponents
_NOISE = 0.5  # Frobenius norm of the noise in a convolution, relative to the smooth part
_ATOMS = 4


def kaiming(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Normal with variance 2/fan-in (He et al. 2015). shape: (out, in, *taps)."""
    w = rng.standard_normal(shape, dtype=np.float32)
    w *= math.sqrt(2.0 / math.prod(shape[1:]))
    return w


def power_law(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """A matrix with σ_i = i^−0.7, or a kernel Σ_k C_k ⊗ atom_k/k + noise, C_k with σ_i = i^−0.5."""
    if len(shape) == 2:
        return power_law_matrix(rng, *shape, _DENSE)
    c_out, c_in, *taps = shape
    smooth = np.zeros((c_out, c_in, math.prod(taps)), np.float32)
    for k in range(_ATOMS if math.prod(taps) > 1 else 1):
        channels = power_law_matrix(rng, c_out, c_in, _CONV)
        smooth += channels[:, :, None] * (_atom(rng, tuple(taps), flat=k == 0) / (k + 1))
    noise = rng.standard_normal(smooth.shape, dtype=np.float32)
    w = smooth / np.linalg.norm(smooth) + _NOISE * noise / np.linalg.norm(noise)
    w *= math.sqrt(c_out)
    return np.ascontiguousarray(w.reshape(shape), dtype=np.float32)


def _atom(rng: np.random.Generator, taps: tuple[int, ...], flat: bool) -> Floats:
    """A Gaussian window, times a cosine of random direction and phase unless flat; of norm 1."""
    places = np.indices(taps).reshape(len(taps), -1)
    places = places - (np.array(taps)[:, None] - 1) / 2
    width = max(2, *taps) / 2.5
    atom = np.exp(-np.square(places).sum(axis=0) / (2 * width**2))
    if not flat:
        atom *= np.cos(rng.uniform(-1.2, 1.2, len(taps)) @ places + rng.uniform(0, math.pi))
    return np.asarray(atom / np.linalg.norm(atom), np.float32)


def power_law_matrix(rng: np.random.Generator, m: int, n: int, exponent: float) -> Floats:
    """U Σ Vᵀ with σ_i = i^−exponent exactly, U and V random signs and cosine transforms.

    Two rounds of sign flips and transforms per side make entries that look Gaussian, in
    O(mn log mn): 4096×25088 takes seconds, where QR of random matrices takes minutes.
    """
    from scipy.fft import dct

    r = min(m, n)
    w = np.zeros((m, n), np.float32)
    w[rng.permutation(m)[:r], rng.permutation(n)[:r]] = (
        np.arange(1, r + 1, dtype=float) ** -exponent
    )
    for _ in range(2):
        w *= rng.choice(np.array([-1, 1], np.float32), (m, 1))
        w = dct(w, axis=0, norm="ortho", overwrite_x=True)
        w *= rng.choice(np.array([-1, 1], np.float32), (1, n))
        w = dct(w, axis=1, norm="ortho", overwrite_x=True)
    return w


KINDS: dict[str, Initializer] = {"random": kaiming, "power-law": power_law}
