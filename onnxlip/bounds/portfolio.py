"""Upper bounds beyond AutoLip, cheapest first; the best one is kept.

    scaled AutoLip      `scaled`          rescaled layers, then AutoLip
    LipLT               `liplt`           linear paths kept exact (Fazlyab et al. 2023); scaled too
    closed form         `sdp.closed`      multipliers without a search (ECLipsE-Fast and better)
    SeqLip              `seqlip`          chains pair by pair (Virmaux & Scaman 2018), certified
    LipSDP-Layer        `sdp.interior`    one multiplier a block (Fazlyab et al. 2019)
    LipSDP-Neuron       `sdp.interior`, beyond `_DENSE` multipliers `sdp.descent`
    exact               `exact`           where it finishes: no or one hidden layer, two inputs

Whatever finds multipliers, `sdp.proof` proves the bound that they give. No cheap bound always wins
(theory.md, section 4), which is why there are several.

The budget. With `seconds`, what has not begun by then is left out and LipSDP ends with the best so
far: every iterate proves something. Without, work is counted in multiplications and not in time, so
that the same input gives the same figures: `_WORK` of them are about ten seconds of one core.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.autolip import BlockNorm
from onnxlip.bounds.lower.problem import Subject
from onnxlip.bounds.sdp.build import OutOfReachError, stacked_scales, system
from onnxlip.bounds.sdp.closed import ClosedForm, closed_forms
from onnxlip.bounds.sdp.relations import Windows
from onnxlip.bounds.sdp.system import Floats, System
from onnxlip.certificate import Kind
from onnxlip.network import AffineBlock
from onnxlip.norms.workspace import Workspace
from onnxlip.parallel import Progress, one_blas_thread

if TYPE_CHECKING:
    from onnxlip.bounds.lower.attained import Attained

__all__ = ["Attempt", "Effort", "Multipliers", "Portfolio", "portfolio"]

_WORK = 2e11  # multiplications, where no time was given
_INTERIOR = 250.0  # times the cube of the order of M: what the interior-point method takes
_DENSE = 2600  # order of M up to which it is used
_PROOF = 2.0  # likewise, of a proof
_BRANCHED = 64  # neurons up to which one hidden layer is bounded by branch and bound unasked
_SECONDS = 10.0  # … for so long
_PER_SECOND = 1.5e10  # multiplications, about, for time that a proof needs
_TOLERANCE = 1e-5  # of ρ, relative


@dataclass(frozen=True)
class Effort:
    """method: one of `bounding.METHODS`; seconds: that it may take, None: `_WORK`; tolerance: of
    LipSDP's ρ, relative."""

    method: str = "auto"
    seconds: float | None = None
    tolerance: float = _TOLERANCE


@dataclass(frozen=True)
class Attempt:
    """What a method gave: if certified, ‖f(a) − f(b)‖₂ ≤ value ‖a − b‖₂; ∞ for nothing."""

    method: str
    value: float
    seconds: float
    kind: Kind = "certified"


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
    known: float,
    effort: Effort = Effort(),
    progress: Progress | None = None,
) -> Portfolio:
    """Bounds for the 2-norm, of all inputs together to all outputs stacked.

    norms: of `network.blocks`; known: what AutoLip proved. SeqLip and the exact methods are not
    here: they need no system, and their callers know when they pay.
    """
    with one_blas_thread():
        return _Run(subject, norms, work, known, effort, progress).run()


@dataclass(eq=False)
class _Run:
    subject: Subject
    norms: Sequence[BlockNorm]
    work: Workspace
    known: float
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
    def _spent(self) -> float:
        return time.monotonic() - self.begun

    def late(self) -> bool:
        """Whether the time given is over."""
        return self.effort.seconds is not None and self._spent >= self.effort.seconds

    def _share(self, part: float) -> Callable[[], bool]:
        """Late after so much of what time is left, unless this method alone was asked for: what
        comes later is better, given time."""
        seconds = self.effort.seconds
        if seconds is None or self.effort.method != "auto":
            return self.late
        until = self._spent + part * (seconds - self._spent)
        return lambda: self._spent >= until

    def wants(self, *names: str) -> bool:
        """Whether one of these was asked for, by name or with all others."""
        return self.effort.method == "auto" or self.effort.method in names

    def affords(self, cost: float, what: str) -> bool:
        """Whether that much work is left (asked for by name, or with time given: it always is)."""
        if self.late():
            self.notes.append(f"{what}: no time was left for it")
            return False
        if self.effort.seconds is not None or self.effort.method != "auto":
            return True
        if cost > self.left:
            self.notes.append(f"{what}: left out, as it takes long here; --timeout 60 tries it")
            return False
        self.left -= cost
        return True

    def _tell(self, what: str) -> None:
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
        self._tell("matrices")
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

    def _attempt(self, method: str, prove: Callable[[], float | None]) -> float:
        start = time.perf_counter()
        self._tell(method)
        value = prove()
        value = math.inf if value is None else value
        self.attempts.append(Attempt(method, value, time.perf_counter() - start))
        return value

    def _scaled(self, of: System) -> None:
        from onnxlip.bounds import liplt, scaled

        if not (self.wants("scaled", "liplt") and self.affords(scaled.cost(of), "scaled AutoLip")):
            return
        balanced: list[System] = []

        def rescaled() -> float | None:
            balanced.extend(filter(None, [scaled.balanced(of, self._share(0.05))]))
            return min(balanced[0].bound, of.bound) if balanced else None

        if self.effort.method == "liplt":
            rescaled()
        else:
            self._attempt("scaled autolip", rescaled)
        if balanced and self.wants("liplt") and self.affords(liplt.cost(of), "scaled LipLT"):
            late = self._share(0.1)
            self._attempt("scaled liplt", lambda: liplt.liplt(balanced[0], late))

    def _liplt(self, of: System) -> None:
        from onnxlip.bounds import liplt

        if self.wants("liplt") and self.affords(liplt.cost(of), "LipLT"):
            late = self._share(0.1)
            self._attempt("liplt", lambda: liplt.liplt(of, late))

    def _exact(self, of: System) -> None:
        if not self.wants("exact"):
            return
        from onnxlip.bounds import exact
        from onnxlip.bounds.realised import realised

        if len(of.nonlinear) > 1:  # slopes split, to the end or to a limit
            from onnxlip.bounds.sdp import branching
            from onnxlip.bounds.sdp.reduction import smaller

            asked, timed = self.effort.method == "exact", self.effort.seconds is not None
            method, count = "slopes, branch and bound", branching.slopes(of)
            if not 0 < count <= (branching.MOST if asked else _BRANCHED):
                if asked:
                    few = f"{count} slopes, and up to {branching.MOST} are split"
                    self.notes.append(
                        f"exact: it has {len(of.nonlinear)} nonlinear layers of {few}"
                    )
                return
            best = self.best
            chosen = smaller(of)[0] if best is None else best.system
            if not self.affords(branching.cost(chosen), method):
                return
            self._tell(method)
            split = branching.branched(
                chosen,
                None if best is None else best.values,
                tolerance=_TOLERANCE,
                seconds=branching.SECONDS if asked and not timed else None,
                nodes=None if asked or timed else branching.NODES,
                late=self.late,
            )
            if split is not None:
                self.attempts.append(Attempt(method, split.upper, split.seconds))
                if not split.complete:
                    least = f"the maximum over slopes is at least {split.lower:.6g}"
                    self.notes.append(f"{method}: ended after {split.nodes} nodes; {least}")
            return
        if self.effort.method == "auto" and of.neurons > _BRANCHED:
            return
        if not of.nonlinear:
            whole = exact.affine(self.subject.network, self.norms)
            if isinstance(whole, exact.Exact):
                self.attempts.append(Attempt(whole.method, whole.upper, whole.seconds))
            return
        seconds = None if self.effort.seconds is None else self.effort.seconds - self._spent
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

    def _multipliers(self, of: System) -> None:
        from onnxlip.bounds.sdp.reduction import smaller

        if not self.wants("closed", "lipsdp-layer", "lipsdp"):
            return
        search = _Search(self, *smaller(of), of)
        if not search.possible:
            self.notes.append(f"LipSDP: {of.neurons} neurons are too many for its proof")
            return
        if self.affords(search.closed_cost, "closed-form multipliers"):
            search.closed()
            if self.wants("lipsdp-layer", "lipsdp"):
                search.optimised()
        found = search.found
        if any(
            isinstance(n.relation, Windows) for n in of.nonlinear
        ):  # the other way differs there
            other = _Search(self, *_other(of, search), of)
            other.what = "LipSDP of the transpose"
            if self.affords(2 * other.closed_cost, other.what):
                other.closed()
                if self.wants("lipsdp-layer", "lipsdp"):
                    other.optimised()
                found = found + other.found
        self.best = min(found, key=lambda given: given.bound, default=None)


class _Search:
    """For multipliers of one system or of its transpose, whichever is cheaper."""

    def __init__(self, run: _Run, system: System, turned: bool, of: System) -> None:
        from onnxlip.bounds.sdp.proof import Certifier

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
            self._forms = closed_forms(self._system, self._run._share(0.15))
            forms = [(e.rho, e.multipliers) for e in self._forms.values()]
            if not forms:
                return math.inf
            self._start = min(forms, key=lambda form: form[0])
            return self._proved(method, self._start[1], self._start[0])

        self._run._attempt(method, prove)

    def optimised(self) -> None:
        """LipSDP-Layer where asked for, and LipSDP-Neuron."""
        run = self._run
        if self._start is None or not math.isfinite(self._start[0]):
            run.notes.append("LipSDP: no multipliers to start from")
            return
        dense = self._order <= _DENSE
        cost = _INTERIOR * self._order**3 if dense else 100.0 * self.closed_cost
        if run.effort.method == "lipsdp-layer":
            if not dense:
                run.notes.append("LipSDP-Layer: left out, too many neurons")
            elif run.affords(cost, "LipSDP-Layer"):
                run._attempt("lipsdp-layer", lambda: self._interior("lipsdp-layer", layered=True))
            return
        if run.affords(cost, self.what):
            solve = self._interior if dense else self._descent
            run._attempt("lipsdp-neuron", lambda: solve("lipsdp-neuron"))

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
            progress=lambda steps, rho, lower: run._tell(f"{method}, {_gap(rho, lower)}"),
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
            progress=lambda steps, rho: run._tell(f"{method}, step {steps}"),
        )
        if self._late():
            run.notes.append(f"{method}: ended by the timeout; more time may give a lower bound")
        return self._proved(method, found.multipliers, found.rho)

    def _late(self) -> bool:
        """Whether what is left is needed for the proof."""
        seconds = self._run.effort.seconds
        reserved = _PROOF * self._order**3 / _PER_SECOND
        return seconds is not None and self._run._spent + reserved >= seconds

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


def _other(of: System, search: _Search) -> tuple[System, bool]:
    """The orientation that a search did not take."""
    return (of, False) if search.turned else (of.transposed(), True)


def _gap(rho: float, lower: float) -> str:
    return f"gap {rho / lower - 1:.0e}" if lower > 0 else "begun"
