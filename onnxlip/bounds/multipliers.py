"""LipSDP of one system: multipliers in closed form, then the best ones, as far as a budget goes.

Closed forms are a start; up to `_DENSE` entries of v the interior-point method finds the best
multipliers, beyond that the first-order one comes near them. What is found is proved by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.lower.problem import Subject
from onnxlip.bounds.sdp.build import stacked_scales
from onnxlip.bounds.sdp.closed import ClosedForm, closed_forms
from onnxlip.bounds.sdp.proof import Certifier
from onnxlip.bounds.sdp.system import Floats, System

__all__ = ["PER_SECOND", "TOLERANCE", "Effort", "Multipliers", "Run", "Search"]

_INTERIOR = 250.0  # times the cube of the order of M: what the interior-point method takes
_DENSE = 2600  # order of M up to which it is used
_PROOF = 0.8  # likewise, of a proof
TOLERANCE = 1e-5  # of ρ, relative
PER_SECOND = 1.5e10  # multiplications, about, for time that a proof needs


@dataclass(frozen=True)
class Effort:
    """method: one of `choices.METHODS`; seconds: that it may take, None: a number of operations;
    tolerance: of LipSDP's ρ, relative."""

    method: str = "auto"
    seconds: float | None = None
    tolerance: float = TOLERANCE


@dataclass(frozen=True, eq=False)
class Multipliers:
    """What proves a bound: values, flat, of the network's system, `direct`, or of its transpose.

    scales: by which blocks of several inputs had these multiplied before they were stacked.
    """

    system: System
    turned: bool
    values: Floats
    rho: float
    bound: float
    method: str
    scales: Mapping[str, tuple[float, ...]]
    direct: System


class Run(Protocol):
    """What the search asks of the run that it is part of: budget, notes and progress."""

    effort: Effort
    notes: list[str]

    @property
    def subject(self) -> Subject:
        """The analysis."""

    @property
    def spent(self) -> float:
        """Seconds since it began."""

    def share(self, part: float) -> Callable[[], bool]:
        """Late after so much of what time is left."""

    def affords(self, cost: float, what: str) -> bool:
        """Whether so many multiplications are left; else it is noted."""

    def attempt(self, method: str, prove: Callable[[], float | None]) -> float:
        """Note what a method gives and takes."""

    def tell(self, what: str) -> None:
        """Show progress."""


class Search:
    """For multipliers of one system or of its transpose, whichever is cheaper."""

    def __init__(self, run: Run, system: System, turned: bool, of: System) -> None:
        self._run, self._of = run, of
        self._system, self.turned = system, turned
        self._certifier = Certifier(self._system)
        self._order = float(self._system.width + self._system.neurons)
        self._start: tuple[float, Floats] | None = None
        self.what = "LipSDP"
        self.found: list[Multipliers] = []
        self._forms: dict[str, ClosedForm] = {}

    @property
    def possible(self) -> bool:
        """Whether what is found can be proved."""
        return self._certifier.possible

    @property
    def first_cost(self) -> float:
        """With time given, of one closed form and its proof; else of all."""
        if self._run.effort.seconds is None:
            return self.closed_cost
        from onnxlip.bounds.sdp.descent import cost

        return cost(self._system) + _PROOF * self._order**3

    @property
    def closed_cost(self) -> float:
        """Of all closed forms and the proof of the best."""
        from onnxlip.bounds.sdp.closed import cost

        return cost(self._system) + _PROOF * self._order**3

    def _proved(self, method: str, values: Floats, rho: float) -> float:
        bound = self._certifier.proved(values, rho)
        if bound < math.inf:
            given = Multipliers(
                self._system,
                self.turned,
                values,
                rho,
                bound,
                method,
                stacked_scales(self._of),
                self._of,
            )
            self.found.append(given)
        return bound

    def closed(self) -> None:
        """The best closed form, proved."""
        method = "closed-form multipliers"

        def prove() -> float:
            self._forms = closed_forms(self._system, self._run.share(0.15))
            forms = [(e.rho, e.multipliers) for e in self._forms.values()]
            if not forms:
                return math.inf
            self._start = min(forms, key=lambda form: form[0])
            return self._proved(method, self._start[1], self._start[0])

        self._run.attempt(method, prove)

    def optimised(self) -> None:
        """LipSDP-Layer where asked for, and LipSDP-Neuron."""
        run = self._run
        if self._start is None or not math.isfinite(self._start[0]):
            run.notes.append("LipSDP: no multipliers to start from")
            return
        dense = self._order <= _DENSE
        cost = self._optimising(dense)
        if run.effort.method == "lipsdp-layer":
            if not dense:
                run.notes.append("LipSDP-Layer: left out, too many neurons")
            elif run.affords(cost, "LipSDP-Layer"):
                run.attempt("lipsdp-layer", lambda: self._interior("lipsdp-layer", layered=True))
            return
        if run.affords(cost, self.what):
            solve = self._interior if dense else self._descent
            run.attempt("lipsdp-neuron", lambda: solve("lipsdp-neuron"))

    def _optimising(self, dense: bool) -> float:
        """What LipSDP-Neuron takes; with time given only what it has to begin with, as it ends
        when it is late."""
        from onnxlip.bounds.sdp.descent import cost

        timed = self._run.effort.seconds is not None
        proof = _PROOF * self._order**3
        if dense:
            return proof + (0.1 if timed else 1.0) * _INTERIOR * self._order**3
        return proof + (2.0 if timed else 100.0) * cost(self._system)

    def _interior(self, method: str, layered: bool = False) -> float:
        from onnxlip.bounds.sdp.interior import minimised

        assert self._start is not None
        start, ties = self._start[1], None
        if layered:
            start, ties = self._one_each()
        run = self._run
        found = minimised(
            self._system,
            start,
            run.effort.tolerance,
            ties=ties,
            late=self._late,
            progress=lambda steps, rho, lower: run.tell(f"{method}, {_gap(rho, lower)}"),
        )
        if found is None:
            run.notes.append(f"{method}: the search found no way in; the start is kept")
            return math.inf
        value = self._proved(method, found.multipliers, found.rho)
        if found.stalled or found.rho > found.lower * (1 + 2 * run.effort.tolerance):
            why = "stalled" if found.stalled else "stopped"
            least = math.sqrt(max(found.lower, 0.0))
            run.notes.append(f"{method} {why}: its optimum is at least {least:.6g}")
        return value

    def _one_each(self) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Equal multipliers within each block, feasible, and their numbers."""
        counts = [n.relation.count for n in self._system.nonlinear]
        form = self._forms.get("scalar") or next(iter(self._forms.values()))
        return form.multipliers, np.repeat(np.arange(len(counts)), counts)

    def _descent(self, method: str) -> float:
        from onnxlip.bounds.sdp.descent import minimised

        assert self._start is not None
        run = self._run
        found = minimised(
            self._system,
            self._start[1],
            ties=self._channels(),
            tolerance=run.effort.tolerance,
            late=self._late,
            progress=lambda steps, rho: run.tell(f"{method}, step {steps}"),
        )
        if self._late():
            run.notes.append(f"{method}: ended by the timeout; more time may give a lower bound")
        return self._proved(method, found.multipliers, found.rho)

    def _late(self) -> bool:
        """Whether what is left is needed for the proof."""
        seconds = self._run.effort.seconds
        reserved = _PROOF * self._order**3 / PER_SECOND
        return seconds is not None and self._run.spent + reserved >= seconds

    def _channels(self) -> npt.NDArray[np.int64]:
        """A number for every channel of every elementwise block of images, and for every other
        block: groups of multipliers that are much the same."""
        blocks = {b.name: b for b in self._run.subject.network.blocks}
        groups, count = [], 0
        for node in self._system.nonlinear:
            shape: tuple[int, ...] = getattr(blocks.get(node.name), "shape", ())
            m = node.relation.count
            each = math.prod(shape[2:]) if len(shape) > 2 and math.prod(shape) == m else m
            groups.append(count + np.arange(m) // max(1, each))
            count = int(groups[-1].max(initial=count - 1)) + 1
        return np.concatenate([*groups, np.zeros(0, np.int64)]).astype(np.int64)


def _gap(rho: float, lower: float) -> str:
    return f"gap {rho / lower - 1:.0e}" if lower > 0 else "begun"
