"""Free patterns of a system: D within its relations, and ‖J(D)‖, which no blind bound is below.

uᵀJ(D)v is linear in the D of each node, given the others: its coefficient is g zᵀ, with the
cotangent g of u behind the node and the tangent z before it. So choosing every D best, from the
last node back, never lowers uᵀJv, nor does replacing u and v by the leading singular vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxlip.bounds.sdp.relations import Gain, Relation, Slopes, Windows
from onnxlip.bounds.sdp.system import Affine, System
from tests.random_graphs.runner import Array

ROUNDS = 30


def largest_pattern(system: System, starts: int, rng: np.random.Generator) -> float:
    """The largest ‖J(D)‖₂ found."""
    found = 0.0
    for k in range(starts):
        patterns = [_start(node.relation, k, rng) for node in system.nonlinear]
        last = -1.0
        for _ in range(ROUNDS):
            left, sizes, right = np.linalg.svd(jacobian(system, patterns))
            value = float(sizes.max(initial=0.0))
            found = max(found, value)
            if value <= last * (1 + 1e-9):
                break
            last = value
            patterns = _improved(system, patterns, left[:, 0], right[0])
    return found


def jacobian(system: System, patterns: Sequence[Array]) -> Array:
    """J(D), (height, width)."""
    return _forward(system, patterns, np.eye(system.width))[0]


def _forward(system: System, patterns: Sequence[Array], x: Array) -> tuple[Array, dict[str, Array]]:
    """(y, every tensor) from x, (width, m)."""
    known: dict[str, Array] = {}
    start = 0
    for name in system.inputs:
        known[name] = x[start : start + system.sizes[name]]
        start += system.sizes[name]
    chosen = iter(patterns)
    for node in system.nodes:
        if isinstance(node, Affine):
            zero = np.zeros((system.sizes[node.output], x.shape[1]))
            known[node.output] = sum((p.matrix @ known[p.input] for p in node.parts), zero)
        else:
            known[node.output] = next(chosen) @ known[node.input]
    return np.concatenate([known[t] for t in system.outputs]), known


def _improved(system: System, patterns: Sequence[Array], u: Array, v: Array) -> list[Array]:
    known = _forward(system, patterns, v[:, None])[1]
    behind = {name: np.zeros(len(value)) for name, value in known.items()}
    start = 0
    for name in system.outputs:
        behind[name] = behind[name] + u[start : start + system.sizes[name]]
        start += system.sizes[name]
    better = list(patterns)
    k = len(better)
    for node in reversed(system.nodes):
        g = behind[node.output]
        if isinstance(node, Affine):
            for part in node.parts:
                behind[part.input] = behind[part.input] + part.matrix.T @ g
            continue
        k -= 1
        better[k] = _best(node.relation, g, known[node.input][:, 0], better[k])
        behind[node.input] = behind[node.input] + better[k].T @ g
    return better


def _best(relation: Relation, g: Array, z: Array, old: Array) -> Array:
    """The D within the relation with the largest gᵀDz."""
    if isinstance(relation, Slopes):
        signs = np.sign(g * z)
        ends = relation.centre + signs * relation.radius
        return np.diag(np.where(signs == 0, np.diag(old), ends))
    if isinstance(relation, Windows):
        gains = np.where(relation.picks >= 0, g[:, None] * z[relation.picks], -np.inf)
        return _picked(relation, gains.argmax(axis=1))
    assert isinstance(relation, Gain)
    size = float(np.linalg.norm(g) * np.linalg.norm(z))
    return relation.gain * np.outer(g, z) / size if size > 0 else old


def _start(relation: Relation, k: int, rng: np.random.Generator) -> Array:
    """All slopes at their upper ends, or at either end at random; and so on."""
    if isinstance(relation, Slopes):
        signs = np.ones(relation.rows) if k == 0 else rng.choice([-1.0, 1.0], relation.rows)
        return np.diag(relation.centre + signs * relation.radius)
    if isinstance(relation, Windows):
        there = relation.picks >= 0
        chances = np.where(there, rng.random(there.shape), -1.0)
        return _picked(relation, chances.argmax(axis=1))
    assert isinstance(relation, Gain)
    z, g = rng.standard_normal(relation.columns), rng.standard_normal(relation.rows)
    return relation.gain * np.outer(g, z) / (np.linalg.norm(g) * np.linalg.norm(z) + 1e-300)


def _picked(relation: Windows, places: Array) -> Array:
    d = np.zeros((relation.rows, relation.columns))
    rows = np.arange(relation.rows)
    entries = relation.picks[rows, places]
    d[rows[entries >= 0], entries[entries >= 0]] = 1.0
    return d
