"""Errors that matrices carry: true ones at their edge stay within them."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp

from onnxlip.bounds.sdp.system import Floats
from onnxlip.bounds.sdp.tracked import Tracked, beside, is_monomial, matrix_norm

Rng = np.random.Generator


def norm(matrix: Floats) -> float:
    return float(np.linalg.norm(matrix, 2))


def off(rng: Rng, rows: int, columns: int, error: float) -> tuple[Floats, Tracked]:
    """A matrix of rank one, and one that is smaller by all that the error allows."""
    a, b = rng.uniform(0.5, 1.5, rows), rng.uniform(0.5, 1.5, columns)
    unit = np.outer(a, b) / norm(np.outer(a, b))
    return unit, Tracked(unit * (1 - error), error * (1 + 1e-15))


def within(found: Tracked, true: Floats, sharp: float = 0.9) -> bool:
    stored = found.matrix if isinstance(found.matrix, np.ndarray) else found.matrix.toarray()
    distance = norm(stored - true)
    return sharp * found.error <= distance <= found.error * (1 + 1e-12)


def test_products_sums_weights_and_stacks_pay_for_both_errors(rng: Rng) -> None:
    for e, f in ((0.1, 0.0), (0.0, 0.1), (0.1, 0.2)):
        p, computed = off(rng, 4, 5, e)
        a = computed.matrix[0] / np.linalg.norm(computed.matrix[0])  # the direction it stretches
        right = np.outer(a, rng.uniform(0.5, 1.5, 3))
        right /= norm(right)
        factor = Tracked(right * (1 - f), f * (1 + 1e-15))
        assert within(computed.times(factor, 1.0), p @ right)
        q, other = off(rng, 4, 5, f)
        assert within(computed.plus(other), p + q, 0.5)
        assert within(beside([computed, other]), np.hstack([p, q]))
        c = np.full(5, 3.0)
        assert within(computed.weighted(c), p * c, 0.9 if e else 0.0)
        assert computed.norm >= norm(p) * (1 - 1e-14)


def exact_product(a: Floats, b: Floats) -> list[list[Fraction]]:
    return [
        [
            sum((Fraction(x) * Fraction(y) for x, y in zip(r, c, strict=True)), Fraction())
            for c in b.T.tolist()
        ]
        for r in a.tolist()
    ]


@pytest.mark.parametrize("is_sparse", [False, True])
def test_rounding_is_covered_in_rational_arithmetic(is_sparse: bool, rng: Rng) -> None:
    for _ in range(20):
        a, b = rng.standard_normal((4, 6)), rng.standard_normal((6, 3))
        a[rng.random(a.shape) < 0.3 * is_sparse] = 0.0
        p = Tracked(sp.csr_array(a) if is_sparse else a)
        found = p.times(Tracked(b), 10.0)
        assert found.error < 1e-13
        gaps = [
            [float(Fraction(x) - y) for x, y in zip(r, s, strict=True)]
            for r, s in zip(np.asarray(found.matrix).tolist(), exact_product(a, b), strict=True)
        ]
        assert norm(np.array(gaps)) <= found.error


def test_a_choice_of_entries_rounds_nothing(rng: Rng) -> None:
    a = rng.standard_normal((6, 4))
    choice = sp.csr_array(sp.eye_array(6, format="csr")[[4, 0, 1]])
    assert is_monomial(choice)
    found = Tracked(choice).times(Tracked(a), 10.0)
    assert found.error == 0
    assert np.array_equal(found.matrix, a[[4, 0, 1]])
    assert matrix_norm(choice) == 1.0


def test_what_is_not_finite_has_an_infinite_norm() -> None:
    for bad in (np.inf, np.nan):
        dense, single = np.array([[1.0, bad]]), sp.csr_array(np.array([[0.0, bad]]))
        assert Tracked(dense).norm == np.inf
        assert Tracked(single).norm == np.inf
        assert Tracked(dense).times(Tracked(np.ones((2, 2))), 2.0).norm == np.inf


def test_the_rounding_of_weights_is_covered_in_rational_arithmetic(rng: Rng) -> None:
    for _ in range(50):
        a, c = rng.standard_normal((1, 1)), rng.uniform(1, 2, 1)
        for stored in (Tracked(a), Tracked(sp.csr_array(a))):
            found = stored.weighted(c)
            value = float(found.matrix.sum())
            true = Fraction(float(a[0, 0])) * Fraction(float(c[0]))
            assert abs(Fraction(value) - true) <= Fraction(found.error)
