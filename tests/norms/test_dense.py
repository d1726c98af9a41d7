"""Verified norms of matrices, against exact rationals and float64 SVD."""

import math
from fractions import Fraction

import numpy as np
import pytest

from onnxlip.norms import dense
from onnxlip.norms.dense import dense_norm
from onnxlip.norms.enclosure import Enclosure
from onnxlip.rounding import gamma

from .oracle import exactly_bounds, exactly_exceeds, svd_norm


def _small_matrices() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    found: list[np.ndarray] = []
    for m, k in ((2, 2), (2, 5), (3, 3), (5, 3), (4, 7), (6, 6)):
        w = rng.standard_normal((m, k))
        u, v = rng.standard_normal((m, 1)), rng.standard_normal((1, k))
        found += [
            w,
            w.astype(np.float32),
            w.astype(np.float16),
            rng.integers(-3, 4, (m, k)).astype(np.float64),
            u @ v,  # rank one, but for rounding
            np.ones((m, k)),
            np.eye(m, k),  # every vector is a top one
            u * 10.0 ** rng.integers(-8, 8, (1, k)),
            np.where(rng.random((m, k)) < 0.5, 0.0, w),
            np.ldexp(w, -1060),
            np.ldexp(w, 1000),
            w * 10.0 ** rng.integers(-150, 150, (m, k)),
        ]
    return found


@pytest.mark.parametrize(
    "w", _small_matrices(), ids=lambda w: f"{w.shape[0]}x{w.shape[1]}-{w.dtype}"
)
def test_both_ends_are_theorems(w: np.ndarray) -> None:
    lower, upper = dense_norm(w[None])
    assert exactly_bounds(upper, w)
    assert not exactly_exceeds(lower, w)
    top = float(np.abs(w).max())
    if top >= 1e-300:  # subnormal numbers have few digits
        assert upper <= lower * (1 + 1e-12)
        assert not exactly_bounds(upper * (1 - 1e-9), w)


def test_the_oracle_tells_a_rounded_svd_from_a_bound() -> None:
    """Else the tests above would prove nothing: an unrounded norm is often too small."""
    rng = np.random.default_rng(1)
    sampled = [rng.standard_normal((3, 4)) for _ in range(20)]
    verdicts = [exactly_bounds(svd_norm(w), w) for w in sampled]
    assert 2 <= sum(verdicts) <= 18
    assert not any(exactly_bounds(0.999 * dense_norm(w[None]).upper, w) for w in sampled)


@pytest.mark.parametrize(
    "shape", [(1, 40, 40), (1, 90, 300), (1, 300, 90), (1, 260, 280), (7, 20, 9)]
)
@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_tight_to_1e_10(shape: tuple[int, int, int], decay: float) -> None:
    rng = np.random.default_rng(sum(shape))
    w = rng.standard_normal(shape) * np.arange(1, shape[2] + 1) ** -decay
    lower, upper = dense_norm(w.astype(np.float32))
    truth = max(svd_norm(block) for block in w.astype(np.float32))
    assert truth * (1 - 1e-10) <= lower <= truth * (1 + 1e-14)
    assert truth * (1 - 1e-14) <= upper <= truth * (1 + 1e-10)


@pytest.mark.parametrize("shape", [(60, 60), (80, 200), (200, 80), (130, 131)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_in_place_factorisation(
    shape: tuple[int, int], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "_IN_PLACE", 10)
    monkeypatch.setattr(dense, "_ENTRIES", 1000)  # several chunks
    w = np.random.default_rng(2).standard_normal(shape).astype(dtype)
    lower, upper = dense_norm(w[None])
    truth = svd_norm(w)
    assert truth * (1 - 1e-8) <= lower <= truth * (1 + 1e-14)
    assert truth * (1 - 1e-14) <= upper <= truth * (1 + 1e-8)


def test_in_place_factorisation_after_a_wrong_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "_IN_PLACE", 10)
    w = np.random.default_rng(3).standard_normal((40, 50))
    truth = svd_norm(w)
    for wrong in (0.99999, 0.999, 0.3):
        guess = wrong * truth**2
        monkeypatch.setattr(dense, "_lanczos", lambda gram, g=guess: (g, np.ones(len(gram))))
        lower, upper = dense_norm(w[None])
        assert lower <= truth <= upper
    assert upper == pytest.approx(float(np.linalg.norm(w)))  # only the Frobenius norm is left


def test_a_wrong_guess_costs_tightness_but_not_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.random.default_rng(4).standard_normal((9, 12))
    for wrong in (0.0, 0.5, 0.99, 0.999999, 1.5):
        guess = wrong * svd_norm(w) ** 2
        monkeypatch.setattr(dense, "_top", lambda gram, g=guess: (0, g, np.ones(len(gram[0]))))
        lower, upper = dense_norm(w[None])
        assert exactly_bounds(upper, w)
        assert not exactly_exceeds(lower, w)


def test_without_any_guess_the_frobenius_norm_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "_top", lambda gram: (0, 0.0, np.ones(len(gram[0]))))
    w = np.outer(np.arange(1.0, 5.0), np.arange(1.0, 7.0))  # rank one: it is the norm
    upper = dense_norm(w[None]).upper
    assert exactly_bounds(upper, w)
    assert not exactly_bounds(upper * (1 - 1e-9), w)


def test_a_gram_that_is_too_large_is_not_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "_LARGEST", 10)
    w = np.random.default_rng(5).standard_normal((2, 20, 30))
    frobenius = max(float(np.linalg.norm(block)) for block in w)
    lower, upper = dense_norm(w)
    assert lower == 0
    assert frobenius * (1 - 1e-14) <= upper <= frobenius * (1 + 1e-12)


def test_chunks_and_groups_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "_ENTRIES", 64)
    monkeypatch.setattr(dense, "_STACK", 200)
    w = np.random.default_rng(6).standard_normal((11, 8, 13))
    truth = max(svd_norm(block) for block in w)
    lower, upper = dense_norm(w)
    assert truth * (1 - 1e-12) <= lower <= truth * (1 + 1e-14)
    assert truth * (1 - 1e-14) <= upper <= truth * (1 + 1e-12)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 1, 9), (1, 9, 1), (5, 1, 4), (5, 4, 1), (300, 1, 7)]
)
def test_vectors(shape: tuple[int, int, int]) -> None:
    w = np.random.default_rng(7).standard_normal(shape)
    lower, upper = dense_norm(w)
    assert all(exactly_bounds(upper, block) for block in w)
    assert any(not exactly_exceeds(lower, block) for block in w)
    assert upper <= lower * (1 + 1e-13)


def test_a_single_number_keeps_its_value() -> None:
    for x in (0.1, -3.0, 1e-320, 1.7e308, np.float32(1e-45)):
        lower, upper = dense_norm(np.array([[[x]]]))
        assert lower <= abs(float(x)) <= upper
        if abs(x) > 1e-300:
            assert upper <= lower * (1 + 1e-12)


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 3), (2, 3, 0), (0, 0, 0)])
def test_nothing(shape: tuple[int, int, int]) -> None:
    assert dense_norm(np.zeros(shape)) == (0.0, 0.0)


def test_zeros() -> None:
    assert dense_norm(np.zeros((2, 3, 4), np.float32)) == (0.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_norm(bad: float) -> None:
    w = np.ones((2, 3, 4), np.float32)
    w[1, 2, 3] = bad
    assert dense_norm(w) == (0.0, math.inf)


def test_denormals_and_values_near_overflow_of_float32() -> None:
    rng = np.random.default_rng(8)
    for scale in (1e-45, 1e-40, 3e37):
        w = (rng.standard_normal((3, 5)) * scale).astype(np.float32)
        lower, upper = dense_norm(w[None])
        assert exactly_bounds(upper, w)
        assert not exactly_exceeds(lower, w)
        assert upper <= lower * (1 + 1e-12)


def test_overflow_of_float64_is_infinite_not_wrong() -> None:
    lower, upper = dense_norm(np.full((1, 3, 3), 1.5e308))
    assert upper == math.inf
    assert 0 < lower < math.inf


def test_grams_err_by_what_is_added_for_them() -> None:
    """γ_k ‖|W|‖₂² covers the rounding of the Gram, and the size that is used covers ‖|W|‖₂²."""
    rng = np.random.default_rng(9)
    for k in (3, 40, 300):
        w = rng.standard_normal((4, k))
        gram, size = dense._gram(w[None], 0)
        exact = [
            [sum(Fraction(x) * Fraction(y) for x, y in zip(u, v, strict=True)) for v in w]
            for u in w
        ]
        error = [
            [abs(float(Fraction(gram[0, i, j]) - exact[i][j])) for j in range(4)] for i in range(4)
        ]
        assert svd_norm(np.array(error)) <= gamma(k) * size
        assert svd_norm(np.abs(w)) ** 2 <= size * (1 + 1e-13) <= svd_norm(np.abs(w)) ** 2 * 4
        triangle, same = dense._triangle(w, 0)
        assert np.allclose(np.triu(triangle), np.triu(gram[0]), rtol=1e-12)
        assert same == pytest.approx(size, rel=1e-12)


def test_all_that_was_rounded_is_added() -> None:
    upper = dense._upper(1.0, 0.25, 1e14, 100)
    assert upper**2 >= (1.25 + gamma(100) * 1e14) * (1 - 1e-15)
    w, u = np.eye(3), np.array([1.0, 0.0, 0.0])
    assert dense._quotient(w, u, 1.0, 0) == pytest.approx(1.0, rel=1e-14)
    assert dense._quotient(w, u, 1e28, 0) <= 1 - gamma(3) * 1e14 * (1 - 1e-6)


def test_no_block_of_a_stack_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each on its own turn the largest, whatever the search says of them."""
    rng = np.random.default_rng(10)
    for largest in range(3):
        w = np.stack([np.outer(rng.random(4), rng.random(6)) for _ in range(3)])
        w /= np.linalg.norm(w, axis=(1, 2))[:, None, None]  # rank one: all of the trace is the top
        w[largest] *= 1.2
        truth = svd_norm(w[largest])
        assert dense._gram(w, 0)[1] >= truth**2 * (1 - 1e-13)
        assert dense._frobenius(w, 0) >= truth * (1 - 1e-13)
        for guess in (1.0, 0.0):
            monkeypatch.setattr(dense, "_top", lambda g, x=guess: (0, x, np.ones(4)))
            assert dense_norm(w).upper >= truth * (1 - 1e-13)
            monkeypatch.undo()


def test_vectors_other_than_the_longest_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding may have chosen the wrong one."""
    w = np.random.default_rng(11).standard_normal((2, 1, 9))
    lengths = np.linalg.norm(w, axis=(1, 2))
    monkeypatch.setattr(dense, "euclid", lambda x: Enclosure(0.0, 0.0))
    assert dense_norm(w).upper >= lengths.min() * (1 - 1e-15)
    monkeypatch.setattr(dense, "gamma", lambda k: k * 1e-6)
    assert dense_norm(w).upper >= lengths.min() * math.sqrt(1 + 9e-6) * (1 - 1e-14)
