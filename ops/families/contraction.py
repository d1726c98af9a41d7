"""Contractions of one variable tensor with constant ones, as a product of linear maps.

Axes carry labels, as in Einstein's notation. With one constant C, a label of the variable x is

    batch        also in C, and kept:        the blocks of a block-diagonal matrix
    contracted   also in C, and not kept:    the columns of the blocks
    free         not in C:                   Kronecker factors of the identity

and labels of C alone are the blocks' rows. With several constants they are applied one after the
other and never to each other: a rounded sum of products could cancel and err by any factor.
An axis of length 1 is broadcast, so its label may be dropped wherever it occurs.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.linear import LinearMap, Matrix, diagonal, identity, selection
from onnxlip.ops.families.axis_sums import summed

__all__ = ["Label", "contraction"]

Label = Hashable
Array = npt.NDArray[Any]


def contraction(
    shape: tuple[int, ...],
    labels: Sequence[Label],
    constants: Sequence[tuple[npt.NDArray[np.floating], Sequence[Label]]],
    out: Sequence[Label],
) -> LinearMap:
    """x ↦ Σ x[labels] Π_k C_k[labels_k], the sum over all labels that are not in `out`.

    Each tensor may repeat a label (its diagonal is meant); `out` may not.
    """
    sources, now = _plain(np.arange(math.prod(shape)).reshape(shape), labels)
    linear: LinearMap = selection(sources, math.prod(shape))
    sizes = dict(zip(now, sources.shape, strict=True))
    factors = [_plain(array, names) for array, names in constants]
    for array, names in factors:
        sizes.update(zip(names, array.shape, strict=True))
    for k, (array, names) in enumerate(factors):
        later = {label for _, others in factors[k + 1 :] for label in others}
        step, now = _with_one(array, names, now, later | set(out), sizes)
        linear = step @ linear
    lone = [axis for axis, label in enumerate(now) if label not in out]
    linear = summed([sizes[label] for label in now], lone) @ linear
    now = [label for label in now if label in out]
    return _arranged(now, [label for label in out if label in now], sizes) @ linear


def _plain(array: Array, labels: Sequence[Label]) -> tuple[Array, list[Label]]:
    """Without axes of length 1, and with the diagonal over repeated labels."""
    names = [label for label, size in zip(labels, array.shape, strict=True) if size != 1]
    array = array.reshape([size for size in array.shape if size != 1])
    for label in dict.fromkeys(names):
        while names.count(label) > 1:
            first = names.index(label)
            second = names.index(label, first + 1)
            array = np.diagonal(array, axis1=first, axis2=second)
            del names[second], names[first]
            names.append(label)
    return array, names


def _arranged(labels: list[Label], order: list[Label], sizes: dict[Label, int]) -> LinearMap:
    """The transposition that brings axes into this order."""
    shape = [sizes[label] for label in labels]
    if labels == order:
        return identity(math.prod(shape))
    places = np.arange(math.prod(shape)).reshape(shape)
    return selection(places.transpose([labels.index(label) for label in order]), places.size)


def _with_one(
    array: npt.NDArray[np.floating],
    names: list[Label],
    labels: list[Label],
    keep: set[Label],
    sizes: dict[Label, int],
) -> tuple[LinearMap, list[Label]]:
    """Contraction with one constant; labels outside `keep` are summed. Also the new labels."""
    lone = [axis for axis, name in enumerate(labels) if name not in names and name not in keep]
    first = summed([sizes[name] for name in labels], lone)
    labels = [label for axis, label in enumerate(labels) if axis not in lone]
    batch = [label for label in labels if label in names and label in keep]
    contracted = [label for label in labels if label in names and label not in keep]
    new = [label for label in names if label not in labels]
    if not contracted and not new:
        order = [label for label in labels if label in names]
        weight = array.transpose([names.index(label) for label in order])
        wide = [sizes[label] if label in names else 1 for label in labels]
        shape = tuple(sizes[label] for label in labels)
        return diagonal(weight.reshape(wide), shape) @ first, labels
    touched = next((k for k, label in enumerate(labels) if label in names), len(labels))
    outer = labels[:touched]
    inner = [label for label in labels[touched:] if label not in names]

    def size(group: list[Label]) -> int:
        return math.prod(sizes[label] for label in group)

    order = [*batch, *new, *contracted]
    blocks = array.transpose([names.index(label) for label in order])
    blocks = blocks.reshape(size(batch), size(new), size(contracted))
    matrix = Matrix(blocks, size(outer), size(inner))
    arranged = _arranged(labels, [*outer, *batch, *contracted, *inner], sizes)
    return matrix @ arranged @ first, [*outer, *batch, *new, *inner]
