"""Ops whose every output entry is a copy of one input entry, or zero.

The op's own definition is run once on the array of input positions 0 … n−1 (with −1 standing for
zero); what comes out is the index π of y_i = x_{π(i)}. Norms are exact: AᵀA is diagonal and holds
how often each entry is read, so ‖A‖₂ = √max count, ‖A‖_∞ = 1, ‖A‖₁ = max count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.linear import LinearMap, selection
from onnxlip.rules import Affine, Node

__all__ = ["index_map"]

Ints = npt.NDArray[np.int64]


def index_map(move: Callable[[Node, Ints, int], npt.NDArray[Any]]) -> Affine:
    """Affine form of an op that moves entries of its first variable input about.

    move(node, positions, o): the op applied to the int64 array `positions`, which has the
    input's shape; entries of −1 in its result are zeros of output o.
    """

    def linear(node: Node, i: int, o: int) -> LinearMap:
        value = node.value(i)
        positions = np.arange(value.size, dtype=np.int64).reshape(value.shape)
        return selection(move(node, positions, o), value.size)

    return Affine(linear)
