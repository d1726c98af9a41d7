"""The network: affine blocks and nonlinear blocks, alternating; what every bound runs over.

An affine block is a maximal tree of affine ops that ends in one tensor; branches that come from
one tensor are summed into one map, neighbours are folded (a BatchNormalization into its
convolution), and a block that only another affine block reads is composed with it. So

    output = Σ_j maps[j] · inputs[j] + const.

A nonlinear block is an elementwise function with a slope interval, or one op with a gain.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import ref

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
    """output = Σ_j maps[j] · inputs[j] + const, on flattened tensors.

    shapes: (rows, columns) of every map, from the tensors' sizes; weights: entries of all
    constants in it: these say roughly how much work its norms are.
    compose: makes the maps; the rules have been asked for every factor before, so that it fails
    only where a map's own algebra does.

    A block holds no map. Folded kernels are float64 and index maps are as large as tensors: all
    blocks' together are several times the weights in the file, while norms are taken of one
    block after the other.
    """

    name: str
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str
    shapes: tuple[tuple[int, int], ...]
    weights: int
    compose: Callable[[], tuple[LinearMap, ...]] = field(repr=False)
    _alive: list[ref[LinearMap]] = field(default_factory=list, init=False, repr=False)

    @property
    def maps(self) -> tuple[LinearMap, ...]:
        """The linear map of every input, composed anew unless somebody still holds them: keep
        them in a variable while they are used."""
        held = [known() for known in self._alive]
        found = [a for a in held if a is not None]
        if len(found) < len(self.inputs):
            made = self.compose()
            found = [b if a is None else a for a, b in zip(held or made, made, strict=True)]
            self._alive[:] = map(ref, found)
        return tuple(found)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The one output, as every kind of block tells its outputs."""
        return (self.output,)


@dataclass(frozen=True, eq=False)
class SlopeBlock:
    """output = f(input) entry by entry, every difference quotient in [alpha, beta], which
    broadcast to the tensors' `shape`."""

    name: str
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    alpha: Floats
    beta: Floats
    shape: tuple[int, ...] = ()

    def flat(self) -> tuple[Floats, Floats]:
        """(α, β) of every entry, as read-only vectors."""
        ends = (np.broadcast_to(end, self.shape) for end in (self.alpha, self.beta))
        alpha, beta = (end.reshape(-1) for end in ends)
        return alpha, beta


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
        ends = ((f.root,), (f.output,))
        shape = graph.values[f.output].shape
        blocks.append(SlopeBlock(f.nodes[-1], f.nodes, kinds, *ends, low, high, shape))
    for node in nodes:
        form = graph.rules[node.name].rule.form
        outputs = tuple(y.name for y in node.outputs if y.name)
        names, kinds = (node.name,), (node.op_type,)
        reads = tuple(dict.fromkeys(node.value(i).name for i in node.variables))
        reads = tuple(name for name in reads if name not in held)
        if isinstance(form, Elementwise):
            alpha, beta = form.slopes(node, boxes[node.x.name])
            shape = node.outputs[0].shape
            blocks.append(SlopeBlock(node.name, names, kinds, reads, outputs, alpha, beta, shape))
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
    """Cuts the affine nodes into trees, and says how each is composed."""

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
        partial: dict[str, _Part] = {}
        for node in self.affine:
            for o, y in enumerate(node.outputs):
                if y.name in self.made and self.uses.get(y.name):
                    partial[y.name] = self._part(self._step(node, o), partial)
        self._join_chains(partial)
        return [self._block(tensor, part) for tensor, part in partial.items()]

    def _step(self, node: Node, o: int) -> _Step:
        form = self.graph.rules[node.name].rule.form
        assert isinstance(form, Affine)
        names = [(i, node.value(i).name) for i in node.variables]
        reads = [(i, name, self._interior(name)) for i, name in names if name not in self.held]
        return _Step(node, o, form, tuple(reads))

    def _part(self, step: _Step, partial: dict[str, _Part]) -> _Part:
        """The step with all that is before it. Every factor is made once, checked and dropped:
        a rule that fails is told before any norm is taken, and factors cost little, as they
        refer to the weights; composing them is what takes time and memory."""
        leaves: dict[str, None] = {}
        names: list[str] = []
        steps: list[_Step | _Joint] = []
        for i, source, interior in step.reads:
            step.factor(i)
            before = partial.pop(source) if interior else _Part((source,), (), ())
            leaves |= dict.fromkeys(before.leaves)
            names += before.names
            steps += before.steps
        return _Part(tuple(leaves), (*dict.fromkeys(names), step.node.name), (*steps, step))

    def _join_chains(self, partial: dict[str, _Part]) -> None:
        """A block that one other affine block alone reads becomes part of it."""
        for tensor in list(partial):
            for leaf in partial[tensor].leaves:
                uses = self.uses.get(leaf, [])
                readers = (
                    [t for t, part in partial.items() if leaf in part.leaves]
                    if leaf in partial
                    else []
                )
                if leaf not in partial or None in uses or readers != [tensor]:
                    continue
                before, part = partial.pop(leaf), partial[tensor]
                kept = [name for name in part.leaves if name != leaf]
                partial[tensor] = _Part(
                    tuple(dict.fromkeys((*kept, *before.leaves))),
                    tuple(dict.fromkeys((*before.names, *part.names))),
                    (*before.steps, *part.steps, _Joint(tensor, leaf)),
                )

    def _block(self, tensor: str, part: _Part) -> AffineBlock:
        heaviest = max(part.names, key=lambda name: self.weight[name])
        ops = tuple(self.ops[name] for name in part.names)
        rows, sizes = self._size(tensor), map(self._size, part.leaves)
        shapes = tuple((rows, columns) for columns in sizes)
        compose = functools.partial(_compose, part.steps, part.leaves)
        weights = sum(self.weight[name] for name in part.names)
        return AffineBlock(heaviest, part.names, ops, part.leaves, tensor, shapes, weights, compose)

    def _size(self, tensor: str) -> int:
        return self.graph.values[tensor].size


Maps = dict[str, LinearMap]  # one tensor as a function of others: by their names


@dataclass(frozen=True, eq=False)
class _Step:
    """One output of an affine node. reads: position, tensor, and whether that tensor is interior
    to the block, so that a step before has made its maps."""

    node: Node
    o: int
    form: Affine
    reads: tuple[tuple[int, str, bool], ...]

    def run(self, known: dict[str, Maps]) -> None:
        """known[output] = Σ_i A_oi · (known[input i], or input i itself)."""
        maps: Maps = {}
        for i, source, interior in self.reads:
            outer = self.factor(i)
            if not interior:
                _accumulate(maps, source, outer)
                continue
            for leaf, inner in known.pop(source).items():
                _accumulate(maps, leaf, outer @ inner)
        known[self.node.outputs[self.o].name] = maps

    def factor(self, i: int) -> LinearMap:
        """A_oi. Raises RuleError where the rule fails, or gives a map of another shape."""
        node, o = self.node, self.o
        try:
            outer = self.form.linear(node, i, o)
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


@dataclass(frozen=True)
class _Joint:
    """A whole block before another one, which alone reads its output `leaf`, maybe in several
    places: their sum is composed, not each."""

    tensor: str
    leaf: str

    def run(self, known: dict[str, Maps]) -> None:
        maps = known[self.tensor]
        outer = maps.pop(self.leaf)
        for source, inner in known.pop(self.leaf).items():
            _accumulate(maps, source, outer @ inner)


@dataclass(frozen=True)
class _Part:
    """A block before its maps are made: the tensors it reads, its nodes, and the way there."""

    leaves: tuple[str, ...]
    names: tuple[str, ...]
    steps: tuple[_Step | _Joint, ...]


def _compose(steps: Sequence[_Step | _Joint], leaves: Sequence[str]) -> tuple[LinearMap, ...]:
    """The maps of the last step's tensor, in the order of the leaves."""
    known: dict[str, Maps] = {}
    for step in steps:
        step.run(known)
    (maps,) = known.values()
    return tuple(maps[leaf] for leaf in leaves)


def _accumulate(maps: Maps, leaf: str, a: LinearMap) -> None:
    maps[leaf] = maps[leaf] + a if leaf in maps else a


def _weight(node: Node) -> int:
    return sum(v.size for v in node.inputs if v is not None and v.constant is not None)


def _topological(blocks: Sequence[Block], nodes: Sequence[Node]) -> list[Block]:
    """In the order of the nodes that make the blocks' outputs, which is topological."""
    place = {y.name: k for k, node in enumerate(nodes) for y in node.outputs}
    return sorted(blocks, key=lambda block: place[block.outputs[0]])
