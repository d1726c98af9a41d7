"""Resampling along one axis: where each output entry reads, and with which weights.

An output position p has a coordinate x on the input axis, given by the mode (n, m are the input's
and output's lengths, s the scale):

    half_pixel             (p + ½)/s − ½            align_corners   p (n − 1)/(m − 1), 0 for m = 1
    pytorch_half_pixel     the same, 0 for m = 1    asymmetric      p/s
    half_pixel_symmetric   n/2 (1 − m/(s n)) + (p + ½)/s − ½
    tf_half_pixel_for_nn   (p + ½)/s

nearest   the entry that x is rounded to. Rounding is discontinuous, so x is computed as onnxruntime
          does: in float32, in the order of the formulas, and with its idea of what a half is
linear    1 − r and r at ⌊x⌋ and ⌊x⌋ + 1, r = x − ⌊x⌋, x cut off at the ends
cubic     Keys' kernel with parameter a at the four entries around x. Entries beyond an end are
          that end's; with exclude_outside they are left out and the rest is scaled to sum 1

Weights are computed in exact rational arithmetic and rounded once. An axis of scale 1 is copied.

Source: ONNX operator specification, Resize; Keys 1981, equation 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Axis", "Stencil", "nearest_entries", "stencil"]

_HALF = Fraction(1, 2)
_TIE = 1e-6  # onnxruntime takes coordinates this near to a half for a half


@dataclass(frozen=True)
class Axis:
    """Lengths of the input and the output along one axis, and the scale between them."""

    n: int
    m: int
    scale: Fraction

    @property
    def is_copied(self) -> bool:
        """Whether the axis keeps its entries as they are."""
        return self.scale == 1 and self.n == self.m


@dataclass(frozen=True)
class Stencil:
    """y_p = Σ_t weight[p, t] x[index[p, t]]; ulps: the weights' error in units of 2⁻⁵³."""

    index: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]
    ulps: float

    def matrix(self, n: int) -> npt.NDArray[np.float64]:
        """The dense m × n matrix. An entry that is read twice must have been merged."""
        dense = np.zeros((len(self.index), n))
        used = self.weight != 0
        rows, _ = np.nonzero(used)
        dense[rows, self.index[used]] = self.weight[used]
        return dense


def _coordinate(mode: str, axis: Axis, p: int, number: Callable[[Any], Any]) -> Any:
    """The input coordinate of output position p, in the arithmetic of `number`."""
    n, m, s, x = (number(v) for v in (axis.n, axis.m, axis.scale, p))
    half = number(_HALF)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and m > 1):
        return (x + half) / s - half
    if mode == "asymmetric":
        return x / s
    if mode == "tf_half_pixel_for_nn":
        return (x + half) / s
    if mode == "half_pixel_symmetric":
        offset = n / 2 * (1 - m / (s * n))
        wide = Fraction if number is Fraction else float  # runtimes do this step in float64
        return number(wide(offset) + (wide(x) + wide(half)) / wide(s) - wide(half))
    if mode == "align_corners" and m > 1:
        return x * (n - 1) / (m - 1)
    if mode in ("align_corners", "pytorch_half_pixel"):
        return number(0)
    raise ValueError(mode)


def _single(value: Any) -> np.float32:
    return np.float32(float(value))


_ROUNDINGS: dict[str, Callable[[float], float]] = {
    "round_prefer_floor": lambda x: math.ceil(x - 0.5 - _TIE),
    "round_prefer_ceil": lambda x: math.floor(x + 0.5 + _TIE),
    "floor": math.floor,
    "ceil": math.ceil,
}


def nearest_entries(mode: str, axis: Axis, rounding: str) -> npt.NDArray[np.int64]:
    """The input entry that each output entry copies."""
    if axis.is_copied:
        return np.arange(axis.n)
    rounded = [
        _ROUNDINGS[rounding](float(_coordinate(mode, axis, p, _single))) for p in range(axis.m)
    ]
    return np.clip(np.array(rounded, dtype=np.int64), 0, axis.n - 1)


def stencil(mode: str, axis: Axis, cubic: float | None = None, exclude: bool = False) -> Stencil:
    """The taps of linear interpolation, or of a cubic one with parameter a = `cubic`."""
    taps = 2 if cubic is None else 4
    index = np.zeros((axis.m, taps), np.int64)
    weight = np.zeros((axis.m, taps))
    exact = True
    for p in range(axis.m):
        x = _coordinate(mode, axis, p, Fraction)
        weights = _linear(x, axis.n) if cubic is None else _cubic(x, axis.n, cubic, exclude)
        for t, (entry, w) in enumerate(weights.items()):
            index[p, t], weight[p, t] = entry, float(w)
            exact = exact and Fraction(weight[p, t]) == w
    return Stencil(index, weight, 0.0 if exact else 1.0)


def _linear(x: Fraction, n: int) -> dict[int, Fraction]:
    x = min(max(x, Fraction(0)), Fraction(n - 1))
    left = math.floor(x)
    r = x - left
    return {left: 1 - r, left + 1: r} if r else {left: Fraction(1)}


def _cubic(x: Fraction, n: int, parameter: float, exclude: bool) -> dict[int, Fraction]:
    a, left = Fraction(parameter), math.floor(x)
    taps = {j: _keys(abs(x - j), a) for j in range(left - 1, left + 3)}
    if exclude:
        taps = {j: w for j, w in taps.items() if 0 <= j < n}
        total = sum(taps.values())
        return {j: w / total for j, w in taps.items()}
    merged: dict[int, Fraction] = {}
    for j, w in taps.items():
        end = min(max(j, 0), n - 1)
        merged[end] = merged.get(end, Fraction(0)) + w
    return merged


def _keys(d: Fraction, a: Fraction) -> Fraction:
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else Fraction(0)
