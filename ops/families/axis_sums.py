"""Sums over axes, each times one weight: the row (w … w) along every run of adjacent axes.

‖A‖₂ = w√k, ‖A‖_∞ = w k, ‖A‖₁ = w for k summed entries. Factors along different axes are Kronecker
factors of one another, so the product of their norms is the norm of their product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from onnxlip.linear import LinearMap, Matrix, identity
from onnxlip.rules import Node

__all__ = ["along", "reduced_axes", "summed"]


def along(
    block: npt.NDArray[np.floating],
    shape: Sequence[int],
    first: int,
    last: int | None = None,
    ulps: float = 0.0,
) -> Matrix:
    """The matrix `block` along axis `first` of a tensor of this shape (or along the axes from
    `first` to `last`, read as one)."""
    end = (first if last is None else last) + 1
    return Matrix(block[None], math.prod(shape[:first]), math.prod(shape[end:]), ulps)


def summed(
    shape: Sequence[int],
    axes: Iterable[int],
    weight: Callable[[int], tuple[float, float]] = lambda k: (1.0, 0.0),
) -> LinearMap:
    """Sums over `axes` (each ≥ 0). weight(k) → the factor of a sum of k entries, and its ulps."""
    sizes = list(shape)
    chosen = {axis for axis in axes if sizes[axis] != 1}
    linear: LinearMap = identity(math.prod(shape))
    last = len(sizes) - 1
    while last >= 0:
        first = last
        if last in chosen:
            while first > 0 and (first - 1 in chosen or sizes[first - 1] == 1):
                first -= 1
            k = math.prod(sizes[first : last + 1])
            w, ulps = weight(k)
            row = np.broadcast_to(np.float64(w), (1, k))
            linear = along(row, sizes, first, last, ulps) @ linear
            sizes[first : last + 1] = [1] * (last + 1 - first)
        last = first - 1
    return linear


def reduced_axes(node: Node) -> tuple[int, ...]:
    """The axes that a Reduce op sums over: an input in newer versions, an attribute in older."""
    rank = len(node.x.shape)
    axes = node.ints(1) if node.has(1) else tuple(node.attribute("axes") or ())
    if not axes and not node.attribute("noop_with_empty_axes", 0):
        axes = tuple(range(rank))
    return tuple(axis % rank for axis in axes)
