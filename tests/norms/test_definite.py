"""The Cholesky proof, against exact rationals."""

import math
from fractions import Fraction

import numpy as np
import pytest

from onnxlip.norms import definite
from onnxlip.norms.definite import cholesky_margin, factored, proved_margin

from .oracle import definiteness


def _embedded(gram: np.ndarray) -> np.ndarray:
    """The real symmetric matrix of twice the order with the same eigenvalues."""
    if not np.iscomplexobj(gram):
        return gram
    return np.block([[gram.real, -gram.imag], [gram.imag, gram.real]])


def _hermitian(rng: np.random.Generator, n: int, is_complex: bool) -> np.ndarray:
    """A Gram matrix whose largest eigenvalues nearly coincide, exactly Hermitian."""
    w = rng.standard_normal((n, n + 2)) + (
        1j * rng.standard_normal((n, n + 2)) if is_complex else 0
    )
    q = np.linalg.qr(w)[0]
    values = np.concatenate([np.full(max(1, n // 2), 1.0), rng.random(n - max(1, n // 2))])
    gram = (q * values) @ q.conj().T
    return (gram + gram.conj().T) / 2


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 6, 9])
def test_what_is_proved_is_true(n: int, is_complex: bool) -> None:
    rng = np.random.default_rng(n)
    proved = refused = 0
    for trial in range(12):
        gram = _hermitian(rng, n, is_complex)
        top = float(np.linalg.eigvalsh(gram)[-1])
        square = top * (1 + float(rng.choice([-1, 0, 1, 4, 30])) * 2.0**-52 * n)
        margin = proved_margin(gram[None].copy(), square)
        if margin is None:
            refused += 1
            continue
        proved += 1
        assert margin <= 1e-12
        bound = Fraction(square) + Fraction(margin)
        exact = [[-Fraction(float(x)) for x in row] for row in _embedded(gram)]
        for k in range(len(exact)):
            exact[k][k] += bound
        assert definiteness(exact) >= 0, trial
    assert proved
    assert refused


@pytest.mark.parametrize("is_complex", [False, True])
def test_a_square_that_is_too_small_is_refused(is_complex: bool) -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 20, 70):
        gram = _hermitian(rng, n, is_complex)
        top = float(np.linalg.eigvalsh(gram)[-1])
        assert proved_margin(gram[None].copy(), top * (1 - 1e-9)) is None
        assert proved_margin(gram[None].copy(), top * (1 + 1e-9)) is not None


def test_one_bad_matrix_spoils_a_stack() -> None:
    stack = np.stack([np.eye(3), 2 * np.eye(3)])
    assert proved_margin(stack, 1.5) is None
    assert proved_margin(stack, 2.5) is not None


def test_not_a_number_is_never_proved() -> None:
    for place in ((0, 0), (1, 0), (2, 1)):
        gram = np.eye(3)[None].copy()
        gram[(0, *place)] = np.nan
        assert proved_margin(gram, 2.0) is None
    assert proved_margin(np.eye(3)[None].copy(), np.nan) is None


def test_nothing_to_prove() -> None:
    assert proved_margin(np.zeros((0, 4, 4)), 1.0) == 0.0


def test_the_margin_grows_with_order_and_trace() -> None:
    assert cholesky_margin(10, 1.0, 0.1, False) < cholesky_margin(20, 1.0, 0.1, False)
    assert cholesky_margin(10, 1.0, 0.1, False) < cholesky_margin(10, 1.0, 0.1, True)
    assert cholesky_margin(10, 2.0, 0.1, True) > 1.99 * cholesky_margin(10, 1.0, 0.1, True)
    assert cholesky_margin(2**53, 1.0, 1.0, False) == np.inf


@pytest.mark.parametrize("is_complex", [False, True])
def test_the_margin_is_that_of_the_docstring(is_complex: bool) -> None:
    n, u = 50, 2.0**-53
    c = np.sqrt(2) * (2 * n) * u if is_complex else (n + 1) * u
    margin = cholesky_margin(n, 7.0, 3.0, is_complex)
    assert 3 * u + 7 * c <= margin <= 1.2 * (3 * u + 7 * c)
    gram = np.diag([0.5, 0.25]).astype(complex if is_complex else float)
    found = proved_margin(gram[None].copy(), 1.0)
    assert found is not None
    assert found >= u * 0.75 + 1.25 * u * (np.sqrt(2) * 4 if is_complex else 3)


@pytest.mark.parametrize("is_complex", [False, True])
def test_every_term_of_the_margin_shows_in_a_coarse_unit(
    is_complex: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = 1e-4
    monkeypatch.setattr(definite, "UNIT", unit)
    monkeypatch.setattr(definite, "gamma", lambda k: k * unit)
    for n, trace, largest in ((1, 3.0, 3.0), (7, 5.0, 2.0), (400, 9.0, 0.1)):
        c = unit * (math.sqrt(2) * (2 * n + 4) if is_complex else n + 3)
        least = unit * largest + c / (1 - c) * trace * (1 + n * unit)
        assert cholesky_margin(n, trace, largest, is_complex) >= least * (1 - 1e-12)


@pytest.mark.parametrize("is_complex", [False, True])
def test_a_stack_has_the_margin_of_its_worst_matrix(is_complex: bool) -> None:
    kind = np.complex128 if is_complex else np.float64
    stack = np.stack([np.diag([1.0, 2.0, x]).astype(kind) for x in (2.0, -50.0, 1.0)])
    alone = [proved_margin(gram[None].copy(), 4.0) for gram in stack]
    found = proved_margin(stack, 4.0)
    assert found is not None
    assert found >= max(m for m in alone if m is not None)


@pytest.mark.parametrize("kind", ["f", "d", "F", "D"])
def test_factors_stand_in_the_lower_triangle(kind: str) -> None:
    rng = np.random.default_rng(1)
    w = rng.standard_normal((5, 7)) + (1j * rng.standard_normal((5, 7)) if kind in "FD" else 0)
    gram = np.ascontiguousarray(w @ w.conj().T).astype(kind)
    factor, bad = gram.copy(), gram - 30 * np.eye(5, dtype=kind)
    assert factored(factor)
    lower = np.tril(factor)
    assert lower @ lower.conj().T == pytest.approx(gram, rel=1e-4 if kind in "fF" else 1e-12)
    assert not factored(bad)
