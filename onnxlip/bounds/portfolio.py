"""Upper bounds beyond AutoLip, cheapest first; the best one is kept.

    scaled AutoLip      `scaled`          rescaled layers, then AutoLip
    LipLT               `liplt`           linear paths kept exact (Fazlyab et al. 2023); scaled too
    closed form         `sdp.closed`      multipliers without a search (ECLipsE-Fast and better)
    LipSDP-Layer        `sdp.interior`    one multiplier a block (Fazlyab et al. 2019)
    LipSDP-Neuron       `sdp.interior`, beyond `_DENSE` multipliers `sdp.descent`
    exact               `exact`           no or one hidden layer, where it finishes
    slopes, split       `sdp.branching`   the best of all that know slopes by their intervals only

Whatever finds multipliers, `sdp.proof` proves the bound that they give. No cheap bound always wins
(theory.md, section 4), which is why there are several.

The budget. With `seconds`, what has not begun by then is left out and LipSDP ends with the best so
far: every iterate proves something. Without, work is counted in multiplications and not in time, so
that the same input gives the same figures: `_WORK` of them are about ten seconds of one core.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxlip.bounds.autolip import BlockNorm
from onnxlip.bounds.lower.problem import Subject
from onnxlip.bounds.multipliers import PER_SECOND, TOLERANCE, Effort, Multipliers, Search
from onnxlip.bounds.sdp.build import OutOfReachError, system
from onnxlip.bounds.sdp.relations import Windows
from onnxlip.bounds.sdp.system import System
from onnxlip.certificate import Kind
from onnxlip.network import AffineBlock
from onnxlip.norms.workspace import Workspace
from onnxlip.parallel import Progress, one_blas_thread

if TYPE_CHECKING:
    from onnxlip.bounds.lower.attained import Attained

__all__ = ["Attempt", "Effort", "Multipliers", "Portfolio", "portfolio"]

_WORK = 2e11  # multiplications, where no time was given
_BEGUN = 0.02  # of a method that keeps what it has when it is late
_BRANCHED = 64  # neurons up to which one hidden layer is bounded by branch and bound unasked
_SECONDS = 10.0  # … for so long


@dataclass(frozen=True)
class Attempt:
    """What a method gave: if certified, ‖f(a) − f(b)‖₂ ≤ value ‖a − b‖₂; ∞ for nothing."""

    method: str
    value: float
    seconds: float
    kind: Kind = "certified"


@dataclass(frozen=True, eq=False)
class Portfolio:
    """attempts: in the order in which they were made; best: those multipliers that proved least;
    notes: what was left out, and what ended early; reached: a pair of points that an exact method
    found on its way, with a quotient that is a lower bound."""

    attempts: tuple[Attempt, ...]
    best: Multipliers | None = None
    notes: tuple[str, ...] = ()
    reached: Attained | None = None


def portfolio(
    subject: Subject,
    norms: Sequence[BlockNorm],
    work: Workspace,
    effort: Effort,
    progress: Progress | None = None,
) -> Portfolio:
    """Bounds for the 2-norm, of all inputs together to all outputs stacked.

    norms: of the network's blocks. SeqLip is not here: it needs no system.
    """
    with one_blas_thread():
        return _Run(subject, norms, work, effort, progress).run()


@dataclass(eq=False)
class _Run:
    subject: Subject
    norms: Sequence[BlockNorm]
    work: Workspace
    effort: Effort
    progress: Progress | None
    begun: float = field(default_factory=time.monotonic)
    left: float = field(default_factory=lambda: _WORK)
    notes: list[str] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    best: Multipliers | None = None
    reached: Attained | None = None

    # ── budget ────────────────────────────────────────────────────────────────────────────

    @property
    def spent(self) -> float:
        return time.monotonic() - self.begun

    def late(self) -> bool:
        """Whether the time given is over."""
        return self.effort.seconds is not None and self.spent >= self.effort.seconds

    def share(self, part: float) -> Callable[[], bool]:
        """Late after so much of what time is left, unless this method alone was asked for: what
        comes later is better, given time."""
        seconds = self.effort.seconds
        if seconds is None or self.effort.method != "auto":
            return self.late
        until = self.spent + part * (seconds - self.spent)
        return lambda: self.spent >= until

    def wants(self, *names: str) -> bool:
        """Whether one of these was asked for, by name or with all others."""
        return self.effort.method == "auto" or self.effort.method in names

    def affords(self, cost: float, what: str) -> bool:
        """Whether that much work is left (asked for by name, or with time given: it always is)."""
        if self.late():
            self.notes.append(f"{what}: no time was left for it")
            return False
        if self.effort.seconds is not None:
            if cost > PER_SECOND * (self.effort.seconds - self.spent):
                self.notes.append(
                    f"{what}: left out, as it takes longer than the time that is left"
                )
                return False
            return True
        if self.effort.method != "auto":
            return True
        if cost > self.left:
            self.notes.append(f"{what}: left out, as it takes long here; --timeout 60 tries it")
            return False
        self.left -= cost
        return True

    def _once(self, cost: float) -> float:
        """Of a method that may end at any time: with time given, what it has to begin with."""
        return cost if self.effort.seconds is None else _BEGUN * cost

    def tell(self, what: str) -> None:
        if self.progress is not None:
            self.progress(len(self.attempts), len(self.attempts) + 1, what)

    # ── the methods, in order ─────────────────────────────────────────────────────────────

    def run(self) -> Portfolio:
        found = self._system()
        if found is not None:
            for step in (self._scaled, self._liplt, self._multipliers, self._exact):
                if not self.late():
                    step(found)
        notes = tuple(dict.fromkeys(self.notes))
        return Portfolio(tuple(self.attempts), self.best, notes, self.reached)

    def _system(self) -> System | None:
        if self.late():
            self.notes.append("only AutoLip: no time was left for other methods")
            return None
        self.tell("matrices")
        network = self.subject.network
        affine = [b for b in network.blocks if isinstance(b, AffineBlock)]
        shapes = [shape for block in affine for shape in block.shapes]
        if not self.affords(
            sum(30.0 * rows * columns for rows, columns in shapes), "other methods"
        ):
            return None
        try:
            with np.errstate(all="ignore"):
                return system(network, self.norms, self.work)
        except OutOfReachError as error:
            self.notes.append(f"only AutoLip and SeqLip: {error}")
            return None

    def attempt(self, method: str, prove: Callable[[], float | None]) -> float:
        start = time.perf_counter()
        self.tell(method)
        value = prove()
        value = math.inf if value is None else value
        self.attempts.append(Attempt(method, value, time.perf_counter() - start))
        return value

    def _scaled(self, of: System) -> None:
        from onnxlip.bounds import liplt, scaled

        if not (
            self.wants("scaled", "liplt")
            and self.affords(self._once(scaled.cost(of)), "scaled AutoLip")
        ):
            return
        balanced: list[System] = []

        def rescaled() -> float | None:
            balanced.extend(filter(None, [scaled.balanced(of, self.share(0.05))]))
            return min(balanced[0].bound, of.bound) if balanced else None

        if self.effort.method == "liplt":
            rescaled()
        else:
            self.attempt("scaled autolip", rescaled)
        if (
            balanced
            and self.wants("liplt")
            and self.affords(self._once(liplt.cost(of)), "scaled LipLT")
        ):
            late = self.share(0.1)
            self.attempt("scaled liplt", lambda: liplt.liplt(balanced[0], late))

    def _liplt(self, of: System) -> None:
        from onnxlip.bounds import liplt
        from onnxlip.bounds.sdp.reduction import smaller

        if self.wants("liplt") and self.affords(self._once(liplt.cost(of)), "LipLT"):
            search = Search(self, *smaller(of), of)
            seconds = math.inf if self.effort.seconds is None else self.effort.seconds - self.spent
            comes = search.possible and search.first_cost < 0.7 * PER_SECOND * seconds
            late = self.share(0.1 if comes else 0.9)
            self.attempt("liplt", lambda: liplt.liplt(of, late))

    def _exact(self, of: System) -> None:
        if not self.wants("exact"):
            return
        from onnxlip.bounds import exact

        if not of.nonlinear:
            whole = exact.affine(self.subject.network, self.norms)
            if isinstance(whole, exact.Exact):
                self.attempts.append(Attempt(whole.method, whole.upper, whole.seconds))
        elif len(of.nonlinear) == 1:
            self._hidden_layer(of)
        else:
            self._split(of)

    def _hidden_layer(self, of: System) -> None:
        """One layer of slopes by branch and bound, and the point that realises the best ones."""
        from onnxlip.bounds import exact
        from onnxlip.bounds.realised import realised

        if self.effort.method == "auto" and of.neurons > _BRANCHED:
            return
        seconds = None if self.effort.seconds is None else self.effort.seconds - self.spent
        found = exact.hidden_layer(of, seconds=_SECONDS if seconds is None else seconds)
        if isinstance(found, exact.Skipped):
            if self.effort.method == "exact":
                self.notes.append(f"exact: {found.reason}")
            return
        self.attempts.append(Attempt(found.method, found.upper, found.seconds))
        layer = exact.layer_of(of)
        if not isinstance(layer, str):
            with suppress(Exception):  # a runtime may fail in any way; the upper bound stands
                self.reached = realised(self.subject, layer, found.d)

    def _split(self, of: System) -> None:
        """Several layers: slopes split, to the end or to a limit."""
        from onnxlip.bounds.sdp import branching
        from onnxlip.bounds.sdp.reduction import smaller

        asked, timed = self.effort.method == "exact", self.effort.seconds is not None
        method, count = "slopes, branch and bound", branching.slopes(of)
        if not 0 < count <= (branching.MOST if asked else _BRANCHED):
            if asked:
                few = f"{count} slopes, and up to {branching.MOST} are split"
                self.notes.append(f"exact: it has {len(of.nonlinear)} nonlinear layers of {few}")
            return
        best = self.best
        chosen = smaller(of)[0] if best is None else best.system
        once = branching.cost(chosen) / branching.NODES
        if not self.affords(once if timed else once * branching.NODES, method):
            return
        self.tell(method)
        split = branching.branched(
            chosen,
            None if best is None else best.values,
            tolerance=TOLERANCE,
            seconds=branching.SECONDS if asked and not timed else None,
            nodes=None if asked or timed else branching.NODES,
            late=self.late,
        )
        if split is None:
            return
        self.attempts.append(Attempt(method, split.upper, split.seconds))
        if not split.complete:
            least = f"the maximum over slopes is at least {split.lower:.6g}"
            self.notes.append(f"{method}: ended after {split.nodes} nodes; {least}")

    def _multipliers(self, of: System) -> None:
        from onnxlip.bounds.sdp.reduction import smaller

        if not self.wants("closed", "lipsdp-layer", "lipsdp"):
            return
        search = Search(self, *smaller(of), of)
        if not search.possible:
            self.notes.append(f"LipSDP: {of.neurons} neurons are too many for its proof")
            return
        if self.affords(search.first_cost, "multipliers"):
            search.closed()
            if self.wants("lipsdp-layer", "lipsdp"):
                search.optimised()
        found = search.found
        if any(
            isinstance(n.relation, Windows) for n in of.nonlinear
        ):  # the other way differs there
            other = Search(self, *_other(of, search), of)
            other.what = "LipSDP of the transpose"
            if self.affords(2 * other.closed_cost, other.what):
                other.closed()
                if self.wants("lipsdp-layer", "lipsdp"):
                    other.optimised()
                found = found + other.found
        self.best = min(found, key=lambda given: given.bound, default=None)


def _writing(block: AffineBlock) -> float:
    """What it takes to write a block's maps out as matrices. Convolutions, of few constants for
    their size, are written from their kernels; others by products with unit vectors."""
    total = 0.0
    for rows, columns in block.shapes:
        entries = float(rows) * columns
        total += 30.0 * min(entries, 1e3 * block.weights + 1e2 * (rows + columns))
    return total


def _other(of: System, search: Search) -> tuple[System, bool]:
    """The orientation that a search did not take."""
    return (of, False) if search.turned else (of.transposed(), True)
