"""The search problem: where is ‖J(x)‖_p large?

`steepness` gives ‖J(x)‖_p, or what a few power iterations find of it, and the direction that
reaches it, at many points at once:

    few outputs or inputs   J itself from products with a basis; p = 2: the largest eigenvalue of
                            JJᵀ or JᵀJ, p = 1, ∞: the largest column, row
    p = 2                   v ← Jᵀ J v, normalised
    p = 1, ∞                sign power (Boyd 1974): g dual to J v, v dual to Jᵀg
    without derivatives     difference quotients along v and along random directions

These are float32 estimates that rank points; what is attained is computed in `attained`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.lower.extract import Array, between
from onnxlip.bounds.lower.forward import Batched, by_name, stacked
from onnxlip.bounds.lower.jacobian import Derivatives, Linearised, dual
from onnxlip.graph import Graph
from onnxlip.model import Model
from onnxlip.network import AffineBlock, Network
from onnxlip.registry import RuleSet

__all__ = ["Budget", "Points", "Problem", "Search", "Subject"]

Floats = npt.NDArray[np.float64]

_FEW = 16  # rows or columns of J up to which it is computed whole, for p = 2
_FEW_SIGNS = 64  # likewise for p = 1, ∞, where the iterations find local maxima only
_ENTRIES = 1 << 23  # of all tensors of the points in one go
_TRIES = 8  # directions tried at a point without derivatives
_PROBE = 1e-2  # their length, relative to the point's


class Subject(Protocol):
    """What is searched: an `Analysis`."""

    @property
    def model(self) -> Model:
        """The file made plain."""

    @property
    def graph(self) -> Graph:
        """The ops between the chosen tensors."""

    @property
    def network(self) -> Network:
        """Its blocks."""

    @property
    def rule_set(self) -> RuleSet:
        """Rules and lowerings."""

    @property
    def norm(self) -> float:
        """p: 1, 2 or ∞."""

    @property
    def seed(self) -> int:
        """Of all that is random."""


@dataclass(frozen=True, eq=False)
class Points:
    """x: (m, n); v: (m, n), directions of norm 1; norm: (m,), ‖J(x) v‖_p as estimated."""

    x: Floats
    v: Floats
    norm: Floats

    @classmethod
    def none(cls, n: int) -> Points:
        """No point at all."""
        return cls(np.zeros((0, n)), np.zeros((0, n)), np.zeros(0))

    def __len__(self) -> int:
        return len(self.norm)

    def with_more(self, others: Points) -> Points:
        """Both, in this order."""
        parts = ((self.x, others.x), (self.v, others.v), (self.norm, others.norm))
        return Points(*(np.concatenate(p) for p in parts))

    def best(self, k: int) -> Points:
        """The k steepest, steepest first; of points that are equally steep only one."""
        _, first = np.unique(np.round(self.norm, 12), return_index=True)
        order = first[np.argsort(-self.norm[first], kind="stable")][:k]
        return Points(self.x[order], self.v[order], self.norm[order])


class Budget:
    """How many points a search may look at, and until when (a time.perf_counter())."""

    def __init__(self, evaluations: int, until: float = math.inf) -> None:
        self.evaluations, self.until = evaluations, until

    def spend(self, points: int) -> None:
        """Note that points were looked at."""
        self.evaluations -= points

    @property
    def is_spent(self) -> bool:
        """Whether to stop."""
        return self.evaluations <= 0 or time.perf_counter() >= self.until

    def part(self, share: float) -> Budget:
        """A share of what is left, of points and of time."""
        now = time.perf_counter()
        return Budget(math.ceil(self.evaluations * share), now + (self.until - now) * share)


class Search(Protocol):
    """One way to look for steep points. pool: what is known already; deterministic given rng."""

    def __call__(
        self, problem: Problem, pool: Points, budget: Budget, rng: np.random.Generator
    ) -> Points:
        """The steepest points that it found."""


class Problem:
    """f and J at many points. Raises ModelError where onnxruntime cannot run the network."""

    def __init__(self, subject: Subject, derivatives: bool = True) -> None:
        network, graph = subject.network, subject.graph
        self.p = subject.norm
        self.sizes = tuple(v.size for v in graph.inputs)
        self.out_sizes = tuple(v.size for v in graph.outputs)
        self.n, self.rows = sum(self.sizes), sum(self.out_sizes)
        self._outputs = [v.name for v in graph.outputs]
        nonlinear = [b for b in network.blocks if not isinstance(b, AffineBlock)]
        read = [name for b in nonlinear for name in b.inputs]
        part = between(subject.model, graph, [*read, *self._outputs])
        self._part = part
        self._forward = Batched(part)
        self.derivatives = (
            Derivatives(network, graph, part, subject.rule_set.lowerings) if derivatives else None
        )
        self.is_differentiable = self.derivatives is not None and self.derivatives.possible
        self._volume = sum(network.sizes[y] for b in network.blocks for y in b.outputs) + self.n
        self._rng = np.random.default_rng(subject.seed)

    @property
    def work(self) -> float:
        """About how many multiplications the steepness of one point takes."""
        known = self.derivatives
        maps = [a.map for found in (known.operators.values() if known else ()) for a in found]
        once = sum(float(a.rows) * min(a.terms, a.columns) for a in maps) + 10.0 * self._volume
        return once * (self._basis() + 3)

    def env(self, x: Array) -> dict[str, Array]:
        """Tensors at points (m, n): the inputs and all that nonlinear blocks read."""
        given = by_name(np.asarray(x, np.float32), self._part)
        return {**given, **self._forward(given)}

    def values(self, x: Array) -> Array:
        """f at points (m, n), stacked (m, rows), in float32."""
        return stacked(self.env(x), self._outputs, self.out_sizes, len(x))

    def steepness(self, x: Floats, v: Floats | None = None, steps: int = 3) -> Points:
        """‖J‖ and where it is reached at points (m, n); v: directions to start from."""
        with np.errstate(all="ignore"):
            if v is None or not self.is_differentiable:
                start = self._rng.standard_normal(x.shape)
                v = start if v is None else np.where(np.abs(v).sum(1, keepdims=True) > 0, v, start)
            chunk = self._chunk()
            parts = [
                self._steep(x[i : i + chunk], v[i : i + chunk], steps)
                for i in range(0, len(x), chunk)
            ]
        found = Points.none(self.n)
        for part in parts:
            found = found.with_more(part)
        return found

    def linearised(self, x: Array, width: float = 0.0) -> Linearised:
        """J at points, with slopes smoothed over a width relative to their inputs' size."""
        assert self.derivatives is not None
        return self.derivatives.at(self.env(x), width)

    def _chunk(self) -> int:
        return max(1, _ENTRIES // max(1, self._volume * self._basis()))

    @property
    def is_small(self) -> bool:
        """Whether J is computed whole."""
        return self._basis() == min(self.rows, self.n)

    def _basis(self) -> int:
        """How many directions make J whole, if that is what is done."""
        few = _FEW if self.p == 2 else _FEW_SIGNS
        return min(self.rows, self.n) if min(self.rows, self.n) <= few else 1

    def _steep(self, x: Floats, v: Floats, steps: int) -> Points:
        if not self.is_differentiable:
            return self._by_differences(x, v)
        try:
            j = self.linearised(x)
            v, norm = (
                steepest_of(whole(j, len(x), self.rows, self.n), self.p)
                if self.is_small
                else power(j, v, self.p, steps)
            )
        except ArithmeticError:
            return Points(x, v, np.zeros(len(x)))
        norm = np.where(np.isfinite(norm), norm, 0.0)
        return Points(x, np.asarray(v, np.float64), np.asarray(norm, np.float64))

    def _by_differences(self, x: Floats, v: Floats) -> Points:
        m = len(x)
        tries = np.concatenate([v[None], self._rng.standard_normal((_TRIES, m, self.n))])
        tries[2::2] = v + 0.5 * tries[2::2] * np.abs(v).mean(axis=1, keepdims=True)
        tries /= np.linalg.norm(tries, self.p, axis=2, keepdims=True) + 1e-300
        length = _PROBE * (np.linalg.norm(x, self.p, axis=1, keepdims=True) + 1e-3)
        moved = (x + length * tries).reshape(-1, self.n)
        rises = self.values(moved).reshape(len(tries), m, -1) - self.values(x)
        sizes = np.linalg.norm(rises, self.p, axis=2) / length[:, 0]
        sizes = np.where(np.isfinite(sizes), sizes, 0.0)
        best = sizes.argmax(axis=0)
        here = np.arange(m)
        return Points(x, tries[best, here], sizes[best, here])


def whole(j: Linearised, m: int, rows: int, n: int) -> Array:
    """J as an array (m, rows, n)."""
    k = min(rows, n)
    basis = np.tile(np.eye(k, dtype=np.float32), (m, 1))
    many = j.repeated(k)
    if rows <= n:
        return many.pull(basis).reshape(m, k, n)
    return many.push(basis).reshape(m, k, rows).transpose(0, 2, 1)


def steepest_of(j: Array, p: float) -> tuple[Array, Array]:
    """(v (m, n), ‖J‖_p (m,)) of matrices (m, rows, n)."""
    j = np.where(np.isfinite(j).all(axis=(1, 2), keepdims=True), j, 0.0).astype(np.float64)
    m, rows, n = j.shape
    here = np.arange(m)
    if p == 1:
        sums = np.abs(j).sum(axis=1)
        best = sums.argmax(axis=1)
        return np.eye(n)[best], sums[here, best]
    if p == math.inf:
        sums = np.abs(j).sum(axis=2)
        best = sums.argmax(axis=1)
        return np.where(j[here, best] < 0, -1.0, 1.0), sums[here, best]
    wide = rows <= n
    gram = j @ j.transpose(0, 2, 1) if wide else j.transpose(0, 2, 1) @ j
    values, vectors = np.linalg.eigh(gram)
    norm = np.sqrt(np.maximum(values[:, -1], 0))
    v = vectors[:, :, -1]
    if wide:
        v = np.einsum("mrn,mr->mn", j, v)
        v = np.where(np.abs(v).sum(axis=1, keepdims=True) > 0, v, 1.0)
    return v / (np.linalg.norm(v, axis=1, keepdims=True) + 1e-300), norm


def power(j: Linearised, v: Array, p: float, steps: int) -> tuple[Array, Array]:
    """The same by iteration from v (m, n): ‖Jv‖ never falls, and may stop at a local maximum."""
    q = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[p]
    v = (v / (np.linalg.norm(v, p, axis=1, keepdims=True) + 1e-30)).astype(np.float32)
    for _ in range(steps):
        back = j.pull(dual(j.push(v), p))
        moved = np.abs(back).sum(axis=1, keepdims=True) > 0
        v = np.where(moved, dual(back, q), v)
    return v, np.linalg.norm(j.push(v), p, axis=1)
