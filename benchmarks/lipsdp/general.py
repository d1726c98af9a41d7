"""LipSDP-Neuron as one writes it for a general solver (Fazlyab et al. 2019; theory.md, section 4).

minimise ρ over T ≥ 0 with ρE_x − CᵀC − ½ Σ_j T_j (p_j q_jᵀ + q_j p_jᵀ) ⪰ 0,
p_j = e_j − α N_jᵀ,  q_j = β N_jᵀ − e_j.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.lipsdp.cases import Floats, Plain

__all__ = ["SOLVERS", "Solved", "matrix", "solved"]

SOLVERS = ("CLARABEL", "SCS")


@dataclass(frozen=True)
class Solved:
    """value: √ρ as the solver reports it, NaN where it has none; seconds: of the processor, of the
    solver itself, without what cvxpy takes; least: the smallest eigenvalue of the matrix at
    (ρ, max(T, 0))."""

    value: float
    multipliers: Floats
    seconds: float
    status: str
    least: float


def solved(plain: Plain, solver: str, tolerance: float, seconds: float) -> Solved:
    """What the solver makes of it within about so many seconds."""
    import cvxpy as cp

    neurons, size = plain.n.shape
    own = np.eye(neurons, size, plain.width)
    p, q = own - plain.alpha * plain.n, plain.beta * plain.n - own
    rho, t = cp.Variable(nonneg=True), cp.Variable(neurons, nonneg=True)
    entry = np.diag((np.arange(size) < plain.width).astype(float))
    half = p.T @ cp.diag(t) @ q
    form = rho * entry - plain.c.T @ plain.c - 0.5 * (half + half.T)
    problem: Any = cp.Problem(cp.Minimize(rho), [form >> 0])
    options: dict[str, Any] = {
        "CLARABEL": {
            "time_limit": seconds,
            "tol_gap_abs": tolerance,
            "tol_gap_rel": tolerance,
            "tol_feas": tolerance,
            "max_threads": 1,
        },
        "SCS": {
            "time_limit_secs": seconds,
            "eps_abs": tolerance,
            "eps_rel": tolerance,
            "max_iters": 10**7,
        },
    }[solver]
    data, chain, inverse = problem.get_problem_data(solver, solver_opts=options)
    start = time.process_time()
    try:
        answer = chain.solve_via_data(problem, data, solver_opts=options)
        took = time.process_time() - start
        problem.unpack_results(answer, chain, inverse)
    except cp.SolverError as error:
        took = time.process_time() - start
        return Solved(np.nan, np.zeros(neurons), took, str(error).split(".")[0][:40], np.nan)
    if rho.value is None:
        return Solved(np.nan, np.zeros(neurons), took, problem.status, np.nan)
    found = np.maximum(t.value, 0.0)
    least = float(np.linalg.eigvalsh(matrix(plain, float(rho.value), found))[0])
    value = float(np.sqrt(max(float(rho.value), 0.0)))
    return Solved(value, found, took, problem.status, least)


def matrix(plain: Plain, rho: float, t: Floats) -> Floats:
    """M(ρ, T) in numbers."""
    neurons, size = plain.n.shape
    own = np.eye(neurons, size, plain.width)
    half = (own - plain.alpha * plain.n).T @ (t[:, None] * (plain.beta * plain.n - own))
    entry = rho * (np.arange(size) < plain.width)
    return np.asarray(np.diag(entry) - plain.c.T @ plain.c - 0.5 * (half + half.T))
