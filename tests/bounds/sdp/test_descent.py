"""The search for multipliers: never worse than its start, near the optimum, its gradient exact."""

import numpy as np
import pytest

from onnxlip.bounds.sdp import descent
from onnxlip.bounds.sdp.build import layered
from onnxlip.bounds.sdp.closed import closed_forms
from onnxlip.bounds.sdp.descent import cost, minimised
from onnxlip.bounds.sdp.elimination import value
from onnxlip.bounds.sdp.system import System

from .systems import KINDS, Rng, feasible, jacobian, operator, weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", [False, True])
def test_it_is_feasible_and_far_better_than_a_poor_start(kind, turned: bool, rng: Rng) -> None:  # type: ignore[no-untyped-def]
    system = kind(rng).transposed() if turned else kind(rng)
    start = feasible(system) * 10
    found = minimised(system, start, tolerance=1e-6)
    assert found.rho == pytest.approx(value(system, found.multipliers), rel=1e-9)
    assert found.rho < value(system, start)
    best = min(e.rho for e in closed_forms(system).values())
    assert found.rho <= best * (1 + 1e-3)
    for _ in range(10):
        laws = [operator(n.relation, rng, True) for n in system.nonlinear]
        assert np.linalg.norm(jacobian(system, laws), 2) ** 2 <= found.rho * (1 + 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_both_ends_and_any_start_come_to_the_same(kind, rng: Rng) -> None:  # type: ignore[no-untyped-def]
    """The problem is convex; its transpose has the same optimum (theory.md, section 4)."""
    system = kind(rng)
    first = minimised(system, feasible(system), tolerance=1e-7).rho
    second = minimised(
        system, feasible(system) * rng.uniform(1, 9, system.multipliers), tolerance=1e-7
    ).rho
    assert first == pytest.approx(second, rel=3e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_its_gradient_is_that_of_finite_differences(kind, tied: bool, rng: Rng) -> None:  # type: ignore[no-untyped-def]
    system = kind(rng)
    search = descent._Search(system, lambda: False, None)
    theta = np.log(feasible(system) * rng.uniform(1, 2, system.multipliers))
    groups = np.arange(len(theta)) // 3 if tied else np.arange(len(theta))
    tau, mu = 0.1 * value(system, np.exp(theta)), 0.1

    def at(x: np.ndarray) -> descent.Value:
        found = search._value(theta + x[groups], groups, tau, mu)
        assert found is not None
        return found

    zero = np.zeros(groups.max() + 1)
    for _ in range(3):
        step = 1e-5 * rng.standard_normal(len(zero))
        slope = at(step).objective - at(-step).objective
        assert 2 * at(zero).gradient @ step == pytest.approx(slope, rel=1e-5, abs=1e-11)


def test_columns_of_noise_may_be_made_fewer(rng: Rng, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deep network, where they would be more than entries: the same derivative."""
    from onnxlip.bounds.sdp import elimination

    system = layered(weights(rng, 3, 4, 4, 4, 4, 4, 2))
    found = elimination.Elimination(system).given(feasible(system))
    assert found is not None
    x, one = np.eye(3)[:, :1], np.ones(1)
    fewer = found.rates(x, one, noise=0.3)
    monkeypatch.setattr(elimination, "_COLUMNS", 1e9)
    np.testing.assert_allclose(fewer, found.rates(x, one, noise=0.3), rtol=1e-9)


def test_it_ends_in_time_and_keeps_what_it_has(rng: Rng) -> None:
    system = layered(weights(rng, 4, 20, 20, 3))
    start = next(iter(closed_forms(system).values())).multipliers
    for most in (0, 1, 5):
        steps: list[float] = []
        found = minimised(
            system,
            start,
            tolerance=1e-9,
            late=lambda: len(steps) >= most,  # noqa: B023
            progress=lambda _count, rho: steps.append(rho),  # noqa: B023
        )
        assert found.steps == len(steps) <= max(most, 1)
        assert found.rho <= value(system, start)
        assert sorted(steps, reverse=True) == steps


def test_a_start_that_is_not_feasible_and_a_network_without_multipliers(rng: Rng) -> None:
    system = layered(weights(rng, 4, 5, 3))
    assert minimised(system, np.full(5, 1e-9)).rho == np.inf
    linear = layered(weights(rng, 4, 3))
    assert minimised(linear, np.zeros(0)).rho == pytest.approx(value(linear, np.zeros(0)))
    assert cost(linear) == 0 < cost(system)


def test_a_network_that_is_zero(rng: Rng) -> None:
    zero = layered([0 * w for w in weights(rng, 4, 5, 3)])
    assert minimised(zero, np.ones(5)).rho == 0
    assert isinstance(zero, System)
