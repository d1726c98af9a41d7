"""The maximum of ‖J(d)‖₂ over all slopes of a system, by branch and bound; its upper end is proved.

J(d) is affine in every slope and the norm is convex, so that the maximum over d_j in an interval is
at one of its ends, whatever the other slopes are: a node fixes some slopes at ends, and the larger
of its two children bounds it. A node's bound is the least of its parent's and what multipliers
found by `interior` prove (`proof`) of the system in which fixed slopes are affine (LipSDP-Neuron:
Fazlyab et al. 2019). A parent's multipliers are feasible in its children, q_j being 0 where
u_j = d_j z_j with d_j an end. The upper end is the largest bound of all leaves, pruned ones
included: a theorem, however early the search stops. With other relations in the system (windows,
gains), which are relaxed and never split, it is the maximum of what is left of the relaxation.

Which slope: as `pairs.branching` does for one hidden layer, κ_j = r_j E w_j z_j / (r_j² E z_j²) of
the relaxation's moments says how decided d_j = c_j + κ_j r_j is, and the one of the largest
T_j E w_j² (1 − κ_j²) is split. The best pattern that was climbed to from rounded d_j (`patterns`)
is an estimate of the maximum.

A node is given up at a bound ≤ (1 + tolerance) times the best pattern's norm. Its search ends as
soon as that is reached, or as it is clear that the node must be split: once the dual's bound is
above that and the gap is a small part of what is missing.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from onnxlip.bounds.sdp.build import bent
from onnxlip.bounds.sdp.closed import closed_forms
from onnxlip.bounds.sdp.interior import Optimum, minimised
from onnxlip.bounds.sdp.patterns import Ends, Patterns
from onnxlip.bounds.sdp.proof import Certifier
from onnxlip.bounds.sdp.relations import Slopes
from onnxlip.bounds.sdp.system import Floats, Node, Nonlinear, System, split

__all__ = ["MOST", "NODES", "SECONDS", "Branched", "branched", "cost", "fixed", "slopes"]

MOST = 200  # slopes beyond which splitting some of them adds little
NODES = 100  # where no time is given: seconds, for some 60 neurons
SECONDS = 60.0  # where it was asked for, and no time is given

_PROOF = 2.0  # times the cube of the order of M, in multiplications
_SHARE = 0.25  # a node's gap may be this part of what it lacks
_STARTS = 16  # random patterns to climb from before anything else

Late = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class Branched:
    """upper ≥ ‖J(d)‖₂ for all slopes, proved; lower: the norm at `pattern`, in floating point, an
    estimate of the maximum. pattern: flat, the slopes by multipliers of the system, NaN for those
    of other relations (which are as their centre says); nodes: how many were bounded; complete:
    whether the two ends differ by the tolerance only."""

    upper: float
    lower: float
    pattern: Floats
    nodes: int
    complete: bool
    seconds: float


def slopes(system: System) -> int:
    """How many can be split."""
    return sum(n.relation.rows for n in system.nonlinear if isinstance(n.relation, Slopes))


def cost(system: System) -> float:
    """Multiplications that the proofs of `NODES` nodes take, roughly."""
    return NODES * _PROOF * float(system.width + system.neurons) ** 3


def branched(
    system: System,
    start: Floats | None = None,
    *,
    tolerance: float = 1e-4,
    seconds: float | None = None,
    nodes: int | None = None,
    late: Late = lambda: False,
) -> Branched | None:
    """The maximum of ‖J‖₂ over slopes, to a relative tolerance, or what is known of it when
    `seconds`, `nodes` or late() ends the search: NP-hard, so give one of them beyond some 40
    neurons. start: multipliers (flat) that prove something; None for closed forms.

    Without `seconds` and `late` the result is the same on every run. None where nothing is proved.
    """
    begun = time.monotonic()
    if not Certifier(system).possible:
        return None

    def over() -> bool:
        return late() or (seconds is not None and time.monotonic() >= begun + seconds)

    with np.errstate(all="ignore"):  # what is not finite is no bound, and no pattern
        search = _Search(system, tolerance, over)
        search.begin(start)
        if not math.isfinite(search.upper):
            return None
        while search.open and not over() and (nodes is None or search.nodes + 2 <= nodes):
            search.split()
    upper, best = search.upper, search.best
    complete, took = upper <= best * (1 + tolerance), time.monotonic() - begun
    return Branched(upper, best, search.patterns.at(search.ends), search.nodes, complete, took)


def fixed(system: System, d: Floats) -> System:
    """The system with u_j = d_j z_j for multipliers j of `Slopes`, NaN for those left free.

    Its multipliers are the others, in order.
    """
    nodes: list[Node] = []
    sizes = dict(system.sizes)
    given = iter(split(system, d))
    for node in system.nodes:
        values = next(given) if isinstance(node, Nonlinear) else np.zeros(0)
        if not isinstance(node, Nonlinear) or np.all(np.isnan(values)):
            nodes.append(node)
            continue
        assert isinstance(node.relation, Slopes)
        free = np.isnan(values)
        centre = np.where(free, node.relation.centre, values)
        radius = np.where(free, node.relation.radius, 0.0)
        parts, between = bent(node.output, node.input, centre, radius, node.name, node.output)
        nodes += parts
        sizes |= between
    return System(system.inputs, system.outputs, tuple(nodes), sizes)


@dataclass(order=True, frozen=True)
class _Leaf:
    """A node that may hold more than the best pattern, and the multiplier to split it at."""

    key: tuple[float, int]
    ends: Ends = field(compare=False)
    split: int = field(compare=False)
    multipliers: Floats = field(compare=False)

    @property
    def upper(self) -> float:
        return -self.key[0]


class _Search:
    """best, ends: the best pattern; closed: the largest bound of the pruned."""

    def __init__(self, system: System, tolerance: float, late: Late) -> None:
        self._system, self._tolerance, self._late = system, tolerance, late
        self.patterns = Patterns(system)
        self.ends: Ends = self.patterns.is_slope.astype(np.int8)
        self.best, self.closed, self.nodes = 0.0, 0.0, 0
        self._seen: set[bytes] = set()
        self._leaves: list[_Leaf] = []

    @property
    def open(self) -> bool:
        return bool(self._leaves) and self._leaves[0].upper > self._enough

    @property
    def _enough(self) -> float:
        return self.best * (1.0 + self._tolerance)

    @property
    def upper(self) -> float:
        return max(self.closed, max((leaf.upper for leaf in self._leaves), default=0.0))

    def begin(self, start: Floats | None) -> None:
        """The whole box, after some patterns."""
        self._climb(self.ends)
        rng = np.random.default_rng(0)
        for _ in range(_STARTS):
            signs = rng.choice(np.array([-1, 1], np.int8), len(self.ends))
            self._climb(np.where(self.patterns.is_slope, signs, 0).astype(np.int8))
        self._bound(np.zeros_like(self.ends), math.inf, start)

    def split(self) -> None:
        """Bounds both children of the leaf of the largest bound."""
        leaf = heapq.heappop(self._leaves)
        for end in (-1, 1):
            ends = leaf.ends.copy()
            ends[leaf.split] = end
            self._bound(ends, leaf.upper, leaf.multipliers)

    def _bound(self, ends: Ends, above: float, multipliers: Floats | None) -> None:
        """Bounds a node, looks for a better pattern in it, and keeps it if it may hold more."""
        self.nodes += 1
        places = np.flatnonzero(ends == 0)
        node = fixed(self._system, self.patterns.at(ends))
        found = self._relaxed(node, None if multipliers is None else multipliers[places])
        moments = np.zeros((3, len(ends)))
        known = np.full(len(ends), math.nan) if multipliers is None else multipliers.copy()
        if found is not None:
            above = min(above, Certifier(node).proved(found.multipliers, found.rho))
            moments[:, places], known[places] = found.moments, found.multipliers
            up = np.where(moments[2] < 0, -1, 1)
            rounded = np.where(ends != 0, ends, np.where(self.patterns.is_slope, up, 0))
            self._climb(rounded.astype(np.int8))
        choices = np.flatnonzero((ends == 0) & self.patterns.is_slope)
        if above <= self._enough or not len(choices):
            self.closed = max(self.closed, above)
            return
        part, full, mixed = moments[:, choices]
        decided = np.clip(mixed / np.sqrt(np.maximum(part * full, 1e-300)), -1.0, 1.0)
        place = int(choices[np.argmax(part * (1.0 - decided**2))])
        heapq.heappush(self._leaves, _Leaf((-above, self.nodes), ends, place, known))

    def _relaxed(self, node: System, known: Floats | None) -> Optimum | None:
        """The node's multipliers: from its parent's, or closed forms."""
        if self._late() and self.nodes > 1:
            return None
        target = self._enough**2 * (1.0 - 1e-9)

        def enough(rho: float, lower: float) -> bool:
            return rho <= target or rho - lower <= _SHARE * (lower - target)

        def search(start: Floats) -> Optimum | None:
            within = 0.25 * self._tolerance
            return minimised(node, start, within, enough=enough, late=self._late)

        found = None if known is None else search(known)
        if found is not None:
            return found
        forms = [(e.rho, e.multipliers) for e in closed_forms(node).values()]
        return search(min(forms, key=lambda form: form[0])[1]) if forms else None

    def _climb(self, ends: Ends) -> None:
        """Climbs from a pattern not yet seen, and keeps what is the best one yet."""
        if ends.tobytes() in self._seen:
            return
        self._seen.add(ends.tobytes())
        value, found = self.patterns.climb(ends)
        if value > self.best:
            self.best, self.ends = value, found
