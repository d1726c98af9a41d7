"""cos on intervals: the one range that Sin and Cos need, for themselves and for their slopes."""

from __future__ import annotations

import math

import numpy as np

from onnxlip.ops.families.smooth import Booleans, Floats
from onnxlip.rounding import UNIT

__all__ = ["contains_multiple", "cos_range", "sin_range"]


def contains_multiple(low: Floats, high: Floats, period: float, shift: float) -> Booleans:
    """Whether [low, high] may hold a number (k + shift)·period, k an integer (never a false no).

    The quotients err by a few units relatively, hence the margin; where it exceeds 1 (far out)
    the answer is yes everywhere.
    """
    with np.errstate(invalid="ignore"):
        margin = 8 * UNIT * (1.0 + np.maximum(np.abs(low), np.abs(high)) / period)
        first = np.ceil(low / period - shift - margin)
        last = np.floor(high / period - shift + margin)
        found = first <= last
    return np.asarray(found | ~np.isfinite(low) | ~np.isfinite(high))


def cos_range(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """The range of cos: ends, and ±1 where a multiple of π lies between."""
    return _range(np.cos, low, high, 0.0)


def sin_range(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """The range of sin, which has its maxima at 2π(k + ¼)."""
    return _range(np.sin, low, high, 0.25)


def _range(f: np.ufunc, low: Floats, high: Floats, top: float) -> tuple[Floats, Floats]:
    ends = [f(np.where(np.isfinite(end), end, 0.0)) for end in (low, high)]
    error = 16 * UNIT  # numpy's sin and cos err by a few units of values that are at most 1
    least = np.maximum(np.minimum(*ends) - error, -1.0)
    most = np.minimum(np.maximum(*ends) + error, 1.0)
    turn = 2.0 * math.pi
    least = np.where(contains_multiple(low, high, turn, top + 0.5), -1.0, least)
    most = np.where(contains_multiple(low, high, turn, top), 1.0, most)
    return least, most
