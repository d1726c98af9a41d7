"""Smoothed ascent: Adam on ln ‖J_τ(x)‖, where J_τ has slopes seen from a distance τ.

The Jacobian of a ReLU network is constant between kinks, so its gradient says nothing. With slopes
(f(z + τ) − f(z − τ))/2τ it feels the kinks nearby. τ, relative to the size of z, falls from 1 to
0.01 in a run; the steepest true Jacobian met on the way counts.
"""

from __future__ import annotations

import numpy as np

from onnxlip.bounds.lower.problem import Budget, Points, Problem, power, steepest_of, whole
from onnxlip.bounds.lower.sampling import starts

__all__ = ["ascent"]

_CLIMBERS = 16
_STEPS = 100
_LEAST_STEPS = 12
_COST = 4  # of a smoothed Jacobian, in points: values, slopes and products
_EVERY = 5  # steps between looks at the true Jacobian
_RATE = 0.1  # of a step, relative to the point's size
_LAST = 0.01  # τ at the end


def ascent(problem: Problem, pool: Points, budget: Budget, rng: np.random.Generator) -> Points:
    """Runs from the pool's steepest points and from random ones; none without derivatives."""
    found = Points.none(problem.n)
    runs = 0
    while problem.is_differentiable and not budget.is_spent:
        price = (_COST + 1 / _EVERY) * _STEPS
        climbers = int(np.clip(budget.evaluations / price, 4, _CLIMBERS))
        steps = int(np.clip(budget.evaluations / climbers / (price / _STEPS), 1, _STEPS))
        if steps < _LEAST_STEPS and runs:
            break
        known = pool.with_more(found).best(climbers // 2)
        near = known.x + 0.1 * runs * _size(known.x) * rng.standard_normal(known.x.shape)
        fresh = starts(problem.n, climbers - len(known), rng, -1, 3)
        run = _climb(problem, np.concatenate([near, fresh]), steps, budget, rng)
        found = found.with_more(run).best(64)
        runs += 1
    return found


def _size(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(x).mean(axis=1, keepdims=True) + 1e-3)


def _climb(
    problem: Problem, x: np.ndarray, steps: int, budget: Budget, rng: np.random.Generator
) -> Points:
    found = Points.none(problem.n)
    v = rng.standard_normal(x.shape)
    rate = _RATE * _size(x)
    mean, square = np.zeros_like(x), np.zeros_like(x)
    for k in range(steps):
        width = _LAST ** (k / max(1, steps - 1))
        g, v = _gradient(problem, x, v, width)
        g = np.nan_to_num(g, posinf=0.0, neginf=0.0)
        mean, square = 0.9 * mean + 0.1 * g, 0.99 * square + 0.01 * g**2
        unbiased = np.sqrt(square / (1 - 0.99 ** (k + 1))) + 1e-12 * np.abs(g).max(initial=1e-300)
        move = mean / (1 - 0.9 ** (k + 1)) / unbiased
        x = x + rate * (1 - 0.7 * k / steps) * move
        budget.spend(_COST * len(x))
        if k % _EVERY == _EVERY - 1 or k == steps - 1:
            found = found.with_more(problem.steepness(x, v)).best(64)
            budget.spend(len(x))
        if budget.is_spent:
            break
    return found


def _gradient(
    problem: Problem, x: np.ndarray, v: np.ndarray, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """∂ ln ‖J_τ v‖ / ∂x at the steepest v, which is returned too."""
    with np.errstate(all="ignore"):
        j = problem.linearised(x, width)
        if problem.is_small:
            v, _ = steepest_of(whole(j, len(x), problem.rows, problem.n), problem.p)
        else:
            v, _ = power(j, v, problem.p, 2)
        return j.growth(v, problem.p).astype(np.float64), v
