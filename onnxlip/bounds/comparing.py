"""Certified constants of all differences of two outputs, by every way that is at hand.

The whole network's bound, √2 L for the 2-norm; products of norms with rows of differences; the
multipliers that proved the whole, shared by all pairs; and, where that is cheap, multipliers of a
pair's own, from those on (`classes`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from onnxlip.bounds.autolip import BlockNorm
from onnxlip.bounds.classes import (
    Classes,
    by_multipliers,
    by_products,
    by_transpose,
    difference,
    least,
)
from onnxlip.bounds.lower.problem import Subject
from onnxlip.bounds.portfolio import Multipliers
from onnxlip.bounds.sdp.interior import minimised
from onnxlip.bounds.sdp.proof import Certifier
from onnxlip.errors import UsageError
from onnxlip.norms.workspace import Workspace
from onnxlip.parallel import Progress, one_blas_thread
from onnxlip.rounding import mul_up, sqrt_up

__all__ = ["class_constants"]

_MOST = 256  # outputs
_WORK = 1e11  # multiplications for multipliers of the pairs' own,
_INTERIOR = 250.0  # times the cube of the order of M, each
_TOLERANCE = 1e-4


def class_constants(
    subject: Subject,
    norms: Sequence[BlockNorm],
    whole: float,
    given: Multipliers | None = None,
    late: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> Classes:
    """|(y_i − y_j)(a) − (y_i − y_j)(b)| ≤ upper[i, j] ‖a − b‖_p, for all i and j.

    norms: of the network's blocks, for p = subject.norm; whole: a certified bound of the network;
    given: multipliers that were found for it (p = 2). Raises UsageError where there are fewer than
    two outputs, or too many.
    """
    m = sum(v.size for v in subject.graph.outputs)
    if not 2 <= m <= _MOST:
        raise UsageError(f"--pairs compares every two of 2 to {_MOST} outputs; here are {m}")
    factor = {1.0: 1.0, 2.0: sqrt_up(2.0), math.inf: 2.0}[subject.norm]
    everywhere = np.full((m, m), mul_up(factor, whole))
    np.fill_diagonal(everywhere, 0.0)
    found = [Classes(everywhere, ("whole network",), np.zeros((m, m)))]
    work = Workspace(subject.rule_set.lowerings, seed=subject.seed)
    with one_blas_thread(), np.errstate(all="ignore"):
        found.append(by_products(subject.network, norms, work, subject.norm))
        if given is not None and not late():
            shared = by_transpose if given.turned else by_multipliers
            found.append(shared(given.system, given.values))
            order = given.system.width + given.system.neurons
            if _INTERIOR * order**3 * m * (m - 1) / 2 <= _WORK:
                found.append(_refined(given, m, late, progress))
    return least(*found)


def _refined(
    given: Multipliers, m: int, late: Callable[[], bool], progress: Progress | None
) -> Classes:
    """Multipliers of every pair's own; infinite where there was no time."""
    upper = np.full((m, m), math.inf)
    np.fill_diagonal(upper, 0.0)
    pairs = [(i, j) for i in range(m) for j in range(i + 1, m)]
    for k, (i, j) in enumerate(pairs):
        if late():
            break
        if progress is not None:
            progress(k, len(pairs), f"outputs {i} and {j}")
        system = difference(given.direct, i, j)
        system = system.transposed() if given.turned else system
        best = minimised(system, given.values, _TOLERANCE, late=late)
        if best is not None:
            value = Certifier(system).proved(best.multipliers, best.rho)
            upper[i, j] = upper[j, i] = value
    return Classes(upper, ("lipsdp-neuron",), np.zeros((m, m)))
