"""Bounds that may fail: how often they do, on maps whose norm is known."""

import math

import numpy as np
import pytest

from onnxlip.errors import UsageError
from onnxlip.linear import Matrix, Monomial, Product, Sum, Transposed
from onnxlip.norms import krylov, probabilistic, workspace
from onnxlip.norms.brackets import probabilistic_bracket
from onnxlip.norms.krylov import is_outside, start_mass
from onnxlip.norms.probabilistic import gaussian, krylov_upper, probabilistic_upper, shared
from onnxlip.norms.workspace import Workspace
from onnxlip.registry import built_in

from .oracle import dense_convolution, random_convolution, svd_norm

LOWERINGS = built_in().lowerings
TRIALS = 1500


def _work(seed: int = 0) -> Workspace:
    return Workspace(LOWERINGS, seed=seed)


def _failures(delta: float, monkeypatch: pytest.MonkeyPatch) -> float:
    """Three eigenvalues and two products: polynomials of degree 2 take the two lower ones away,
    so that the Christoffel function is the start's mass itself, and the bound has no slack."""
    monkeypatch.setattr(probabilistic, "_PRODUCTS", 2)
    rng = np.random.default_rng(int(1000 * delta))
    failed = 0
    for seed in range(TRIALS):
        values = np.array([1.0, *rng.uniform(0.0, 0.9, 2)])
        failed += krylov_upper(lambda x, m=values: m * x, gaussian(3, seed), delta, 0.0).upper < 1
    return failed / TRIALS


def _exact(delta: float) -> float:
    """P(|N| < δ√(π/2)), a little below δ."""
    return math.erf(delta * math.sqrt(math.pi) / 2)


@pytest.mark.parametrize("delta", [0.05, 0.2])
def test_coverage_where_the_bound_is_sharp(delta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    error = 3.5 * math.sqrt(delta * (1 - delta) / TRIALS)
    failures = _failures(delta, monkeypatch)
    assert failures <= delta + error
    assert abs(failures - _exact(delta)) <= error


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_start_mass_would_show(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probabilistic, "start_mass", lambda g, d: factor * start_mass(g, d))
    error = 3.5 * math.sqrt(0.2 * 0.8 / TRIALS)
    assert abs(_failures(0.2, monkeypatch) - _exact(0.2)) > error


@pytest.mark.parametrize("planted", ["one polynomial too many", "rho for rho squared"])
def test_a_wrong_edge_would_show(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(alpha: list[float], beta: list[float], x: float, limit: float) -> bool:
        if planted == "rho for rho squared":
            return is_outside(alpha, beta, x, math.sqrt(limit))
        return is_outside([*alpha, alpha[-1]], [*beta, beta[-1] / 10], x, limit)

    monkeypatch.setattr(probabilistic, "is_outside", wrong)
    error = 3.5 * math.sqrt(0.2 * 0.8 / TRIALS)
    assert _failures(0.2, monkeypatch) > 0.2 + error


@pytest.mark.parametrize("delta", [0.05, 0.2])
def test_coverage_on_random_maps(delta: float) -> None:
    rng = np.random.default_rng(1)
    failed, trials = 0, 300
    for seed in range(trials):
        m, n = (int(k) for k in rng.integers(2, 40, 2))
        w = rng.standard_normal((m, n)) * np.arange(1, n + 1.0) ** -rng.uniform(0, 2)
        tolerance = float(rng.choice([1.0, 0.1, 1e-3]))
        found = krylov_upper(lambda x, w=w: w.T @ (w @ x), gaussian(n, seed), delta, tolerance)
        failed += found.upper < svd_norm(w) * (1 - 1e-12)
    assert failed / trials <= delta + 3.5 * math.sqrt(delta * (1 - delta) / trials)


def test_the_start_is_standard_normal() -> None:
    sample = np.concatenate([gaussian(100, seed) for seed in range(200)])
    assert abs(sample.mean()) < 4 / math.sqrt(sample.size)
    assert abs(sample.var() - 1) < 4 * math.sqrt(2 / sample.size)
    inner = float((np.abs(sample) < 0.1).mean())
    assert inner == pytest.approx(math.erf(0.1 / math.sqrt(2)), abs=0.01)
    assert np.array_equal(gaussian(5, 3), gaussian(5, 3))
    assert not np.array_equal(gaussian(5, 3), gaussian(5, 4))


def test_start_mass_is_that_of_the_normal_distribution() -> None:
    for delta in (1e-12, 1e-3, 0.05, 0.2, 0.9):
        t = 3.0 / math.sqrt(start_mass(3.0, delta))
        assert math.erf(t / math.sqrt(2)) <= delta * (1 + 1e-12)
        assert t * math.sqrt(2 / math.pi) == pytest.approx(delta, rel=1e-12)


def test_the_polynomials_are_orthonormal_for_the_starts_masses() -> None:
    """Σφ_j² of all degrees is one over the mass at an eigenvalue."""
    rng = np.random.default_rng(2)
    values, q = np.sort(rng.uniform(0, 1, 4)), rng.standard_normal(4)
    q /= np.linalg.norm(q)
    alpha, beta, basis = [], [], [q]
    for _ in range(3):
        w = values * basis[-1]
        alpha.append(float(basis[-1] @ w))
        w = w - sum((b @ w) * b for b in basis)
        beta.append(float(np.linalg.norm(w)))
        basis.append(w / beta[-1])
    for x, mass in zip(values, q**2, strict=True):
        assert not is_outside(alpha, beta, x, (1 + 1e-6) / mass)
        assert is_outside(alpha, beta, x, (1 - 1e-6) / mass)


def test_more_products_and_more_doubt_give_sharper_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.random.default_rng(3).standard_normal((300, 400))
    truth, start = svd_norm(w), gaussian(400, 0)
    previous = math.inf
    for products in (4, 10, 30, 60, 90):
        monkeypatch.setattr(probabilistic, "_PRODUCTS", products)
        found = krylov_upper(lambda x: w.T @ (w @ x), start, 1e-6, 0.0)
        assert found.products == products
        assert truth <= found.upper <= previous
        previous = found.upper
    assert previous <= 1.001 * truth
    monkeypatch.setattr(probabilistic, "_PRODUCTS", 20)
    bounds = [krylov_upper(lambda x: w.T @ (w @ x), start, d, 0.0).upper for d in (0.2, 1e-3, 1e-9)]
    assert bounds == sorted(bounds)


def test_any_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """At δ = 1e-9 no failure is to be expected in any number of tests."""
    rng = np.random.default_rng(4)
    for seed in range(12):
        conv = random_convolution(rng, int(rng.integers(1, 3)), 8)
        truth = svd_norm(dense_convolution(conv))
        other = Matrix(rng.standard_normal((1, 5, conv.rows)))
        both = svd_norm(other.blocks[0] @ dense_convolution(conv))
        for a, norm in (
            (conv, truth),
            (Transposed(conv), truth),
            (Sum((conv, conv)), 2 * truth),
            (Product((other, conv)), both),
        ):
            found = probabilistic_upper(a, _work(seed), 1e-9)
            assert norm * (1 - 1e-13) <= found.upper <= norm * 1.0011 + 1e-6 * a.cap()
    tokens = Matrix(rng.standard_normal((1, 20, 30)), outer=4, inner=3)
    found = probabilistic_upper(tokens, _work(), 1e-9)
    assert found.upper == pytest.approx(svd_norm(tokens.blocks[0]), rel=1.1e-3)
    uncertain = Matrix(tokens.blocks, relative=2.0**40)
    assert probabilistic_upper(uncertain, _work(), 1e-9).upper > found.upper * (1 + 2.0**-13)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-30, 1e200, 1e300])
def test_numbers_of_any_size(scale: float) -> None:
    w = np.random.default_rng(5).integers(-3, 4, (6, 7)).astype(np.float64)
    found = probabilistic_upper(Matrix(w[None] * scale), _work(), 1e-6).upper
    assert found / scale >= svd_norm(w) * (1 - 1e-12)
    assert found / scale <= svd_norm(w) * (1.001 if scale > 1e-290 else 10)


def test_degenerate_maps() -> None:
    assert probabilistic_upper(Matrix(np.zeros((1, 0, 4))), _work(), 0.1) == (0.0, 0)
    assert probabilistic_upper(Matrix(np.zeros((1, 3, 4))), _work(), 0.1).upper == 0
    one = probabilistic_upper(Matrix(np.full((1, 1, 1), -3.0)), _work(), 0.1)
    assert 3 <= one.upper <= 3 * (1 + 1e-12)
    identity = probabilistic_upper(Monomial(50), _work(), 0.1)
    assert 1 <= identity.upper <= 1 + 1e-12


def test_the_rounding_margin_covers_planted_errors() -> None:
    """Products that are off by up to e move the bound by at least as much as the norm."""
    rng = np.random.default_rng(6)
    w = rng.standard_normal((40, 30))
    noise = rng.standard_normal((30, 30))
    noise = noise @ noise.T
    noise *= 1e-4 / svd_norm(noise)
    gram = w.T @ w
    found = krylov_upper(lambda x: (gram - noise) @ x, gaussian(30, 0), 1e-6, 0.0, error=1e-4)
    assert found.upper >= svd_norm(w)
    exact = krylov_upper(lambda x: gram @ x, gaussian(30, 0), 1e-6, 0.0)
    assert found.upper**2 >= exact.upper**2 + 1e-4


def test_what_was_taken_off_beside_the_tridiagonal_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Products that are not symmetric leave more than α and β: all of it goes into the margin."""
    rng = np.random.default_rng(9)
    w, noise = rng.standard_normal((40, 30)), rng.standard_normal((30, 30))
    matrix = w.T @ w + 1e-3 * (noise - noise.T)
    seen: list[tuple[np.ndarray, list[float], list[float], float]] = []
    real = probabilistic._margin

    def spied(
        basis: np.ndarray, alpha: list[float], beta: list[float], taken: float, error: float
    ) -> float:
        seen.append((basis.copy(), list(alpha), list(beta), taken))
        return real(basis, alpha, beta, taken, error)

    monkeypatch.setattr(probabilistic, "_margin", spied)
    monkeypatch.setattr(probabilistic, "_PRODUCTS", 12)
    krylov_upper(lambda x: matrix @ x, gaussian(30, 0), 1e-6, 0.0)
    for basis, alpha, beta, taken in seen:
        off = np.diag(beta[: len(alpha) - 1], 1)
        beside = np.triu(basis @ matrix @ basis.T - np.diag(alpha) - off, 1)
        assert taken >= np.linalg.norm(beside) * (1 - 1e-9) > 1e-4
        assert real(basis, alpha, beta, taken, 0.0) >= 3 * taken


def test_products_err_by_two_terms_of_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of A and Aᵀ errs by γ_terms cap, so AᵀA by twice that times cap."""
    unit, seen = 1e-6, []
    real = probabilistic.krylov_upper

    def spied(*a: object) -> probabilistic.Probabilistic:
        seen.append(a[-1])
        return real(*a)  # type: ignore[arg-type]

    monkeypatch.setattr(probabilistic, "gamma", lambda k: k * unit)
    monkeypatch.setattr(probabilistic, "krylov_upper", spied)
    for w in (np.eye(3), np.random.default_rng(10).standard_normal((20, 30))):
        a = Matrix(w[None])
        probabilistic_upper(a, _work(), 1e-6)
        scale = 2.0 ** (math.frexp(a.cap())[1] - 1)
        assert seen[-1] >= 2 * a.terms * unit * (a.cap() / scale) ** 2


def test_little_memory_and_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.random.default_rng(7).standard_normal((1, 200, 300))
    monkeypatch.setattr(probabilistic, "_MEMORY", 8 * 300 * 7)
    found = probabilistic_upper(Matrix(w), _work(), 1e-3)
    assert found.products == 6
    assert svd_norm(w[0]) <= found.upper <= 2 * svd_norm(w[0])
    monkeypatch.setattr(workspace, "_MEMORY", 1)
    assert probabilistic_upper(Matrix(w), _work(), 1e-3).upper == math.inf


@pytest.mark.parametrize("delta", [0.0, -1.0, 1.0, 1e-13, math.nan])
def test_confidences_that_are_not_offered(delta: float) -> None:
    with pytest.raises(UsageError, match="probability of failure"):
        probabilistic_upper(Matrix(np.ones((1, 2, 2))), _work(), delta)


def test_the_bracket_is_a_kind_of_its_own() -> None:
    conv = random_convolution(np.random.default_rng(8), 2, 9)
    truth = svd_norm(dense_convolution(conv))
    first, second = (probabilistic_bracket(conv, LOWERINGS, 1e-9, seed=5) for _ in range(2))
    assert first == second
    assert first.lower <= truth * (1 + 1e-14)
    assert truth <= first.upper <= 1.0011 * truth
    assert first.delta == 1e-9
    assert not hasattr(first, "upper_method")  # nothing that a report of theorems would print


def test_the_union_bound() -> None:
    assert 54 * shared(1e-6, 54) <= 1e-6
    assert shared(0.2, 1) == pytest.approx(0.2)
    assert krylov.start_mass(1.0, 0.0) == math.inf
