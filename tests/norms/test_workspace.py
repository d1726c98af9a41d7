"""Errors of products, in a unit coarse enough to be seen in the bounds that count them."""

import numpy as np
import pytest

from onnxlip.linear import Convolution, LinearMap, Matrix, Monomial, Product, Sum
from onnxlip.norms import lower, workspace
from onnxlip.norms.lower import quotient
from onnxlip.norms.workspace import Workspace, coefficient_error, product_error
from onnxlip.registry import built_in
from onnxlip.rounding import TINY

UNIT = 1e-6


def _maps() -> list[LinearMap]:
    rng = np.random.default_rng(0)
    a, b = (Matrix(rng.standard_normal((1, 6, 6))) for _ in range(2))
    conv = Convolution(rng.standard_normal((3, 2, 3)), (5,), (5,), (1,), (1,), (1,))
    return [a, conv, Product((a, b)), Sum((a, b)), Product((a, Monomial(6, None, np.ones(6)), b))]


def _work() -> Workspace:
    return Workspace(built_in().lowerings)


def test_products_err_by_their_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "gamma", lambda k: k * UNIT)
    for a in _maps():
        error = a.terms * UNIT * a.cap()
        assert product_error(a)[0] >= error * (1 - 1e-12)
        written = _work().materialised(a)
        assert written is not None
        assert written.error >= error * (1 - 1e-12)
        dense = _work().dense(a)
        assert dense is not None
        truth = float(np.linalg.norm(written.matrix, 2))
        assert dense.upper >= truth + error * (1 - 1e-9)
        assert dense.lower <= truth - error * (1 - 1e-9)


def test_quotients_lose_what_products_may_err(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "gamma", lambda k: k * UNIT)
    monkeypatch.setattr(lower, "gamma", lambda k: k * UNIT)
    v = np.random.default_rng(1).standard_normal(10)
    for a in _maps():
        x = v[: a.columns]
        found = quotient(a, x, _work())
        image = float(np.linalg.norm(_work().double(a).matvec(x)))
        moduli = float(np.linalg.norm(_work().modulus(a).matvec(np.abs(x))))
        error = a.terms * UNIT * moduli
        assert found <= (image - error) / float(np.linalg.norm(x)) * (1 + 1e-12)
        assert found >= (image - 1.1 * a.terms * UNIT * a.cap() * 3) / float(np.linalg.norm(x))


def test_underflow_of_an_early_factor_is_magnified_by_later_ones() -> None:
    small, one = Matrix(np.full((1, 1, 1), 1e-300)), Matrix(np.full((1, 1, 1), 1.0))
    assert product_error(Product((one, small)))[1] >= TINY
    assert product_error(Product((Matrix(np.full((1, 1, 1), 1e9)), small)))[1] >= 1e9 * TINY
    assert product_error(Sum((one, one)))[1] >= 2 * TINY


def test_errors_of_coefficients_are_ulps_of_the_moduli() -> None:
    w = np.array([[[3.0, -4.0]]])
    assert coefficient_error(Matrix(w)) == 0
    for ulps in (1.0, 2.0**30):
        assert coefficient_error(Matrix(w, relative=ulps)) >= 5 * ulps * 2.0**-53
