"""Random systems of every kind, and points of their relations, for the tests of this folder."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from onnxlip.bounds.sdp.build import intervals, layered
from onnxlip.bounds.sdp.relations import Gain, Relation, Slopes, Spread, Windows
from onnxlip.bounds.sdp.system import Affine, Floats, Matrix, Nonlinear, Part, System

Rng = np.random.Generator


def part(name: str, matrix: Matrix) -> Part:
    dense = np.asarray(matrix.toarray() if sp.issparse(matrix) else matrix)
    return Part(name, matrix, float(np.linalg.norm(dense, 2)) * (1 + 1e-12))


def weights(rng: Rng, *widths: int) -> list[Floats]:
    """Entries with few binary digits, so that rational arithmetic on them is quick."""
    pairs = itertools.pairwise(widths)
    return [np.round(rng.standard_normal((m, n)) * 8 / np.sqrt(n)) / 8 for n, m in pairs]


def slopes(rng: Rng, n: int) -> Slopes:
    low = rng.uniform(-0.3, 0.2, n).round(2)
    return Slopes(*intervals(low, low + rng.uniform(0.1, 1.3, n).round(2)))


def sequential(rng: Rng) -> System:
    return layered(weights(rng, 4, 6, 5, 3))


def steep(rng: Rng) -> System:
    return layered(weights(rng, 3, 5, 4, 2), alpha=-0.25, beta=1.125)


def residual(rng: Rng) -> System:
    """h = x; h ← h + V φ(U h), twice; y = W h, and h itself is an output too."""
    nodes: list[Affine | Nonlinear] = []
    sizes = {"x": 4}
    h = "x"
    for k in range(2):
        u, v = weights(rng, 4, 5, 4)
        sizes |= {f"z{k}": 5, f"u{k}": 5, f"h{k}": 4}
        nodes.append(Affine(f"z{k}", (part(h, u),)))
        nodes.append(Nonlinear(f"u{k}", f"z{k}", slopes(rng, 5), f"φ{k}"))
        identity = sp.csr_array(sp.eye_array(4, format="csr"))
        nodes.append(Affine(f"h{k}", (part(h, identity), part(f"u{k}", v))))
        h = f"h{k}"
    nodes.append(Affine("y", (part(h, weights(rng, 4, 2)[0]),)))
    return System(("x",), ("y", h), tuple(nodes), sizes | {"y": 2})


def branched(rng: Rng) -> System:
    """Two inputs, a pool with overlapping windows, an op known by its gain, and a concatenation."""
    a, b = weights(rng, 3, 6)[0], weights(rng, 2, 4)[0]
    picks = np.array([[0, 1, 2], [2, 3, -1], [4, 5, 0]])
    place = sp.csr_array(sp.eye_array(7, 3, format="csr"))
    beside = sp.csr_array(sp.eye_array(7, 4, k=-3, format="csr"))
    nodes = (
        Affine("a", (part("x1", a),)),
        Nonlinear("m", "a", Windows(picks, 6), "pool"),
        Affine("b", (part("x2", b),)),
        Nonlinear("g", "b", Gain(0.75, 4, 4), "norm"),
        Affine("c", (part("m", place), part("g", beside))),
        Nonlinear("d", "c", slopes(rng, 7), "φ"),
        Affine("y", (part("d", weights(rng, 7, 3)[0]), part("x2", weights(rng, 2, 3)[0]))),
    )
    sizes = {"x1": 3, "x2": 2, "a": 6, "m": 3, "b": 4, "g": 4, "c": 7, "d": 7, "y": 3}
    return System(("x1", "x2"), ("y",), nodes, sizes)


KINDS: tuple[Callable[[Rng], System], ...] = (sequential, steep, residual, branched)


def operator(relation: Relation, rng: Rng, extreme: bool = False) -> Floats:
    """Some D with u = D z that the relation allows, at its ends if `extreme`."""
    if isinstance(relation, Slopes):
        t = rng.uniform(-1, 1, relation.rows)
        t = np.sign(t) if extreme else t
        return np.diag(relation.centre + t * relation.radius)
    if isinstance(relation, Gain):
        d = rng.standard_normal((relation.rows, relation.columns))
        return d * (relation.gain / np.linalg.norm(d, 2))
    d = np.zeros((relation.rows, relation.columns))
    if isinstance(relation, Windows):
        for k, window in enumerate(relation.picks):
            d[k, window[window >= 0]] = _shares(rng, int((window >= 0).sum()), extreme)
    else:
        assert isinstance(relation, Spread)
        for k in range(relation.columns):
            rows = np.flatnonzero(relation.source == k)
            d[rows, k] = _shares(rng, len(rows), extreme)
    return d


def _shares(rng: Rng, n: int, extreme: bool) -> Floats:
    return np.eye(n)[rng.integers(n)] if extreme else rng.dirichlet(np.ones(n))


def jacobian(system: System, operators: list[Floats]) -> Floats:
    """J of all inputs to all outputs, with these D of the nonlinear nodes."""
    edges = np.cumsum([0, *(system.sizes[t] for t in system.inputs)])
    whole = np.eye(system.width)
    pairs = itertools.pairwise(edges)
    known = {t: whole[a:b] for t, (a, b) in zip(system.inputs, pairs, strict=True)}
    remaining = iter(operators)
    for node in system.nodes:
        if isinstance(node, Affine):
            zero = np.zeros((system.sizes[node.output], system.width))
            known[node.output] = sum((p.matrix @ known[p.input] for p in node.parts), zero)
        else:
            known[node.output] = next(remaining) @ known[node.input]
    return np.concatenate([known[t] for t in system.outputs])


def feasible(system: System) -> Floats:
    """Multipliers that prove something: each more than all that its block can add."""
    sizes = [s * s for s in _onward(system)]
    counts = [n.relation.count for n in system.nonlinear]
    return np.concatenate([np.full(c, 4.0 * s + 1.0) for c, s in zip(counts, sizes, strict=True)])


def _onward(system: System) -> list[float]:
    """About how much an error at the output of every nonlinear node can grow until y."""
    found = []
    for node in system.nonlinear:
        known = dict.fromkeys(system.sizes, 0.0) | {node.output: 1.0}
        for other in system.nodes:
            if other.output == node.output:
                continue
            if isinstance(other, Affine):
                known[other.output] = sum(p.norm * known[p.input] for p in other.parts)
            else:
                known[other.output] = 3.0 * other.relation.gain * known[other.input]
        found.append(sum(known[t] for t in system.outputs))
    return found
