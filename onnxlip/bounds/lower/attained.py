"""Attained quotients: ‖f(x) − f(y)‖_p / ‖x − y‖_p at two points that anybody can evaluate.

Every such quotient is a lower bound of the Lipschitz constant. f is evaluated in float64, and what
its rounding may have added is taken off:

- x and y are float64 numbers, taken as exact; their difference and its norm are rounded up.
- f(x) and f(y) carry rounding noise. It is measured, not bounded: along a line, at points that
  are a few units in the last place apart, f is as good as straight, so that k-th differences of
  computed values (k ≥ 2) are noise; with γ_k = (k!)²/(2k)! its level is √(γ_k mean ‖Δᵏf‖²) (Moré &
  Wild 2011, "Estimating computational noise"). The largest over k = 2, 3, 4, and at least half a
  unit in the last place of f's values, is taken `_MARGIN` times for each of f(x) and f(y).
- Where an op has float32 constants or runs in float32 only, a relative 10⁻⁶ goes off as well.

So "attained" is a statement about a computation with an allowance, not a theorem; for piecewise
linear networks it was held against exact rational arithmetic (tests/bounds).
"""

from __future__ import annotations

import math
import time
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.lower.double import EXACT, SINGLE, Double
from onnxlip.bounds.lower.problem import Points, Subject
from onnxlip.errors import UsageError
from onnxlip.files import write_whole
from onnxlip.rounding import UNIT, down, gamma, up

__all__ = ["Attained", "Quotients", "replay", "saved"]

Floats = npt.NDArray[np.float64]

_MARGIN = 32.0
_INEXACT = 1e-6
_STEPS = (1e-6, 1e-4, 1e-2)  # of y − x, relative to the entries of x
_SINGLE_STEPS = (1e-2, 1e-1, 1.0)
_FORMAT = "onnxlip attained 1"


@dataclass(frozen=True, eq=False)
class Attained:
    """‖f(x) − f(y)‖_p ≥ value · ‖x − y‖_p.

    x, y: (n,), float64, all inputs stacked; method: how the pair was found, and in what accuracy it
    was evaluated if not in float64; norm: p; sha256: of the model.
    """

    value: float
    x: Floats
    y: Floats
    method: str
    seconds: float
    norm: float = 2.0
    sha256: str = ""

    def save(self, path: str | Path) -> None:
        """Write an .npz file, whole or not at all. Raises UsageError where it cannot be written."""
        target = Path(path)
        data: dict[str, Any] = {
            "format": _FORMAT,
            "value": self.value,
            "x": self.x,
            "y": self.y,
            "method": self.method,
            "seconds": self.seconds,
            "norm": self.norm,
            "sha256": self.sha256,
        }
        write_whole(target, lambda file: np.savez(file, **data))


class Quotients:
    """Quotients of one network in float64, with what rounding may have added taken off."""

    def __init__(self, subject: Subject) -> None:
        self.p = subject.norm
        self._f = Double(subject.model, subject.graph, subject.rule_set.lowerings)
        self._noise: dict[bytes, float] = {}
        self._last: tuple[Floats, Floats] | None = None

    @property
    def accuracy(self) -> str:
        """EXACT, ROUNDED or SINGLE."""
        return self._f.accuracy

    def value(self, x: Floats, y: Floats) -> float:
        """The quotient at x ≠ y, less the allowance, rounded down; 0 where it overflows."""
        with np.errstate(all="ignore"):
            fx, fy = self._at(x), self._f(y)
            rise = self._norm(fy - fx)
        if not (math.isfinite(rise) and np.isfinite(fx).all() and np.isfinite(fy).all()):
            return 0.0
        length = up(self._norm(y - x) * (1 + gamma(len(x) + 8)))
        noise = max(self._noise_at(x, y - x), UNIT * max(self._norm(fx), self._norm(fy)))
        rise = rise * (1 - gamma(len(fx) + 8)) - 2 * _MARGIN * noise
        if not (length > 0 and rise > 0):
            return 0.0
        rest = 1.0 if self.accuracy == EXACT else 1 - _INEXACT
        return down(down(rise / length) * rest) if rest < 1 else down(rise / length)

    def best(self, points: Points, until: float = math.inf) -> tuple[float, Floats, Floats]:
        """The largest quotient (value, x, y) along the points' directions, over several lengths."""
        n = points.x.shape[1]
        found = (0.0, np.zeros(n), np.ones(n))
        steps = _SINGLE_STEPS if self.accuracy == SINGLE else _STEPS
        for x, v in zip(points.x, points.v, strict=True):
            size = max(float(np.abs(x).mean()), 1e-3) * float(np.sqrt(n))
            unit = v / (np.linalg.norm(v) + 1e-300)
            for step in steps:
                y = x + step * size * unit
                value = self.value(x, y)
                if value > found[0]:
                    found = (value, x, y)
                if found[0] > 0 and time.perf_counter() > until:
                    return found
        return found

    def _at(self, x: Floats) -> Floats:
        """f(x), kept for the next length at this point."""
        if self._last is None or not np.array_equal(self._last[0], x):
            self._last = (x, self._f(x))
        return self._last[1]

    def _norm(self, v: Floats) -> float:
        return float(np.linalg.norm(v, self.p)) if v.size else 0.0

    def _noise_at(self, x: Floats, way: Floats) -> float:
        """The noise of computed values near x, in the p-norm; that near y is of the same kind."""
        if x.tobytes() not in self._noise:
            spacing = 2.0**-20 if self.accuracy == SINGLE else 2.0**-48
            largest = float(np.abs(way).max(initial=0.0)) or 1.0
            step = spacing * max(float(np.abs(x).max(initial=0.0)), 1e-3) * way / largest
            with np.errstate(all="ignore"):
                table = np.stack([self._f(x + k * step) for k in range(7)])
                levels = list(self._levels(table))
            self._noise[x.tobytes()] = max(levels) if np.all(np.isfinite(levels)) else math.inf
        return self._noise[x.tobytes()]

    def _levels(self, table: Floats) -> Iterable[float]:
        for k in range(1, 5):
            table = np.diff(table, axis=0)
            if k > 1:
                scale = math.factorial(k) ** 2 / math.factorial(2 * k)
                yield math.sqrt(scale * float(np.mean([self._norm(row) ** 2 for row in table])))


def replay(subject: Subject, path: str | Path) -> float:
    """The quotient at the pair in a file that `Attained.save` wrote, computed anew.

    Raises UsageError where the file is damaged, or made for another model, norm or shape.
    """
    found = _load(Path(path))
    n = sum(v.size for v in subject.graph.inputs)
    if found.sha256 != subject.model.sha256:
        raise UsageError(f"{path}: it was attained on another file than {subject.model.name}")
    if found.x.shape != (n,):
        raise UsageError(
            f"{path}: its points have {found.x.size} entries, the chosen inputs have {n}; choose "
            "the same inputs and shapes as when it was saved"
        )
    if found.norm != subject.norm:
        raise UsageError(f"{path}: it was attained in another norm; pass the same --norm")
    return Quotients(subject).value(found.x, found.y)


def saved(path: str | Path) -> Attained:
    """What such a file holds. Raises UsageError where it is damaged."""
    return _load(Path(path))


def _load(path: Path) -> Attained:
    try:
        with np.load(path, allow_pickle=False) as data:
            if str(data["format"]) != _FORMAT:
                raise ValueError("another format")
            x, y = (np.asarray(data[k], np.float64) for k in ("x", "y"))
            found = Attained(
                float(data["value"]),
                x,
                y,
                str(data["method"]),
                float(data["seconds"]),
                float(data["norm"]),
                str(data["sha256"]),
            )
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        raise UsageError(f"{path}: no file of an attained pair, or a damaged one") from None
    if x.ndim != 1 or x.shape != y.shape or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UsageError(f"{path}: no file of an attained pair, or a damaged one")
    return found
