"""LipLT (Fazlyab, Entesari, Roy & Chellappa 2023, Theorem 1) on any system.

A nonlinear node is split into u = s + w: s = centre · z, which is linear and exact, and a deviation
w. All that is linear is kept together, as matrices summed over all paths; only deviations are
bounded by norms. With A_{jt} the matrix from w_j to the tensor t, x being the 0th of them,

    t = A_{0t} x + Σ_j A_{jt} w_j,    w_j = R_j v_j,   ‖v_j‖ ≤ m_j ‖x‖,
    ‖t‖ ≤ ( ‖A_{0t}‖ + Σ_j ‖A_{jt}R_j‖ m_j ) ‖x‖.

For a chain this is the paper's recursion (theory.md, section 4). A deviation's size is read off its
relation's inequalities, Σ_{i: group_i = j} w_i² ≤ Σ_i reach_ji z_i² (`relations`; back ≥ 0 is given
away). With top_j the largest of reach_j, R_i = √top_{group_i}, and dividing by top_j,

    ‖v‖² ≤ Σ_i (Σ_j reach_ji/top_j) z_i² ≤ g² ‖z‖²,   g² = max_i Σ_j reach_ji/top_j,

so m = g · (bound of z). That is R = diag(r), g = 1 for slopes; R = √(1 − 1/k), g² = the most
windows that share an entry, for maxima over k entries; R = gain, g = 1 (and centre = 0) where only
a gain is known.

**Sharper than the sum.** For all c_j > 0, ‖Σ_j A_j v_j‖ ≤ ‖[c_jA_j]_j‖ √(Σ_j m_j²/c_j²). With
c_j² = m_j/α_j, α_j = ‖A_jR_j‖, the root is √S, S = Σ α_jm_j the sum above, and the norm at most
√(Σ c_j²α_j²) = √S as well: this is never above the sum, and attains it only if all the A_j stretch
into one direction.

At every z and at y the least of both and of AutoLip's step from the bounds before is taken, so that
the result is never above AutoLip's. (The pure formula is not above it either, for chains.) Jᵀ has
J's norm and other intermediate bounds: both are tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from onnxlip.bounds.sdp.relations import Relation
from onnxlip.bounds.sdp.system import Affine, Floats, Nonlinear, System
from onnxlip.bounds.sdp.tracked import Tracked, beside
from onnxlip.rounding import add_up, gamma, mul_up, norm_up, sqrt_up, up

__all__ = ["cost", "deviation", "liplt"]

Late = Callable[[], bool]

_ENTRIES = 30_000_000  # of the matrix between two tensors
_NEVER: Late = lambda: False  # noqa: E731


def liplt(system: System, late: Late = _NEVER) -> float | None:
    """‖y‖₂ ≤ the value · ‖x‖₂: a theorem, and at most `system.bound`.

    late: asked between matrix products; what is not done by then stays as AutoLip has it. None
    where that is all there is.
    """
    ways = (system, system.transposed())
    product = min(way.bound for way in ways)
    sweeps = [_Sweeps(way, late) for way in ways]
    with np.errstate(all="ignore"):  # what is not finite has an infinite error
        best = min(way.bound() for way in sweeps)
    is_finished = any(not way.missed for way in sweeps)
    return min(best, product) if is_finished or best < product else None


class _Sweeps:
    """One sweep backwards from the input of every nonlinear node, in order, and from y.

    missed: how many there was no time or room for.
    """

    def __init__(self, system: System, late: Late) -> None:
        self._system, self._late = system, late
        self._bounds = dict.fromkeys(system.inputs, 1.0)
        self._deviations = [deviation(n.relation) for n in system.nonlinear]
        self._swept = _plain(system)
        self.missed = 0

    def bound(self) -> float:
        for node in self._system.nodes:
            if isinstance(node, Affine):
                terms = [mul_up(p.norm, self._bounds[p.input]) for p in node.parts]
                self._bounds[node.output] = add_up(*terms)
                continue
            z = node.input
            self._bounds[z] = min(self._bounds[z], self._sweep((z,)))
            self._bounds[node.output] = mul_up(node.relation.gain, self._bounds[z])
        outputs = self._system.outputs
        return min(norm_up([self._bounds[t] for t in outputs], 2), self._sweep(outputs))

    def _sweep(self, targets: tuple[str, ...]) -> float:
        """A bound of the stacked targets from all that they are made of, or infinite."""
        if len(targets) == 1 and targets[0] in self._swept:
            return math.inf
        self._swept.update(targets if len(targets) == 1 else ())
        terms = self._terms(targets)
        self.missed += terms is None
        return math.inf if terms is None else _combined(terms)

    def _terms(self, targets: Sequence[str]) -> list[_Term] | None:
        reach = _stacked(targets, self._system)
        height = sum(self._system.sizes[t] for t in targets)
        terms: list[_Term] = []
        k = len(self._deviations)
        for node in reversed(self._system.nodes):
            k -= isinstance(node, Nonlinear)
            here = reach.pop(node.output, None)
            if here is None:
                continue
            if self._late() or height * self._system.sizes[node.output] > _ENTRIES:
                return None
            if isinstance(node, Affine):
                for part in node.parts:
                    _add(reach, part.input, here.times(Tracked(part.matrix, part.error), part.norm))
                continue
            radii, gain = self._deviations[k]
            terms.append(_Term(here.weighted(radii), mul_up(gain, self._bounds[node.input])))
            centre = node.relation.quadratic.centre
            if centre.nnz:
                _add(reach, node.input, here.times(Tracked(centre), _row_column_norm(centre)))
        inputs = [reach[t] for t in self._system.inputs if t in reach]
        if inputs:
            terms.append(_Term(beside(inputs), 1.0))
        return terms


@dataclass(frozen=True, eq=False)
class _Term:
    """matrix · v with ‖v‖ ≤ length · ‖x‖."""

    matrix: Tracked
    length: float


def _plain(system: System) -> set[str]:
    """Tensors of which AutoLip's bound is already the norm of one matrix times that of one v."""
    ends = {n.output for n in system.nonlinear if not n.relation.quadratic.centre.nnz}
    if len(system.inputs) == 1:
        ends.update(system.inputs)
    affine = (n for n in system.nodes if isinstance(n, Affine))
    return ends | {n.output for n in affine if len(n.parts) == 1 and n.parts[0].input in ends}


def _stacked(targets: Sequence[str], system: System) -> dict[str, Tracked]:
    height = sum(system.sizes[t] for t in targets)
    found: dict[str, Tracked] = {}
    begin = 0
    for t in targets:
        place = sp.csr_array(sp.eye_array(height, system.sizes[t], k=-begin, format="csr"))
        _add(found, t, Tracked(place))
        begin += system.sizes[t]
    return found


def _add(reach: dict[str, Tracked], tensor: str, term: Tracked) -> None:
    reach[tensor] = reach[tensor].plus(term) if tensor in reach else term


def _combined(terms: Sequence[_Term]) -> float:
    """The least of the sum and the stack."""
    kept = [(t, t.matrix.norm) for t in terms]
    kept = [(t, alpha) for t, alpha in kept if alpha > 0 and t.length > 0]
    total = add_up(*(mul_up(alpha, t.length) for t, alpha in kept))
    if len(kept) < 2 or not math.isfinite(total):
        return total
    weights = [math.sqrt(t.length / alpha) for t, alpha in kept]
    if not all(0 < c < math.inf for c in weights):
        return total
    parts = [
        t.matrix.weighted(np.full(t.matrix.matrix.shape[1], c))
        for (t, _), c in zip(kept, weights, strict=True)
    ]
    lengths = [up(t.length / c) for (t, _), c in zip(kept, weights, strict=True)]
    return min(total, mul_up(beside(parts).norm, norm_up(lengths, 2)))


def deviation(relation: Relation) -> tuple[Floats, float]:
    """(R (rows,), g): u − centre · z = diag(R) v with ‖v‖₂ ≤ g‖z‖₂, rounded up."""
    q = relation.quadratic
    reach = q.reach
    if not reach.nnz:
        return np.zeros(relation.rows), 0.0
    top = np.asarray(reach.max(axis=1).todense()).ravel()
    rows = np.repeat(np.arange(reach.shape[0]), np.diff(reach.indptr))
    shares = reach.data / np.where(top > 0, top, 1.0)[rows]
    sums = np.bincount(reach.indices, shares, minlength=1)
    count = int(np.bincount(reach.indices).max())
    largest = float(sums.max())
    if count > 1:
        largest = mul_up(largest, up(1.0 + gamma(count)))
    roots = np.nextafter(np.sqrt(top), math.inf)
    return np.where(top > 0, roots, 0.0)[q.group], sqrt_up(largest)


def _row_column_norm(matrix: sp.csr_array) -> float:
    """√(‖A‖₁‖A‖_∞) ≥ ‖A‖₂, rounded up."""
    sizes = abs(matrix)
    rows, columns = sizes.sum(axis=1), sizes.sum(axis=0)
    product = mul_up(float(rows.max(initial=0.0)), float(columns.max(initial=0.0)))
    return sqrt_up(mul_up(product, up(1.0 + gamma(2 * sum(matrix.shape)))))


def cost(system: System) -> float:
    """Multiplications that `liplt` takes, roughly; sparse factors are taken to stay sparse."""
    return sum(_one_way(s) for s in (system, system.transposed()))


def _one_way(system: System) -> float:
    targets = {(n.input,) for n in system.nonlinear} | {system.outputs}
    left_out = {(t,) for t in _plain(system)}
    return sum(_sweep_cost(system, t) for t in targets - left_out)


def _sweep_cost(system: System, targets: tuple[str, ...]) -> float:
    height = float(sum(system.sizes[t] for t in targets))
    reached, widths, total = set(targets), [float(system.width)], 0.0
    for node in reversed(system.nodes):
        if node.output not in reached:
            continue
        if isinstance(node, Affine):
            total += height * sum(
                p.matrix.nnz if sp.issparse(p.matrix) else p.matrix.size for p in node.parts
            )
            reached.update(node.reads)
        else:
            widths.append(float(node.relation.rows))
            if node.relation.quadratic.centre.nnz:
                reached.add(node.input)
    for width in (*widths, sum(widths)):
        total += min(height, width) ** 2 * max(height, width)
    return total
