"""Brackets as the engine asks for them."""

import math

import numpy as np
import pytest

from onnxlip.certificate import Bracket
from onnxlip.errors import ModelError, RuleError, UsageError
from onnxlip.linear import (
    Convolution,
    LinearMap,
    Matrix,
    Monomial,
    Product,
    Sum,
    Transposed,
    identity,
    selection,
)
from onnxlip.norms import bracket, joint, workspace
from onnxlip.norms.brackets import probabilistic_bracket
from onnxlip.operators import Operator
from onnxlip.registry import built_in

from .oracle import dense_convolution, random_convolution, svd_norm

LOWERINGS = built_in().lowerings
NORMS = (1.0, 2.0, math.inf)


def _dense(a: LinearMap) -> np.ndarray:
    return Operator(a, LOWERINGS, np.float64).matvec(np.eye(a.columns)).T


def _truth(dense: np.ndarray, p: float) -> float:
    if p == 2:
        return svd_norm(dense)
    return float(np.abs(dense).sum(axis=1 if p == math.inf else 0).max(initial=0))


def _holds(found: Bracket, truth: float) -> None:
    assert found.lower <= truth * (1 + 1e-13)
    assert truth * (1 - 1e-13) <= found.upper
    assert found.lower <= found.upper


def _random_map(rng: np.random.Generator, depth: int, n: int) -> LinearMap:
    """A random composition with n columns."""
    kind = int(rng.integers(0, 3)) if depth else 3
    if kind == 0:
        inner = _random_map(rng, depth - 1, n)
        return Product((_random_map(rng, depth - 1, inner.rows), inner))
    if kind == 1:
        parts = [_random_map(rng, depth - 1, n) for _ in range(int(rng.integers(2, 4)))]
        total, begin, placed = sum(p.rows for p in parts), 0, []
        apart = rng.random() < 0.6
        for part in parts:
            index = np.full(total, -1)
            index[begin : begin + part.rows] = np.arange(part.rows)
            begin += part.rows if apart else 0
            placed.append(Product((Monomial(part.rows, index), part)))
        return Sum(tuple(placed))
    m = int(rng.integers(1, 9))
    leaves: list[LinearMap] = [
        Matrix(rng.standard_normal((1, m, n)).astype(np.float32)),
        Monomial(n, rng.integers(-1, n, m), rng.standard_normal(m)),
        selection(rng.permutation(n), n),
        Transposed(Monomial(m, rng.integers(-1, m, n))),
        Convolution(rng.standard_normal((2, 1, 3)), (n,), (n,), (1,), (1,), (1,)),
    ]
    return leaves[int(rng.integers(0, len(leaves)))]


@pytest.mark.parametrize("seed", range(4))
def test_random_compositions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(6):
        a = _random_map(rng, int(rng.integers(0, 4)), int(rng.integers(2, 10)))
        for p in NORMS:
            truth = _truth(_dense(a), p)
            found = bracket(a, LOWERINGS, p)
            _holds(found, truth)
            if truth:
                assert found.upper <= truth * (1 + 1e-9)
                assert found.lower >= truth * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_random_compositions_too_large_to_write_out(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    rng = np.random.default_rng([seed, 1])
    for _ in range(6):
        a = _random_map(rng, int(rng.integers(0, 4)), int(rng.integers(2, 10)))
        for p in NORMS:
            _holds(bracket(a, LOWERINGS, p), _truth(_dense(a), p))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_small_convolutions_are_exact(d: int) -> None:
    rng = np.random.default_rng([d, 2])
    for _ in range(8):
        conv = random_convolution(rng, d, {1: 15, 2: 7, 3: 3}[d], channels=3)
        for p in NORMS:
            truth, found = _truth(dense_convolution(conv), p), bracket(conv, LOWERINGS, p)
            _holds(found, truth)
            assert found.upper - found.lower <= 1e-9 * truth + 1e-13 * conv.cap()


@pytest.mark.parametrize("written", [True, False])
def test_joint_blocks(written: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not written:
        monkeypatch.setattr(workspace, "_SHORT", 0)
    rng = np.random.default_rng(3)
    for trial in range(12):
        maps: list[LinearMap] = []
        for _ in range(int(rng.integers(2, 5))):
            inner = _random_map(rng, int(rng.integers(0, 2)), int(rng.integers(1, 7)))
            index = np.full(20, -1)
            begin = int(rng.integers(0, 8))
            index[begin : begin + min(12, inner.rows)] = np.arange(min(12, inner.rows))
            maps.append(Product((Monomial(inner.rows, index), inner)))
        dense = np.hstack([_dense(a) for a in maps])
        for p in NORMS:
            each = [bracket(a, LOWERINGS, p) for a in maps]
            found = joint(maps, each, LOWERINGS, p)
            _holds(found, _truth(dense, p))
            if written and p != 1:
                assert found.upper <= _truth(dense, p) * (1 + 1e-9), trial
            sizes = [b.upper for b in each]
            sums = {1.0: max(sizes), 2.0: math.hypot(*sizes), math.inf: sum(sizes)}
            assert found.upper <= sums[p] * (1 + 1e-13)


def test_joint_blocks_known_in_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    same = [identity(6), identity(6), identity(6)]
    apart = [
        Monomial(3, np.array([0, 1, 2, -1, -1, -1])),
        Monomial(3, np.array([-1, -1, -1, 0, 1, 2]), np.asarray(2.0)),
    ]
    for maps, p, truth in (
        (same, 1.0, 1.0),
        (same, 2.0, math.sqrt(3)),
        (same, math.inf, 3.0),
        (apart, 1.0, 2.0),
        (apart, 2.0, 2.0),
        (apart, math.inf, 2.0),
    ):
        found = joint(maps, [bracket(a, LOWERINGS, p) for a in maps], LOWERINGS, p)
        assert truth * (1 - 1e-15) <= found.upper <= truth * (1 + 5e-4)


def test_a_branch_beside_a_skip_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    rng = np.random.default_rng(6)
    skips = [identity(5), Monomial(7, np.array([6, 0, 1, 2, 3]), np.asarray(-2.0))]
    maps: list[LinearMap] = [skips[0], Matrix(rng.standard_normal((1, 5, 9))), skips[1]]
    for chosen in (maps, skips, [maps[1], maps[1], skips[0]]):
        found = joint(chosen, [bracket(a, LOWERINGS, 2.0) for a in chosen], LOWERINGS, 2.0)
        truth = svd_norm(np.hstack([_dense(a) for a in chosen]))
        _holds(found, truth)
        if maps[1] not in chosen[:1]:
            assert found.upper <= found.lower * (1 + 1e-9)


def test_one_block_is_its_own_joint() -> None:
    a = Matrix(np.ones((1, 2, 3)))
    each = [bracket(a, LOWERINGS, 2.0)]
    assert joint([a], each, LOWERINGS, 2.0) is each[0]


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize(
    "a",
    [
        Matrix(np.zeros((1, 3, 4))),
        Matrix(np.zeros((1, 0, 4))),
        Matrix(np.zeros((0, 3, 4))),
        Monomial(3, np.array([-1, -1])),
        Monomial(3, np.zeros(0, np.int64)),
        identity(0),
        Convolution(np.zeros((2, 2, 3)), (5,), (5,), (1,), (1,), (1,)),
        Convolution(np.zeros((2, 0, 3)), (5,), (5,), (1,), (1,), (1,)),
        Convolution(np.ones((2, 2, 3)), (0,), (2,), (1,), (1,), (1,)),
        Sum((Matrix(np.zeros((1, 3, 4))), Matrix(np.zeros((1, 3, 4))))),
        Product((Matrix(np.zeros((1, 3, 4))), identity(4))),
        Product((Matrix(np.ones((1, 3, 0))), Matrix(np.ones((1, 0, 2))))),
    ],
    ids=lambda a: type(a).__name__ if isinstance(a, LinearMap) else None,
)
def test_degenerate_maps_have_norm_zero(a: LinearMap, p: float) -> None:
    found = bracket(a, LOWERINGS, p)
    assert found.lower == 0
    assert found.upper <= 1e-130  # what all possible underflow could amount to


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_coefficients_that_are_not_finite_are_named(p: float, bad: float) -> None:
    kernel = np.ones((2, 2, 3))
    kernel[1, 0, 1] = bad
    conv = Convolution(kernel, (5,), (5,), (1,), (1,), (1,))
    for a, name in (
        (conv, "10×10 Convolution"),
        (Matrix(np.array([[[1.0, bad]]])), "1×2 Matrix"),
        (Monomial(2, None, np.array([1.0, bad])), "2×2 Monomial"),
        (Product((Matrix(np.ones((1, 2, 10))), conv)), "2×10 Product"),
        (Sum((conv, conv)), "10×10 Sum"),
    ):
        with pytest.raises(ModelError, match=f"norm of a {name} is not finite"):
            bracket(a, LOWERINGS, p)
        with pytest.raises(ModelError, match="not finite"):
            probabilistic_bracket(a, LOWERINGS, 0.1)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-160, 1e160, 1e300])
def test_extreme_numbers(p: float, scale: float) -> None:
    rng = np.random.default_rng(4)
    w = rng.integers(-3, 4, (1, 4, 3)).astype(np.float64)
    truth = _truth(w[0], p)
    conv = Convolution(w.transpose(1, 0, 2) * scale, (6,), (6,), (1,), (1,), (1,))
    line = _truth(
        dense_convolution(Convolution(w.transpose(1, 0, 2), (6,), (6,), (1,), (1,), (1,))), p
    )
    for a, norm in ((Matrix(w * scale), truth), (conv, line)):
        found = bracket(a, LOWERINGS, p)
        unit = 2.0 ** math.frexp(scale)[1]
        assert found.lower / unit <= norm * (scale / unit) * (1 + 1e-9)
        assert found.upper / unit >= norm * (scale / unit) * (1 - 1e-9)
        if scale > 1e-300:
            assert found.upper <= found.lower * (1 + 1e-9)


def test_products_that_overflow_are_named() -> None:
    huge = Matrix(np.full((1, 3, 3), 1e200))
    for p in NORMS:
        with pytest.raises(ModelError, match="overflow float64"):
            bracket(Product((huge, huge)), LOWERINGS, p)


@pytest.mark.parametrize("weight", [None, np.asarray(-0.1), np.array([1e-310, 3.7, -0.3, 1e300])])
def test_injective_index_maps_are_exact(weight: np.ndarray | None) -> None:
    for index in (None, np.array([3, 1, 0, 2])):
        found = bracket(Monomial(4, index, weight), LOWERINGS, 2.0)
        assert found.lower == found.upper
    found = bracket(Monomial(2, np.array([0, 1, 0, -1, 0, 0])), LOWERINGS, 2.0)
    assert found.lower == found.upper == 2


def test_the_papers_power_method_is_a_method_of_its_own() -> None:
    rng = np.random.default_rng(8)
    w = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    conv = Convolution(w, (30, 30), (30, 30), (1, 1), (1, 1), (1, 1))
    dense = Matrix(rng.standard_normal((1, 40, 30)))
    for a in (conv, dense, Product((Matrix(rng.standard_normal((1, 5, 3600))), conv))):
        power, usual = (bracket(a, LOWERINGS, 2.0, lower=m) for m in ("power", "lanczos"))
        assert power.lower_method == "power method"
        assert usual.lower_method != "power method"
        assert usual.lower * 0.99 <= power.lower <= usual.upper
        assert power.lower <= usual.lower * (1 + 1e-4)
    with pytest.raises(UsageError, match="use lanczos or power"):
        bracket(conv, LOWERINGS, 2.0, lower="guess")


def test_a_map_that_lies_about_itself_is_found_out() -> None:
    class Liar(Matrix):
        def cap(self) -> float:
            return 0.5

    for p in (2.0,):
        with pytest.raises(RuleError, match="3×4 Liar"):
            bracket(Liar(np.ones((1, 3, 4))), LOWERINGS, p)


def test_brackets_are_reproducible_and_name_their_methods() -> None:
    rng = np.random.default_rng(5)
    conv = Convolution(
        rng.standard_normal((8, 8, 3, 3)).astype(np.float32),
        (40, 40),
        (40, 40),
        (1, 1),
        (1, 1),
        (1, 1),
    )
    first, second = (bracket(conv, LOWERINGS, 2.0, seed=7) for _ in range(2))
    assert first == second
    assert (first.lower_method, first.upper_method) == ("Lanczos", "twisted torus")
    assert first.upper <= 1.02 * first.lower


def test_auto_is_a_provider_everywhere() -> None:
    conv = Convolution(np.ones((1, 1, 3)), (2000,), (2000,), (1,), (1,), (1,))
    found = bracket(conv, LOWERINGS, 2.0, provider="auto")
    assert 2.99 <= found.lower <= found.upper <= 3.001
