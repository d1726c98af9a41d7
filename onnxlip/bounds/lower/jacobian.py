"""Jacobian-vector products J v and Jᵀ g at many points at once, block by block.

Through an affine block they are products with its maps, through an elementwise block with its
slopes at the points, through any other block what its rule's `derivative` says. A network with a
block whose rule says nothing has none of this: searches then compare values only.

With u = J v and g its dual vector (gᵀu = ‖u‖_p), the gradient of ‖J(x) v‖_p with respect to x comes
from where slopes bend: with dz the tangent before an elementwise block, c the cotangent Jᵀg behind
it and b the bends there, it is Σ_blocks (∂z/∂x)ᵀ (b ∘ c ∘ dz). (How other blocks bend is left out.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from onnxlip.bounds.lower.entrywise import Entrywise
from onnxlip.bounds.lower.extract import Array, Part
from onnxlip.bounds.lower.forward import Env
from onnxlip.graph import Graph
from onnxlip.linear import LinearMap
from onnxlip.lowering import Lowerings
from onnxlip.network import AffineBlock, Block, GainBlock, Network, SlopeBlock
from onnxlip.operators import Operator

__all__ = ["Derivatives", "Linearised", "dual"]

Tangents = dict[str, Array]
Linear = Callable[[Sequence[Array]], Sequence[Array]]
Pair = tuple[Linear, Linear]


class Derivatives:
    """What all points share: the maps as operators, the elementwise functions.

    possible: whether every block has a derivative.
    """

    def __init__(
        self,
        network: Network,
        graph: Graph,
        part: Part,
        lowerings: Lowerings,
        provider: str = "cpu",
    ) -> None:
        self.network = network
        self.shapes = {name: value.shape for name, value in graph.values.items()}
        self.constants = {v.name: v.constant for v in graph.values.values()}
        self.held = part.held
        self.possible = all(
            not isinstance(b, GainBlock) or b.form.derivative is not None for b in network.blocks
        )
        self.operators: dict[str, tuple[Operator, ...]] = {}
        self.functions: dict[str, Entrywise] = {}
        if not self.possible:
            return
        for block in network.blocks:
            if isinstance(block, AffineBlock):
                maps: tuple[LinearMap, ...] = block.maps
                self.operators[block.output] = tuple(
                    Operator(a, lowerings, np.float32, provider=provider) for a in maps
                )
            elif isinstance(block, SlopeBlock):
                self.functions[block.outputs[0]] = Entrywise(block, part, graph)

    def at(self, env: Env, width: float = 0.0) -> Linearised:
        """J at the points where tensors have these values; width > 0: with smoothed slopes."""
        return Linearised(self, env, width)


class Linearised:
    """J at m points. Directions and gradients: (m, n) and (m, rows), all tensors stacked."""

    def __init__(self, derivatives: Derivatives, env: Env, width: float) -> None:
        self._d = derivatives
        self._network = derivatives.network
        self._env = env
        self.slopes: dict[str, Array] = {}
        self.bends: dict[str, Array] = {}
        self._pairs: dict[str, Pair] = {}
        for block in self._network.blocks:
            if isinstance(block, SlopeBlock):
                function, z = derivatives.functions[block.outputs[0]], env[block.inputs[0]]
                if width:
                    self.slopes[block.name], self.bends[block.name] = function.smoothed(z, width)
                else:
                    self.slopes[block.name] = function.derivative(z)
            elif isinstance(block, GainBlock):
                self._pairs[block.name] = self._pair(block, env)

    def push(self, v: Array) -> Array:
        """J v at every point."""
        return self._forward(v)[0]

    def pull(self, g: Array) -> Array:
        """Jᵀ g at every point."""
        return self._backward(g, {}, {})

    def growth(self, v: Array, p: float) -> Array:
        """The gradient of ln ‖J v‖_p with respect to the points, v held; with smoothed slopes."""
        u, before = self._forward(v)
        behind: Tangents = {}
        self._backward(dual(u, p), {}, behind)
        sources: Tangents = {}
        for block in self._network.blocks:
            if isinstance(block, SlopeBlock) and block.outputs[0] in behind:
                dz = before.get(block.inputs[0])
                if dz is not None:
                    change = self.bends[block.name] * behind[block.outputs[0]] * dz
                    _add(sources, block.inputs[0], change)
        size = np.linalg.norm(u, p, axis=1, keepdims=True) + np.float32(1e-30)
        here = self._with_true_slopes()
        return np.asarray(here._backward(np.zeros_like(u), sources, {}) / size)

    def _with_true_slopes(self) -> Linearised:
        """J itself: how the points before elementwise blocks move."""
        twin = self._twin()
        for block in self._network.blocks:
            if isinstance(block, SlopeBlock):
                function = self._d.functions[block.outputs[0]]
                twin.slopes[block.name] = function.derivative(self._env[block.inputs[0]])
        return twin

    def _twin(self) -> Linearised:
        twin = object.__new__(Linearised)
        twin._d, twin._network, twin._env = self._d, self._network, self._env
        twin._pairs, twin.slopes, twin.bends = self._pairs, {}, {}
        return twin

    def repeated(self, k: int) -> Linearised:
        """The same, every point k times in a row."""
        twin = self._twin()
        twin.slopes = {name: np.repeat(s, k, axis=0) for name, s in self.slopes.items()}
        twin.bends = {name: np.repeat(b, k, axis=0) for name, b in self.bends.items()}
        twin._pairs = {name: _spread(pair, k) for name, pair in self._pairs.items()}
        return twin

    # ── block by block ────────────────────────────────────────────────────────────────────

    def _forward(self, v: Array) -> tuple[Array, Tangents]:
        known = self._split(v, self._network.inputs)
        for block in self._network.blocks:
            for name, tangent in self._push_block(block, known):
                if name not in self._network.inputs:
                    known[name] = tangent
        sizes = self._network.sizes
        parts = [known.get(o, np.zeros((len(v), sizes[o]), v.dtype)) for o in self._network.outputs]
        return np.concatenate(parts, axis=1), known

    def _push_block(self, block: Block, known: Tangents) -> list[tuple[str, Array]]:
        if not any(name in known for name in block.inputs):
            return []
        if isinstance(block, AffineBlock):
            pairs = zip(block.inputs, self._d.operators[block.output], strict=True)
            return [(block.output, _sum(a.matvec(known[x]) for x, a in pairs if x in known))]
        if isinstance(block, SlopeBlock):
            return [(block.outputs[0], self.slopes[block.name] * known[block.inputs[0]])]
        push, _ = self._pairs[block.name]
        m = len(next(iter(known.values())))
        ways = [self._shaped(known.get(n), n, m) for n in _names(block)]
        names = [y.name for y in block.node.outputs]
        results = zip(names, push(ways), strict=False)
        return [(n, np.asarray(y, np.float32).reshape(m, -1)) for n, y in results if n]

    def _backward(self, g: Array, sources: Tangents, behind: Tangents) -> Array:
        """behind is filled with the cotangents of what blocks give; sources are added to those of
        what they read."""
        known = {**sources}
        for name, part in self._split(g, self._network.outputs).items():
            _add(known, name, part)
        for block in reversed(self._network.blocks):
            here = {name: known[name] for name in block.outputs if name in known}
            if not here:
                continue
            behind.update(here)
            for name in here:
                if name not in self._network.inputs:
                    del known[name]
            for name, part in self._pull_block(block, here):
                _add(known, name, part)
        sizes = self._network.sizes
        parts = [known.get(i, np.zeros((len(g), sizes[i]), g.dtype)) for i in self._network.inputs]
        return np.concatenate([np.zeros((len(g), 0), g.dtype), *parts], axis=1)

    def _pull_block(self, block: Block, here: Tangents) -> list[tuple[str, Array]]:
        if isinstance(block, AffineBlock):
            operators = self._d.operators[block.output]
            back = [a.rmatvec(here[block.output]) for a in operators]
            return list(zip(block.inputs, back, strict=True))
        if isinstance(block, SlopeBlock):
            return [(block.inputs[0], self.slopes[block.name] * here[block.outputs[0]])]
        _, pull = self._pairs[block.name]
        m = len(next(iter(here.values())))
        gradients = [self._shaped(here.get(y.name), y.name, m) for y in block.node.outputs]
        names = _names(block)
        results = zip(names, pull(gradients), strict=True)
        moving = [(n, np.asarray(x, np.float32).reshape(m, -1)) for n, x in results]
        return [(n, x) for n, x in moving if n not in self._d.held]

    def _pair(self, block: GainBlock, env: Env) -> Pair:
        assert block.form.derivative is not None
        m = len(next(iter(env.values())))
        given = [
            None
            if value is None
            else np.asarray(value.constant)
            if value.constant is not None
            else np.stack([self._d.held[value.name]] * m)
            if value.name in self._d.held
            else self._shaped(env[value.name], value.name, m)
            for value in block.node.inputs
        ]
        return block.form.derivative(block.node, given)

    def _shaped(self, values: Array | None, name: str, m: int) -> Array:
        """Tensors of m points; zeros for what does not move, or leads nowhere."""
        shape = self._d.shapes.get(name, ())
        full = np.zeros((m, *shape)) if values is None else np.asarray(values, np.float64)
        return full.reshape(m, *shape)

    def _split(self, v: Array, names: Sequence[str]) -> Tangents:
        ends = np.cumsum([0, *(self._network.sizes[k] for k in names)])
        known: Tangents = {}
        for k, a, b in zip(names, ends[:-1], ends[1:], strict=True):
            _add(known, k, np.ascontiguousarray(v[:, a:b], np.float32))
        return known


def dual(u: Array, p: float) -> Array:
    """g with gᵀu = ‖u‖_p and dual norm 1, row by row."""
    if p == 1:
        return np.asarray(np.sign(u))
    if p == 2:
        return np.asarray(u / (np.linalg.norm(u, axis=1, keepdims=True) + np.float32(1e-30)))
    g = np.zeros_like(u)
    if u.shape[1]:
        rows, best = np.arange(len(u)), np.abs(u).argmax(axis=1)
        g[rows, best] = np.where(u[rows, best] < 0, -1, 1)
    return g


def _names(block: GainBlock) -> list[str]:
    return [block.node.value(i).name for i in block.node.variables]


def _add(known: Tangents, name: str, part: Array) -> None:
    known[name] = known[name] + part if name in known else part


def _sum(parts: Iterable[Array]) -> Array:
    first, *rest = parts
    for part in rest:
        first = first + part
    return first


def _spread(pair: Pair, k: int) -> Pair:
    """The pair at every point k times, one direction after another."""

    def both(f: Linear) -> Linear:
        def each(ways: Sequence[Array]) -> Sequence[Array]:
            runs = [f([w[j::k] for w in ways]) for j in range(k)]
            return [
                np.stack(y, axis=1).reshape(-1, *y[0].shape[1:]) for y in zip(*runs, strict=True)
            ]

        return each

    return both(pair[0]), both(pair[1])
