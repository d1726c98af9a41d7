import math
from fractions import Fraction

import numpy as np
import pytest

from onnxlip.norms import enclosure
from onnxlip.norms.enclosure import Enclosure, euclid, exponent_of, float64, rescaled


def _exactly_encloses(found: Enclosure, x: np.ndarray) -> bool:
    square = sum(Fraction(float(v)) ** 2 for v in x.reshape(-1))
    below = Fraction(found.lower) ** 2 <= square
    return below and (math.isinf(found.upper) or square <= Fraction(found.upper) ** 2)


@pytest.mark.parametrize("exponent", [-1074, -1040, -700, -320, -1, 0, 1, 400, 1000])
@pytest.mark.parametrize("size", [1, 2, 7, 255, 256, 257, 1030])
def test_the_norm_of_a_vector_is_enclosed(size: int, exponent: int) -> None:
    rng = np.random.default_rng(size)
    x = np.ldexp(rng.standard_normal(size), exponent)
    found = euclid(x)
    assert _exactly_encloses(found, x)
    if exponent >= -1000:  # subnormal numbers have few digits
        assert found.upper <= found.lower * (1 + 1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_any_float_type(dtype: str) -> None:
    x = np.random.default_rng(1).standard_normal((13, 17)).astype(dtype)
    assert _exactly_encloses(euclid(x), x)


def test_vectors_without_a_norm() -> None:
    assert euclid(np.zeros(0)) == (0.0, 0.0)
    assert euclid(np.zeros(5)) == (0.0, 0.0)
    for bad in (math.nan, math.inf, -math.inf):
        assert euclid(np.array([1.0, bad])) == (0.0, math.inf)


def test_the_largest_numbers_do_not_overflow() -> None:
    found = euclid(np.array([1.7e308, 0.1e308]))
    assert 1.70e308 <= found.lower <= found.upper < 1.71e308
    both = euclid(np.array([1.7e308, 1.7e308]))
    assert both.upper == math.inf
    assert both.lower <= 1.7976931348623157e308


def test_small_numbers_beside_large_ones() -> None:
    x = np.array([1e300, 1e-300, 5e-324])
    assert _exactly_encloses(euclid(x), x)


def test_rescaling_rounds_outward() -> None:
    found = rescaled(Enclosure(1.0, 1.0 + 2**-52), -1074)
    assert found.lower <= 2.0**-1074 <= found.upper
    assert Fraction(found.upper) >= (1 + Fraction(1, 2**52)) * Fraction(1, 2**1074)


def test_widening() -> None:
    assert Enclosure(1.0, 2.0).widened(0.0) == (1.0, 2.0)
    low, high = Enclosure(1.0, 2.0).widened(0.5)
    assert low <= 0.5
    assert high >= 2.5
    assert Enclosure(1.0, 2.0).widened(3.0).lower == 0.0
    assert Enclosure(1.0, 2.0).widened(math.inf) == (0.0, math.inf)


def test_scaling_is_exact_and_only_where_needed() -> None:
    assert exponent_of(3.4e38) == exponent_of(1e-45) == 0
    e = exponent_of(1e300)
    x = np.array([1e300, -3e299])
    assert np.array_equal(np.ldexp(float64(x, e), e), x)


def test_roundings_of_a_sum_show_in_a_coarse_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enclosure, "gamma", lambda k: k * 1e-6)
    for size in (1, 256, 700):
        found = euclid(np.ones(size))
        assert found.upper >= math.sqrt(size * (1 + 257e-6)) * (1 - 1e-15)
        assert found.lower <= math.sqrt(size * (1 - 257e-6)) * (1 + 1e-15)
