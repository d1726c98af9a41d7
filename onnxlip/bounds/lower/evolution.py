"""Evolutionary search: differences of good points, and noise of every size, added to good points.

    y = (1 + s) (x_i + a (x_j − x_k) + noise),   a ∈ {0, ½, 1, 3/2} times a uniform number,

noise on all entries or on a tenth of them, of size e^{−6 … −½} relative to x. The steepest of
parents and children survive. Directions are inherited, so few power iterations do.

Source: differential evolution (Storn & Price 1997), with mutations of all scales.
"""

from __future__ import annotations

import numpy as np

from onnxlip.bounds.lower.problem import Budget, Points, Problem
from onnxlip.bounds.lower.sampling import starts

__all__ = ["evolution"]

_CHILDREN = 128
_PARENTS = 32


def evolution(problem: Problem, pool: Points, budget: Budget, rng: np.random.Generator) -> Points:
    """Seeded with every earlier point."""
    parents = pool.best(_PARENTS)
    if len(parents) < 4:
        fresh = problem.steepness(starts(problem.n, _PARENTS, rng))
        budget.spend(len(fresh))
        parents = parents.with_more(fresh).best(_PARENTS)
    while not budget.is_spent and len(parents):
        m = min(_CHILDREN, max(8, budget.evaluations))
        i, j, k = rng.integers(len(parents), size=(3, m))
        apart = rng.random((m, 1)) * rng.choice([0, 0.5, 1, 1.5], (m, 1))
        y = parents.x[i] + apart * (parents.x[j] - parents.x[k])
        size = np.linalg.norm(y, axis=1, keepdims=True) / np.sqrt(problem.n) + 0.01
        noise = size * np.exp(rng.uniform(-6, -0.5, (m, 1))) * rng.standard_normal(y.shape)
        y = y + noise * (rng.random(y.shape) < rng.choice([0.1, 1], (m, 1)))
        y = y * np.exp(0.2 * rng.standard_normal((m, 1)) * (rng.random((m, 1)) < 0.3))
        children = problem.steepness(y, parents.v[i])
        budget.spend(m)
        parents = parents.with_more(children).best(_PARENTS)
    return parents
