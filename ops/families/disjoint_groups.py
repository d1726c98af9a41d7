"""Reductions over some axes: each output entry is made of one group of input entries.

The groups are disjoint and cover the input, so a bound of one group holds for all of them
together, in every p-norm: ‖δy‖_p^p = Σ_groups |δy|^p ≤ g^p Σ_groups ‖δx_group‖_p^p.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from onnxlip.ops.families.axis_sums import reduced_axes
from onnxlip.rules import Box, Node

__all__ = ["box_of", "group_picks", "group_size", "monotone_image", "uniform"]

Floats = npt.NDArray[np.float64]
Reduction = Callable[[Floats, tuple[int, ...]], Floats]


def group_size(node: Node) -> int:
    """How many input entries make one output entry."""
    return math.prod(node.x.shape[a] for a in reduced_axes(node))


def monotone_image(node: Node, box: Box, reduce: Reduction) -> Box:
    """Image of a reduction to one of the entries, nondecreasing in each of them.

    reduce(array, axes) keeps the reduced axes with length 1.
    """
    same = uniform(box)
    if same:
        return same
    axes = reduced_axes(node)
    ends = [
        reduce(np.broadcast_to(end, node.x.shape), axes).reshape(node.y.shape)
        for end in (box.low, box.high)
    ]
    return Box.of(ends[0], ends[1])


def box_of(boxes: Sequence[Box | None]) -> Box:
    """The box of input 0."""
    return boxes[0] or Box.whole()


def uniform(box: Box) -> Box | None:
    """The box as one interval, if that is what it is: order statistics lie in it as well."""
    if box.low.size == box.high.size == 1:
        return Box(box.low.reshape(()), box.high.reshape(()))
    return None


def group_picks(node: Node, axes: Sequence[int] | None = None) -> npt.NDArray[np.int64]:
    """(groups, entries of each): their flat positions; `axes` where the node does not tell them."""
    shape = node.x.shape
    reduced = tuple(reduced_axes(node) if axes is None else axes)
    kept = [a for a in range(len(shape)) if a not in reduced]
    places = np.arange(math.prod(shape)).reshape(shape).transpose(*kept, *reduced)
    return places.reshape(math.prod(shape[a] for a in kept), -1)
