"""Multipliers in closed form prove something on every system, and obey their formula."""

import math

import numpy as np
import pytest

from onnxlip.bounds.sdp.build import layered
from onnxlip.bounds.sdp.closed import SHAPES, closed_forms
from onnxlip.bounds.sdp.proof import Certifier

from .systems import KINDS, Rng, jacobian, operator, weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", [False, True])
def test_every_closed_form_proves_what_it_says(kind, turned: bool, rng: Rng) -> None:  # type: ignore[no-untyped-def]
    system = kind(rng).transposed() if turned else kind(rng)
    found = closed_forms(system)
    assert set(found) == set(SHAPES)
    certifier = Certifier(system)
    for form in found.values():
        rho = form.rho
        bound = certifier.proved(form.multipliers, rho)
        assert bound == pytest.approx(math.sqrt(rho), rel=1e-7)
        for trial in range(40):
            operators = [operator(n.relation, rng, trial % 2 == 0) for n in system.nonlinear]
            assert np.linalg.norm(jacobian(system, operators), 2) <= bound


def test_the_scalar_form_is_twice_the_largest_eigenvalue(rng: Rng) -> None:
    """ECLipsE-Fast, for ReLU: T = 2 λmax(P), P = WᵀW of the last layer."""
    w = weights(rng, 5, 6, 3)
    t = closed_forms(layered(w))["scalar"].multipliers
    np.testing.assert_allclose(t, 2 * np.linalg.norm(w[1], 2) ** 2, rtol=1e-9)


def test_the_factor_is_the_best_one() -> None:
    """On one neuron the least of r²s + c²λ + c²λ²/(s − λ) is the true constant, λ(r + c)²."""
    for low, high in ((0.0, 1.0), (-0.2, 1.1), (0.3, 0.5)):
        system = layered([np.array([[2.0]]), np.array([[3.0]])], low, high)
        rho = closed_forms(system)["scalar"].rho
        assert math.sqrt(rho) == pytest.approx(6 * max(abs(low), high), rel=2e-3)


def test_neurons_that_nobody_reads_cost_nothing(rng: Rng) -> None:
    w = weights(rng, 4, 6, 3)
    w[1][:, 2:4] = 0
    fewer = [np.delete(w[0], [2, 3], axis=0), np.delete(w[1], [2, 3], axis=1)]
    for name, form in closed_forms(layered(w)).items():
        less = closed_forms(layered(fewer))[name]
        assert form.rho >= less.rho * (1 - 1e-9)
        assert form.rho <= less.rho * 4
