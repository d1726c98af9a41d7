"""Brute force against vertices written out one by one, and its refusal of more."""

import itertools

import numpy as np
import pytest

from onnxlip.bounds.pairs import exact
from onnxlip.bounds.pairs.exact import LIMIT, brute_force
from onnxlip.bounds.pairs.problem import Pair
from onnxlip.errors import UsageError


def pair_of(p: int, n: int, q: int, seed: int, fixed: float = 0.2) -> Pair:
    rng = np.random.default_rng(seed)
    alpha, beta = np.sort(rng.uniform(-1.0, 1.5, (2, n)), axis=0)
    beta = np.where(rng.random(n) < fixed, alpha, beta)
    return Pair(rng.standard_normal((p, n)), rng.standard_normal((n, q)), alpha, beta)


def written_out(pair: Pair) -> float:
    ends = zip(pair.alpha, pair.beta, strict=True)
    vertices = map(np.array, itertools.product(*ends))
    return max(float(np.linalg.svd(pair.at(d), compute_uv=False)[0]) for d in vertices)


SHAPES = [(1, 1, 1), (1, 6, 4), (4, 6, 1), (3, 8, 5), (5, 8, 3), (9, 5, 12), (12, 7, 2), (6, 9, 6)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_maximum(shape: tuple[int, int, int], seed: int) -> None:
    pair = pair_of(*shape, seed)
    found = brute_force(pair)
    assert found.value == pytest.approx(written_out(pair), rel=1e-13)
    assert found.value == pytest.approx(pair.value(found.d), rel=1e-13)
    assert np.all((found.d == pair.alpha) | (found.d == pair.beta))
    assert found.steps == 2 ** len(pair.free)


def test_it_does_not_depend_on_the_size_of_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pair_of(4, 9, 5, 0, fixed=0.0)
    whole = brute_force(pair)
    for entries in (1, 100, 1000):
        monkeypatch.setattr(exact, "_ENTRIES", entries)
        found = brute_force(pair)
        assert found.value == pytest.approx(whole.value, rel=1e-13)
        assert np.array_equal(found.d, whole.d)


def test_convexity_puts_the_maximum_at_a_vertex() -> None:
    pair = pair_of(4, 8, 5, 1)
    value, rng = brute_force(pair).value, np.random.default_rng(2)
    for _ in range(300):
        inside = pair.alpha + rng.random(8) * (pair.beta - pair.alpha)
        assert pair.value(inside) <= value * (1 + 1e-13)


def test_only_free_slopes_count() -> None:
    free = pair_of(5, 12, 4, 3, fixed=0.0)
    beta = np.where(np.arange(60) % 5 == 0, 1.0, 0.3)
    rng = np.random.default_rng(4)
    wide = Pair(rng.standard_normal((5, 60)), rng.standard_normal((60, 4)), np.full(60, 0.3), beta)
    assert len(wide.free) == 12
    for pair in (free, wide):
        found = brute_force(pair)
        assert found.steps == 2**12
        assert found.value == pytest.approx(pair.value(found.d), rel=1e-13)


def test_all_slopes_fixed() -> None:
    pair = pair_of(4, 5, 3, 5, fixed=2.0)
    found = brute_force(pair)
    assert found.steps == 1
    assert found.value == pytest.approx(pair.value(pair.alpha), rel=1e-13)
    assert np.array_equal(found.d, pair.alpha)


@pytest.mark.parametrize("scale", [2.0**-400, 2.0**-40, 2.0**40, 2.0**400])
def test_any_scale(scale: float) -> None:
    pair = pair_of(4, 6, 3, 6)
    scaled = Pair(pair.outer * scale, pair.inner, pair.alpha, pair.beta)
    assert brute_force(scaled).value == pytest.approx(scale * brute_force(pair).value, rel=1e-13)


def test_a_size_beyond_the_limit_is_refused_with_the_remedy() -> None:
    n = LIMIT + 1
    pair = Pair(np.ones((2, n)), np.ones((n, 2)), np.zeros(n), np.ones(n))
    with pytest.raises(UsageError) as error:
        brute_force(pair)
    message = str(error.value)
    assert "\n" not in message
    for part in (str(n), str(LIMIT), "branch and bound or the certified value"):
        assert part in message


def test_the_limit_itself_is_allowed() -> None:
    n = LIMIT
    rng = np.random.default_rng(7)
    pair = Pair(rng.standard_normal((2, n)), rng.standard_normal((n, 3)), np.zeros(n), np.ones(n))
    found = brute_force(pair)
    assert found.steps == 2**n
    assert found.value == pytest.approx(pair.value(found.d), rel=1e-13)
