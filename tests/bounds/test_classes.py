"""Constants of every pair of classes: above what is sampled and what is exact, below √2 times the
whole."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from onnxlip import Analysis
from onnxlip.bounds import classes
from onnxlip.bounds.classes import Classes, by_multipliers, by_products, difference, least
from onnxlip.bounds.sdp.build import layered, system
from onnxlip.bounds.sdp.proof import Certifier
from onnxlip.bounds.sdp.system import Floats, System
from onnxlip.norms.workspace import Workspace


def feasible(of: System, share: float = 1.2) -> Floats:
    """Multipliers with T ≻ P layer by layer: row sums of |P|, from the last layer back."""
    rng = np.random.default_rng(0)
    best, value = np.ones(of.multipliers), math.inf
    for _ in range(400):
        t = best * np.exp(rng.normal(0, 1.0 if not math.isfinite(value) else 0.2, of.multipliers))
        t = t * (10.0 ** rng.uniform(-1, 1) if not math.isfinite(value) else 1.0)
        found = Certifier(of).guess(t)
        if 0 < found < value:
            best, value = t, found
    assert math.isfinite(value)
    return best


def chain(seed: int) -> tuple[list[Floats], System]:
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal(s) / 2 for s in ((5, 3), (4, 5), (4, 4))]
    return weights, layered(weights)


def largest(weights: list[Floats], i: int, j: int) -> float:
    row = weights[2][i] - weights[2][j]
    free = itertools.product((0.0, 1.0), repeat=9)
    return max(
        float(np.linalg.norm(row @ (d[5:, None] * (weights[1] @ (d[:5, None] * weights[0])))))
        for d in map(np.array, free)
    )


@pytest.mark.parametrize("seed", range(3))
def test_pairs_lie_between_the_free_maximum_and_root_two_of_the_whole(seed: int) -> None:
    weights, of = chain(seed)
    t = feasible(of)
    whole = Certifier(of).proved(t)
    found = by_multipliers(of, t)
    assert np.array_equal(found.upper, found.upper.T)
    assert not found.upper.diagonal().any()
    for i, j in itertools.combinations(range(4), 2):
        assert largest(weights, i, j) <= found.upper[i, j] <= math.sqrt(2) * whole * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_shared_value_is_the_best_scale_of_the_multipliers(seed: int) -> None:
    """Each pair's own proof, at the best of many scales, is no better than 10⁻³."""
    _, of = chain(seed)
    t = feasible(of)
    found = by_multipliers(of, t)
    for i, j in ((0, 1), (2, 3)):
        one = Certifier(difference(of, i, j))
        own = min(one.proved(t * s) for s in np.geomspace(0.05, 20, 200))
        assert found.upper[i, j] == pytest.approx(own, rel=1e-3)
        assert found.upper[i, j] <= own * (1 + 1e-9)


def test_a_wrong_matrix_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the cross terms of u the values fall below the free maximum."""
    weights, of = chain(0)
    t = feasible(of)
    right = classes._Solver.bounds
    monkeypatch.setattr(classes._Solver, "bounds", lambda *a: 0.3 * right(*a))
    found = by_multipliers(of, t)
    pairs = itertools.combinations(range(4), 2)
    assert any(found.upper[i, j] < largest(weights, i, j) for i, j in pairs)


def test_refined_multipliers_only_help() -> None:
    weights, of = chain(1)
    t = feasible(of)
    plain = by_multipliers(of, t)
    better = by_multipliers(of, t, lambda one, start: feasible(one))
    assert np.all(better.upper <= plain.upper)
    assert np.any(better.upper < plain.upper)
    for i, j in itertools.combinations(range(4), 2):
        assert largest(weights, i, j) <= better.upper[i, j]


def test_multipliers_that_prove_nothing() -> None:
    _, of = chain(2)
    found = by_multipliers(of, np.zeros(of.multipliers))
    assert np.all(np.isinf(found.upper[~np.eye(4, dtype=bool)]))


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_products_are_above_sampled_quotients(make_model: object, p: float) -> None:
    rng = np.random.default_rng(7)
    w, v = rng.standard_normal((6, 8)), rng.standard_normal((8, 3))
    text = """agraph (float[1,6] x) => (float[1,3] y) {
        z = MatMul(x, w)  h = Relu(z)  y = MatMul(h, v) }"""
    analysis = Analysis(make_model(text, w=w, v=v), norm=p)  # type: ignore[operator]
    norms = analysis.norms()
    work = Workspace(analysis.rule_set.lowerings)
    found = by_products(analysis.network, norms, work, p)
    a, b = rng.standard_normal((2, 3000, 6))
    f = [np.maximum(x @ w.astype(np.float32), 0) @ v.astype(np.float32) for x in (a, b)]
    length = np.linalg.norm(a - b, p, axis=1)
    for i, j in itertools.combinations(range(3), 2):
        rise = np.abs((f[0] - f[1])[:, i] - (f[0] - f[1])[:, j])
        assert (rise / length).max() <= found.upper[i, j]
    if p == 2:
        of = system(analysis.network, norms, work)
        both = least(found, by_multipliers(of, feasible(of)))
        assert np.all(both.upper <= found.upper)
        assert set(both.methods) == {"autolip", "shared multipliers"}


def test_the_least_of_two_says_which() -> None:
    one = Classes(np.array([[0.0, 2.0], [2.0, 0.0]]), ("a",), np.zeros((2, 2)))
    two = Classes(np.array([[0.0, 1.0], [1.0, 0.0]]), ("b",), np.zeros((2, 2)))
    both = least(one, two)
    assert both.upper[0, 1] == 1.0
    assert both.methods[int(both.which[0, 1])] == "b"
