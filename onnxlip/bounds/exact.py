"""Methods that end with the constant itself, where they apply; their upper ends are proved.

* `affine`: a network without a nonlinearity is one linear map, and its norm's bracket is the
  constant's.
* `hidden_layer`: with one layer of slopes (theory.md, section 4, "Exact"), every Jacobian is

      C_x + C_u diag(d) N,   d ∈ [α, β],

  so that max_d of its norm, a pair problem of outer [C_u C_x], inner [N; I] and slopes [d; 1], is
  an upper bound: the best one that knows slopes by their intervals only. Branch and bound proves
  it. If N has full row rank, z = Nx + b is any vector for some x, every choice of slopes that the
  functions have is the Jacobian of some point, and the maximum is the constant. `full_rank` proves
  that rank; `realised` finds a point and evaluates the network there, which needs no theory.

N, C_x and C_u are computed with errors (`sdp.tracked`): ‖N − N̂‖ ≤ e_N and so on, hence

    ‖C_x + C_u D N‖ ≤ ‖Ĉ_x + Ĉ_u D N̂‖ + e_x + g (e_u ‖N‖ + ‖Ĉ_u‖ e_N),   g = max|d|.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from onnxlip.bounds.autolip import BlockNorm
from onnxlip.bounds.pairs.branching import branch_and_bound
from onnxlip.bounds.pairs.problem import Pair
from onnxlip.bounds.sdp.relations import Slopes
from onnxlip.bounds.sdp.system import Affine, Floats, Nonlinear, System, is_sparse
from onnxlip.bounds.sdp.tracked import Tracked
from onnxlip.network import AffineBlock, Network
from onnxlip.norms.definite import proved_margin
from onnxlip.norms.enclosure import euclid
from onnxlip.rounding import add_up, gamma, mul_up

__all__ = ["Exact", "Layer", "Skipped", "affine", "full_rank", "hidden_layer", "layer_of"]

_NEURONS = 512  # beyond them branch and bound adds nothing
_SHIFTS = tuple(10.0**-e for e in (2, 4, 6, 8))  # guesses of λmin of a Gram with unit rows


@dataclass(frozen=True, eq=False)
class Exact:
    """lower ≤ the maximum over slopes ≤ upper, both proved, and the constant ≤ upper.

    realisable: whether every choice of slopes is proved to be that of some point, as far as the
    functions have the ends of their slope intervals, so that `lower` is a lower bound too;
    d: slopes that reach `lower`, of the free neurons, empty where there are none.
    """

    method: str
    upper: float
    lower: float
    realisable: bool
    d: Floats
    seconds: float


@dataclass(frozen=True)
class Skipped:
    """Why a method does not apply."""

    method: str
    reason: str


def affine(network: Network, norms: Sequence[BlockNorm]) -> Exact | Skipped:
    """The norm of a network that is one linear map (per output); norms: for p = 1, 2 or ∞.

    With several outputs the lower end is the largest of theirs.
    """
    begin = time.perf_counter()
    if not all(isinstance(b, AffineBlock) for b in network.blocks):
        return Skipped("affine", "it has a nonlinearity")
    if any(set(b.inputs) - set(network.inputs) for b in network.blocks):
        return Skipped("affine", "several blocks read one another")
    if len(network.outputs) != 1 or len(network.blocks) != 1:
        return Skipped("affine", "it has several outputs")
    (norm,) = norms
    upper = min(norm.whole.upper, norm.each[0].upper) if len(norm.each) == 1 else norm.whole.upper
    seconds = time.perf_counter() - begin
    return Exact("affine", upper, norm.whole.lower, True, np.zeros(0), seconds)


@dataclass(frozen=True, eq=False)
class Layer:
    """y = C_x x + C_u u, z = N x, u = Dz: each with its error; slopes: of u."""

    read: Tracked
    direct: Tracked
    through: Tracked
    slopes: Slopes

    @property
    def pair(self) -> Pair:
        """The pair problem of the computed matrices."""
        c, r = self.slopes.centre, self.slopes.radius
        outer, inner = _dense(self.through), _dense(self.read)
        alpha, beta = _outward(c, r)
        direct = _dense(self.direct)
        if np.any(direct):
            width = direct.shape[1]
            outer = np.concatenate([outer, direct], axis=1)
            inner = np.concatenate([inner, np.eye(width)])
            alpha, beta = (np.concatenate([end, np.ones(width)]) for end in (alpha, beta))
        return Pair(outer, inner, alpha, beta)

    @property
    def error(self) -> float:
        """How much the true maximum may exceed that of the computed pair."""
        gain = self.slopes.gain
        lost = (
            mul_up(self.through.error, self.read.norm),
            mul_up(self.through.size, self.read.error),
        )
        return add_up(self.direct.error, mul_up(gain, add_up(*lost)))


def hidden_layer(
    system: System, *, seconds: float | None = 10.0, tolerance: float = 1e-5
) -> Exact | Skipped:
    """The maximum over the slopes of one hidden layer, to the tolerance if `seconds` allow.

    Whatever the time, `upper` is a bound. For the 2-norm.
    """
    begin, name = time.perf_counter(), "one hidden layer"
    layer = layer_of(system)
    if isinstance(layer, str):
        return Skipped(name, layer)
    if len(layer.slopes.centre) > _NEURONS:
        return Skipped(name, f"it has more than {_NEURONS} neurons")
    if not math.isfinite(layer.error):
        return Skipped(name, "its weights overflow")
    found = branch_and_bound(layer.pair, tolerance=tolerance, seconds=seconds)
    upper = add_up(found.upper, layer.error)
    lower = max(0.0, np.nextafter(found.lower - layer.error, -math.inf)) if found.lower else 0.0
    d = found.d[: len(layer.slopes.centre)]
    took = time.perf_counter() - begin
    return Exact(name, upper, float(lower), full_rank(layer.read), d, took)


def layer_of(system: System) -> Layer | str:
    """The system's one layer of slopes, written out, or why it has none."""
    if len(system.nonlinear) != 1:
        return f"it has {len(system.nonlinear)} nonlinear layers"
    (bend,) = system.nonlinear
    if not isinstance(bend.relation, Slopes):
        return f"'{bend.name}' is not elementwise"
    width, rows = system.width, bend.relation.rows
    known: dict[str, tuple[Tracked, Tracked]] = {}  # in terms of x, and of u
    begin = 0
    for tensor in system.inputs:
        place = sp.csr_array(sp.eye_array(system.sizes[tensor], width, k=begin, format="csr"))
        known[tensor] = Tracked(place), _zeros(system.sizes[tensor], rows)
        begin += system.sizes[tensor]
    read = _zeros(rows, width)
    for node in system.nodes:
        if isinstance(node, Nonlinear):
            read = known[node.input][0]
            identity = sp.csr_array(sp.eye_array(rows, format="csr"))
            known[node.output] = _zeros(rows, width), Tracked(identity)
        else:
            known[node.output] = _summed(node, known, system.sizes[node.output], width, rows)
    ends = [known[t] for t in system.outputs]
    direct, through = (_stacked([end[k] for end in ends]) for k in (0, 1))
    return Layer(read, direct, through, bend.relation)


def _summed(
    node: Affine, known: dict[str, tuple[Tracked, Tracked]], height: int, width: int, rows: int
) -> tuple[Tracked, Tracked]:
    totals = [_zeros(height, width), _zeros(height, rows)]
    for part in node.parts:
        outer = Tracked(part.matrix, part.error)
        for k, inner in enumerate(known[part.input]):
            if not _is_zero(inner):
                term = outer.times(inner, inner.norm)
                totals[k] = term if _is_zero(totals[k]) else totals[k].plus(term)
    return totals[0], totals[1]


def _zeros(rows: int, columns: int) -> Tracked:
    return Tracked(sp.csr_array((rows, columns)))


def _is_zero(a: Tracked) -> bool:
    return bool(is_sparse(a.matrix) and a.matrix.nnz == 0 and a.error == 0)


def _stacked(parts: Sequence[Tracked]) -> Tracked:
    if len(parts) == 1:
        return parts[0]
    return Tracked(np.concatenate([_dense(p) for p in parts]), add_up(*(p.error for p in parts)))


def _dense(a: Tracked) -> Floats:
    return np.asarray(a.matrix.toarray() if is_sparse(a.matrix) else a.matrix)


def _outward(centre: Floats, radius: Floats) -> tuple[Floats, Floats]:
    """The ends of centre ± radius, rounded outward where they are rounded at all."""
    ends = []
    for sign in (-1.0, 1.0):
        step = sign * radius
        end = centre + step
        back = end - centre
        exact = ((centre - (end - back)) + (step - back)) == 0  # Knuth's TwoSum
        ends.append(np.where(exact, end, np.nextafter(end, sign * math.inf)))
    return ends[0], ends[1]


def full_rank(a: Tracked) -> bool:
    """Whether the true A is proved to have linearly independent rows.

    Rows come scaled by powers of two, G = ÂÂᵀ is off by γ_n‖Â‖_F² at most, and Cholesky of
    G − εI proves λmin(G) ≥ ε − μ: then σ_min(Â) > ‖A − Â‖ is what is to be seen.
    """
    matrix = _dense(a)
    rows, columns = matrix.shape
    if rows > columns or not np.isfinite(matrix).all():
        return False
    tops = np.abs(matrix).max(axis=1, initial=0.0)
    if not rows:
        return True
    if tops.min() == 0:
        return False
    shifts = -np.frexp(tops)[1]
    unit = np.ldexp(matrix, shifts[:, None])
    off = math.ldexp(a.error, int(shifts.max()))
    gram = unit @ unit.T
    size = euclid(unit).upper
    lost = add_up(mul_up(gamma(columns), size, size), mul_up(off, off, 1.0 + 1e-12))
    for shift in _SHIFTS:
        margin = proved_margin(-gram[None], -shift)
        if margin is not None and add_up(margin, lost) < shift:
            return True
    return False
