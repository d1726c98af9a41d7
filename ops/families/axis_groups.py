"""Ops that treat each slice of a tensor along some axes alone: a group per slice.

The Jacobian of such an op is block diagonal with one block per group, so for every p its norm,
and with it the op's gain, is the *largest* over the groups, however many there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Groups", "along"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Groups:
    """A tensor of `shape`, read as `view`, whose groups run over `axes` of the view.

    Data of the groups is an array of shape (groups, size); either length may be 1 where the data
    is the same throughout, so that nothing is expanded that need not be.
    """

    shape: tuple[int, ...]
    view: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def size(self) -> int:
        """Entries per group."""
        return math.prod(self.view[a] for a in self.axes)

    @property
    def _order(self) -> tuple[int, ...]:
        return (*(a for a in range(len(self.view)) if a not in self.axes), *self.axes)

    def rows(self, values: npt.NDArray[Any]) -> Floats:
        """What is broadcastable to the tensor, by group."""
        if values.size != 1 and self.view != self.shape:
            values = np.broadcast_to(values, self.shape).reshape(self.view)
        return self.view_rows(values)

    def view_rows(self, values: npt.NDArray[Any]) -> Floats:
        """What is broadcastable to the view, by group."""
        data = np.asarray(values, np.float64)
        data = data.reshape((1,) * (len(self.view) - data.ndim) + data.shape)
        data = data.transpose(self._order)
        outer = len(self.view) - len(self.axes)
        full = [self.view[a] for a in self._order]
        kept, own = data.shape[:outer], data.shape[outer:]
        kept = kept if math.prod(kept) == 1 else tuple(full[:outer])
        own = own if math.prod(own) == 1 else tuple(full[outer:])
        return np.broadcast_to(data, (*kept, *own)).reshape(math.prod(kept), math.prod(own))

    def tensor(self, rows: Floats) -> Floats:
        """What is given by group, broadcastable to the tensor."""
        if rows.size == 1:
            return rows.reshape(())
        full = tuple(self.view[a] for a in self._order)
        spread = np.broadcast_to(rows, (math.prod(self.view) // max(self.size, 1), self.size))
        return spread.reshape(full).transpose(np.argsort(self._order)).reshape(self.shape)


def along(shape: tuple[int, ...], *axes: int) -> Groups:
    """The groups of a tensor along some of its own axes (negative ones count from the end)."""
    return Groups(shape, shape, tuple(sorted(a % len(shape) for a in axes)))
