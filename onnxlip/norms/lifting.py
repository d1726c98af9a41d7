"""A start for a large convolution, from the leading singular vectors of a crop of it.

Away from the border a convolution of stride s maps x[c, s m + r] = U[c, r] e^{iω·m} to a wave of
the same ω: y[o, p] = e^{iω·p} Σ_t K[o, ·, t] U[·, r_t] e^{iω·q_t}, s q_t + r_t = d t − begin. So
its top singular vectors are such waves under an envelope that vanishes at the border, nearly
Π sin(π(x + 1)/(H + 1)). On a crop ω and U are nearly the same, and the envelope is narrower.

`lifted` reads each ω off a leading vector of the crop (a peak of its Fourier transform, made
sharper by a parabola through its neighbours) and U as its Fourier coefficients at ω. A narrow
envelope costs a sharp maximum of the symbol more than a flat one, so which wave wins on the whole
image is decided by the symbol itself. What comes out is a start for a search, and no more.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.linear import Convolution

__all__ = ["lifted"]

Array = npt.NDArray[Any]

_FINER = 4  # how much finer than the crop's own the grid of frequencies is
_SHARPENED = 3  # steps of the power method on the symbol at each ω


def lifted(vectors: Array, crop: Convolution, whole: Convolution) -> Array:
    """A vector for `whole` (one group, one image) that looks like one of `vectors` (k, columns)
    does for `crop`: the one whose wave has the largest gain."""
    d, taps = len(crop.taps), _by_tap(crop.kernel)
    best, gain = None, 0.0
    for vector in vectors:
        phases = _phases(vector.reshape(crop.c_in, *crop.in_spatial), crop.strides)
        omega = _frequency(phases, d)
        for axis, (w, size) in enumerate(zip(omega, phases.shape[-d:], strict=True)):
            wave = np.exp(-1j * w * np.arange(size))
            phases = phases * wave.reshape((-1,) + (1,) * (d - 1 - axis))
        u, found = _sharpened(phases.sum(axis=tuple(range(-d, 0))), omega, taps, crop)
        if found > gain:
            best, gain = (u, omega), found
    return np.zeros(whole.columns) if best is None else _wave(*best, whole)


def _wave(u: Array, omega: list[float], whole: Convolution) -> Array:
    """Re U[c, r] e^{iω·m} under the envelope."""
    image = u * np.exp(-0.5j * np.angle((u * u).sum()))  # its real part as large as can be
    for axis, (w, s, h) in enumerate(zip(omega, whole.strides, whole.in_spatial, strict=True)):
        x = np.arange(h)
        envelope = np.sin(math.pi * (x + 1) / (h + 1)) * np.exp(1j * w * (x // s))
        image = np.moveaxis(np.take(image, x % s, axis=1 + axis), 1 + axis, -1) * envelope
        image = np.moveaxis(image, -1, 1 + axis)
    return np.ascontiguousarray(image.real).reshape(-1)


def _by_tap(kernel: Array) -> Array:
    """(c_out, c_in, *taps) as (taps, c_out, c_in)."""
    flat = kernel.reshape(*kernel.shape[:2], -1)
    return np.ascontiguousarray(flat.transpose(2, 0, 1), dtype=np.float64)


def _sharpened(u: Array, omega: list[float], kernel: Array, a: Convolution) -> tuple[Array, float]:
    """U after a few steps of the power method on the symbol at ω, and the gain ‖K̂U‖/‖U‖."""
    places: list[tuple[Any, Any]] = []
    for tap in itertools.product(*(range(k) for k in a.taps)):
        reads = [
            divmod(d * t - b, s)
            for t, d, b, s in zip(tap, a.dilations, a.begin, a.strides, strict=True)
        ]
        turn = np.exp(1j * sum(w * q for w, (q, _) in zip(omega, reads, strict=True)))
        places.append(((slice(None), *(r for _, r in reads)), turn))
    gain = 0.0
    for _ in range(_SHARPENED):
        size = float(np.linalg.norm(u))
        if not (math.isfinite(size) and size > 0):
            return u, 0.0
        u = u / size
        y = sum(k @ (u[at] * turn) for k, (at, turn) in zip(kernel, places, strict=True))
        gain, u = float(np.linalg.norm(y)), np.zeros_like(u)
        for k, (at, turn) in zip(kernel, places, strict=True):
            u[at] += (y @ k) * turn.conjugate()
    return u, gain


def _phases(image: Array, strides: tuple[int, ...]) -> Array:
    """(c, h_1 … h_d) as (c, r_1 … r_d, m_1 … m_d) with x = s m + r, zeros added at the ends."""
    d = len(strides)
    pads = [(0, -h % s) for h, s in zip(image.shape[1:], strides, strict=True)]
    image = np.pad(image, [(0, 0), *pads])
    split = [n for h, s in zip(image.shape[1:], strides, strict=True) for n in (h // s, s)]
    image = image.reshape(image.shape[0], *split)
    order = [0, *(2 + 2 * a for a in range(d)), *(1 + 2 * a for a in range(d))]
    return image.transpose(order)


def _frequency(phases: Array, d: int) -> list[float]:
    """Where the power, summed over channels and phases, peaks."""
    sizes = phases.shape[-d:]
    grid = tuple(_FINER * n for n in sizes)
    power = np.zeros((*grid[:-1], grid[-1] // 2 + 1))
    for channel in phases.reshape(-1, *sizes):  # one at a time: bounded memory
        power += np.abs(np.fft.rfftn(channel, grid, axes=range(d))) ** 2
    peak = np.unravel_index(int(power.argmax()), power.shape)
    omega = []
    for axis, (at, n) in enumerate(zip(peak, grid, strict=True)):
        index: list[Any] = list(peak)
        sides = []
        for step in (-1, 0, 1):
            k = (int(at) + step) % n
            if axis == d - 1:
                k = min(k, n - k)  # real input: the spectrum is even, all axes turned
            index[axis] = k
            sides.append(math.log(float(power[tuple(index)]) + 1e-300))
        bend = sides[0] - 2 * sides[1] + sides[2]
        shift = 0.5 * (sides[0] - sides[2]) / bend if bend < 0 else 0.0
        omega.append(2 * math.pi * (int(at) + max(-0.5, min(0.5, shift))) / n)
    return omega
