"""The truth about a small graph: its nodes run one by one, and steep quotients sought out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tests.random_graphs.runner import Array, Runner

Env = dict[str, Array]


class Function:
    """The map from chosen tensors to chosen tensors of a graph, all others held.

    runners: every node in order; base: values of all tensors at one point. largest: of the values
    that tensors have had since it was last set, as rounding is relative to them.
    """

    def __init__(
        self,
        runners: Sequence[Runner],
        base: Env,
        sources: Sequence[str],
        sinks: Sequence[str],
    ) -> None:
        self.sources, self.sinks, self.base = list(sources), list(sinks), base
        moving, path = set(sources), []
        for runner in runners:
            if not moving & set(runner.reads) or set(runner.writes) <= set(sources):
                continue
            moving |= set(runner.writes)
            path.append(runner)
        needed, kept = set(sinks), []
        for runner in reversed(path):
            if needed & set(runner.writes):
                kept.append(runner)
                needed |= set(runner.reads)
        self.path = kept[::-1]
        self.single = any(runner.single for runner in self.path)
        self.sizes = [base[s].size for s in self.sources]
        self.out_sizes = [base[s].size for s in self.sinks]
        self.largest = 1.0

    def __call__(self, x: Array) -> Array:
        """Sources and sinks as one stacked vector each."""
        env, start = dict(self.base), 0
        for name, size in zip(self.sources, self.sizes, strict=True):
            env[name] = x[start : start + size].reshape(self.base[name].shape)
            start += size
        for runner in self.path:
            for name, value in zip(runner.writes, runner(env), strict=True):
                if name not in self.sources:
                    env[name] = value
                    if value.dtype.kind == "f" and value.size:
                        self.largest = max(self.largest, float(np.abs(value).max()))
        return np.concatenate([env[s].ravel().astype(np.float64) for s in self.sinks])

    def jacobian(self, x: Array) -> Array:
        """By forward differences: a guide to where steep quotients are, no more than that."""
        step = (3e-2 if self.single else 1e-6) * max(1.0, float(np.abs(x).max(initial=0)))
        fx = self(x)
        columns = [(self(x + step * e) - fx) / step for e in np.eye(x.size)]
        return np.stack(columns, axis=1) if columns else np.zeros((fx.size, 0))


def steepest(jacobian: Array, p: float) -> tuple[float, Array]:
    """‖J‖_p and a direction in which it is reached."""
    m, n = jacobian.shape
    if not (m and n) or not np.all(np.isfinite(jacobian)):
        return 0.0, np.ones(n)
    if p == 1:
        best = int(np.abs(jacobian).sum(0).argmax())
        return float(np.abs(jacobian[:, best]).sum()), np.eye(n)[best]
    if p == math.inf:
        row = jacobian[int(np.abs(jacobian).sum(1).argmax())]
        return float(np.abs(row).sum()), np.where(row < 0, -1.0, 1.0)
    _, s, vt = np.linalg.svd(jacobian)
    return float(s[0]), vt[0]


def parts(sizes: Sequence[int]) -> list[slice]:
    """Where each of several stacked vectors lies."""
    ends = [int(end) for end in np.cumsum([0, *sizes])]
    return [slice(a, b) for a, b in pairwise(ends)]


@dataclass(frozen=True)
class Quotient:
    """‖f(x + d) − f(x)‖_p / ‖d‖_p for chosen entries of d and f, beside the bound it must obey.

    between: the source and the sink in words; noise: what rounding may have added to it.
    """

    p: float
    between: str
    value: float
    bound: float
    noise: float

    @property
    def exceeds(self) -> bool:
        """The runtimes read attributes (1/6, say) in float32 or in float64."""
        return self.value > self.bound * (1 + 2e-6) + self.noise

    def __str__(self) -> str:
        return f"p = {self.p}, {self.between}: quotient {self.value:.9g}, bound {self.bound:.9g}"


def quotients(
    f: Function,
    bounds: Mapping[float, tuple[float, Array]],
    rng: np.random.Generator,
    points: int = 3,
    climbs: int = 3,
) -> list[Quotient]:
    """Quotients in the steepest directions at a few points, where the steepest of some is kept.

    bounds: by p, that of all sources together to all sinks together, and those of all pairs, as
    an array (source, sink).
    """
    n = sum(f.sizes)
    if n == 0 or sum(f.out_sizes) == 0:
        return []
    base = np.concatenate([f.base[s].ravel() for s in f.sources])
    found: list[Quotient] = []
    for k in range(points):
        scale = 1.0 if k == 0 else 10.0 ** rng.uniform(-2, 1)
        x = base if k == 0 else scale * rng.standard_normal(n)
        for p, (whole, pairs) in bounds.items():
            here, steepness = x, -1.0
            for climb in range(climbs + 1):
                there = here if climb == 0 else here + scale * 0.3 * rng.standard_normal(n)
                jacobian = f.jacobian(there)
                size = steepest(jacobian, p)[0]
                if size > steepness:
                    here, steepness, best = there, size, jacobian
            for i, o, between, pair in _ways(f):
                bound = whole if pair is None else float(pairs[pair])
                direction = np.zeros(n)
                direction[i] = scale * steepest(best[o, i], p)[1]
                found += [
                    Quotient(p, between, value, bound, noise * max(1.0, bound))
                    for value, noise in _along(f, here, direction, o, p)
                ]
    return found


def _ways(f: Function) -> list[tuple[slice, slice, str, tuple[int, int] | None]]:
    """All sources to all sinks, and every source to every sink."""
    whole = (slice(None), slice(None), "all", None)
    ins, outs = parts(f.sizes), parts(f.out_sizes)
    return [
        whole,
        *(
            (i, o, f"{f.sources[k]} to {f.sinks[m]}", (k, m))
            for k, i in enumerate(ins)
            for m, o in enumerate(outs)
        ),
    ]


def _along(
    f: Function, x: Array, direction: Array, outputs: slice, p: float
) -> Iterator[tuple[float, float]]:
    """Quotients for steps of several sizes, and their noise for a bound of at most 1."""
    f.largest = 1.0
    fx = f(x)
    for step in (0.1, 1.0, 10.0) if f.single else (1e-5, 1e-3, 0.1, 3.0):
        moved = f(x + step * direction)
        size = float(np.linalg.norm((x + step * direction) - x, p))
        rise = float(np.linalg.norm((moved - fx)[outputs], p))
        if math.isfinite(rise) and size > 0:
            roundings = (3e-6 if f.single else 1e-13) * f.largest * math.sqrt(fx.size) * 10
            yield rise / size, roundings / size
