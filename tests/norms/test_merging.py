"""Merged maps against what they merge: matrices with integer entries must be equal."""

from dataclasses import replace
from fractions import Fraction
from functools import reduce

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
)
from onnxlip.norms.merging import merged, neighbours

from .composed import (
    MERGE,
    REFUSE,
    integers,
    neighbour,
    point,
    small_conv,
    written,
)
from .oracle import exactly_bounds, random_convolution, svd_norm


@pytest.mark.parametrize("name", MERGE)
def test_a_merged_map_is_the_same_map(name: str) -> None:
    a = MERGE[name]
    for each in (a, a.adjoint):
        found = merged(each)
        assert found is not None
        assert isinstance(found.linear, (Convolution, Matrix, Transposed))
        assert found.linear.ulps == 0
        np.testing.assert_array_equal(written(found.linear), written(each))
        assert found.error <= 1e-12 * each.cap()


@pytest.mark.parametrize("name", REFUSE)
def test_what_is_no_single_map_is_left_alone(name: str) -> None:
    a = REFUSE[name]
    with np.errstate(all="ignore"):
        found = merged(a)
        assert found is None or np.array_equal(written(found.linear), written(a))
        assert found is None


def test_a_map_that_is_one_already_loses_its_ulps() -> None:
    a = Matrix(integers((1, 3, 4)), relative=3.0)
    for one in (
        a,
        small_conv((2, 2, 3), (6,)),
        Transposed(replace(small_conv((2, 2, 3), (6,)), relative=2.0)),
    ):
        found = merged(one)
        assert found is not None
        assert found.linear.ulps == 0
        assert (found.error > 0) == (one.ulps > 0)
        np.testing.assert_array_equal(written(found.linear), written(one))


def _random_pair(rng: np.random.Generator) -> LinearMap:
    """A convolution of any geometry before or after a map that fits it, and sometimes both."""
    conv = random_convolution(rng, int(rng.integers(1, 3)), 5, channels=2)
    conv = replace(conv, kernel=np.round(3 * conv.kernel), batch=int(rng.integers(1, 3)))
    factors: list[LinearMap] = [conv]
    if rng.random() < 0.6:
        factors.insert(0, neighbour(rng, conv.c_out, conv.batch, conv.out_spatial, last=False))
    if rng.random() < 0.6 or len(factors) == 1:
        factors.append(neighbour(rng, conv.c_in, conv.batch, conv.in_spatial, last=True))
    return Product(tuple(factors))


@pytest.mark.parametrize("seed", range(8))
def test_random_neighbours_are_refused_or_right(seed: int) -> None:
    rng = np.random.default_rng([seed, 5])
    count = 0
    for _ in range(60):
        a = _random_pair(rng)
        product = reduce(np.matmul, [written(part.linear) for part in neighbours(a)])
        np.testing.assert_array_equal(product, written(a))
        count += merged(a) is not None
    assert count > 10


def _exact_difference(a: LinearMap, b: LinearMap, growth: Fraction) -> np.ndarray:
    """A − B in rational numbers, all coefficients of A larger by `growth`."""

    def rational(m: LinearMap) -> np.ndarray:
        if isinstance(m, Product):
            return reduce(np.matmul, [rational(f) for f in m.factors])
        if isinstance(m, Sum):
            return reduce(np.add, [rational(s) for s in m.summands])
        whole = np.vectorize(lambda x: Fraction(float(x)), otypes=[object])(written(m))
        return whole * (1 + growth * Fraction(m.ulps)) if m.ulps else whole

    return np.asarray(rational(a) - rational(b), dtype=np.float64)


@pytest.mark.parametrize("ulps", [0.0, 1.0, 2.0**20])
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_errors_hold_in_exact_arithmetic(ulps: float, shift: float) -> None:
    """Real coefficients, which may all be larger by their ulps."""
    rng = np.random.default_rng(11)

    def real(a: Convolution) -> Convolution:
        kernel = rng.standard_normal(a.kernel.shape) + shift
        return replace(a, kernel=kernel, relative=ulps)

    def dense(m: int, k: int, inner: int) -> Matrix:
        return Matrix(rng.standard_normal((1, m, k)) + shift, inner=inner, relative=ulps)

    conv = real(small_conv((2, 2, 3), (4,), pad=1))
    wide = Matrix(rng.standard_normal((1, 3, 40)) + shift, relative=ulps)
    for a in (
        Product((dense(3, 2, 4), conv)),
        Product((conv, dense(2, 2, 4))),
        Product((wide, replace(wide, blocks=wide.blocks.transpose(0, 2, 1)))),
        Product((real(small_conv((2, 2, 3), (4,))), real(small_conv((2, 2, 3), (4,), pad=1)))),
        Product((dense(2, 2, 5), Transposed(real(small_conv((2, 2, 3), (5,), pad=1, stride=2))))),
        Product((real(small_conv((1, 2, 3), (8,))), Transposed(real(small_conv((2, 2, 3), (8,)))))),
        Sum((conv, dense(2, 2, 4), Monomial(8, None, np.asarray(0.1), relative=ulps))),
        Sum((conv, Product((dense(2, 2, 4), dense(2, 2, 4))))),
    ):
        found = merged(a)
        assert found is not None
        for growth in (Fraction(1, 2**53), -Fraction(1, 2**53)):
            difference = _exact_difference(a, found.linear, growth)
            assert exactly_bounds(found.error, difference)
            for axis in (0, 1):  # ‖·‖₁ and ‖·‖_∞
                assert np.abs(difference).sum(axis=axis).max() <= found.error * (1 + 1e-12)
        if ulps > 1 and shift:  # positive coefficients: what is claimed may happen, or nearly so
            assert found.error <= 20 * svd_norm(difference)


def test_large_kernels_are_not_made() -> None:
    narrow = Product((Matrix(np.ones((1, 4000, 2))), Matrix(np.ones((1, 2, 4000)))))
    assert merged(narrow) is None
    small = Product((point(3, 2, 20), small_conv((2, 2, 3, 3), (4, 5), pad=1)))
    assert merged(small, memory=20) is None
