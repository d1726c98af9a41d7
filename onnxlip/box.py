"""Box: an axis-parallel set of tensors, lo ≤ x ≤ hi, possibly all of ℝⁿ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Box"]


@dataclass(frozen=True, eq=False)
class Box:
    """`low` and `high` are float64 arrays broadcastable to the tensor (often of shape ())."""

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]

    @classmethod
    def of(cls, low: Any, high: Any) -> Box:
        """The box between two numbers or arrays. Raises ValueError unless low ≤ high."""
        lo, hi = np.asarray(low, np.float64), np.asarray(high, np.float64)
        if not np.all(lo <= hi):  # also refuses NaN
            raise ValueError("a box needs low ≤ high")
        return cls(lo, hi)

    @classmethod
    def whole(cls) -> Box:
        """All of ℝⁿ."""
        return cls.of(-math.inf, math.inf)

    @property
    def is_whole(self) -> bool:
        """Whether it is all of ℝⁿ."""
        return bool(np.all(np.isneginf(self.low)) and np.all(np.isposinf(self.high)))

    @property
    def is_bounded(self) -> bool:
        """Whether no end is infinite."""
        return bool(np.all(np.isfinite(self.low)) and np.all(np.isfinite(self.high)))

    @property
    def magnitude(self) -> npt.NDArray[np.float64]:
        """max |x| per entry."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def widened(self) -> Box:
        """One neighbour outward on both sides."""
        return Box(np.nextafter(self.low, -math.inf), np.nextafter(self.high, math.inf))
