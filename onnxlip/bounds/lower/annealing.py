"""Simulated annealing as in the paper, with many walkers at once.

A walker at x proposes x + step · normal, and goes there with probability
min(1, e^{(‖J(y)‖ − ‖J(x)‖)/T}) (Boltzmann), T = T₀/ln(2 + it/2), step = step₀/√(1 + improvements).

Source: Virmaux & Scaman 2018. T₀ is relative to the norms first met, as these may be
of any size.
"""

from __future__ import annotations

import math

import numpy as np

from onnxlip.bounds.lower.problem import Budget, Points, Problem

__all__ = ["annealing"]

_WALKERS = 64
_TEMPERATURE = 0.1
_STEP = 1.0


def annealing(problem: Problem, pool: Points, budget: Budget, rng: np.random.Generator) -> Points:
    """Walkers from random points of the unit cube, or from the pool's steepest ones."""
    fresh = rng.random((_WALKERS - len(pool.best(_WALKERS // 2)), problem.n))
    walkers = problem.steepness(np.concatenate([pool.best(_WALKERS // 2).x, fresh]))
    budget.spend(len(walkers))
    best = walkers.best(1)
    hot = _TEMPERATURE * float(walkers.norm.mean()) + 1e-300
    improvements = it = 0
    while not budget.is_spent and len(walkers):
        step = _STEP / math.sqrt(1 + improvements)
        y = walkers.x + step * rng.standard_normal(walkers.x.shape)
        there = problem.steepness(y, walkers.v)
        budget.spend(len(there))
        rise = (there.norm - walkers.norm) * math.log(2 + it / 2) / hot
        go = rng.random(len(there)) < np.exp(np.minimum(rise, 0))
        walkers = Points(
            np.where(go[:, None], there.x, walkers.x),
            np.where(go[:, None], there.v, walkers.v),
            np.where(go, there.norm, walkers.norm),
        )
        improvements += bool(there.norm.max() > best.norm[0])
        best = best.with_more(there.best(4)).best(16)
        it += 1
    return best
