"""‖A‖₁ and ‖A‖_∞ against sums of the moduli of written-out matrices."""

import math
from dataclasses import replace

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
    selection,
)
from onnxlip.norms import induced, workspace
from onnxlip.norms.induced import induced_bounds
from onnxlip.norms.merging import Merged
from onnxlip.norms.workspace import Workspace
from onnxlip.registry import built_in

from .oracle import dense_convolution, random_convolution


def _work() -> Workspace:
    return Workspace(built_in().lowerings)


def _truth(dense: np.ndarray, p: float) -> float:
    return float(np.abs(dense).sum(axis=1 if p == math.inf else 0).max(initial=0))


def _check(a: LinearMap, dense: np.ndarray, tolerance: float = 1e-12) -> None:
    for p in (1.0, math.inf):
        lower, upper = induced_bounds(a, p, _work())
        truth = _truth(dense, p)
        assert truth * (1 - 1e-14) <= upper.value <= truth * (1 + tolerance), (p, upper)
        assert truth * (1 - tolerance) <= lower.value <= truth * (1 + 1e-14), (p, lower)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_convolutions_with_their_borders(d: int) -> None:
    rng = np.random.default_rng(d)
    for _ in range(40):
        conv = random_convolution(rng, d, {1: 20, 2: 8, 3: 4}[d])
        dense = dense_convolution(conv)
        _check(conv, dense)
        _check(Transposed(conv), dense.T)
        _check(replace(conv, batch=2), dense)


def test_matrices() -> None:
    rng = np.random.default_rng(0)
    blocks = rng.standard_normal((3, 4, 5)).astype(np.float32)
    dense = np.zeros((12, 15))
    for j, block in enumerate(blocks):
        dense[4 * j : 4 * j + 4, 5 * j : 5 * j + 5] = block
    _check(Matrix(blocks, outer=2, inner=3), dense)


def test_index_maps() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        n, m = (int(k) for k in rng.integers(1, 9, 2))
        index, weight = rng.integers(-1, n, m), rng.standard_normal(m)
        dense = np.zeros((m, n))
        read = index >= 0
        dense[np.flatnonzero(read), index[read]] = weight[read]
        _check(Monomial(n, index, weight), dense)
        _check(Transposed(Monomial(n, index, weight)), dense.T)


def test_repeats_are_exact() -> None:
    repeat = selection(np.repeat(np.arange(4), 3), 4)
    assert induced_bounds(repeat, 1, _work())[1].value == 3
    assert induced_bounds(repeat, math.inf, _work())[1].value == 1
    assert induced_bounds(Transposed(repeat), math.inf, _work())[1].value == 3


def _composed(rng: np.random.Generator) -> tuple[LinearMap, np.ndarray]:
    a, b = rng.standard_normal((5, 6)), rng.standard_normal((6, 4))
    scale = rng.standard_normal(5)
    inner = Product((Monomial(5, None, scale), Matrix(a[None]), Matrix(b[None])))
    other = rng.standard_normal((5, 4))
    return Sum((inner, Matrix(other[None]))), scale[:, None] * (a @ b) + other


def test_composed_maps_are_written_out() -> None:
    rng = np.random.default_rng(2)
    for _ in range(5):
        _check(*_composed(rng), tolerance=1e-10)


def test_composed_maps_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    rng = np.random.default_rng(3)
    for _ in range(5):
        a, dense = _composed(rng)
        for p in (1.0, math.inf):
            lower, upper = induced_bounds(a, p, _work())
            assert 0 < lower.value <= _truth(dense, p) * (1 + 1e-14)
            assert _truth(dense, p) <= upper.value <= a.cap() * (1 + 1e-14)
    # without cancellation the moduli tell the truth, and so does a single row
    positive = [np.abs(rng.standard_normal((5, 5))) for _ in range(2)]
    a = Product(tuple(Matrix(m[None]) for m in positive))
    _check(a, positive[0] @ positive[1], tolerance=1e-11)


def test_composed_maps_beyond_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    monkeypatch.setattr(workspace, "_MEMORY", 1)
    monkeypatch.setattr(induced, "_simpler", lambda a, memory: Merged(a))
    a, dense = _composed(np.random.default_rng(4))
    lower, upper = induced_bounds(a, 1, _work())
    assert lower.value == 0
    assert _truth(dense, 1) <= upper.value == a.cap()


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("ulps", [1e6, 2.0**40])
def test_errors_of_coefficients_are_included(
    ulps: float, written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not written:
        monkeypatch.setattr(workspace, "_SHORT", 0)
    grown = ulps * 2.0**-53
    rng = np.random.default_rng(5)
    w = np.abs(rng.standard_normal((1, 4, 5)))
    conv = Convolution(np.abs(rng.standard_normal((2, 3, 3))), (7,), (7,), (1,), (1,), (1,))
    cases: list[tuple[LinearMap, np.ndarray]] = [
        (Matrix(w, relative=ulps), w[0]),
        (replace(conv, relative=ulps), dense_convolution(conv)),
        (Monomial(3, None, np.arange(1.0, 4.0), ulps), np.diag(np.arange(1.0, 4.0))),
        (
            Product((Matrix(w, relative=ulps), Monomial(5, None, np.arange(1.0, 6.0)))),
            w[0] * np.arange(1.0, 6.0),
        ),
    ]
    for a, dense in cases:
        for p in (1.0, math.inf):
            lower, upper = induced_bounds(a, p, _work())
            assert upper.value >= _truth(dense, p) * (1 + grown) * (1 - 1e-14)
            assert lower.value <= _truth(dense, p) * (1 - grown) * (1 + 1e-14)
            assert upper.value <= _truth(dense, p) * (1 + 4 * grown + 1e-10)


def test_a_large_convolution_needs_no_product() -> None:
    kernel = np.random.default_rng(6).standard_normal((16, 16, 3, 3)).astype(np.float32)
    conv = Convolution(kernel, (500, 500), (500, 500), (1, 1), (1, 1), (1, 1))
    size = np.abs(kernel.astype(np.float64))
    lower, upper = induced_bounds(conv, math.inf, _work())
    assert upper.value == pytest.approx(size.sum(axis=(1, 2, 3)).max(), rel=1e-12)
    assert lower.value == pytest.approx(upper.value, rel=1e-11)
    assert induced_bounds(conv, 1.0, _work())[1].value == pytest.approx(
        size.sum(axis=(0, 2, 3)).max(), rel=1e-12
    )


@pytest.mark.parametrize("p", [1.0, math.inf])
def test_roundings_of_sums_show_in_a_coarse_unit(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each end moves by as much as the sums that it comes of may have lost."""
    unit = 1e-6
    rng = np.random.default_rng(7)
    w, m = np.abs(rng.standard_normal((5, 5))), np.abs(rng.standard_normal((5, 28)))
    conv = Convolution(np.abs(rng.standard_normal((4, 4, 3))), (7,), (7,), (1,), (1,), (1,))
    index = np.array([0, 1, 1, 2, 1])
    repeat = Monomial(3, index, np.abs(rng.standard_normal(5)))
    dense = np.zeros((5, 3))
    dense[np.arange(5), index] = repeat.weight
    both = Product((Matrix(m[None]), conv))  # which are no single convolution or matrix
    whole, summed = m @ dense_convolution(conv), 28 if p == math.inf else 5
    for a, matrix, terms, below, short in (
        (conv, dense_convolution(conv), 12, 12, 1024),
        (both, whole, summed, summed, 1024),
        (both, whole, both.terms, both.terms + summed, 0),  # a product, and the sum of its row
        (Matrix(w[None]), w, 5, 5, 1024),
        (repeat, dense, 0, 1 if p == math.inf else 3, 1024),
    ):
        monkeypatch.setattr(workspace, "_SHORT", short)
        truth = _truth(matrix, p)
        monkeypatch.setattr(induced, "gamma", lambda k: k * unit)
        monkeypatch.setattr(induced, "_simpler", lambda a, memory: Merged(a))
        lower, upper = induced_bounds(a, p, _work())
        monkeypatch.undo()
        assert lower.value <= truth * (1 - below * unit) * (1 + 1e-12)
        if not isinstance(a, (Matrix, Monomial)):  # whose sums say for themselves what they lost
            assert upper.value >= truth * (1 + terms * unit) * (1 - 1e-12)
