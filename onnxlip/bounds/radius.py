"""The certified radius of every row of data: no input nearer than that has another largest output.

With class i the largest output at x and L_ij a certified constant of y_i − y_j (`classes`),

    radius(x) = min_j (y_i(x) − y_j(x)) / L_ij,

rounded down: at any x' with ‖x' − x‖_p < radius, y_i(x') > y_j(x') for all j (Hein & Andriushchenko
2017; Tsuzuku et al. 2018). Margins are what is evaluated in float64, less an allowance for its
rounding as with attained quotients (`lower.attained`): noise is measured around some of the rows,
by k-th differences along a line, and 32 times the largest is taken off for each output, and a
relative 10⁻⁶ of the largest output where an op has float32 constants or runs in float32 only. So a
radius is certified for the network so evaluated, with that allowance; L_ij needs none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.lower.data import rows_of
from onnxlip.bounds.lower.double import EXACT, Double
from onnxlip.bounds.lower.problem import Subject
from onnxlip.errors import UsageError
from onnxlip.rounding import UNIT
from onnxlip.rules import Value

__all__ = ["Radii", "certified_radii", "labelled"]

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

_MARGIN = 32.0
_PROBED = 32  # rows around which noise is measured
_INEXACT = 1e-6
_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)  # quantiles of the radii for the table
_LABELS = "y"


@dataclass(frozen=True, eq=False)
class Radii:
    """radii: (rows,), 0 where a tie is not decided, infinite where no other output ever moves;
    predictions: (rows,); table: (radius, certified accuracy) in rising order: the share of rows
    that are right and whose radius is at least that; labelled: whether "right" is by labels given,
    or as predicted; allowance: the most that was taken off a margin."""

    radii: Floats
    predictions: Labels
    table: tuple[tuple[float, float], ...]
    labelled: bool
    allowance: float

    def as_json(self) -> dict[str, Any]:
        """Numbers and lists; null for an infinite radius."""
        return {
            "radii": [r if math.isfinite(r) else None for r in self.radii.tolist()],
            "predictions": self.predictions.tolist(),
            "certified_accuracy": [{"radius": r, "share": s} for r, s in self.table],
            "labelled": self.labelled,
            "allowance": self.allowance,
        }


def labelled(data: Any, inputs: Sequence[Value]) -> tuple[Floats, Labels | None]:
    """(rows, labels): labels are the array `y` of a mapping, unless an input has that name.

    Raises UsageError as `rows_of`, and where labels are not one whole number per row.
    """
    names = {v.name for v in inputs}
    if not isinstance(data, Mapping) or _LABELS not in data or _LABELS in names:
        return rows_of(data, inputs), None
    rows = rows_of({k: a for k, a in data.items() if k != _LABELS}, inputs)
    given = np.asarray(data[_LABELS])
    whole = given.dtype.kind in "iub" or (
        given.dtype.kind == "f" and np.isfinite(given).all() and np.all(given == np.floor(given))
    )
    if not whole or given.size != len(rows):
        raise UsageError(
            f"--data: labels '{_LABELS}' are {given.dtype} of shape {given.shape}; one whole "
            f"number for each of {len(rows)} rows is needed"
        )
    return rows, given.reshape(-1).astype(np.int64)


def certified_radii(
    subject: Subject, data: Any, upper: Floats, radii: Sequence[float] | None = None
) -> Radii:
    """Radii of all rows, in the norm that the constants `upper` (m, m) are for.

    data: as `labelled` takes it; radii: of the table, quantiles of what was found by default.
    Raises UsageError: bad data, fewer than two outputs, labels beyond them, another shape of
    `upper`; ModelError where no runtime runs the network.
    """
    rows, labels = labelled(data, subject.graph.inputs)
    f = Double(subject.model, subject.graph, subject.rule_set.lowerings)
    values = np.stack([f(x) for x in rows])
    m = values.shape[1]
    if m < 2:
        raise UsageError("a certified radius needs two outputs to compare; the network has one")
    if upper.shape != (m, m):
        raise UsageError(f"constants of {m} outputs are ({m}, {m}), not {upper.shape}")
    if labels is not None and not np.all((labels >= 0) & (labels < m)):
        raise UsageError(f"--data: labels are classes 0 to {m - 1}; some are not")
    allowance = _allowance(f, rows, values)
    found, predictions = _radii(values, upper, allowance)
    right = np.ones(len(rows), bool) if labels is None else predictions == labels
    table = _table(found, right, radii)
    finite = allowance[np.isfinite(allowance)]
    return Radii(found, predictions, table, labels is not None, float(finite.max(initial=0.0)))


def _radii(values: Floats, upper: Floats, allowance: Floats) -> tuple[Floats, Labels]:
    predictions = values.argmax(axis=1)
    here = np.arange(len(values))
    margins = np.nextafter(values[here, predictions][:, None] - values, -np.inf)
    margins = np.nextafter(margins - allowance[:, None], -np.inf)
    constants = upper[predictions]
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.nextafter(np.maximum(margins, 0.0) / constants, 0.0)
    each = np.where(margins > 0, np.where(constants == 0, np.inf, each), 0.0)
    each[here, predictions] = np.inf
    sound = np.isfinite(values).all(axis=1) & np.isfinite(allowance)
    return np.where(sound, each.min(axis=1), 0.0), predictions.astype(np.int64)


def _table(
    found: Floats, right: npt.NDArray[np.bool_], radii: Sequence[float] | None
) -> tuple[tuple[float, float], ...]:
    if radii is None:
        finite = found[np.isfinite(found)]
        known = np.quantile(finite, _SHARES, method="lower") if finite.size else np.zeros(0)
        radii = [0.0, *known.tolist()]
    return tuple((r, float(np.mean(right & (found >= r)))) for r in sorted(set(map(float, radii))))


def _allowance(f: Double, rows: Floats, values: Floats) -> Floats:
    """What goes off the margin of each row: of two outputs."""
    size = np.abs(values).max(axis=1)
    noise = max((_noise(f, x) for x in rows[:: max(1, len(rows) // _PROBED)]), default=0.0)
    taken = 2 * _MARGIN * np.maximum(noise, UNIT * size)
    return np.asarray(taken if f.accuracy == EXACT else taken + 2 * _INEXACT * size)


def _noise(f: Double, x: Floats) -> float:
    """The noise of values around x, the largest of all outputs (Moré & Wild 2011)."""
    way = np.random.default_rng(len(x)).standard_normal(len(x))
    spacing = 2.0**-48 if f.accuracy == EXACT else 2.0**-20
    step = spacing * max(float(np.abs(x).max(initial=0.0)), 1e-3) * way / np.abs(way).max()
    table = np.stack([f(x + k * step) for k in range(7)])
    levels = []
    for k in range(1, 5):
        table = np.diff(table, axis=0)
        if k > 1:
            scale = math.factorial(k) ** 2 / math.factorial(2 * k)
            levels.append(math.sqrt(scale * float((table**2).mean(axis=0).max())))
    return max(levels) if np.all(np.isfinite(levels)) else math.inf
