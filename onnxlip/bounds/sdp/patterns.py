"""Patterns: choices of an end for every slope, and a search for those of a large ‖J(d)‖₂.

With (g, v) the leading singular pair of J(d), gᵀJv is linear in the slopes of one node, so that
setting them to the ends that make it larger, node after node from the outputs back, never lowers
the norm (theory.md, section 4, "Free-pattern maximum"; `lower.freepattern` does so for large
networks, in float32, without the system).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.sdp.implicit import implicit
from onnxlip.bounds.sdp.relations import Slopes
from onnxlip.bounds.sdp.system import Floats, System
from onnxlip.rounding import add_up

__all__ = ["Ends", "Patterns", "slope_ends"]

Ends = npt.NDArray[np.int8]  # of every multiplier: −1 or 1 where its slope is fixed there, else 0

_SWEEPS = 50  # of a climb: it ends long before
_RISE = 1e-12  # less is rounding


def slope_ends(system: System) -> tuple[Floats, Floats]:
    """The ends of all slope intervals by multipliers, rounded outward; NaN for other relations."""
    low, high = [np.zeros(0)], [np.zeros(0)]
    for node in system.nonlinear:
        relation = node.relation
        ends = np.full((2, relation.count), math.nan)
        if isinstance(relation, Slopes):
            pairs = zip(relation.centre.tolist(), relation.radius.tolist(), strict=True)
            rows = [[0.0 - add_up(-c, r), add_up(c, r)] for c, r in pairs]
            ends = np.reshape(rows, (-1, 2)).T
        low.append(ends[0])
        high.append(ends[1])
    return np.concatenate(low), np.concatenate(high)


class Patterns:
    """J(d) of slopes at their ends, in floating point."""

    def __init__(self, system: System) -> None:
        self.low, self.high = slope_ends(system)
        self.is_slope = np.isfinite(self.low)
        form = implicit(system)
        self._width, self._size = form.width, form.size
        self._y = np.concatenate(
            [
                form.dense(rows, system.sizes[tensor])
                for rows, tensor in zip(form.y, system.outputs, strict=True)
            ]
        )
        self._layers: list[tuple[slice, slice, Floats, Floats | None]] = []
        begin = 0
        for k, (rows, relation) in enumerate(zip(form.z, form.relations, strict=True)):
            places = slice(begin, begin + relation.count)
            begin = places.stop
            centre = None if isinstance(relation, Slopes) else relation.quadratic.centre.toarray()
            self._layers.append((form.own(k), places, form.dense(rows, relation.columns), centre))

    def at(self, ends: Ends) -> Floats:
        """The slopes at these ends; NaN for what is no slope, or free."""
        return np.where(ends > 0, self.high, np.where(ends < 0, self.low, math.nan))

    def climb(self, ends: Ends) -> tuple[float, Ends]:
        """A pattern that no sweep improves, and its norm."""
        best = self._leading(ends)
        for _ in range(_SWEEPS):
            moved = self._swept(ends, *best[1:])
            found = self._leading(moved)
            if not found[0] > best[0] * (1 + _RISE):
                break
            ends, best = moved, found
        return best[0], ends

    def _leading(self, ends: Ends) -> tuple[float, Floats, Floats]:
        """‖J‖, its left singular vector, and v = [x; u] for x the right one."""
        d = self.at(ends)
        v = np.zeros((self._size, self._width))
        v[: self._width] = np.eye(self._width)
        for own, places, rows, centre in self._layers:
            z = rows @ v
            v[own] = d[places, None] * z if centre is None else centre @ z
        jacobian = self._y @ v
        if not jacobian.size or not np.all(np.isfinite(jacobian)):
            return 0.0, np.zeros(len(self._y)), np.zeros(self._size)
        left, values, right = np.linalg.svd(jacobian, full_matrices=False)
        return float(values[0]), left[:, 0], v @ right[0]

    def _swept(self, ends: Ends, left: Floats, v: Floats) -> Ends:
        """Ends that make leftᵀJv larger, from the outputs back; ties stay."""
        ends, cotangent = ends.copy(), self._y.T @ left
        for own, places, rows, centre in reversed(self._layers):
            if centre is not None:
                cotangent += rows.T @ (centre.T @ cotangent[own])
                continue
            product = cotangent[own] * (rows @ v)
            ends[places] = np.where(product == 0, ends[places], np.sign(product))
            cotangent += rows.T @ (self.at(ends)[places] * cotangent[own])
        return ends
