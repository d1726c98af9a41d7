"""Derivatives at points, for searches from below: pairs (J v, Jᵀ g), many points at once.

All arrays have a leading axis of m points. Nothing that is proved comes from here: what a search
finds is evaluated anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.rules import Derivative, Node

__all__ = ["aligned", "extreme", "selection", "shrunk", "weighted"]

Array = npt.NDArray[Any]


def aligned(x: Array, rank: int) -> Array:
    """(m, *shape) with ones put after m, so that shape broadcasts to a tensor of this rank."""
    return x.reshape(len(x), *(1,) * (rank + 1 - x.ndim), *x.shape[1:])


def shrunk(g: Array, shape: tuple[int, ...]) -> Array:
    """The adjoint of broadcasting (m, *shape): sums over what was repeated."""
    extra = g.ndim - 1 - len(shape)
    g = g.sum(axis=tuple(range(1, 1 + extra)))
    axes = tuple(k + 1 for k, s in enumerate(shape) if s == 1 and g.shape[k + 1] > 1)
    return g.sum(axis=axes, keepdims=True) if axes else g


def weighted(node: Node, weights: Sequence[Array]) -> Derivative:
    """y′ = Σ_i w_i ∘ x_i′ with broadcasting; a weight (m, *y.shape) per variable input."""
    rank = len(node.y.shape)
    shapes = [node.value(i).shape for i in node.variables]

    def push(ways: Sequence[Array]) -> list[Array]:
        terms = [w * aligned(v, rank) for w, v in zip(weights, ways, strict=True)]
        return [np.sum(np.broadcast_arrays(*terms), axis=0)]

    def pull(gradients: Sequence[Array]) -> list[Array]:
        full = [np.broadcast_to(w, gradients[0].shape) * gradients[0] for w in weights]
        return [shrunk(g, s) for g, s in zip(full, shapes, strict=True)]

    return push, pull


def selection(node: Node, index: Array) -> Derivative:
    """y is entries of x: index (m, y.size) says which, in flattened x."""
    shape, m = node.x.shape, len(index)
    others = len(node.outputs) - 1

    def push(ways: Sequence[Array]) -> list[Array]:
        y = np.take_along_axis(ways[0].reshape(m, -1), index, axis=1)
        return [y.reshape(m, *node.y.shape), *(np.zeros(m),) * others]

    def pull(gradients: Sequence[Array]) -> list[Array]:
        x = np.zeros((m, node.x.size))
        rows = np.broadcast_to(np.arange(m)[:, None], index.shape)
        np.add.at(x, (rows, index), gradients[0].reshape(m, -1))
        return [x.reshape(m, *shape)]

    return push, pull


def extreme(
    node: Node, inputs: Sequence[Array | None], picks: npt.NDArray[np.int64], sign: float = 1.0
) -> Derivative:
    """Every output entry is the greatest (sign −1: the least) of its picks, −1 being none."""
    x = inputs[0]
    assert x is not None
    values = (sign * x).reshape(len(x), -1)[:, picks]
    winner = np.where(picks >= 0, values, -np.inf).argmax(axis=-1)
    return selection(node, picks[np.arange(len(picks)), winner])
