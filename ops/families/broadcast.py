"""Inputs that are broadcast to the output's shape: repeated, and maybe scaled entry by entry.

A repetition is an index map: ‖A‖₂ = √r, ‖A‖₁ = r, ‖A‖_∞ = 1 where each entry is repeated r times.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.linear import LinearMap, diagonal, identity, selection
from onnxlip.rules import Node

__all__ = ["repeated", "scaled"]


def repeated(node: Node, i: int) -> LinearMap:
    """Input i as it is broadcast to the first output."""
    value = node.value(i)
    if value.size == node.y.size:
        return identity(value.size)
    places = np.arange(value.size).reshape(value.shape)
    return selection(np.broadcast_to(places, node.y.shape), value.size)


def scaled(node: Node, i: int, weight: npt.NDArray[Any], ulps: float = 0.0) -> LinearMap:
    """Input i, broadcast to the first output, times `weight`, which is broadcast likewise."""
    return diagonal(weight, node.y.shape, ulps) @ repeated(node, i)
