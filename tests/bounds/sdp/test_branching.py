"""Branch and bound over slopes equals brute force, and what it says early is true."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from onnxlip.analysis import Analysis
from onnxlip.bounds.pairs.branching import branch_and_bound
from onnxlip.bounds.pairs.problem import Pair
from onnxlip.bounds.sdp import build, patterns
from onnxlip.bounds.sdp.branching import Branched, branched, fixed
from onnxlip.bounds.sdp.build import intervals, layered
from onnxlip.bounds.sdp.closed import closed_forms
from onnxlip.bounds.sdp.interior import minimised
from onnxlip.bounds.sdp.patterns import Patterns, slope_ends
from onnxlip.bounds.sdp.proof import Certifier
from onnxlip.bounds.sdp.reduction import smaller
from onnxlip.bounds.sdp.relations import Slopes
from onnxlip.bounds.sdp.system import Affine, Floats, Nonlinear, System, split
from onnxlip.norms.workspace import Workspace
from tests.bounds.sdp import systems
from tests.bounds.sdp.systems import (
    Rng,
    feasible,
    jacobian,
    operator,
    part,
    residual,
    sequential,
    steep,
    weights,
)

ORACLES = Path(__file__).parents[4] / "shared" / "oracles"


def deep(rng: Rng) -> System:
    return layered(weights(rng, 3, 4, 3, 3, 2), alpha=-0.5, beta=0.75)


def mixed(rng: Rng) -> System:
    """Slopes that differ from neuron to neuron; a path around both layers; two outputs."""
    a, b, c, around = (weights(rng, *w)[0] for w in ((4, 5), (5, 5), (5, 2), (4, 2)))
    nodes = (
        Affine("z0", (part("x", a),)),
        Nonlinear("u0", "z0", systems.slopes(rng, 5), "φ0"),
        Affine("z1", (part("u0", b),)),
        Nonlinear("u1", "z1", systems.slopes(rng, 5), "φ1"),
        Affine("y", (part("u1", c), part("x", around))),
    )
    return System(("x",), ("y", "u0"), nodes, {"x": 4, "z0": 5, "u0": 5, "z1": 5, "u1": 5, "y": 2})


KINDS = (sequential, steep, residual, deep, mixed)


def norm_at(system: System, slopes: Floats) -> float:
    return float(np.linalg.norm(jacobian(system, [np.diag(d) for d in split(system, slopes)]), 2))


def largest(system: System) -> float:
    """max ‖J(d)‖₂ over all patterns."""
    ends = zip(*slope_ends(system), strict=True)
    return max(norm_at(system, np.array(d)) for d in itertools.product(*ends))


def search(system: System, **options: float) -> Branched:
    found = branched(system, feasible(system), **options)
    assert found is not None
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("seed", range(4))
def test_it_equals_brute_force(kind: Callable[[Rng], System], seed: int) -> None:
    system = kind(np.random.default_rng(seed))
    truth, found = largest(system), search(system, tolerance=1e-5)
    assert found.complete
    assert truth * (1 - 1e-12) <= found.upper <= truth * (1 + 1.1e-5)
    assert found.lower == pytest.approx(truth, rel=1.1e-5)
    assert norm_at(system, found.pattern) == pytest.approx(found.lower, rel=1e-12)
    low, high = slope_ends(system)
    assert np.all((found.pattern == low) | (found.pattern == high))


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_stopped_early_it_says_what_is_proved(kind: Callable[[Rng], System]) -> None:
    system = kind(np.random.default_rng(17))
    truth, before = largest(system), math.inf
    for nodes in (1, 3, 5, 9, 15):
        found = search(system, tolerance=1e-9, nodes=nodes)
        assert found.nodes <= nodes
        assert truth * (1 - 1e-12) <= found.upper <= before
        assert found.lower <= truth * (1 + 1e-12)
        before = found.upper
    hasty = branched(system, seconds=0.0)
    assert hasty is not None
    assert hasty.nodes == 1
    assert truth * (1 - 1e-12) <= hasty.upper


def test_more_nodes_never_widen_it_and_the_same_are_the_same() -> None:
    system = layered(weights(np.random.default_rng(2), 8, 14, 14, 6))
    found = [search(system, nodes=n, tolerance=1e-7) for n in (1, 5, 11, 31, 61)]
    uppers, lowers = [f.upper for f in found], [f.lower for f in found]
    assert uppers == sorted(uppers, reverse=True)
    assert [f.complete for f in found] == [f.upper <= f.lower * (1 + 1e-7) for f in found]
    assert not found[0].complete
    assert uppers[-1] < uppers[0] * (1 - 1e-4)
    assert lowers == sorted(lowers)
    again = search(system, nodes=31, tolerance=1e-7)
    assert (again.upper, again.lower, again.nodes) == (uppers[3], lowers[3], found[3].nodes)
    assert np.array_equal(again.pattern, found[3].pattern)


def test_a_child_is_never_above_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where its own proof is worse."""
    system = sequential(np.random.default_rng(1))
    whole, right = search(system, nodes=1), Certifier.proved

    def worse(self: Certifier, t: Floats, rho: float | None = None) -> float:
        return right(self, t, rho) * (2.0 if len(t) < system.multipliers else 1.0)

    monkeypatch.setattr(Certifier, "proved", worse)
    assert search(system, nodes=9).upper <= whole.upper


def test_undecided_slopes_are_split_first() -> None:
    """A few nodes close gaps of some percent: 24 neurons have 2²⁴ patterns."""
    nodes, gaps = 0, []
    for seed in range(4):
        system = layered(weights(np.random.default_rng(seed), 8, 12, 12, 4))
        found = search(system)
        assert found.complete
        nodes += found.nodes
        gaps.append(search(system, nodes=1).upper / found.upper - 1)
    assert max(gaps) > 0.01
    assert nodes <= 100


def test_it_is_never_above_lipsdp_and_no_pattern_is_above_it() -> None:
    rng = np.random.default_rng(5)
    system = layered(weights(rng, 10, 16, 12, 8, 4))
    found = search(system, nodes=41)
    plain = minimised(system, feasible(system), 1e-6)
    assert plain is not None
    assert found.upper <= Certifier(system).proved(plain.multipliers, plain.rho) * (1 + 1e-4)
    low, high = slope_ends(system)
    for _ in range(300):
        assert norm_at(system, np.where(rng.random(len(low)) < 0.5, low, high)) <= found.upper


def test_one_hidden_layer_is_the_pair_problem() -> None:
    inner, outer = weights(np.random.default_rng(3), 9, 20, 7)
    pair = branch_and_bound(Pair(outer, inner, np.full(20, -0.125), np.ones(20)))
    found = search(layered([inner, outer], -0.125, 1.0), tolerance=1e-5)
    assert found.lower <= pair.upper
    assert pair.lower <= found.upper <= pair.upper * (1 + 2e-5)


@pytest.mark.parametrize("kind", KINDS[:3], ids=lambda k: k.__name__)
def test_the_transposed_system_has_the_same_maximum(kind: Callable[[Rng], System]) -> None:
    system = kind(np.random.default_rng(8))
    turned = branched(system.transposed())
    assert turned is not None
    assert turned.upper == pytest.approx(search(system).upper, rel=2.1e-4)


def test_the_scale_does_not_matter() -> None:
    first, *rest = weights(np.random.default_rng(4), 4, 5, 5, 3)
    one, other = (search(layered([first * s, *rest])) for s in (1.0, 2.0**20))
    assert other.upper == pytest.approx(one.upper * 2.0**20, rel=1e-9)


def test_pools_and_gains_are_relaxed_and_slopes_split(rng: Rng) -> None:
    system = systems.branched(rng)
    found = search(system, nodes=31)
    assert math.isnan(found.pattern[0])
    assert found.lower <= found.upper
    for _ in range(500):
        d = [operator(n.relation, rng, extreme=True) for n in system.nonlinear]
        assert np.linalg.norm(jacobian(system, d), 2) <= found.upper * (1 + 1e-12)
    assert found.upper < search(system, nodes=1).upper * (1 - 1e-4)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_fixed_slopes_are_affine_and_keep_the_multipliers(kind: Callable[[Rng], System]) -> None:
    """A parent's multipliers prove as much of its children: `q_j` is 0 at the ends."""
    rng = np.random.default_rng(11)
    system = kind(rng)
    start = min(closed_forms(system).values(), key=lambda e: e.rho).multipliers
    above = Certifier(system).proved(start)
    low, high = slope_ends(system)
    for share in (0.2, 0.6, 1.0):
        ends = np.where(rng.random(len(low)) < 0.5, low, high)
        slopes = np.where(rng.random(len(low)) < share, ends, np.nan)
        free = np.isnan(slopes)
        node = fixed(system, slopes)
        assert node.multipliers == free.sum()
        inside = rng.uniform(low, high)
        whole = [np.diag(d) for d in split(system, np.where(free, inside, slopes))]
        some = [np.diag(d) for d in split(node, inside[free])]
        np.testing.assert_allclose(jacobian(node, some), jacobian(system, whole), atol=1e-12)
        assert Certifier(node).proved(start[free]) <= above * (1 + 1e-9)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_climbing_never_lowers_the_norm(kind: Callable[[Rng], System]) -> None:
    rng = np.random.default_rng(12)
    system = kind(rng)
    of, truth, reached, rises = Patterns(system), largest(system), 0.0, []
    for _ in range(30):
        ends = rng.choice(np.array([-1, 1], np.int8), system.multipliers)
        before, (value, after) = norm_at(system, of.at(ends)), of.climb(ends)
        assert value >= before * (1 - 1e-12)
        assert norm_at(system, of.at(after)) == pytest.approx(value, rel=1e-12)
        assert np.all(np.abs(after) == 1)
        reached = max(reached, value)
        rises.append(value > 1.1 * before)
    assert 0.99 * truth <= reached <= truth * (1 + 1e-12)
    assert np.mean(rises) > 0.5


def test_ends_contain_the_interval() -> None:
    rng = np.random.default_rng(6)
    relation = Slopes(rng.standard_normal(200), rng.random(200))
    system = System(("x",), ("u",), (Nonlinear("u", "x", relation, "φ"),), {"x": 200, "u": 200})
    for low, high, c, r in zip(*slope_ends(system), relation.centre, relation.radius, strict=True):
        assert Fraction(low) <= Fraction(c) - Fraction(r)
        assert Fraction(c) + Fraction(r) <= Fraction(high)
    relu = Slopes(*intervals(np.zeros(1), np.ones(1)))
    one = System(("x",), ("u",), (Nonlinear("u", "x", relu, "φ"),), {"x": 1, "u": 1})
    assert [float(e[0]) for e in slope_ends(one)] == [0.0, 1.0]


def test_moments_are_those_of_the_relaxation(rng: Rng) -> None:
    """E q_j = 0, and nothing is correlated by more than all."""
    system = mixed(rng)
    found = minimised(system, feasible(system), 1e-9)
    assert found is not None
    part, full, cross = found.moments
    np.testing.assert_allclose(part, full, rtol=1e-5, atol=1e-7 * part.max())
    assert np.all(np.abs(cross) <= np.sqrt(part * full) * (1 + 1e-6))
    assert np.all(part >= 0)
    single = layered([np.ones((1, 1)), np.ones((1, 1))])
    one = minimised(single, feasible(single), 1e-9)
    assert one is not None
    assert one.moments[2] == pytest.approx(one.moments[0], rel=1e-3)  # d = β is decided


def test_nothing_to_split() -> None:
    linear = layered([np.diag([3.0, 2.0])])
    found = branched(linear)
    assert found is not None
    assert (found.nodes, len(found.pattern)) == (1, 0)
    assert 3.0 <= found.upper <= 3.0 * (1 + 1e-9)
    assert found.lower == pytest.approx(3.0)
    zero = layered([np.zeros((3, 2)), np.ones((2, 3))])
    nothing = branched(zero)
    assert nothing is None or 0.0 <= nothing.upper <= 1e-9
    empty = layered([np.zeros((0, 2)), np.zeros((2, 0))])
    assert [len(e) for e in slope_ends(empty)] == [0, 0]


@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_what_overflows_is_no_bound(size: float) -> None:
    system = layered([w * size for w in weights(np.random.default_rng(9), 3, 4, 4, 3)])
    found = branched(system, nodes=15)
    assert found is None or found.lower <= found.upper


def _below(right: Callable[..., float]) -> Callable[..., float]:
    return lambda *a: 0.9 * right(*a)


def test_a_wrong_node_bound_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Certifier, "proved", _below(Certifier.proved))
    found = [k(np.random.default_rng(s)) for k in KINDS for s in range(3)]
    assert any(search(s).upper < largest(s) * (1 - 1e-9) for s in found)


def test_a_wrong_child_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With both children fixed at the same end, the search ends below some maximum."""
    monkeypatch.setattr(patterns, "slope_ends", lambda s: (slope_ends(s)[0],) * 2)
    found = [layered(weights(np.random.default_rng(s), 2, 3, 2, 2), -0.25, 1.0) for s in range(3)]
    assert any(search(s).upper < largest(s) * (1 - 1e-9) for s in found)


@pytest.mark.parametrize(
    ("name", "constant", "lipsdp"),
    [("iris_4x6x6x3", 11.63435513, 11.6354), ("wine_11x12x12x1", 1.74336999, 1.8469),
     ("abalone_9x16x16x1", 11.12160233, 11.2255)],
)  # fmt: skip
def test_published_networks(name: str, constant: float, lipsdp: float) -> None:
    """Between the constant (Zhao et al., ExLipBaB) and LipSDP."""
    path = ORACLES / f"{name}.onnx"
    if not path.exists():
        pytest.skip("the oracles are not part of the repository")
    analysis = Analysis(path)
    whole = build.system(analysis.network, analysis.norms(), Workspace(analysis.rule_set.lowerings))
    found = branched(smaller(whole)[0], nodes=200)
    assert found is not None
    assert constant * (1 - 1e-6) <= found.upper <= lipsdp
    assert found.lower <= found.upper <= found.lower * (1 + 1.1e-4)
