"""What can be read off a composed map without multiplying: isometries and disjoint supports."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import numpy.typing as npt

from onnxlip.linear import LinearMap, Monomial, Product, Sum, Transposed
from onnxlip.norms.enclosure import Enclosure
from onnxlip.rounding import down, mul_up

__all__ = [
    "is_empty",
    "isometric_core",
    "isometry",
    "overlap",
    "row_support",
    "without_isometries",
]

Bools = npt.NDArray[np.bool_]


def is_empty(a: LinearMap) -> bool:
    """Whether the map goes through a space of dimension 0, and so is zero."""
    if isinstance(a, Product):
        return any(is_empty(f) for f in a.factors)
    if isinstance(a, Sum):
        return all(is_empty(s) for s in a.summands)
    return not (a.rows and a.columns)


def isometric_core(a: Product) -> tuple[LinearMap, Enclosure] | None:
    """(B, c) with ‖A‖₂ = c‖B‖₂, B the one factor that `without_isometries` leaves, or None."""
    rest, scale = without_isometries(a)
    return (rest[0], scale) if len(rest) == 1 else None


def without_isometries(a: Product) -> tuple[tuple[LinearMap, ...], Enclosure]:
    """(factors of B, c) with ‖A‖₂ = c‖B‖₂: without multiples of isometries on the side where
    they change no norm: ‖LBR‖ = cℓ·cr·‖B‖ if LᵀL = cℓ²I and RRᵀ = cr²I."""
    first, end = 0, len(a.factors)
    lower, upper = 1.0, 1.0
    while first < end - 1 and (scale := isometry(a.factors[first])) is not None:
        lower, upper, first = down(lower * scale.lower), mul_up(upper, scale.upper), first + 1
    while end - 1 > first and (scale := isometry(a.factors[end - 1].adjoint)) is not None:
        lower, upper, end = down(lower * scale.lower), mul_up(upper, scale.upper), end - 1
    return a.factors[first:end], Enclosure(lower, upper)


def isometry(a: LinearMap) -> Enclosure | None:
    """c with AᵀA = c²I exactly, for index maps."""
    if isinstance(a, Transposed):  # AᵀA is WWᵀ of an index map that reads some entry twice
        return None
    if not isinstance(a, Monomial) or a.relative or not a.rows:
        return None
    if a.index is None:
        counts = 1
    else:
        reads = np.bincount(a.index[a.index >= 0], minlength=a.n)
        counts = int(reads.max(initial=0))
        if not counts or reads.min() != counts:
            return None
    weight = 1.0
    if a.weight is not None:
        used = np.abs(a.weight if a.index is None or not a.weight.ndim else a.weight[a.index >= 0])
        weight = float(used.max())
        if not math.isfinite(weight) or not weight or weight != float(used.min()):
            return None
    if counts == 1:
        return Enclosure(weight, weight)
    root = math.sqrt(counts)
    if root * root == counts and root.is_integer() and weight == 1.0:
        return Enclosure(root, root)
    return Enclosure(down(weight * down(root)), mul_up(weight, math.nextafter(root, math.inf)))


def row_support(a: LinearMap) -> Bools | None:
    """Which output entries may differ from zero; None for all of them."""
    if isinstance(a, Product):
        return row_support(a.factors[0])
    if isinstance(a, Sum):
        parts = [row_support(s) for s in a.summands]
        known = [p for p in parts if p is not None]
        return reduce(np.logical_or, known) if len(known) == len(parts) else None
    if isinstance(a, Monomial) and a.index is not None:
        return a.index >= 0
    if isinstance(a, Transposed) and isinstance(a.of, Monomial) and a.of.index is not None:
        read = np.zeros(a.of.n, bool)
        read[a.of.index[a.of.index >= 0]] = True
        return read
    return None


def overlap(maps: tuple[LinearMap, ...]) -> int:
    """The largest number of these maps that write to one output entry."""
    supports = [row_support(a) for a in maps]
    everywhere = sum(s is None for s in supports)
    known = [s for s in supports if s is not None]
    if not known:
        return everywhere
    counts = np.zeros(maps[0].rows, np.int32)
    for s in known:
        counts += s
    return everywhere + int(counts.max(initial=0))
