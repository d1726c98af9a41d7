"""Lower bounds: the steepest pair that several searches find, evaluated in float64.

data → random points → smoothed ascent → evolution, each seeded with what was found before; grid and
annealing (the paper's own) on demand. "quick" is a small part of that, in about a second.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxlip.bounds.lower.annealing import annealing
from onnxlip.bounds.lower.ascent import ascent
from onnxlip.bounds.lower.attained import Attained, Quotients
from onnxlip.bounds.lower.data import rows_of
from onnxlip.bounds.lower.double import EXACT
from onnxlip.bounds.lower.evolution import evolution
from onnxlip.bounds.lower.problem import Budget, Points, Problem, Search, Subject
from onnxlip.bounds.lower.sampling import grid, looked_at, random_points, starts
from onnxlip.errors import UsageError
from onnxlip.network import AffineBlock
from onnxlip.parallel import Progress

__all__ = ["METHODS", "by_choice", "floor_of_blind_bounds", "lower_bound"]

SEARCHES: Mapping[str, Search] = {
    "random": random_points,
    "grid": grid,
    "annealing": annealing,
    "ascent": ascent,
    "evolution": evolution,
}
METHODS = ("data", *SEARCHES)

_DEFAULT: tuple[str, ...] = ("random", "grid", "ascent", "evolution")
_SHARES = {"random": 0.1, "grid": 0.2, "ascent": 0.75}  # of what is left
_CANDIDATES = 12  # points whose quotients are computed in float64
_POLISH = 30  # power iterations there
_EVALUATIONS = 20_000
_KEPT = 256
_QUICK = 1500  # points
_WORK = 6e9  # multiplications
_LONG_WORK = 3e11  # likewise for the others: a minute or two
_LARGE = 1 << 20
_SMALL = 1 << 16  # … and up to which `quick` also looks at free patterns
_QUICK_SECONDS = 1.5
_LEAST = 8
_TOO_LARGE = "no lower bound was sought, as the network is large: --lower portfolio does"
_HASTE = 0.5  # seconds left below which fewer are
_FINAL = 0.25  # of the seconds, kept for that


def lower_bound(
    subject: Subject,
    *,
    data: Any = None,
    evaluations: int = _EVALUATIONS,
    seconds: float | None = None,
    methods: Sequence[str] = _DEFAULT,
    seed: int | None = None,
    progress: Progress | None = None,
) -> Attained:
    """The largest quotient found: a lower bound of the Lipschitz constant, attained at two points.

    data: rows to look at first, any number (`onnxlip.bounds.lower.data`)
    evaluations: points to look at, about; seconds: stop after so long, about
    methods: of `METHODS`, in order; "data" stands for the rows, which are looked at if given
    seed: the same seed gives the same pair (if no time limit cuts in); default: the subject's own
    progress: called with (searches done, searches in all, name)

    After Virmaux & Scaman 2018 (data, grid, annealing) and theory.md, section 5. Raises UsageError
    (bad rows, unknown method), ModelError (no runtime runs the network).
    """
    limits = _Limits(evaluations, math.inf if seconds is None else seconds)
    return _found(subject, data, limits, methods, seed, progress)


@dataclass(frozen=True)
class _Limits:
    """Points, seconds and multiplications: what the search may cost."""

    evaluations: int
    seconds: float = math.inf
    work: float = math.inf

    def points(self, problem: Problem) -> int:
        """How many points that makes."""
        by_work = max(_LEAST, self.work / max(problem.work, 1.0))
        return int(min(self.evaluations, by_work))


def _found(
    subject: Subject,
    data: Any,
    limits: _Limits,
    methods: Sequence[str],
    seed: int | None,
    progress: Progress | None,
) -> Attained:
    start = time.perf_counter()
    for name in methods:
        if name not in METHODS:
            raise UsageError(f"unknown method '{name}': use {', '.join(METHODS)}")
    rows = None if data is None else rows_of(data, subject.graph.inputs)
    if "data" in methods and rows is None:
        raise UsageError("the method 'data' needs rows: pass --data FILE")
    n = sum(v.size for v in subject.graph.inputs)
    if not n or not sum(v.size for v in subject.graph.outputs):
        zeros = np.zeros(n)
        return Attained(0.0, zeros, zeros, "nothing moves", 0.0, subject.norm, subject.model.sha256)
    quotients, problem = Quotients(subject), Problem(subject)
    until = start + limits.seconds
    budget = Budget(limits.points(problem), start + (1 - _FINAL) * limits.seconds)
    rng = np.random.default_rng(subject.seed if seed is None else seed)
    searches = [name for name in methods if name != "data"]
    origin: dict[str, Points] = {}
    if rows is not None:
        origin["data"] = looked_at(problem, rows, Budget(len(rows), budget.until))
    for k, name in enumerate(searches):
        if progress is not None:
            progress(k, len(searches), name)
        share = _SHARES.get(name, 1.0) if k + 1 < len(searches) else 1.0
        part = budget.part(share)
        planned = part.evaluations
        origin[name] = SEARCHES[name](problem, _together(origin, n), part, rng)
        budget.spend(planned - part.evaluations)
    pool = _together(origin, n)
    if not len(pool):
        pool = problem.steepness(starts(n, 1, rng, 0, 0))
    value, x, y = _evaluated(problem, quotients, pool, until)
    method = _origin(origin, x)
    if quotients.accuracy != EXACT:
        method += f", {quotients.accuracy}"
    took = time.perf_counter() - start
    return Attained(value, x, y, method, took, subject.norm, subject.model.sha256)


def _together(origin: Mapping[str, Points], n: int) -> Points:
    """The best of all points so far."""
    pool = Points.none(n)
    for found in origin.values():
        pool = pool.with_more(found)
    return pool.best(_KEPT)


def by_choice(
    subject: Subject, choice: str, data: Any = None, progress: Progress | None = None
) -> tuple[Attained | None, str]:
    """(the pair, a remark or "") for "none", "quick", "portfolio" or one method.

    "quick" looks at the fewer points the larger the network is, and at none where that would take
    much longer than the upper bound. A network that no runtime runs has a remark instead of a
    pair. Raises UsageError (bad rows, unknown choice).
    """
    if choice == "none":
        return None, ""
    limits, methods = _Limits(_EVALUATIONS, work=_LONG_WORK), _DEFAULT
    if choice == "quick":
        if _size(subject) > _LARGE:
            return None, _TOO_LARGE
        limits = _Limits(_QUICK, _QUICK_SECONDS, _WORK)
    elif choice != "portfolio":
        methods = (choice,)
    try:
        return _found(subject, data, limits, methods, None, progress), ""
    except UsageError:
        raise
    except Exception as error:  # a runtime may fail in any way; the upper bound stands
        reason = str(error).strip().splitlines()[:1]
        return None, f"no lower bound: {reason[0] if reason else type(error).__name__}"


def floor_of_blind_bounds(subject: Subject, choice: str, pair: Attained) -> float | None:
    """The free-pattern maximum where that is cheap for this choice; None where it is not, or where
    the network has other nonlinear blocks than elementwise ones."""
    from onnxlip.bounds.lower.freepattern import free_pattern

    if _size(subject) > (_SMALL if choice == "quick" else _LARGE):
        return None
    try:
        return free_pattern(subject, np.asarray(pair.x, np.float64).reshape(1, -1))
    except Exception:  # beside the bounds: a runtime that fails on it takes nothing away
        return None


def _size(subject: Subject) -> int:
    """About how much work one evaluation is: weights and entries of tensors."""
    network = subject.network
    weights = sum(b.weights for b in network.blocks if isinstance(b, AffineBlock))
    return weights + sum(network.sizes[y] for b in network.blocks for y in b.outputs) + 1


def _evaluated(
    problem: Problem, quotients: Quotients, pool: Points, until: float
) -> tuple[float, Any, Any]:
    hasty = time.perf_counter() > until - _HASTE
    best = pool.best(_CANDIDATES // 4 if hasty else _CANDIDATES)
    # A pair must stay one when it is written down, so points are float32 numbers.
    x = best.x.astype(np.float32).astype(np.float64)
    polished = problem.steepness(x, best.v, _POLISH // 4 if hasty else _POLISH)
    order = np.argsort(-polished.norm, kind="stable")
    ordered = Points(polished.x[order], polished.v[order], polished.norm[order])
    return quotients.best(ordered, until)


def _origin(origin: Mapping[str, Points], x: Any) -> str:
    """Which search met this point first."""
    for name, points in origin.items():
        if np.any(np.all(points.x.astype(np.float32) == x.astype(np.float32), axis=1)):
            return name
    return next(reversed([*origin]), "random")
