"""The free-pattern maximum: max ‖J‖ over all slopes, whether or not some input has them.

With J = J(d), d ∈ [α, β] over all elementwise blocks, gᵀJ(d)v is linear in the slopes of each
block, with coefficients c ∘ dz: dz the tangent before the block (from v and the slopes before it),
c the cotangent behind it (from g and the slopes behind it). So a walk backwards that sets the
slopes of each block to β where c·dz > 0 and to α where c·dz < 0, before it passes on, never lowers
gᵀJv; likewise a walk forwards. Between walks v and g become dual to Jᵀg and Jv, so that ‖J‖ never
falls. From many starts.

Every bound that knows slopes by their intervals only is at least this large: if it comes near, such
bounds can be no better, and what remains is that no input has these slopes. What is found is a
local maximum in float32, so an estimate (theory.md, section 4).
"""

from __future__ import annotations

import math

import numpy as np

from onnxlip.bounds.lower.extract import Array, between
from onnxlip.bounds.lower.jacobian import Derivatives, Linearised, dual
from onnxlip.bounds.lower.problem import Subject
from onnxlip.network import AffineBlock, SlopeBlock

__all__ = ["free_pattern"]

_STARTS = 16
_ROUNDS = 200
_STILL = 1e-6


def free_pattern(
    subject: Subject, points: Array | None = None, starts: int = _STARTS, rounds: int = _ROUNDS
) -> float | None:
    """The largest ‖J(d)‖_p found, an estimate; None for a network with other nonlinear blocks.

    points: (m, n), whose own patterns are starts too.
    """
    network, graph = subject.network, subject.graph
    if not all(isinstance(b, (AffineBlock, SlopeBlock)) for b in network.blocks):
        return None
    slopes = [b for b in network.blocks if isinstance(b, SlopeBlock)]
    part = between(subject.model, graph, [b.inputs[0] for b in slopes])
    derivatives = Derivatives(network, graph, part, subject.rule_set.lowerings)
    n = sum(v.size for v in graph.inputs)
    if not n or not sum(v.size for v in graph.outputs):
        return 0.0
    rng = np.random.default_rng(subject.seed)
    walk = _Walk(derivatives, slopes, starts, rng)
    if points is not None and len(points):
        walk.add(_patterns(derivatives, part, points))
    return walk.run(rng.standard_normal((walk.m, n)), subject.norm, rounds)


def _patterns(derivatives: Derivatives, part: object, points: Array) -> dict[str, Array]:
    from onnxlip.bounds.lower.extract import Part
    from onnxlip.bounds.lower.forward import Batched, by_name

    assert isinstance(part, Part)
    given = by_name(points.astype(np.float32), part)
    return derivatives.at({**given, **Batched(part)(given)}).slopes


class _Walk(Linearised):
    """J(d) for m choices of d, whose products may improve d on their way."""

    def __init__(
        self,
        derivatives: Derivatives,
        blocks: list[SlopeBlock],
        starts: int,
        rng: np.random.Generator,
    ) -> None:
        self._d, self._network, self._pairs, self.bends = derivatives, derivatives.network, {}, {}
        self.m = starts
        self.low: dict[str, Array] = {}
        self.high: dict[str, Array] = {}
        self.slopes = {}
        for block in blocks:
            shape = derivatives.shapes[block.inputs[0]]
            low, high = (
                np.broadcast_to(end, shape).astype(np.float32).reshape(1, -1)
                for end in (block.alpha, block.beta)
            )
            self.low[block.name], self.high[block.name] = low, high
            up = rng.random((starts, low.shape[1])) < 0.5
            up[0] = True
            self.slopes[block.name] = np.where(up, high, low)
        self._behind: dict[str, Array] = {}
        self._before: dict[str, Array] = {}

    def add(self, patterns: dict[str, Array]) -> None:
        """More starts."""
        self.slopes = {k: np.concatenate([s, patterns[k]]) for k, s in self.slopes.items()}
        self.m = len(next(iter(self.slopes.values()))) if self.slopes else self.m

    def run(self, v: Array, p: float, rounds: int) -> float:
        """The largest ‖J‖ after so many rounds, or when nothing rises any more."""
        q = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[p]
        v = (v / np.linalg.norm(v, p, axis=1, keepdims=True)).astype(np.float32)
        best, still = 0.0, 0
        for k in range(rounds):
            if k > 2:
                self._improve_forward(v)
            u, self._before = self._forward(v)
            value = float(np.linalg.norm(u, p, axis=1).max())
            still = still + 1 if value <= best * (1 + _STILL) else 0
            best = max(best, value)
            if still > 10:
                break
            back = self._improve_backward(dual(u, p)) if k > 2 else self.pull(dual(u, p))
            moved = np.abs(back).sum(axis=1, keepdims=True) > 0
            v = np.where(moved, dual(back, q), v)
        return best

    def _choose(self, name: str, product: Array) -> None:
        """Slopes that make the product with c ∘ dz largest; ties stay."""
        low, high, old = self.low[name], self.high[name], self.slopes[name]
        self.slopes[name] = np.where(product > 0, high, np.where(product < 0, low, old))

    def _improve_backward(self, g: Array) -> Array:
        self._choosing = True
        try:
            self._behind = {}
            return self._backward(g, {}, self._behind)
        finally:
            self._choosing = False

    def _improve_forward(self, v: Array) -> None:
        self._choosing = True
        try:
            self._forward(v)
        finally:
            self._choosing = False

    _choosing = False

    def _pull_block(self, block: object, here: dict[str, Array]) -> list[tuple[str, Array]]:
        if self._choosing and isinstance(block, SlopeBlock) and block.inputs[0] in self._before:
            self._choose(block.name, here[block.outputs[0]] * self._before[block.inputs[0]])
        return super()._pull_block(block, here)  # type: ignore[arg-type]

    def _push_block(self, block: object, known: dict[str, Array]) -> list[tuple[str, Array]]:
        if self._choosing and isinstance(block, SlopeBlock) and block.inputs[0] in known:
            behind = self._behind.get(block.outputs[0])
            if behind is not None:
                self._choose(block.name, behind * known[block.inputs[0]])
        return super()._push_block(block, known)  # type: ignore[arg-type]
