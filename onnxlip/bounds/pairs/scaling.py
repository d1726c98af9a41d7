"""A pair in the units of its neurons, by powers of two.

A neuron j that has a zero column in outer, a zero row in inner, or only the slope 0, adds nothing
to outer diag(d) inner: it is dropped. Column j of outer times 2^k and row j of inner times 2^−k
leave the product as it is; k evens out the two, so that a network whose neurons were rescaled
poses the same problem. Then outer, inner and the slopes are divided by powers of two, so that
their largest entries lie in [½, 1).

Powers of two round nothing, but for underflow: with `LOST` = 2⁻⁹⁰⁰, which covers n√(pq) · 2⁻¹⁰²⁰
for every matrix that fits into a computer,

    ‖outer diag(d) inner‖₂ ≤ 2^exponent · (‖scaled outer diag(d′) scaled inner‖₂ + LOST).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.pairs.problem import Floats, Pair
from onnxlip.norms.enclosure import UNDERFLOW, Enclosure, rescaled

__all__ = ["LOST", "Balanced", "Places", "balanced"]

Places = npt.NDArray[np.int64]

LOST = UNDERFLOW


@dataclass(frozen=True, eq=False)
class Balanced:
    """pair: scaled, of the neurons kept; kept: (k,) their places; shifts: (k,), outer[:, kept] was
    divided by 2^shifts; the scaled norm times 2^exponent is the norm."""

    pair: Pair
    kept: Places
    shifts: Places
    exponent: int
    size: int

    def weights_here(self, weights: Floats) -> Floats:
        """√T for the scaled pair, of √T for the pair as it came."""
        with np.errstate(over="ignore"):
            return np.asarray(np.ldexp(np.asarray(weights, np.float64)[self.kept], -self.shifts))

    def weights_there(self, weights: Floats) -> Floats:
        """√T for the pair as it came (n,); 1 for what was dropped."""
        there = np.ones(self.size)
        with np.errstate(over="ignore"):  # infinite weights prove nothing
            there[self.kept] = np.ldexp(weights, self.shifts)
        return there

    def upper(self, value: float) -> float:
        """An upper bound of the norm, of one of the scaled norm."""
        if not self.kept.size:
            return 0.0
        return self.enclosed(Enclosure(0.0, value)).upper

    def enclosed(self, value: Enclosure) -> Enclosure:
        """The norm, of an enclosure of the scaled norm."""
        return rescaled(value.widened(LOST), self.exponent)


def balanced(pair: Pair) -> Balanced:
    """The pair scaled. Raises ValueError where an entry is not finite."""
    if not all(np.isfinite(x).all() for x in (pair.outer, pair.inner, pair.alpha, pair.beta)):
        raise ValueError("a pair's matrices and slopes must be finite")
    columns = np.abs(pair.outer).max(axis=0, initial=0.0)
    rows = np.abs(pair.inner).max(axis=1, initial=0.0)
    slopes = np.maximum(np.abs(pair.alpha), np.abs(pair.beta))
    kept = np.flatnonzero((columns > 0) & (rows > 0) & (slopes > 0))
    left, right = _exponents(columns[kept]), _exponents(rows[kept])
    even = (left - right) // 2
    outer_most = int((left - even).max(initial=-4096)) if kept.size else 0
    inner_most = int((right + even).max(initial=-4096)) if kept.size else 0
    slope_most = int(_exponents(slopes[kept]).max()) if kept.size else 0
    shifts = even + outer_most
    scaled = Pair(
        np.asarray(np.ldexp(pair.outer[:, kept], -shifts)),
        np.asarray(np.ldexp(pair.inner[kept], (even - inner_most)[:, None])),
        np.asarray(np.ldexp(pair.alpha[kept], -slope_most)),
        np.asarray(np.ldexp(pair.beta[kept], -slope_most)),
    )
    exponent = outer_most + inner_most + slope_most
    return Balanced(scaled, kept, shifts, exponent, pair.size)


def _exponents(values: Floats) -> Places:
    return np.frexp(values)[1].astype(np.int64)
