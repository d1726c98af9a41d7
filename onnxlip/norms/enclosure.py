"""Enclosures of norms, and the Euclidean norm of a vector as the first of them.

All of `onnxlip.norms` assumes IEEE float64 rounded to nearest, conventional (not Strassen-like)
products in any order, with or without fused multiply-add, and triangular solves by substitution,
as every BLAS in use computes them. Underflow is allowed to flush to zero:
an operation may err by `TINY` = 2⁻¹⁰²² on top of its relative error, so whoever calls scales
by a power of two to numbers near 1, where `UNDERFLOW` covers all such errors together.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onnxlip.rounding import TINY, add_up, down, gamma, mul_up, sqrt_up, up

__all__ = ["UNDERFLOW", "Enclosure", "euclid", "exponent_of", "float64", "rescaled"]

# More than 2¹⁰⁰ operations, each off by 2⁻¹⁰²², still err by less than this.
UNDERFLOW = 2.0**-900

_SAFE = 300  # binary exponents within ±300 have squares, and sums of them, far inside the range
_CHUNK = 256


class Enclosure(NamedTuple):
    """lower ≤ the true number ≤ upper."""

    lower: float
    upper: float

    def widened(self, error: float) -> Enclosure:
        """For a number that is within `error` of the enclosed one."""
        lower = down(self.lower - error) if error and math.isfinite(error) else self.lower
        return Enclosure(
            max(0.0, lower) if math.isfinite(error) else 0.0, add_up(self.upper, error)
        )


def exponent_of(top: float) -> int:
    """e such that numbers up to `top` are best divided by 2ᵉ; 0 where nothing can over- or
    underflow anyway."""
    e = math.frexp(top)[1]
    return 0 if abs(e) <= _SAFE else e


def float64(values: npt.NDArray[Any], exponent: int) -> npt.NDArray[np.float64]:
    """values / 2^exponent as a new float64 array: exact but for underflow."""
    wide = values.astype(np.float64)
    return np.ldexp(wide, -exponent, out=wide) if exponent else wide


def rescaled(value: Enclosure, exponent: int) -> Enclosure:
    """Both ends times 2^exponent, rounded outward where that is not exact."""
    if not exponent:
        return value
    return Enclosure(_ldexp(value.lower, exponent, -1), _ldexp(value.upper, exponent, 1))


def _ldexp(x: float, exponent: int, direction: int) -> float:
    if x == 0 or not math.isfinite(x):
        return x
    try:
        result = math.ldexp(x, exponent)
    except OverflowError:
        return math.inf if direction > 0 else down(math.inf)
    if abs(result) >= TINY:
        return result
    return up(result) if direction > 0 else down(result)


def euclid(x: npt.NDArray[Any]) -> Enclosure:
    """‖x‖₂ of all entries of an array.

    Squares are summed in runs of 256 by numpy (γ_256) and the runs by math.fsum, which rounds
    once: γ_257 in all. NaN and infinities give (0, ∞).
    """
    if x.size == 0:
        return Enclosure(0.0, 0.0)
    top = max(float(x.max()), -float(x.min()))
    if not math.isfinite(top):
        return Enclosure(0.0, math.inf)
    if top == 0:
        return Enclosure(0.0, 0.0)
    exponent = exponent_of(top)
    flat = x.reshape(-1)
    sums: list[float] = []
    step = _CHUNK << 12  # bounds the float64 copy
    for i in range(0, flat.size, step):
        part = float64(flat[i : i + step], exponent)
        np.multiply(part, part, out=part)
        whole = part.size - part.size % _CHUNK
        sums += part[:whole].reshape(-1, _CHUNK).sum(axis=1).tolist()
        sums.append(float(part[whole:].sum()))
    total, error = math.fsum(sums), gamma(_CHUNK + 1)
    upper = sqrt_up(add_up(mul_up(total, up(1.0 + error)), UNDERFLOW))
    lower = down(math.sqrt(max(0.0, down(total * down(1.0 - error)) - UNDERFLOW)))
    return rescaled(Enclosure(lower, upper), exponent)
