"""Brackets of all blocks of a network: effort is spent where the product of brackets gains most.

First every map gets a draft: its lower end, and its upper end where that costs little or nothing
cheaper is known. For a convolution whose torus seems to be looser than `_FINE` only an estimate of
it is made. Then, with what is certain so far as the start, the estimates with the largest
logarithmic slack per operation are chosen to be sharpened (`border`), until the product of
upper/lower over all maps is within `tolerance`, or none are left; all others get the torus. If
the estimates turn out to have been too good, those of the largest slack are sharpened after all.

The choice depends on estimated operations, never on a clock, so the same seed gives the same
figures, however many cores there are and whoever else uses them. Only a deadline breaks that:
once it has passed nothing is sharpened any more, and what has not begun gets row and column sums.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from onnxlip.certificate import LATE, Bracket
from onnxlip.errors import ModelError, RuleError
from onnxlip.linear import Convolution, LinearMap, Product, Transposed
from onnxlip.lowering import Lowerings
from onnxlip.norms.brackets import bracket_with, joint, refuse_infinite
from onnxlip.norms.lower import spectral_lower
from onnxlip.norms.structure import is_empty, isometric_core, overlap
from onnxlip.norms.symbol import Grid
from onnxlip.norms.torus import torus_bound
from onnxlip.norms.workspace import LEAST_MEMORY, Bound, Workspace
from onnxlip.parallel import Progress, side_by_side
from onnxlip.rounding import add_up, norm_up

__all__ = ["Brackets", "Effort", "Item", "Norms", "brackets"]

R = TypeVar("R")

_FINE = 3e-4  # a torus this close to the lower end is left as it is
_SHARP, _SHARPEST = 2e-3, 5e-4  # slack that a sharpened convolution has, at most and at least
_SPARED = 0.75  # of what the last one gains beyond the goal; the rest is for estimates that fail
_UNKNOWN = Bound(0.0, "")
_SMALL = 256  # rows and columns below which threads cost more than they save


@dataclass(frozen=True)
class Effort:
    """tolerance: relative slack of the product of all brackets that is good enough.
    memory: bytes that all bounds together may take besides the weights.
    seconds: after so long nothing is sharpened any more; None: as long as it takes.
    provider, seed, lower: as for `bracket`.
    """

    tolerance: float = 1e-2
    memory: int = 1 << 30
    seconds: float | None = None
    provider: str = "cpu"
    seed: int = 0
    lower: str = "lanczos"


@dataclass(frozen=True)
class Item:
    """One block: its maps are composed when needed and dropped again.

    shapes: (rows, columns) of each; weights: entries of its constants, which say roughly how much
    work and memory it takes.
    """

    name: str
    maps: Callable[[], tuple[LinearMap, ...]]
    shapes: Sequence[tuple[int, int]]
    weights: int

    def memory(self, sharp: bool) -> int:
        """Bytes, roughly: the Gram of a matrix, or some float64 copies of a kernel and of its
        correlations, and more of them where a convolution is sharpened."""
        short = min(min(shape) for shape in self.shapes)
        if any(rows * columns <= 2 * self.weights for rows, columns in self.shapes):
            return (1 << 23) + 8 * (short * short + min(self.weights, 1 << 22))
        return (1 << 24) + (90 if sharp else 46) * self.weights


@dataclass(frozen=True)
class Norms:
    """each: the bracket of every map; whole: of all of them side by side; disjoint: whether no two
    of them write to one output entry."""

    each: tuple[Bracket, ...]
    whole: Bracket
    disjoint: bool = False


@dataclass(frozen=True)
class Brackets:
    """blocks: in the order of the items; devices: where products ran ("cpu", "cuda"); fallbacks:
    what ran on the CPU though CUDA was chosen."""

    blocks: tuple[Norms, ...]
    devices: tuple[str, ...]
    fallbacks: tuple[str, ...]


@dataclass(frozen=True)
class _Draft:
    """A map's bracket, or what is known before its upper end is worth its price.

    lower: of the map; core: of the convolution in it; expected: what the torus seems to give;
    cost > 0: operations that would sharpen it; grid: what makes that a little cheaper.
    """

    done: Bracket | None
    lower: Bound = _UNKNOWN
    core: Bound = _UNKNOWN
    expected: float = math.inf
    cost: float = 0.0
    grid: tuple[Grid, float] | None = None

    @property
    def slack(self) -> float:
        """ln(upper/lower), 0 where there is nothing to gain."""
        if self.done is not None:
            return _slack(self.done.lower, self.done.upper)
        return _slack(self.core.value, self.expected)


def brackets(
    items: Sequence[Item],
    lowerings: Lowerings,
    p: float,
    effort: Effort = Effort(),
    progress: Progress | None = None,
) -> Brackets:
    """Certified brackets of all maps. Raises what `bracket` raises, with the item's name."""
    return _Schedule(items, lowerings, p, effort, progress).run()


class _Schedule:
    def __init__(
        self,
        items: Sequence[Item],
        lowerings: Lowerings,
        p: float,
        effort: Effort,
        progress: Progress | None,
    ) -> None:
        self._items, self._lowerings, self._p = items, lowerings, p
        self._effort, self._progress = effort, progress
        self._deadline = math.inf
        if effort.seconds is not None:
            self._deadline = time.monotonic() + effort.seconds
        sides = [max(shape) for item in items for shape in item.shapes]
        self._small = max(sides, default=0) <= _SMALL
        self._done: dict[int, Norms] = {}
        self._drafts: dict[int, tuple[_Draft, ...]] = {}
        self._devices: set[str] = set()
        self._fallbacks: set[str] = set()

    def run(self) -> Brackets:
        order = sorted(range(len(self._items)), key=lambda k: -self._items[k].weights)
        for k, drafts, norms in self._side_by_side(order, self._first, sharp=False):
            self._drafts[k] = drafts
            if norms is not None:
                self._done[k] = norms
        sharp, tolerance = self._chosen()
        if sharp or len(self._done) < len(self._items):
            again = {k for k, _ in sharp}
            waiting = [k for k in range(len(self._items)) if k not in self._done or k in again]
            self._settle(waiting, sharp, tolerance)
            more = self._short_of(sharp, tolerance)
            if more:
                self._settle(sorted({k for k, _ in more}), more, tolerance)
        blocks = tuple(self._done[k] for k in range(len(self._items)))
        return Brackets(blocks, tuple(sorted(self._devices)), tuple(sorted(self._fallbacks)))

    def _side_by_side(self, order: Sequence[int], work: Callable[[int], R], sharp: bool) -> list[R]:
        needs = [self._items[k].memory(sharp) for k in order]
        return side_by_side(
            work,
            order,
            lambda k: self._items[k].name,
            self._progress,
            self._small,
            needs,
            self._effort.memory,
        )

    def _workspace(self, k: int, **options: Any) -> Workspace:
        granted = max(LEAST_MEMORY, min(self._items[k].memory(True), self._effort.memory))
        e = self._effort
        work = Workspace(self._lowerings, e.provider, e.seed, e.lower, memory=granted)
        return replace(work, **options)

    # ── drafts ────────────────────────────────────────────────────────────────────────────

    def _first(self, k: int) -> tuple[int, tuple[_Draft, ...], Norms | None]:
        with self._named(k):
            return self._drafted(k)

    @contextmanager
    def _named(self, k: int) -> Iterator[None]:
        try:
            yield
        except (ModelError, RuleError) as error:
            raise type(error)(f"block '{self._items[k].name}': {error}") from error

    def _drafted(self, k: int) -> tuple[int, tuple[_Draft, ...], Norms | None]:
        maps = self._items[k].maps()
        if time.monotonic() > self._deadline:
            each = tuple(_hurried(a, self._p) for a in maps)
            return k, tuple(map(_Draft, each)), self._joined(k, maps, each)
        drafts = tuple(self._draft(k, a) for a in maps)
        done = tuple(d.done for d in drafts if d.done is not None)
        return k, drafts, self._joined(k, maps, done) if len(done) == len(maps) else None

    def _draft(self, k: int, a: LinearMap) -> _Draft:
        refuse_infinite(a)
        work = self._workspace(k)
        with np.errstate(all="ignore"):
            core = _core(a, work) if self._p == 2 else None
            if core is not None:
                lower = spectral_lower(core, work)
                self._note(work)
                work.let_go()  # what comes needs memory, and no products
                effort = work.effort(tolerance=_FINE, known=lambda: lower.value, postpone=True)
                torus = torus_bound(core, effort)
                done = None
                if torus is None or torus.proved:
                    work.keep(core, "sharpest torus", torus)
                    done = bracket_with(a, self._p, work)
                low = spectral_lower(a, work)
                self._note(work)
                if torus is None:
                    return _Draft(done)
                return _Draft(done, low, lower, torus.upper, torus.cost, torus.grid)
            found = bracket_with(a, self._p, work)
            self._note(work)
            return _Draft(found)

    def _note(self, work: Workspace) -> None:
        self._devices |= work.devices
        self._fallbacks |= work.fallbacks

    # ── which of them are sharpened ───────────────────────────────────────────────────────

    def _chosen(self) -> tuple[set[tuple[int, int]], float]:
        """(which maps, to which tolerance each), by slack per operation."""
        places = {(k, j): d for k, ds in self._drafts.items() for j, d in enumerate(ds)}
        open_ = {place: d for place, d in places.items() if d.cost > 0}
        left = math.log1p(self._effort.tolerance) - sum(d.slack for d in places.values())
        tolerance = self._effort.tolerance / (2 * max(1, len(open_)))
        tolerance = min(_SHARP, max(_SHARPEST, tolerance))
        gains = {place: d.slack - tolerance for place, d in open_.items()}
        order = sorted(open_, key=lambda place: (-gains[place] / open_[place].cost, place))
        sharp: set[tuple[int, int]] = set()
        for place in order:
            if left >= 0 or gains[place] <= 0:
                continue
            sharp.add(place)
            left += gains[place]
        if sharp and left > 0:  # what is to spare makes all of them a little cheaper
            tolerance = max(tolerance, min(_SHARP, tolerance + _SPARED * left / len(sharp)))
        return sharp, tolerance

    def _short_of(self, sharp: set[tuple[int, int]], tolerance: float) -> set[tuple[int, int]]:
        """More of them, where the tori were looser than they seemed."""
        slacks = {
            (k, j): _slack(b.lower, b.upper)
            for k, norms in self._done.items()
            for j, b in enumerate(norms.each)
        }
        left = math.log1p(self._effort.tolerance) - sum(slacks.values())
        more: set[tuple[int, int]] = set()
        for place in sorted(slacks, key=lambda place: (-slacks[place], place)):
            k, j = place
            if left >= 0 or slacks[place] <= tolerance:
                break
            if place not in sharp and self._drafts[k][j].cost > 0:
                more.add(place)
                left += slacks[place] - tolerance
        return more

    def _settle(self, which: Sequence[int], sharp: set[tuple[int, int]], tolerance: float) -> None:
        def cost(k: int) -> float:
            return sum(d.cost for j, d in enumerate(self._drafts[k]) if (k, j) in sharp)

        def one(k: int) -> tuple[int, Norms]:
            with self._named(k):
                return finished(k)

        def finished(k: int) -> tuple[int, Norms]:
            maps = self._items[k].maps()
            before = self._done.get(k)
            late = time.monotonic() > self._deadline
            each = []
            for j, (a, draft) in enumerate(zip(maps, self._drafts[k], strict=True)):
                is_sharp = (k, j) in sharp and not late
                work = self._workspace(k, tolerance=tolerance, sharp=is_sharp)
                known = draft.done if before is None else before.each[j]
                known = None if is_sharp else known
                each.append(known or self._finished(a, draft, work))
            return k, self._joined(k, maps, tuple(each))

        order = sorted(which, key=lambda k: (-cost(k), k))
        self._done |= dict(self._side_by_side(order, one, sharp=True))

    def _finished(self, a: LinearMap, draft: _Draft, work: Workspace) -> Bracket:
        with np.errstate(all="ignore"):
            core = _core(a, work)
            work.keep(a, "lower", draft.lower)
            if core is not None:
                work.keep(core, "lower", draft.core)
                work.keep(core, "grid", draft.grid)
            found = bracket_with(a, self._p, work)
        self._note(work)
        return found

    def _joined(self, k: int, maps: tuple[LinearMap, ...], each: tuple[Bracket, ...]) -> Norms:
        if len(each) == 1:
            return Norms(each, each[0])
        e = self._effort
        if time.monotonic() > self._deadline:
            return Norms(each, _hurried_joint(each, self._p))
        whole = joint(maps, each, self._lowerings, self._p, provider=e.provider, seed=e.seed)
        return Norms(each, whole, overlap(maps) <= 1)


def _core(a: LinearMap, work: Workspace) -> Convolution | None:
    """The convolution that decides about the norm of a map, if it is one and has a torus."""
    if isinstance(a, Transposed):
        return _core(a.of, work)
    if isinstance(a, Product):
        inner = isometric_core(a)
        return None if inner is None else _core(inner[0], work)
    if not isinstance(a, Convolution) or is_empty(a):
        return None
    one = work.one_image(a)
    return None if work.search != "lanczos" or work.materialised(one) is not None else one


def _slack(lower: float, upper: float) -> float:
    return math.log(upper / lower) if 0 < lower < upper < math.inf else 0.0


def _hurried(a: LinearMap, p: float) -> Bracket:
    """What costs next to nothing."""
    refuse_infinite(a)
    return Bracket(0.0, 0.0 if is_empty(a) else a.cap(), "", "row and column sums" + LATE)


def _hurried_joint(each: Sequence[Bracket], p: float) -> Bracket:
    lower = max(each, key=lambda b: b.lower)
    uppers = [b.upper for b in each]
    upper = {1.0: max(uppers), 2.0: norm_up(uppers, 2)}.get(p, add_up(*uppers))
    return Bracket(lower.lower, upper, lower.lower_method, "sum of branches" + LATE)
