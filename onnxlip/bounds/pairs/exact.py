"""The maximum of ‖outer diag(d) inner‖₂ over the box by looking at all of its vertices.

The norm is convex in d, so it has a vertex as a maximiser: 2^m of them, m = the number of free
slopes. The matrix at a vertex is a sum of two parts, one for the low and one for the high free
slopes, both of which are tabulated, so a vertex costs an addition, its Gram G = MMᵀ and the
largest eigenvalue. The latter is skipped where (tr G⁴)^{1/4} ≥ λmax(G) is already below the best
value so far.

Every norm is taken, so this is what searches and bounds are tested against. It is computed in
float64 and rounding is not regarded: an estimate to about 1e-13, no proof.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.pairs.leading import Sides, reduced
from onnxlip.bounds.pairs.problem import Found, Pair
from onnxlip.errors import UsageError

__all__ = ["LIMIT", "brute_force"]

Floats = npt.NDArray[np.float64]

LIMIT = 20  # free slopes
_ENTRIES = 1 << 18  # float64 entries of one stack of matrices (2 MiB, which caches hold)
_SLACK = 1e-10  # of a Gram's fourth powers, relative: more than their rounding


def brute_force(pair: Pair) -> Found:
    """The maximum over all vertices and a d that attains it, for up to 20 free slopes.

    steps: how many vertices there are. Raises UsageError beyond 20 free slopes.
    """
    m = len(pair.free)
    if m > LIMIT:
        raise UsageError(
            f"{m} free slopes have 2^{m} vertices, and brute force goes up to {LIMIT} slopes: "
            "use branch and bound or the certified value"
        )
    d = pair.alpha.copy()
    sides = _wide(reduced(pair))
    best, chosen = -1.0, 0
    for first, stack in _vertices(sides, pair.free):
        value, k = _largest(stack, best)
        if value > best:
            best, chosen = value, first + k
    raised = pair.free[((chosen >> np.arange(m)) & 1) == 1]
    d[raised] = pair.beta[raised]
    matrix = sides.matrix(d)
    value = float(np.linalg.norm(matrix, 2)) if matrix.size else 0.0
    return Found(sides.scaled(value), d, 1 << m)


def _wide(sides: Sides) -> Sides:
    """The transposed problem where outer has more rows than inner has columns."""
    if sides.left.shape[1] <= sides.right.shape[1]:
        return sides
    return Sides(sides.right, sides.left, sides.alpha, sides.beta, sides.exponent)


def _vertices(sides: Sides, free: npt.NDArray[np.int64]) -> Iterator[tuple[int, Floats]]:
    """(number of the first vertex, matrices of the next ones); bit k of a vertex's number tells
    whether free slope k is at its upper end."""
    m, entries = len(free), max(1, sides.left.shape[1] * sides.right.shape[1])
    low = min(m, max(0, (_ENTRIES // entries).bit_length() - 1))
    table = _sums(sides, free[:low])
    base = sides.matrix(sides.alpha)
    for k in range(1 << (m - low)):
        d = np.zeros_like(sides.alpha)
        raised = free[low:][((k >> np.arange(m - low)) & 1) == 1]
        d[raised] = sides.beta[raised] - sides.alpha[raised]
        yield k << low, table + (base + sides.matrix(d, raised))


def _sums(sides: Sides, chosen: npt.NDArray[np.int64]) -> Floats:
    """(2^m, p, q): what all subsets of these slopes add when they go from α to β."""
    table = np.zeros((1, sides.left.shape[1], sides.right.shape[1]))
    for j in chosen:
        step = (sides.beta[j] - sides.alpha[j]) * np.outer(sides.left[j], sides.right[j])
        table = np.concatenate([table, table + step])
    return table


def _largest(stack: Floats, best: float) -> tuple[float, int]:
    """(largest squared norm in a stack (b, p, q), where), unless all of them are below `best`."""
    if not (stack.shape[1] and stack.shape[2]):
        return 0.0, 0
    gram = stack @ stack.transpose(0, 2, 1)
    fourth = np.einsum("bij,bij->b", square := gram @ gram, square)
    hopeful = np.flatnonzero(fourth >= max(best, 0.0) ** 4 * (1 - _SLACK))
    if not len(hopeful):
        return -1.0, 0
    values = np.linalg.eigvalsh(gram[hopeful])[:, -1]
    k = int(values.argmax())
    return float(values[k]), int(hopeful[k])
