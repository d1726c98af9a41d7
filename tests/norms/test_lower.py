"""Lower ends: never above the norm, and close to it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from onnxlip.linear import Convolution, LinearMap, Matrix, Monomial, Product, Sum, Transposed
from onnxlip.norms import lower, workspace
from onnxlip.norms.krylov import lanczos, ritz, ritz_values
from onnxlip.norms.lifting import lifted
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
def test_lanczos_on_any_geometry(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    monkeypatch.setattr(lower, "_PIXELS", 50)
    rng = np.random.default_rng(d)
    ratios = []
    for _ in range(12):
        conv = random_convolution(rng, d, {1: 30, 2: 9, 3: 4}[d])
        truth = svd_norm(dense_convolution(conv))
        found = spectral_lower(conv, _work()).value
        assert found <= truth * (1 + 1e-14), conv
        ratios.append(found / truth if truth and conv.groups == 1 else 1.0)
        assert spectral_lower(Transposed(conv), _work()).value == found
    assert min(ratios) > 0.99
    assert np.median(ratios) > 1 - 1e-4


@pytest.mark.parametrize("trained", [False, True])
def test_lanczos_gets_near(trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat spectra, those of random kernels, are the hard ones."""
    monkeypatch.setattr(workspace, "_SHORT", 0)
    losses = []
    for seed, conv in enumerate(
        (
            *(_conv((4, 3, 3, 3), 16, seed=s) for s in range(5)),
            *(_conv((6, 2, 3), 200, groups=2, seed=s) for s in range(3)),
            *(_conv((3, 3, 5, 5), 14, seed=s) for s in range(3)),
            replace(_conv((8, 2, 4, 4), 24), strides=(2, 2), out_spatial=(12, 12)),
        )
    ):
        if trained:  # a low-pass bump on top
            smooth = np.full(conv.kernel.shape, 0.8) * np.random.default_rng(seed).random()
            conv = replace(conv, kernel=(conv.kernel + smooth).astype(np.float32))
        truth = svd_norm(dense_convolution(conv))
        found = spectral_lower(conv, _work())
        assert found.method == "Lanczos"
        losses.append(1 - found.value / truth)
    assert min(losses) >= -1e-14
    assert max(losses) < 1e-3
    assert np.median(losses) < 1e-4


def test_a_crop_lifted_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    monkeypatch.setattr(lower, "_PIXELS", 144)
    conv = _conv((2, 2, 3, 3), 26)
    strided = replace(_conv((4, 2, 3, 3), 33), strides=(2, 2), out_spatial=(17, 17))
    for a in (conv, strided):
        crop, truth = lower._cropped(a), svd_norm(dense_convolution(a))
        assert crop.out_spatial == ((13, 13) if a is conv else (9, 9))
        v = np.linalg.svd(dense_convolution(crop))[2][:2]
        start = lifted(v, crop, a)
        cropped, whole = (quotient(m, x, _work()) for m, x in ((crop, v[0]), (a, start)))
        assert cropped < 0.998 * truth
        assert 0.99 * truth <= whole <= truth
        found = spectral_lower(a, _work()).value
        assert 0.999 * truth <= found <= truth * (1 + 1e-14)


def test_what_cannot_be_lifted_leaves_the_crops_quotient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    monkeypatch.setattr(lower, "lifted", lambda *_: np.zeros(1))
    conv = _conv((3, 3, 3, 3), 48)
    crop = lower._cropped(conv)
    assert crop.rows < conv.rows / 2
    vector = lower.search(crop, _work(), np.random.default_rng(0), leading=4)[0]
    assert spectral_lower(conv, _work()).value == quotient(crop, vector, _work())


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
    assert 0.999 * truth <= found <= truth * (1 + 1e-12)


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
        assert rough.method == "Lanczos"
        assert 0.999 * svd_norm(dense) <= rough.value <= svd_norm(dense) * (1 + 1e-14)


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


def _search(
    values: np.ndarray, b: int = 1, seed: int = 0, **options: float
) -> tuple[float, np.ndarray, int]:
    start = np.random.default_rng(seed).standard_normal((b, values.size)).astype(np.float32)
    weights = values.astype(np.float32)
    options = {"doubt": 0.01} | options
    found = lanczos(lambda x: x * weights, start, 3e-4, **options)  # type: ignore[arg-type]
    return found.value / values.max(), found.vectors[0], found.products


@pytest.mark.parametrize("b", [1, 4])
@pytest.mark.parametrize("n", [1, 3, 40, 2000, 40000])
def test_search_on_hard_spectra(n: int, b: int) -> None:
    """Flat; two close ones at the top; equal ones; none. Short and long vectors."""
    flat = np.linspace(0, 1, n) ** 2 if n > 1 else np.ones(1)
    pair = np.append(np.linspace(0, 0.1, n - 1), 1.0) if n > 1 else np.ones(1)
    if n > 3:
        pair[-2] = 0.99
    for values in (flat, pair, np.ones(n)):
        for seed in range(3):
            ratio, vector, _ = _search(values, min(b, n), seed)
            assert math.sqrt(ratio) == pytest.approx(1, abs=1e-3)
            assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert lanczos(lambda x: 0 * x, np.ones((min(b, n), n)), 1e-3).value == 0
    assert lanczos(lambda x: x, np.zeros((min(b, n), n)), 1e-3).value == 0


def test_search_within_little_memory() -> None:
    values = 1 + np.random.default_rng(9).standard_normal(40000).clip(-1, 1)
    free, _, usual = _search(values)
    for b in (1, 4):
        tight, _, products = _search(values, b, memory=20 * 4 * values.size)
        assert math.sqrt(tight) == pytest.approx(1, abs=1e-3)
        assert products <= 4 * usual
    assert free <= 1 + 1e-5


def test_doubt_finds_what_hides_behind_a_plateau() -> None:
    """One top eigenvalue that the start hardly knows, just above a well converged one."""
    n = 3000
    values = np.append(np.linspace(0, 0.5, n - 2), [0.98, 1.0])
    start = np.random.default_rng(10).standard_normal((1, n))
    start[0, -2:] = [3.0, 0.01]
    hasty = lanczos(lambda x: x * values, start, 3e-4)
    patient = lanczos(lambda x: x * values, start, 3e-4, doubt=0.01)
    assert hasty.value < 0.985
    assert patient.value > 0.999


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_large_matrices_are_searched_not_factored(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One vector at a time on the CPU, a block on CUDA."""
    monkeypatch.setattr(lower, "resolve", lambda _: provider)
    rng = np.random.default_rng(11)
    u, v = np.linalg.qr(rng.standard_normal((600, 600)))[0], rng.standard_normal((600, 900))
    flat = rng.standard_normal((600, 900)).astype(np.float32)
    steep = (u * np.arange(1, 601.0) ** -0.7) @ np.linalg.qr(v.T)[0].T
    for w in (flat, steep):
        truth = svd_norm(w)
        for a in (Matrix(w[None]), Matrix(w.T[None], outer=3), Transposed(Matrix(w[None]))):
            found = spectral_lower(a, _work())
            assert found.method == "Lanczos"
            assert (1 - 1e-3) * truth <= found.value <= truth * (1 + 1e-14)
        known = _work()
        a = Matrix(w[None])
        known.matrix(a)  # the proof from above knows it to the last digits
        assert spectral_lower(a, known).value >= truth * (1 - 1e-12)
