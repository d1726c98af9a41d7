"""The network: affine blocks and nonlinear blocks, alternating; what every bound runs over.

An affine block is a maximal tree of affine ops that ends in one tensor; branches that come from
one tensor are summed into one map, neighbours are folded (a BatchNormalization into its
convolution), and a block that only another affine block reads is composed with it. So

    output = Σ_j maps[j] · inputs[j] + const.

A nonlinear block is an elementwise function with a slope interval, or one op with a gain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxlip.errors import OnnxlipError, RuleError
from onnxlip.fusion import Fused, fuse, without_aliases
from onnxlip.graph import Graph, is_real, refuse, unsupported
from onnxlip.intervals import propagate
from onnxlip.linear import LinearMap
from onnxlip.model import Model
from onnxlip.registry import RuleSet
from onnxlip.rules import Affine, Box, Elementwise, Gain, Node, Refusal

__all__ = ["AffineBlock", "Block", "GainBlock", "Network", "SlopeBlock", "build_network"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AffineBlock:
    """output = Σ_j maps[j] · inputs[j] + const, on flattened tensors."""

    name: str
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str
    maps: tuple[LinearMap, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The one output, as every kind of block tells its outputs."""
        return (self.output,)


@dataclass(frozen=True, eq=False)
class SlopeBlock:
    """output = f(input) entry by entry, every difference quotient in [alpha, beta]."""

    name: str
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    alpha: Floats
    beta: Floats


@dataclass(frozen=True, eq=False)
class GainBlock:
    """Any other op: bounds come from its rule's form, on the boxes of its inputs."""

    name: str
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    node: Node
    form: Gain
    boxes: tuple[Box | None, ...]

    def gain(self, name: str, p: float) -> float:
        """The gain with respect to one input tensor (at all positions where it stands)."""
        from onnxlip.rounding import add_up

        places = [i for i in self.node.variables if self.node.value(i).name == name]
        gain = add_up(*(self.form.gain(self.node, i, p, self.boxes) for i in places))
        return gain if len(places) == 1 else min(gain, self.joint(p))

    def joint(self, p: float) -> float:
        """The gain with respect to all distinct input tensors stacked: one that is read k times
        moves k positions, whose stacked norm is k^(1/p) times its own."""
        from onnxlip.rounding import mul_up, norm_up

        if self.form.joint is None:
            return math.inf
        names = [self.node.value(i).name for i in self.node.variables]
        most = max(map(names.count, names))
        return mul_up(self.form.joint(self.node, p, self.boxes), norm_up([1.0] * most, p))


Block = AffineBlock | SlopeBlock | GainBlock


@dataclass(frozen=True)
class Network:
    """Blocks in topological order, between input and output tensors.

    sizes: number of entries of every tensor that a block reads or writes.
    notes: idealisations that the report must tell.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    blocks: tuple[Block, ...]
    sizes: Mapping[str, int]
    notes: tuple[str, ...] = ()


def build_network(model: Model, graph: Graph, rules: RuleSet) -> Network:
    """The quotient of the graph.

    Raises UnsupportedError or NotLipschitzError naming every node that no bound passes through.
    """
    sinks = [v.name for v in graph.outputs]
    nodes = without_aliases(graph.nodes, rules, graph.rules, sinks)
    nodes, fused = fuse(nodes, rules, graph.rules, sinks)
    _refuse(model, graph, nodes)
    boxes = propagate(graph, nodes, fused)
    held = {v.name for v in graph.held}
    parts = _Parts(model, graph, nodes, fused, held, set(sinks))
    blocks: list[Block] = [*parts.affine_blocks(), *_nonlinear(graph, nodes, fused, boxes, held)]
    ordered = _topological(blocks, graph.nodes)
    notes = tuple(dict.fromkeys(note for f in fused.values() for note in f.notes))
    sizes = {name: value.size for name, value in graph.values.items()}
    return Network(tuple(v.name for v in graph.inputs), tuple(sinks), tuple(ordered), sizes, notes)


def _refuse(model: Model, graph: Graph, nodes: Sequence[Node]) -> None:
    unknown: dict[tuple[str, str], list[str]] = {}
    bad: list[tuple[Node, str]] = []
    for node in nodes:
        entry = graph.rules.get(node.name)
        if entry is None:
            unknown.setdefault((node.domain, node.op_type), []).append(node.name)
        elif isinstance(entry.rule.form, Refusal):
            bad.append((node, entry.rule.form.reason))
        elif jumps := [name for name in _reads(node) if not is_real(graph.values[name])]:
            reason = f"it reads '{jumps[0]}', which holds integers and so moves in jumps"
            bad.append((node, f"{reason}; cut the network before that with --output"))
    if bad:
        raise refuse(model, bad)
    if unknown:
        raise unsupported(model, unknown)


def _reads(node: Node) -> list[str]:
    return [node.value(i).name for i in node.variables]


def _nonlinear(
    graph: Graph,
    nodes: Sequence[Node],
    fused: Mapping[str, Fused],
    boxes: Mapping[str, Box],
    held: set[str],
) -> list[Block]:
    ops = {n.name: n.op_type for n in graph.nodes}
    blocks: list[Block] = []
    for f in fused.values():
        kinds = tuple(ops[name] for name in f.nodes)
        low, high = np.asarray(f.slopes[0]), np.asarray(f.slopes[1])
        blocks.append(SlopeBlock(f.nodes[-1], f.nodes, kinds, (f.root,), (f.output,), low, high))
    for node in nodes:
        form = graph.rules[node.name].rule.form
        outputs = tuple(y.name for y in node.outputs if y.name)
        names, kinds = (node.name,), (node.op_type,)
        reads = tuple(dict.fromkeys(node.value(i).name for i in node.variables))
        reads = tuple(name for name in reads if name not in held)
        if isinstance(form, Elementwise):
            alpha, beta = form.slopes(node, boxes[node.x.name])
            blocks.append(SlopeBlock(node.name, names, kinds, reads, outputs, alpha, beta))
        elif isinstance(form, Gain):
            around = tuple(_box(v.constant, boxes.get(v.name)) if v else None for v in node.inputs)
            blocks.append(GainBlock(node.name, names, kinds, reads, outputs, node, form, around))
    return blocks


def _box(constant: npt.NDArray[np.generic] | None, box: Box | None) -> Box:
    if constant is not None:
        data = np.asarray(constant).astype(np.float64)
        return Box(data, data)
    return box or Box.whole()


class _Parts:
    """Cuts the affine nodes into trees and composes each into maps."""

    def __init__(
        self,
        model: Model,
        graph: Graph,
        nodes: Sequence[Node],
        fused: Mapping[str, Fused],
        held: set[str],
        sinks: set[str],
    ) -> None:
        self.graph = graph
        self.model = model
        self.held = held
        self.sinks = sinks
        self.affine = [n for n in nodes if isinstance(graph.rules[n.name].rule.form, Affine)]
        # A chosen input stays one, even if a node with several outputs makes it as well.
        chosen = {"", *(v.name for v in graph.inputs)}
        self.made = {y.name for n in self.affine for y in n.outputs} - chosen
        self.uses = self._count_uses(nodes, fused)
        self.weight = {n.name: _weight(n) for n in self.affine}
        self.ops = {n.name: n.op_type for n in graph.nodes}

    def _count_uses(
        self, nodes: Sequence[Node], fused: Mapping[str, Fused]
    ) -> dict[str, list[str | None]]:
        """For every tensor, the affine tensors computed from it (None for any other use)."""
        uses: dict[str, list[str | None]] = {}
        for node in nodes:
            affine = isinstance(self.graph.rules[node.name].rule.form, Affine)
            targets = [y.name for y in node.outputs if y.name in self.made] if affine else [None]
            for i in node.variables:
                uses.setdefault(node.value(i).name, []).extend(targets)
        for f in fused.values():
            uses.setdefault(f.root, []).append(None)
        for sink in self.sinks:
            uses.setdefault(sink, []).append(None)
        # Outputs that nobody reads (two of a Split's three, say) are not computed.
        while True:
            dead = {t for t in self.made if not uses.get(t)}
            again = {k: [t for t in v if t not in dead] for k, v in uses.items()}
            if again == uses:
                return uses
            uses = again

    def _interior(self, tensor: str) -> bool:
        uses = self.uses.get(tensor, [])
        return tensor in self.made and len(uses) == 1 and uses[0] is not None

    def affine_blocks(self) -> list[AffineBlock]:
        """All affine blocks, neighbours that only each other reads composed."""
        partial: dict[str, tuple[dict[str, LinearMap], tuple[str, ...]]] = {}
        for node in self.affine:
            for o, y in enumerate(node.outputs):
                if y.name not in self.made or not self.uses.get(y.name):
                    continue
                maps: dict[str, LinearMap] = {}
                names: list[str] = []
                for i in node.variables:
                    source = node.value(i).name
                    if source in self.held:
                        continue
                    outer = self._map(node, i, o)
                    if self._interior(source):
                        inner, before = partial.pop(source)
                        names += before
                        for leaf, b in inner.items():
                            _accumulate(maps, leaf, outer @ b)
                    else:
                        _accumulate(maps, source, outer)
                partial[y.name] = (maps, (*dict.fromkeys(names), node.name))
        self._compose_chains(partial)
        return [self._block(t, maps, names) for t, (maps, names) in partial.items()]

    def _map(self, node: Node, i: int, o: int) -> LinearMap:
        form = self.graph.rules[node.name].rule.form
        assert isinstance(form, Affine)
        try:
            outer = form.linear(node, i, o)
        except OnnxlipError:
            raise
        except Exception as error:  # a user's rule may fail in any way; say which
            raise RuleError(
                f"the rule for {node.op_type} failed at '{node.name}': "
                f"{type(error).__name__}: {error}"
            ) from error
        expected = (node.outputs[o].size, node.value(i).size)
        if (outer.rows, outer.columns) != expected:
            raise RuleError(
                f"the rule for {node.op_type} gave a {outer.rows}×{outer.columns} map at "
                f"'{node.name}', where the op is {expected[0]}×{expected[1]}"
            )
        return outer

    def _compose_chains(
        self, partial: dict[str, tuple[dict[str, LinearMap], tuple[str, ...]]]
    ) -> None:
        """A block that one other affine block alone reads becomes part of it."""
        for tensor in list(partial):
            maps, names = partial[tensor]
            for leaf in list(maps):
                uses = self.uses.get(leaf, [])
                readers = (
                    [t for t, (m, _) in partial.items() if leaf in m] if leaf in partial else []
                )
                if leaf not in partial or None in uses or readers != [tensor]:
                    continue
                inner, before = partial.pop(leaf)
                outer = maps.pop(leaf)
                for source, b in inner.items():
                    _accumulate(maps, source, outer @ b)
                names = (*dict.fromkeys((*before, *names)),)
            partial[tensor] = (maps, names)

    def _block(
        self, tensor: str, maps: Mapping[str, LinearMap], names: tuple[str, ...]
    ) -> AffineBlock:
        heaviest = max(names, key=lambda name: self.weight[name])
        ops = tuple(self.ops[name] for name in names)
        return AffineBlock(heaviest, names, ops, tuple(maps), tensor, tuple(maps.values()))


def _accumulate(maps: dict[str, LinearMap], leaf: str, a: LinearMap) -> None:
    maps[leaf] = maps[leaf] + a if leaf in maps else a


def _weight(node: Node) -> int:
    return sum(v.size for v in node.inputs if v is not None and v.constant is not None)


def _topological(blocks: Sequence[Block], nodes: Sequence[Node]) -> list[Block]:
    """In the order of the nodes that make the blocks' outputs, which is topological."""
    place = {y.name: k for k, node in enumerate(nodes) for y in node.outputs}
    return sorted(blocks, key=lambda block: place[block.outputs[0]])
