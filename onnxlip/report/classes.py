"""Differences of outputs in the report, and what follows for rows of data."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxlip.report.figures import columns, shown_down, shown_up

__all__ = ["ClassReport", "RadiiReport", "class_lines", "classes_from_dict", "radii_from_dict"]

_GRID = 12  # outputs up to which all pairs are shown
_SHOWN = 12  # else as many, the largest


@dataclass(frozen=True)
class ClassReport:
    """|(y_i − y_j)(a) − (y_i − y_j)(b)| ≤ upper[i][j] ‖a − b‖ for all a, b: certified. which: the
    place in `methods` of what gave it."""

    upper: tuple[tuple[float, ...], ...]
    methods: tuple[str, ...]
    which: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class RadiiReport:
    """For every row of data: the output that is largest there, and a radius within which it stays
    the largest (None: everywhere). table: (radius, share of rows that are right and whose radius is
    at least that); labelled: "right" is by labels given, else as predicted; allowance: the most
    that was taken off a margin for the rounding of its evaluation."""

    radii: tuple[float | None, ...]
    predictions: tuple[int, ...]
    table: tuple[tuple[float, float], ...]
    labelled: bool
    allowance: float


def classes_from_dict(data: Mapping[str, Any] | None) -> ClassReport | None:
    """The record that `asdict` and JSON made this from."""
    if data is None:
        return None
    upper, which = (tuple(map(tuple, data[key])) for key in ("upper", "which"))
    return ClassReport(upper, tuple(data["methods"]), which)


def radii_from_dict(data: Mapping[str, Any] | None) -> RadiiReport | None:
    """The record that `asdict` and JSON made this from."""
    if data is None:
        return None
    table = tuple((row[0], row[1]) for row in data["table"])
    plain = {key: tuple(data[key]) for key in ("radii", "predictions")}
    return RadiiReport(**{**data, **plain, "table": table})


def class_lines(classes: ClassReport | None, radii: RadiiReport | None) -> list[str]:
    """The tables of both, with an empty line before each."""
    lines: list[str] = []
    if classes is not None:
        lines += ["", *_pair_lines(classes)]
    if radii is not None:
        lines += ["", *_radius_lines(radii)]
    return lines


def _pair_lines(classes: ClassReport) -> list[str]:
    m = len(classes.upper)
    if m <= _GRID:
        rows = [
            [str(i), *(shown_up(x, 4) if j < i else "" for j, x in enumerate(row[:-1]))]
            for i, row in enumerate(classes.upper)
        ]
        return columns(rows[1:], ["y_i − y_j", *map(str, range(m - 1))])
    pairs = sorted(itertools.combinations(range(m), 2), key=lambda p: -classes.upper[p[0]][p[1]])
    rows = [[f"{i} − {j}", shown_up(classes.upper[i][j], 6)] for i, j in pairs[:_SHOWN]]
    told = f"and {len(pairs) - len(rows)} more pairs with smaller bounds"
    return [*columns(rows, ["y_i − y_j", "upper bound"]), told]


def _radius_lines(radii: RadiiReport) -> list[str]:
    right = "right by the labels given" if radii.labelled else "decided as predicted"
    rows = [[shown_down(r, 4), f"{share:.1%}"] for r, share in radii.table]
    told = f"certified accuracy of {len(radii.radii)} rows: {right}, within this radius"
    return [told, *columns(rows, ["radius", "rows"])]
