"""The maximum of the pair problem to a tolerance, by branch and bound; both ends are proved.

A node fixes some slopes at one of their ends; the maximum over a box is at a vertex (the norm is
convex in d), so the larger of a node's two children bounds the node. A node's bound is the least
of its parent's and what multipliers found by `interior` prove (`proof`); where all slopes are
fixed, it is the norm of one matrix. The upper end is the largest bound of all leaves, pruned ones
included: a theorem, however early the search stops. The lower end is the norm at one vertex,
rounded down.

Which slope: with the moments of the relaxation, κ_j = r_j E w_j z_j / (r_j² E z_j²) ∈ [−1, 1] says
how decided d_j = c_j + κ_j r_j is; we take the largest T_j E w_j² (1 − κ_j²), for ReLU
4 T_j E w_j² ρ_j(1 − ρ_j) with ρ_j = d_j. The rounded d_j, climbed from by sign power (d_j ← the end
that has the sign of (outerᵀu)_j(inner v)_j, (u, v) the leading singular pair), gives the lower end.

A node is given up at ρ ≤ (lower end)² (1 + tolerance)², or as soon as it is clear that it must be
split: once the dual's bound is above that and the gap is a small part of what is missing.
"""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.pairs.certified import SEMIDEFINITE, best_proof, certified, fixed_norm
from onnxlip.bounds.pairs.interior import Optimum, minimised
from onnxlip.bounds.pairs.problem import Floats, Pair
from onnxlip.bounds.pairs.relaxation import Relaxation, closed_form, relaxation
from onnxlip.bounds.pairs.scaling import Places, balanced
from onnxlip.bounds.pairs.search import estimate, sign_power
from onnxlip.norms.enclosure import Enclosure

__all__ = ["Bracketed", "branch_and_bound"]

Ends = npt.NDArray[np.bool_]

_SHARE = 0.25  # a node's gap may be this part of what it lacks


@dataclass(frozen=True, eq=False)
class Bracketed:
    """lower ≤ max_d ‖outer diag(d) inner‖₂ ≤ upper, both proved; lower is the norm at d, a vertex;
    nodes: how many were bounded."""

    lower: float
    upper: float
    d: Floats
    nodes: int


@dataclass(order=True, frozen=True)
class _Leaf:
    """A node that may hold more than the lower end: its slopes, and where to split it."""

    key: tuple[float, int]
    alpha: Floats = field(compare=False)
    beta: Floats = field(compare=False)
    split: int = field(compare=False)
    multipliers: Floats = field(compare=False)

    @property
    def upper(self) -> float:
        return -self.key[0]


def branch_and_bound(
    pair: Pair,
    *,
    tolerance: float = 1e-5,
    seconds: float | None = None,
    nodes: int | None = None,
) -> Bracketed:
    """max_d ‖outer diag(d) inner‖₂ between two proved ends, which differ by the relative tolerance
    unless `seconds` or `nodes` end the search before: NP-hard, so give at least one of them beyond
    some 60 neurons. Without `seconds` the result is the same on every run. Raises ValueError where
    the pair is not finite.
    """
    scaled = balanced(pair)
    if not scaled.kept.size:
        return Bracketed(0.0, 0.0, pair.alpha.copy(), 0)
    search = _Search(scaled.pair, tolerance, seconds)
    search.begin()
    while search.open and not search.late() and (nodes is None or search.nodes < nodes):
        search.split()
    d = pair.alpha.copy()
    d[scaled.kept] = np.where(search.at_beta, pair.beta[scaled.kept], pair.alpha[scaled.kept])
    return Bracketed(
        scaled.enclosed(search.best).lower, scaled.upper(search.upper), d, search.nodes
    )


class _Search:
    """best: the enclosed norm at the best vertex; closed: the largest bound of the pruned."""

    def __init__(self, pair: Pair, tolerance: float, seconds: float | None) -> None:
        self.pair, self.tolerance = pair, tolerance
        self.end = None if seconds is None else time.monotonic() + seconds
        self.best = Enclosure(0.0, float("inf"))
        self.at_beta = np.zeros(pair.size, bool)
        self.seen: set[bytes] = set()
        self.leaves: list[_Leaf] = []
        self.closed, self.nodes = 0.0, 0

    @property
    def left(self) -> float | None:
        """The seconds that are left."""
        return None if self.end is None else max(0.0, self.end - time.monotonic())

    def late(self) -> bool:
        return self.left == 0.0

    @property
    def open(self) -> bool:
        return bool(self.leaves) and self.leaves[0].upper > self.enough

    @property
    def enough(self) -> float:
        return self.best.lower * (1.0 + self.tolerance)

    @property
    def upper(self) -> float:
        return max(self.closed, max((leaf.upper for leaf in self.leaves), default=0.0))

    def begin(self) -> None:
        """The whole box: half of the time is for the search, and half of the rest for a bound."""
        pair, left = self.pair, self.left
        self.offer(estimate(pair, seconds=None if left is None else left / 2).d)
        left = self.left
        whole = certified(
            pair, tolerance=self.tolerance, seconds=None if left is None else left / 2
        )
        known = None if whole.weights is None else whole.weights**2
        self.bound(pair.alpha, pair.beta, whole.upper, known)

    def split(self) -> None:
        leaf = heapq.heappop(self.leaves)
        for end in (leaf.alpha, leaf.beta):
            alpha, beta = leaf.alpha.copy(), leaf.beta.copy()
            alpha[leaf.split] = beta[leaf.split] = end[leaf.split]
            self.bound(alpha, beta, leaf.upper, leaf.multipliers)

    def bound(self, alpha: Floats, beta: Floats, above: float, multipliers: Floats | None) -> None:
        """Bounds a node, looks for a better vertex in it, and keeps it if it may hold more."""
        self.nodes += 1
        kept = np.flatnonzero((alpha != 0) | (beta != 0))  # the others add nothing
        whole = self.pair
        node = Pair(whole.outer[:, kept], whole.inner[kept], alpha[kept], beta[kept])
        problem = relaxation(node)
        if not problem.free.size:
            value = fixed_norm(node).upper if kept.size else 0.0
            self.climb(beta == whole.beta)
            self.closed = max(self.closed, min(above, value))
            return
        places = kept[problem.free]
        known = None if multipliers is None else multipliers[places]
        found = self._relaxed(problem, known)
        if found is None:  # no bound of its own: its parent's, and a plain choice
            worth = np.linalg.norm(problem.outer, axis=0) * np.linalg.norm(problem.inner, axis=1)
            split, all_multipliers = int(places[np.argmax(worth)]), multipliers
        else:
            above = min(above, best_proof(node, found.multipliers, problem.free)[0])
            part, full, mixed = found.moments
            self.climb(self._rounded(alpha, beta, places, mixed > 0))
            decided = np.clip(mixed / np.sqrt(np.maximum(part * full, 1e-300)), -1.0, 1.0)
            split = int(places[np.argmax(part * (1.0 - decided**2))])
            all_multipliers = np.zeros(whole.size)
            all_multipliers[places] = found.multipliers
        if above <= self.enough:
            self.closed = max(self.closed, above)
            return
        rest = np.zeros(whole.size) if all_multipliers is None else all_multipliers
        heapq.heappush(self.leaves, _Leaf((-above, self.nodes), alpha, beta, split, rest))

    def _rounded(self, alpha: Floats, beta: Floats, places: Places, up: Ends) -> Ends:
        at_beta: Ends = (alpha == beta) & (alpha == self.pair.beta)
        at_beta[places] = up
        return at_beta

    def _relaxed(self, problem: Relaxation, known: Floats | None) -> Optimum | None:
        """The node's multipliers: from its parent's, or closed forms."""
        if sum(problem.inner.shape) > SEMIDEFINITE or self.late():
            return None
        target = self.enough**2 * (1.0 - 1e-9)

        def enough(rho: float, lower: float) -> bool:
            return rho <= target or rho - lower <= _SHARE * (lower - target)

        if known is not None:
            found = minimised(problem, known, self.tolerance, enough=enough, late=self.late)
            if found is not None:
                return found
        start = closed_form(problem)
        if start is None:
            return None
        best = start.multipliers
        return minimised(problem, best, self.tolerance, enough=enough, late=self.late)

    def climb(self, at_beta: Ends) -> None:
        """Sign power from a vertex not yet seen."""
        key = np.packbits(at_beta).tobytes()
        if key not in self.seen and not self.late():
            self.seen.add(key)
            start = np.where(at_beta, self.pair.beta, self.pair.alpha)
            self.offer(sign_power(self.pair, start).d)

    def offer(self, d: Floats) -> None:
        """Keeps a vertex if it is the best one yet."""
        at_beta: Ends = np.asarray(d == self.pair.beta)
        key = np.packbits(at_beta).tobytes() + b"end"
        if key in self.seen:
            return
        self.seen.add(key)
        vertex = np.where(at_beta, self.pair.beta, self.pair.alpha)
        fixed = fixed_norm(Pair(self.pair.outer, self.pair.inner, vertex, vertex))
        if fixed.lower > self.best.lower:
            self.best, self.at_beta = fixed, at_beta
