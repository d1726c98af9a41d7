"""Eliminating tensors one by one is the Schur complement of the whole matrix."""

import numpy as np
import pytest

from onnxlip.bounds.sdp.elimination import Elimination, gradient, value
from onnxlip.bounds.sdp.implicit import implicit, lipsdp_matrix
from onnxlip.bounds.sdp.system import Floats, System, split

from .systems import KINDS, Rng, feasible, jacobian, operator


def dense(system: System, t: Floats) -> float:
    """ρ(T) by one factorisation of what M(0, T) has of all u."""
    form = implicit(system)
    m, n = lipsdp_matrix(form, 0.0, split(system, t)), form.width
    inner, border = m[n:, n:], m[n:, :n]
    if len(inner) and np.linalg.eigvalsh(inner)[0] <= 0:
        return np.inf
    return float(np.linalg.eigvalsh(border.T @ np.linalg.solve(inner, border) - m[:n, :n])[-1])


def cases(kind, turned: bool, rng: Rng) -> tuple[System, Floats]:  # type: ignore[no-untyped-def]
    system = kind(rng).transposed() if turned else kind(rng)
    return system, feasible(system) * rng.uniform(1, 2, system.multipliers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", [False, True])
def test_it_equals_the_schur_complement(kind, turned: bool, rng: Rng) -> None:  # type: ignore[no-untyped-def]
    for _ in range(3):
        system, t = cases(kind, turned, rng)
        rho = dense(system, t)
        assert np.isfinite(rho)
        assert value(system, t) == pytest.approx(rho, rel=1e-9)
        assert value(system, 1e-4 * t) == np.inf == dense(system, 1e-4 * t)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", [False, True])
def test_no_jacobian_is_larger(kind, turned: bool, rng: Rng) -> None:  # type: ignore[no-untyped-def]
    system, t = cases(kind, turned, rng)
    rho = value(system, t)
    for trial in range(20):
        operators = [operator(n.relation, rng, extreme=trial % 2 == 0) for n in system.nonlinear]
        assert np.linalg.norm(jacobian(system, operators), 2) ** 2 <= rho * (1 + 1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", [False, True])
def test_the_gradient_is_that_of_finite_differences(kind, turned: bool, rng: Rng) -> None:  # type: ignore[no-untyped-def]
    system, t = cases(kind, turned, rng)
    rho, rates = gradient(system, t)
    assert rho == pytest.approx(value(system, t))
    for _ in range(3):
        step = 1e-6 * t * rng.standard_normal(len(t))
        slope = value(system, t + step) - value(system, t - step)
        assert 2 * rates @ step == pytest.approx(slope, rel=2e-5, abs=1e-9 * rho)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", [False, True])
def test_noise_gives_the_gradient_of_the_determinants(kind, turned: bool, rng: Rng) -> None:  # type: ignore[no-untyped-def]
    system, t = cases(kind, turned, rng)
    plan = Elimination(system)

    def log_det(t: Floats) -> float:
        found = plan.given(t)
        assert found is not None
        weights = [
            np.log(part[n.relation.quadratic.group]).sum()
            for n, part in zip(system.nonlinear, split(system, t), strict=True)
        ]
        return found.log_det() + float(sum(weights))

    found = plan.given(t)
    assert found is not None
    rates = found.rates(np.zeros((system.width, 1)), np.zeros(1), noise=1.0)
    for _ in range(3):
        step = 1e-6 * t * rng.standard_normal(len(t))
        slope = log_det(t + step) - log_det(t - step)
        assert -2 * rates @ step == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_more_than_the_dense_eigenproblem_takes() -> None:
    """Lanczos at the last form agrees with the other end."""
    from onnxlip.bounds.sdp.build import layered

    rng = np.random.default_rng(5)
    system = layered([rng.standard_normal(s) / 30 for s in [(20, 1100), (6, 20)]])
    t = np.full(20, 4 * np.linalg.norm(system.nodes[-1].parts[0].matrix, 2) ** 2)  # type: ignore[union-attr]
    assert value(system, t) == pytest.approx(dense(system, t), rel=1e-9)
