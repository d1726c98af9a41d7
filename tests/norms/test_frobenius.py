"""Frobenius norms against the matrices themselves: never below, and exact where they claim it."""

import math

import numpy as np
import pytest

from onnxlip.linear import (
    Convolution,
    LinearMap,
    Matrix,
    Monomial,
    Product,
    Sum,
    Transposed,
    diagonal,
    identity,
    selection,
)
from onnxlip.norms.frobenius import frobenius
from onnxlip.norms.workspace import Workspace

from .composed import LOWERINGS, point, small_conv, strided, written
from .oracle import dense_convolution, random_convolution

RNG = np.random.default_rng(0)


def is_exact(a: LinearMap, matrix: np.ndarray, work: Workspace | None = None) -> bool:
    """Not below the matrix's norm, of which float64 has 14 digits, and no further above."""
    true = math.sqrt(math.fsum(float(x) ** 2 for x in matrix.reshape(-1)))
    return true * (1 - 1e-15) <= frobenius(a, work) <= true * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(120))
def test_convolutions_of_any_geometry(seed: int) -> None:
    conv = random_convolution(np.random.default_rng(seed), 1 + seed % 3, 7 if seed % 3 < 2 else 4)
    matrix = dense_convolution(conv)
    assert is_exact(conv, matrix)
    assert is_exact(Transposed(conv), matrix.T)


def test_a_batch_counts() -> None:
    conv = small_conv((3, 2, 3, 3), (5, 4), pad=1, stride=2, batch=3)
    assert is_exact(conv, written(conv))
    assert is_exact(conv, np.concatenate([dense_convolution(conv)] * 3))


def test_kernels_that_read_nothing() -> None:
    kernel = RNG.standard_normal((2, 1, 1))
    assert frobenius(Convolution(kernel, (3,), (2,), (1,), (1,), (9,))) == 0.0


@pytest.mark.parametrize(
    "a",
    [
        Matrix(RNG.standard_normal((1, 3, 5))),
        Matrix(RNG.standard_normal((4, 3, 2)), outer=3, inner=5),
        point(3, 2, 7, blocks=2, batch=2),
        diagonal(RNG.standard_normal(6), (6,)),
        diagonal(np.array(-0.3), (5,)),
        identity(9),
        selection(np.array([0, 0, -1, 2, 1, 1, 1]), 3),
        Monomial(3, np.array([0, -1, 2, 2]), np.array([1.5, 7.0, -2.0, 0.1])),
        strided(3, (4, 5), 2),
    ],
    ids=lambda a: type(a).__name__,
)
def test_single_maps(a: LinearMap) -> None:
    matrix = written(a)
    assert is_exact(a, matrix)
    assert is_exact(a.adjoint, matrix.T)


def composed_maps() -> list[LinearMap]:
    conv = small_conv((3, 2, 3, 3), (5, 4), pad=1)
    return [
        Product((point(4, 3, 20), conv)),
        Product((conv.adjoint, diagonal(RNG.standard_normal(conv.rows), (conv.rows,)), conv)),
        Sum((identity(60), Matrix(RNG.standard_normal((1, 60, 60))))),
        Sum((conv, conv, conv)),
        Sum((selection(np.array([0, 1, -1]), 2), selection(np.array([-1, -1, 1]), 2))),
    ]


@pytest.mark.parametrize("a", composed_maps(), ids=lambda a: type(a).__name__)
def test_composed_maps_are_never_below_and_exact_where_written_out(a: LinearMap) -> None:
    matrix = written(a)
    assert frobenius(a) >= np.linalg.norm(matrix) * (1 - 1e-15)
    assert is_exact(a, matrix, Workspace(LOWERINGS))


def test_maps_that_write_to_other_outputs_are_exact_unwritten() -> None:
    a = Sum((selection(np.array([0, 1, -1]), 2), selection(np.array([-1, -1, 1]), 2)))
    assert is_exact(a, written(a))


def test_an_error_of_coefficients_is_added() -> None:
    blocks = np.ones((1, 2, 2))
    assert frobenius(Matrix(blocks, relative=1e6)) >= 2 * (1 + 1e6 * 2.0**-53)
    conv = Convolution(np.ones((1, 1, 1)), (4,), (4,), (1,), (1,), (0,), relative=1e6)
    assert frobenius(conv) >= 2 * (1 + 1e6 * 2.0**-53)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_squares_that_leave_the_range(scale: float) -> None:
    assert frobenius(Matrix(scale * np.ones((1, 3, 3)))) == pytest.approx(3 * scale, rel=1e-13)


def test_what_is_no_number_is_infinite() -> None:
    assert frobenius(Matrix(np.array([[[math.nan, 1.0]]]))) == math.inf


def test_maps_through_no_space_at_all_are_zero() -> None:
    assert frobenius(Matrix(np.zeros((1, 0, 3)))) == 0.0
    empty = Product((Matrix(np.zeros((1, 2, 0))), Matrix(np.zeros((1, 0, 3)))))
    assert frobenius(empty) == 0.0
