"""The system of a network: its blocks' maps written out, its nonlinear blocks as relations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from onnxlip.bounds.autolip import BlockNorm, largest_gain
from onnxlip.bounds.pairs.proof import intervals
from onnxlip.bounds.sdp.relations import Gain, Places, Slopes, Windows
from onnxlip.bounds.sdp.system import Affine, Floats, Matrix, Node, Nonlinear, Part, System
from onnxlip.bounds.sdp.written import sparse
from onnxlip.linear import LinearMap, Monomial
from onnxlip.network import AffineBlock, GainBlock, Network, SlopeBlock
from onnxlip.norms.dense import dense_norm
from onnxlip.norms.workspace import Workspace, coefficient_error, product_error
from onnxlip.rounding import add_up, div_up, mul_up, norm_up

__all__ = ["OutOfReachError", "bent", "intervals", "layered", "stacked_scales", "system"]

_ENTRIES = 60_000_000  # stored entries of all maps together
_BATCH = 1 << 22  # entries of the columns written out at a time
_SPARSE = 0.2  # share of entries up to which a matrix is kept sparse


class OutOfReachError(Exception):
    """Why a network has no system: too large, or a block without a relation."""


def system(network: Network, norms: Sequence[BlockNorm], work: Workspace) -> System:
    """The system of all inputs together and all outputs stacked.

    norms: of `network.blocks`, for the 2-norm. Raises OutOfReachError.
    """
    return _Builder(network, norms, work).run()


class _Builder:
    def __init__(self, network: Network, norms: Sequence[BlockNorm], work: Workspace) -> None:
        self._network, self._norms, self._work = network, norms, work
        self._nodes: list[Node] = []
        self._sizes = dict(network.sizes)
        self._bounds: dict[str, float] = dict.fromkeys(network.inputs, 1.0)
        self._left = _ENTRIES

    def run(self) -> System:
        needed = _needed(self._network)
        for block, norm in zip(self._network.blocks, self._norms, strict=True):
            if not needed.intersection(block.outputs):
                continue
            if isinstance(block, AffineBlock):
                self._affine(block, norm)
            elif isinstance(block, SlopeBlock):
                self._slopes(block)
            else:
                self._gain(block, norm)
        names = self._network
        made = {*names.inputs, *(node.output for node in self._nodes)}
        fixed = [Affine(t, ()) for t in dict.fromkeys(names.outputs) if t not in made]
        return System(names.inputs, names.outputs, (*self._nodes, *fixed), self._sizes)

    def _add(self, node: Node) -> None:
        """An interior tensor that was chosen as an input stays one."""
        if node.output in self._network.inputs:
            return
        self._nodes.append(node)
        if isinstance(node, Affine):
            terms = [mul_up(p.norm, self._bounds[p.input]) for p in node.parts]
            self._bounds[node.output] = add_up(*terms)
        else:
            self._bounds[node.output] = mul_up(node.relation.gain, self._bounds[node.input])

    # ── affine blocks ─────────────────────────────────────────────────────────────────────

    def _affine(self, block: AffineBlock, norm: BlockNorm) -> None:
        maps, parts = block.maps, []
        for name, a, bracket in zip(block.inputs, maps, norm.each, strict=True):
            matrix, error = self._written(a, block.name)
            parts.append(Part(name, matrix, bracket.upper, error))
        self._work.forget()
        self._add(Affine(block.output, tuple(parts)))

    def _written(self, a: LinearMap, name: str) -> tuple[Matrix, float]:
        """Â and ‖A − Â‖₂ ≤ error, written out some columns or rows at a time."""
        if 0 in (a.rows, a.columns):
            return sp.csr_array((a.rows, a.columns)), 0.0
        if isinstance(a, Monomial) and a.is_identity:
            self._take(a.rows, name)
            return sp.csr_array(sp.eye_array(a.rows, format="csr")), 0.0
        direct = sparse(a, self._left)
        if direct is not None:
            self._take(direct.nnz, name)
            return direct, coefficient_error(a)
        operator, tall = self._work.double(a), a.columns <= a.rows
        n = min(a.rows, a.columns)
        step = max(1, _BATCH // max(1, a.rows + a.columns))
        parts, entries = [], 0
        for i in range(0, n, step):
            basis = np.eye(min(step, n - i), n, i)
            rows = operator.matvec(basis) if tall else operator.rmatvec(basis)
            if not np.all(np.isfinite(rows)):
                raise OutOfReachError(f"block '{name}' overflows when it is written out")
            parts.append(_slim(rows))
            entries += parts[-1].nnz if sp.issparse(parts[-1]) else parts[-1].size
            self._check(entries, name)
        self._take(entries, name)
        whole = parts[0] if len(parts) == 1 else _stacked(parts)
        error = add_up(*product_error(a), coefficient_error(a))
        return _turned(whole) if tall else whole, error

    def _check(self, entries: int, name: str) -> None:
        if entries > self._left:
            raise OutOfReachError(f"block '{name}' is too large to be written out as a matrix")

    def _take(self, entries: int, name: str) -> None:
        self._check(entries, name)
        self._left -= entries

    # ── nonlinear blocks ──────────────────────────────────────────────────────────────────

    def _slopes(self, block: SlopeBlock) -> None:
        (source,), (target,) = block.inputs, block.outputs
        nodes, sizes = bent(target, source, *intervals(*block.flat()), block.name, block.name)
        self._sizes |= sizes
        for node in nodes:
            self._add(node)

    def _gain(self, block: GainBlock, norm: BlockNorm) -> None:
        if block.form.picks is not None and len(block.inputs) == len(block.outputs) == 1:
            picks = _distinct(block.form.picks(block.node))
            columns = self._sizes[block.inputs[0]]
            self._add(
                Nonlinear(block.outputs[0], block.inputs[0], Windows(picks, columns), block.name)
            )
            return
        gain = largest_gain(block, 2.0) if len(block.inputs) == 1 else None
        source = block.inputs[0]
        if gain is None:
            source, gain = self._side_by_side(block, norm)
        for target in block.outputs:
            relation = Gain(gain, self._sizes[target], self._sizes[source])
            self._add(Nonlinear(target, source, relation, block.name))

    def _side_by_side(self, block: GainBlock, norm: BlockNorm) -> tuple[str, float]:
        """(the tensor of all inputs, scaled by s_i and stacked, g): ‖u‖ ≤ Σ g_i‖z_i‖, the gain of
        each, is at most √(Σ g_i²/s_i²) times the norm of that; s_i² = g_i/L_i for inputs of bounds
        L_i makes it Σ g_i L_i where AutoLip's bounds are attained."""
        gains = [b.upper for b in norm.each]
        sizes = [self._bounds[name] for name in block.inputs]
        terms = [mul_up(g, size) for g, size in zip(gains, sizes, strict=True)]
        scales = [1.0] * len(gains)
        gain = norm.whole.upper
        if add_up(*terms) < mul_up(gain, norm_up(sizes, 2)):
            scales = [
                float(np.sqrt(g / size)) if g > 0 and size > 0 else 1.0
                for g, size in zip(gains, sizes, strict=True)
            ]
            shares = [div_up(g, s) for g, s in zip(gains, scales, strict=True)]
            gain = norm_up(shares, 2)
        total = sum(self._sizes[name] for name in block.inputs)
        parts, begin = [], 0
        for name, scale in zip(block.inputs, scales, strict=True):
            n = self._sizes[name]
            place = sp.csr_array(sp.eye_array(total, n, k=-begin, format="csr") * scale)
            parts.append(Part(name, place, scale))
            begin += n
        stacked = _stack_name(block.name)
        self._sizes[stacked] = total
        self._add(Affine(stacked, tuple(parts)))
        return stacked, gain


def bent(
    target: str, source: str, centre: Floats, radius: Floats, name: str, prefix: str
) -> tuple[list[Node], dict[str, int]]:
    """The nodes of target = diag(d) source, |d − centre| ≤ radius, and the sizes of tensors between
    (prefix: of their names). Slopes of radius 0 are no part of a relation: they are affine."""
    free = np.flatnonzero(radius > 0)
    if len(free) == len(centre):
        return [Nonlinear(target, source, Slopes(centre, radius), name)], {}
    through = np.where(radius == 0, centre, 0.0)
    straight = sp.csr_array(sp.diags_array(through, format="csr"))
    parts = [Part(source, straight, float(np.abs(through).max(initial=0.0)))]
    if not len(free):
        return [Affine(target, tuple(parts))], {}
    choose = sp.csr_array(sp.eye_array(len(centre), format="csr")[free])
    before, after = f"{prefix}:free", f"{prefix}:bent"
    parts.append(Part(after, sp.csr_array(choose.T), 1.0))
    nodes: list[Node] = [
        Affine(before, (Part(source, choose, 1.0),)),
        Nonlinear(after, before, Slopes(centre[free], radius[free]), name),
        Affine(target, tuple(parts)),
    ]
    return nodes, {before: len(free), after: len(free)}


def stacked_scales(of: System) -> dict[str, tuple[float, ...]]:
    """By block with several inputs: what these were multiplied with before they were stacked."""
    makers = {n.output: n for n in of.nodes if isinstance(n, Affine)}
    found = {}
    for node in of.nonlinear:
        stack = makers.get(node.input)
        if stack is not None and node.input == _stack_name(node.name):
            found[node.name] = tuple(float(p.norm) for p in stack.parts)
    return found


def _stack_name(block: str) -> str:
    return f"{block}:inputs"


def _distinct(picks: Places) -> Places:
    """Windows without an entry that stands in them twice."""
    ordered = np.sort(picks, axis=1)
    again = np.zeros(ordered.shape, bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return np.where(again, -1, ordered)


def _needed(network: Network) -> set[str]:
    """Tensors that an output depends on."""
    needed = set(network.outputs)
    chosen = set(network.inputs)
    for block in reversed(network.blocks):
        if needed.intersection(block.outputs) - chosen:
            needed.update(block.inputs)
    return needed


def _slim(rows: Floats) -> Matrix:
    full = np.count_nonzero(rows) > _SPARSE * rows.size
    return rows if full else sp.csr_array(rows)


def _stacked(parts: Sequence[Matrix]) -> Matrix:
    if all(sp.issparse(p) for p in parts):
        sparse: Any = parts
        return sp.csr_array(sp.vstack(sparse, format="csr"))
    return np.concatenate([p.toarray() if sp.issparse(p) else p for p in parts])


def _turned(matrix: Matrix) -> Matrix:
    return sp.csr_array(matrix.T) if sp.issparse(matrix) else np.ascontiguousarray(matrix.T)


def layered(
    weights: Sequence[Floats], alpha: float | Floats = 0.0, beta: float | Floats = 1.0
) -> System:
    """W_K D W_{K−1} … D W_1 with slopes in [α, β] (scalars, or the same for all layers)."""
    nodes: list[Node] = []
    sizes = {"x": weights[0].shape[1]}
    last = "x"
    for k, w in enumerate(weights):
        w = np.asarray(w, np.float64)
        norm = dense_norm(w[None]).upper
        sizes |= {f"z{k}": len(w), f"u{k}": len(w)}
        nodes.append(Affine(f"z{k}", (Part(last, w, norm),)))
        last = f"z{k}"
        if k + 1 < len(weights):
            ends = (np.broadcast_to(np.asarray(e, np.float64), (len(w),)) for e in (alpha, beta))
            nodes.append(Nonlinear(f"u{k}", last, Slopes(*intervals(*ends)), f"layer {k}"))
            last = f"u{k}"
    return System(("x",), (last,), tuple(nodes), sizes)
