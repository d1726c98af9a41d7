"""What lies between two layers of a chain, as one choice of slopes, and of entries where it picks.

A gate is made of elementwise functions and ops that hand entries on. Output w of all of it is
d · x_j for some j of a window and d in a product of slope intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.autolip import largest_gain
from onnxlip.bounds.chains import Gate
from onnxlip.network import SlopeBlock
from onnxlip.rounding import mul_up

__all__ = ["Choice", "choice", "gate_gain"]

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Choice:
    """picks: (outputs, k) entries of the input, −1 for none, or None for each its own; alpha, beta:
    (outputs, k) slopes of each pick, or (outputs,) without picks."""

    picks: Places | None
    alpha: Floats
    beta: Floats


def choice(gate: Gate) -> Choice:
    """All of a gate together; slope intervals are multiplied and rounded outward."""
    found: Choice | None = None
    for block in gate:
        if isinstance(block, SlopeBlock):
            found = _sloped(found, *block.flat())
        else:
            assert block.form.picks is not None
            found = _picked(found, block.form.picks(block.node))
    assert found is not None
    return found


def _sloped(before: Choice | None, low: Floats, high: Floats) -> Choice:
    if before is None:
        return Choice(None, low, high)
    if before.picks is not None:
        low, high = low[:, None], high[:, None]
    ends = ((before.alpha, low), (before.alpha, high), (before.beta, low), (before.beta, high))
    corners = [a * b for a, b in ends]
    lowest = np.minimum.reduce(corners)
    highest = np.maximum.reduce(corners)
    return Choice(before.picks, np.nextafter(lowest, -np.inf), np.nextafter(highest, np.inf))


def _picked(before: Choice | None, window: Places) -> Choice:
    """Windows over what is there: every pick of every entry of a window is a pick of its."""
    inside = window >= 0
    if before is None:
        return Choice(window, inside.astype(np.float64), inside.astype(np.float64))
    picks = before.picks if before.picks is not None else np.arange(len(before.alpha))[:, None]
    shape = (len(window), window.shape[1] * picks.shape[1])

    def taken(values: npt.NDArray[Any], none: float) -> npt.NDArray[Any]:
        whole = np.broadcast_to(values.reshape(len(values), -1), picks.shape)
        return np.where(inside[:, :, None], whole[window], none).reshape(shape)

    return Choice(taken(picks, -1), taken(before.alpha, 0.0), taken(before.beta, 0.0))


def gate_gain(gate: Gate) -> float:
    """‖gate(a) − gate(b)‖₂ ≤ gain · ‖a − b‖₂, rounded up."""
    return mul_up(*(largest_gain(block, 2.0) for block in gate))
