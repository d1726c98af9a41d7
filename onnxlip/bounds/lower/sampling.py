"""Searches that only look: at given rows, at random points, on a grid.

random   x = s·g, g normal, ln s uniform in [−2, 5]: networks are steep near their kinks, and these
         lie at any distance from 0
grid     inputs of at most three entries: equal steps in a cube, the cube growing from pass to pass,
         and then a finer grid around the steepest point (Virmaux & Scaman 2018)
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.lower.problem import Budget, Points, Problem

__all__ = ["grid", "looked_at", "random_points", "starts"]

Floats = npt.NDArray[np.float64]

_BATCH = 256
_KEPT = 64
_RADII = (1.0, 4.0, 16.0)
_MOST_AXES = 3


def starts(n: int, m: int, rng: np.random.Generator, low: float = -2, high: float = 5) -> Floats:
    """m random points at scales e^low … e^high."""
    return np.asarray(np.exp(rng.uniform(low, high, (m, 1))) * rng.standard_normal((m, n)))


def looked_at(problem: Problem, rows: Floats, budget: Budget) -> Points:
    """The steepest of some points."""
    found = Points.none(problem.n)
    for i in range(0, len(rows), _BATCH):
        if budget.is_spent:
            break
        some = rows[i : i + min(_BATCH, max(1, budget.evaluations))]
        found = found.with_more(problem.steepness(some)).best(_KEPT)
        budget.spend(len(some))
    return found


def random_points(
    problem: Problem, pool: Points, budget: Budget, rng: np.random.Generator
) -> Points:
    """Points at random, in batches."""
    found = Points.none(problem.n)
    while not budget.is_spent:
        rows = starts(problem.n, min(_BATCH, budget.evaluations), rng)
        found = found.with_more(looked_at(problem, rows, budget)).best(_KEPT)
    return found


def grid(problem: Problem, pool: Points, budget: Budget, rng: np.random.Generator) -> Points:
    """Points on a grid; none where the input has more than three entries."""
    found = Points.none(problem.n)
    if not 0 < problem.n <= _MOST_AXES:
        return found
    passes = len(_RADII) + 3
    side = max(3, int((budget.evaluations / passes) ** (1 / problem.n)))
    steps = np.linspace(-1, 1, side)
    cube = np.array(list(itertools.product(steps, repeat=problem.n)))
    for radius in _RADII:
        found = found.with_more(looked_at(problem, radius * cube, budget)).best(_KEPT)
    radius = 4.0 / side
    while not budget.is_spent and len(found):
        centre = found.x[0]
        radius *= max(1.0, float(np.abs(centre).max()))
        found = found.with_more(looked_at(problem, centre + radius * cube, budget)).best(_KEPT)
        radius *= 2.0 / side / max(1.0, float(np.abs(centre).max()))
        if radius < 1e-6:
            break
    return found
