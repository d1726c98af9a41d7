"""Lower ends: never above the norm, and close to it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from onnxlip.linear import Convolution, LinearMap, Matrix, Monomial, Product, Sum, Transposed
from onnxlip.norms import lower, workspace
from onnxlip.norms.krylov import ritz, ritz_values
from onnxlip.norms.lower import power_method, quotient, spectral_lower
from onnxlip.norms.workspace import Workspace
from onnxlip.registry import built_in

from .oracle import dense_convolution, exactly_exceeds, random_convolution, svd_norm


def _work(seed: int = 0) -> Workspace:
    return Workspace(built_in().lowerings, seed=seed)


def _conv(shape: tuple[int, ...], side: int, groups: int = 1, seed: int = 0) -> Convolution:
    kernel = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    d = len(shape) - 2
    pad = tuple((k - 1) // 2 for k in shape[2:])
    return Convolution(kernel, (side,) * d, (side,) * d, (1,) * d, (1,) * d, pad, groups)


def test_index_maps_are_exact() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        n, m = (int(k) for k in rng.integers(1, 9, 2))
        index = rng.integers(-1, n, m)
        for weight in (None, rng.standard_normal(m), np.asarray(-0.1)):
            a = Monomial(n, index, weight)
            found = spectral_lower(a, _work()).value
            assert found <= a.norm(2) <= found * (1 + 1e-13)
    assert (
        spectral_lower(Monomial(4, None, np.array([1e200, 1.0, 0.0, 1e-320])), _work()).value
        > 9e199
    )
    assert spectral_lower(Monomial(2, np.array([-1, -1])), _work()).value == 0


def test_a_quotient_of_any_vector_is_a_theorem() -> None:
    """Exact singular vectors are where a rounding in the wrong direction would show."""
    rng = np.random.default_rng(1)
    for _ in range(40):
        m, k = (int(n) for n in rng.integers(1, 7, 2))
        w = rng.standard_normal((m, k))
        a = Matrix(w[None])
        v = np.linalg.svd(w)[2][0]
        found = quotient(a, v * 10.0 ** rng.integers(-200, 200), _work())
        assert not exactly_exceeds(found, w)
        assert found >= svd_norm(w) * (1 - 1e-13)
        assert quotient(a, rng.standard_normal(k), _work()) <= found * (1 + 1e-13)


def test_quotients_of_useless_vectors() -> None:
    a = Matrix(np.ones((1, 3, 4)))
    for v in (np.zeros(4), np.full(4, np.nan), np.full(4, np.inf), np.array([1.0, -1, 1, -1])):
        assert quotient(a, v, _work()) <= 1e-15


def test_errors_of_coefficients_are_taken_off() -> None:
    ulps = 2.0**40
    w = np.abs(np.random.default_rng(2).standard_normal((1, 4, 5)))
    for a in (Matrix(w, relative=ulps), Product((Matrix(w, relative=ulps), Monomial(5)))):
        v = np.linalg.svd(w[0])[2][0]
        truth = svd_norm(w[0]) * (1 - ulps * 2.0**-53)
        assert truth * (1 - 1e-3) <= quotient(a, v, _work()) <= truth * (1 + 1e-14)
        assert truth * (1 - 1e-3) <= spectral_lower(a, _work()).value <= truth * (1 + 1e-14)
    conv = replace(_conv((2, 2, 3), 30), relative=ulps)
    assert spectral_lower(conv, _work()).value < spectral_lower(_conv((2, 2, 3), 30), _work()).value


@pytest.mark.parametrize("d", [1, 2, 3])
def test_power_method_on_any_geometry(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    monkeypatch.setattr(lower, "_PIXELS", 50)
    rng = np.random.default_rng(d)
    ratios = []
    for _ in range(12):
        conv = random_convolution(rng, d, {1: 30, 2: 9, 3: 4}[d])
        truth = svd_norm(dense_convolution(conv))
        found = spectral_lower(conv, _work()).value
        assert found <= truth * (1 + 1e-14), conv
        ratios.append(found / truth if truth else 1.0)
        assert spectral_lower(Transposed(conv), _work()).value == found
    assert np.median(ratios) > 0.9


def test_power_method_gets_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    for conv in (_conv((4, 3, 3, 3), 16), _conv((6, 2, 3), 40, groups=2)):
        truth = svd_norm(dense_convolution(conv))
        found = spectral_lower(conv, _work())
        assert found.method == "power method"
        assert truth * 0.99 <= found.value <= truth


def test_a_crop_is_a_lower_bound_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = _conv((3, 3, 3, 3), 24)
    truth = svd_norm(dense_convolution(conv))
    monkeypatch.setattr(workspace, "_SHORT", 0)
    previous = 0.0
    for pixels in (1, 9, 64, 144, 576):
        monkeypatch.setattr(lower, "_PIXELS", pixels)
        found = spectral_lower(conv, _work()).value
        assert previous * 0.98 <= found <= truth * (1 + 1e-14)
        previous = found
    assert previous > 0.98 * truth


def test_separate_windows_are_exact() -> None:
    rng = np.random.default_rng(3)
    conv = Convolution(
        rng.standard_normal((40, 30, 4, 4)), (30, 30), (7, 8), (4, 4), (1, 1), (1, 1)
    )
    truth = svd_norm(conv.kernel.reshape(40, -1))
    found = spectral_lower(conv, _work())
    assert found.method == "quotient at a singular vector"
    assert truth * (1 - 1e-12) <= found.value <= truth


def test_groups_and_batches_are_searched_in_the_largest_group() -> None:
    conv = _conv((64, 1, 3, 3), 24, groups=64)
    conv.kernel[17] *= 5
    truth = svd_norm(dense_convolution(_alone(conv, 17)))
    found = spectral_lower(replace(conv, batch=4), _work())
    assert truth * 0.999 <= found.value <= truth * (1 + 1e-14)


def _alone(conv: Convolution, j: int) -> Convolution:
    return replace(conv, kernel=conv.kernel[j : j + 1], groups=1)


@pytest.mark.parametrize("scale", [1e-290, 1e-30, 1e-12, 1e12, 1e25, 3e37])
def test_numbers_of_any_size(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where float32 cannot hold AᵀA the search runs in float64."""
    monkeypatch.setattr(workspace, "_SHORT", 0)
    conv = _conv((3, 3, 3), 40)
    scaled = replace(conv, kernel=conv.kernel.astype(np.float64) * scale)
    found = spectral_lower(scaled, _work()).value
    truth = svd_norm(dense_convolution(conv)) * scale
    assert 0.97 * truth <= found <= truth * (1 + 1e-12)


def test_zero_maps_have_zero_lower_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    conv = replace(_conv((2, 2, 3), 9), kernel=np.zeros((2, 2, 3)))
    assert spectral_lower(conv, _work()).value == 0
    assert spectral_lower(Sum((conv, conv)), _work()).value == 0
    assert spectral_lower(Matrix(np.zeros((1, 0, 4))), _work()).value == 0


def test_composed_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    conv = _conv((3, 2, 3), 12)
    pool = Matrix(rng.standard_normal((1, 5, 36)))
    residual = Sum((Matrix(rng.standard_normal((1, 36, 24))), conv))
    maps: list[LinearMap] = [Product((pool, conv)), residual, Product((pool, residual))]
    for a in maps:
        dense = _work().double(a).matvec(np.eye(a.columns)).T
        sharp = spectral_lower(a, _work()).value
        assert svd_norm(dense) * (1 - 1e-11) <= sharp <= svd_norm(dense) * (1 + 1e-14)
    monkeypatch.setattr(workspace, "_SHORT", 0)
    for a in maps:
        dense = _work().double(a).matvec(np.eye(a.columns)).T
        rough = spectral_lower(a, _work())
        assert rough.method == "power method"
        assert 0.98 * svd_norm(dense) <= rough.value <= svd_norm(dense) * (1 + 1e-14)


def test_beyond_memory_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    monkeypatch.setattr(workspace, "_MEMORY", 1)
    assert spectral_lower(_conv((2, 2, 3), 9), _work()).value == 0


def test_the_same_seed_gives_the_same_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    conv = _conv((3, 3, 3, 3), 12)
    figures = [spectral_lower(conv, _work(seed)).value for seed in (0, 0, 1)]
    assert figures[0] == figures[1] != figures[2]


def test_the_power_method_is_that_of_the_paper() -> None:
    """v ← AᵀAv / ‖AᵀAv‖ from a random start: after k steps it lies in the span of (AᵀA)^k v₀."""
    w = np.diag([3.0, 1.0, 0.1])
    v = power_method(Matrix(w[None]), _work(), np.random.default_rng(0))
    assert abs(v[0]) > 1 - 1e-5
    assert np.linalg.norm(v) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("is_complex", [False, True])
def test_lanczos(is_complex: bool) -> None:
    rng = np.random.default_rng(5)
    for n in (1, 2, 5, 40, 120):
        w = rng.standard_normal((n, n + 3)) + (
            1j * rng.standard_normal((n, n + 3)) if is_complex else 0
        )
        gram = w @ w.conj().T
        truth = float(np.linalg.eigvalsh(gram)[-1])
        start = rng.standard_normal(n) + (1j * rng.standard_normal(n) if is_complex else 0)
        value, vector = ritz(lambda x, g=gram: g @ x, start, 200, 1e-12)
        assert truth * (1 - 1e-10) <= value <= truth * (1 + 1e-12)
        assert np.linalg.norm(gram @ vector - value * vector) <= 1e-4 * truth
        rough = ritz_values(np.stack([gram, 2 * gram]), 14, rng)
        assert 0.8 * truth <= rough[0] <= truth * (1 + 1e-12)
        assert rough[1] == pytest.approx(2 * rough[0], rel=1e-9)


def test_lanczos_of_nothing() -> None:
    assert ritz(lambda x: 0 * x, np.ones(5), 10, 1e-9)[0] == 0
    assert ritz(lambda x: x, np.zeros(5), 10, 1e-9)[0] == 0
    assert math.isclose(ritz(lambda x: x, np.ones(5), 10, 1e-9)[0], 1)
