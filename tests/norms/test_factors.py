"""Singular factors: what is said of the rest holds, and searched ones are near the true ones."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlip.linear import Matrix, Product
from onnxlip.norms import factors as module
from onnxlip.norms.factors import factors
from onnxlip.norms.workspace import Workspace
from onnxlip.operators import NonFiniteError
from onnxlip.registry import built_in

from .oracle import dense_convolution, random_convolution

Floats = np.ndarray


def _work() -> Workspace:
    return Workspace(built_in().lowerings)


def _matrix(rng: np.random.Generator, m: int, n: int) -> Matrix:
    return Matrix(rng.standard_normal((1, m, n)).astype(np.float32))


@pytest.mark.parametrize("shape", [(1, 1), (7, 4), (4, 7), (30, 30)])
@pytest.mark.parametrize("kept", [None, 1, 3])
def test_all_of_a_map_is_accounted_for(
    shape: tuple[int, int], kept: int | None, rng: np.random.Generator
) -> None:
    a = _matrix(rng, *shape)
    dense = a.blocks[0].astype(np.float64)
    found = factors(a, kept, _work())
    rank = min(shape)
    assert len(found.values) == (rank if kept is None else min(kept, rank))
    assert np.linalg.norm(found.left, 2) <= found.growth
    assert np.linalg.norm(found.right, 2) <= found.growth <= 1 + 1e-12
    rest = dense - (found.left * found.values) @ found.right.T
    assert np.linalg.norm(rest, 2) <= found.growth**2 * found.rest + found.slip
    assert found.rest <= np.linalg.norm(rest, 2) + found.slip
    assert found.slip <= 1e-10 * np.linalg.norm(dense)


def test_zero_and_huge_maps() -> None:
    zero = factors(Matrix(np.zeros((1, 3, 2), np.float32)), None, _work())
    assert np.all(zero.values == 0)
    assert zero.slip < 1e-200
    for size in (1e200, 1e-30):
        with pytest.raises(NonFiniteError, match="norm is about"):
            factors(Matrix(np.full((1, 3, 2), size)), 2, _work())


@pytest.mark.parametrize("turned", [False, True])
def test_searched_factors_are_near_the_true_ones(
    turned: bool, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(module, "_OPERATIONS", 0.0)
    u = np.linalg.qr(rng.standard_normal((60, 40)))[0]
    v = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    dense = ((u * np.arange(1, 41) ** -0.5) @ v).astype(np.float32)
    a = Matrix((dense.T if turned else dense)[None])
    found = factors(a, 5, _work())
    assert not found.proved
    assert found.values == pytest.approx(np.arange(1, 6) ** -0.5, rel=1e-3)
    assert np.allclose(found.left.T @ found.left, np.eye(5), atol=1e-5)
    assert np.allclose(found.right.T @ found.right, np.eye(5), atol=1e-5)
    matrix = dense.T if turned else dense
    assert np.allclose(matrix @ found.right, found.left * found.values, atol=5e-3)


def test_what_large_matrices_leave_is_proved(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(module, "_OPERATIONS", 0.0)
    u = np.linalg.qr(rng.standard_normal((60, 40)))[0]
    v = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    dense = ((u * np.arange(1, 41) ** -2.0) @ v).astype(np.float32)
    for matrix in (dense, dense.T):
        found = factors(Matrix(matrix[None]), 5, _work())
        rest = matrix - (found.left * found.values) @ found.right.T
        assert found.rest == 0
        assert np.linalg.norm(rest, 2) <= found.slip <= 1.001 * np.linalg.norm(rest, 2)
        assert np.linalg.norm(found.left, 2) <= found.growth <= 1 + 1e-6
    flat = factors(Matrix(rng.standard_normal((1, 50, 40))), 5, _work())
    assert not flat.proved


def test_convolutions_and_products_are_operators(rng: np.random.Generator) -> None:
    conv = random_convolution(rng, 2, 4)
    dense = dense_convolution(conv)
    found = factors(conv, None, _work())
    assert found.values == pytest.approx(np.linalg.svd(dense, compute_uv=False), abs=1e-9)
    after = _matrix(rng, 3, conv.rows)
    both = factors(Product((after, conv)), None, _work())
    truth = np.linalg.norm(after.blocks[0].astype(np.float64) @ dense, 2)
    assert both.values[0] == pytest.approx(truth, rel=1e-9)
