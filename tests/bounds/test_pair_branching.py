"""Branch and bound of the pair problem equals brute force, and what it says early is true."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxlip.bounds.pairs import branching
from onnxlip.bounds.pairs.branching import branch_and_bound
from onnxlip.bounds.pairs.certified import certified
from onnxlip.bounds.pairs.problem import Pair

ORACLES = Path(__file__).parents[3] / "shared" / "oracles"
# Full enumeration of 2³² patterns of the GLipSDP repository's networks, output 8 of 10.
EXACT = {0: 5.08024, 1: 5.22631, 2: 5.00332, 3: 5.56246, 4: 5.17731}


def relu_pair(p: int, n: int, q: int, seed: int = 0) -> Pair:
    rng = np.random.default_rng(seed)
    return Pair(rng.standard_normal((p, n)), rng.standard_normal((n, q)), np.zeros(n), np.ones(n))


def random_pair(seed: int) -> Pair:
    """Up to 7 neurons; mixed slope intervals, fixed ones among them; every fourth of rank one."""
    rng = np.random.default_rng(seed)
    n, p, q = (int(k) for k in rng.integers(1, 8, 3))
    outer, inner = rng.standard_normal((p, n)), rng.standard_normal((n, q))
    if seed % 4 == 1:
        outer, inner = np.outer(outer[:, 0], outer[0]), np.outer(inner[:, 0], inner[0])
    alpha, beta = np.zeros(n), np.ones(n)
    if seed % 3 == 1:
        alpha, beta = rng.uniform(-1, 0.3, n), rng.uniform(0.3, 1.2, n)
    if seed % 3 == 2:
        fixed = rng.random(n) < 0.4
        alpha[fixed] = beta[fixed] = rng.standard_normal(int(fixed.sum()))
    size = (1.0, 1e80, 1e-90)[seed % 5 % 3]
    return Pair(outer * size, inner, alpha, beta)


def largest(pair: Pair) -> float:
    ends = (dict.fromkeys(e) for e in zip(pair.alpha, pair.beta, strict=True))
    return max(pair.value(np.array(d)) for d in itertools.product(*ends))


@pytest.mark.parametrize("group", range(4))
def test_it_equals_brute_force(group: int) -> None:
    for seed in range(20 * group, 20 * group + 20):
        pair = random_pair(seed)
        found = branch_and_bound(pair)
        truth = largest(pair)
        assert found.lower <= truth * (1 + 1e-12), seed
        assert truth * (1 - 1e-12) <= found.upper <= found.lower * (1 + 1.1e-5), seed
        assert pair.value(found.d) == pytest.approx(found.lower, rel=1e-9)
        assert np.all((found.d == pair.alpha) | (found.d == pair.beta))


@pytest.mark.parametrize("nodes", [1, 2, 5, 10])
def test_stopped_early_it_says_what_is_proved(nodes: int) -> None:
    pair = relu_pair(9, 10, 8)
    truth = largest(pair)
    found = branch_and_bound(pair, nodes=nodes, tolerance=1e-9)
    assert found.nodes <= nodes + 1
    assert found.lower <= truth * (1 + 1e-12)
    assert truth * (1 - 1e-12) <= found.upper <= certified(pair).upper * (1 + 1e-6)


def test_more_nodes_never_widen_it() -> None:
    pair = relu_pair(12, 30, 12, seed=3)
    found = [branch_and_bound(pair, nodes=n) for n in (1, 5, 21)]
    assert found[0].upper >= found[1].upper >= found[2].upper
    assert found[0].lower <= found[1].lower <= found[2].lower
    again = branch_and_bound(pair, nodes=21)
    assert (again.lower, again.upper, again.nodes) == (
        found[2].lower,
        found[2].upper,
        found[2].nodes,
    )


@pytest.mark.parametrize("slopes", [(0.0, 1.0), (-0.13, 1.13)])
def test_forty_neurons_are_proved(slopes: tuple[float, float]) -> None:
    relu = relu_pair(40, 40, 40, seed=5)
    pair = Pair(relu.outer, relu.inner, np.full(40, slopes[0]), np.full(40, slopes[1]))
    found = branch_and_bound(pair, nodes=400)
    assert found.lower <= found.upper <= found.lower * (1 + 1.1e-5)


def test_trained_like_neurons_are_proved() -> None:
    pair = relu_pair(30, 30, 30, seed=6)
    scale = np.arange(1.0, 31.0) ** -1.0
    u, v = np.linalg.qr(pair.outer)[0], np.linalg.qr(pair.inner)[0]
    pair = Pair(u * scale @ v.T, v * scale @ u.T, pair.alpha, pair.beta)
    found = branch_and_bound(pair, nodes=400)
    assert found.lower <= found.upper <= found.lower * (1 + 1.1e-5)


def test_nothing_to_branch_on() -> None:
    none = branch_and_bound(Pair(np.zeros((3, 0)), np.zeros((0, 2)), np.zeros(0), np.zeros(0)))
    assert (none.lower, none.upper, none.nodes) == (0.0, 0.0, 0)
    d = np.array([0.5, -1.0, 2.0])
    pair = Pair(np.eye(3), np.eye(3), d, d)
    fixed = branch_and_bound(pair)
    assert fixed.lower <= 2.0 <= fixed.upper <= 2.0 * (1 + 1e-9)
    assert np.array_equal(fixed.d, d)


def test_a_wrong_node_bound_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With bounds a tenth too small, the search ends below the maximum of some pair."""
    right = branching.best_proof
    monkeypatch.setattr(branching, "best_proof", lambda *a: (0.9 * right(*a)[0], right(*a)[1]))
    pairs = [relu_pair(4, 6, 4, seed=s) for s in range(10)]
    assert any(branch_and_bound(p).upper < largest(p) * (1 - 1e-9) for p in pairs)


@pytest.mark.parametrize("seed", EXACT)
def test_published_networks(seed: int) -> None:
    path = ORACLES / f"fnn2_seed{seed}.onnx"
    if not path.exists():
        pytest.skip("the oracles are not part of the repository")
    weights = [numpy_helper.to_array(w) for w in onnx.load(path).graph.initializer]
    inner, outer = (w.astype(np.float64) for w in weights if w.ndim == 2)
    pair = Pair(outer, inner, np.zeros(32), np.ones(32))
    found, bound = branch_and_bound(pair, nodes=200), certified(pair)
    assert found.lower == pytest.approx(EXACT[seed], rel=2e-6)
    assert found.lower <= found.upper <= found.lower * (1 + 1.1e-5)
    assert found.lower <= bound.upper <= 1.03 * EXACT[seed]
