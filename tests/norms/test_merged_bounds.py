"""Bounds of composed maps, too large to write out, by what they merge into."""

import math
from dataclasses import replace

import numpy as np
import pytest

from onnxlip.linear import (
    Matrix,
    Monomial,
    Product,
    Sum,
    identity,
    selection,
)
from onnxlip.norms import bracket, joint, upper, workspace
from onnxlip.norms.merging import neighbours
from onnxlip.norms.upper import spectral_upper
from onnxlip.norms.workspace import Bound, Workspace

from .composed import (
    LOWERINGS,
    MERGE,
    gaussian,
    gaussian_conv,
    small_conv,
    written,
)
from .oracle import svd_norm


def test_composed_blocks_are_tighter_than_their_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    conv = gaussian_conv(small_conv((6, 6, 3, 3), (9, 8), pad=1))
    before, after = gaussian(6, 4, 72, 1), gaussian(5, 6, 72, 2)
    moved = selection(np.random.default_rng(4).permutation(after.rows), after.rows)
    branches = Sum((conv, gaussian(6, 6, 72, 5), identity(conv.rows)))
    for a in (
        Product((conv, before)),
        Product((after, conv)),
        Product((moved, after, conv, before)),
        Product((after, before.adjoint.adjoint, gaussian(4, 6, 72, 6))),
        branches,
    ):
        found, truth = bracket(a, LOWERINGS, 2.0), svd_norm(written(a))
        assert found.lower <= truth * (1 + 1e-12)
        assert truth * (1 - 1e-12) <= found.upper
        assert found.upper <= found.lower * (1 + 1e-2)
        assert found.upper_method.startswith("merged, ")
        parts = a.factors if isinstance(a, Product) else a.summands
        norms = [bracket(f, LOWERINGS, 2.0).upper for f in parts]
        plain = math.prod(norms) if isinstance(a, Product) else sum(norms)
        assert found.upper < 0.95 * plain


@pytest.mark.parametrize("name", MERGE)
def test_brackets_of_composed_maps_hold(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    found, truth = bracket(MERGE[name], LOWERINGS, 2.0), svd_norm(written(MERGE[name]))
    assert found.lower <= truth * (1 + 1e-12)
    assert truth * (1 - 1e-12) <= found.upper


@pytest.mark.parametrize("pool_first", [True, False])
def test_kronecker_products_need_no_merging(pool_first: bool) -> None:
    """W along 1280 channels and means along both axes of the pixels: ‖W‖‖P‖‖Q‖, exactly."""
    w = gaussian(1000, 1280, 1, 8)
    rows = Matrix(np.full((1, 1, 7), 1 / 7), outer=1280 if pool_first else 1000)
    columns = replace(rows, outer=7 * rows.outer)
    if pool_first:
        a = Product((w, rows, columns))
    else:
        a = Product((rows, columns, Matrix(w.blocks, inner=49)))
    assert [part.linear for part in neighbours(a)] == list(a.factors)
    found = spectral_upper(a, Workspace(LOWERINGS))
    assert found.method == "product of factors"
    assert found.value == pytest.approx(svd_norm(w.blocks[0]) / 7, rel=1e-6)


def test_multiples_of_isometries_around_what_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    v, w = gaussian(4, 5, 1, 1), gaussian(5, 6, 1, 2)
    outer = Monomial(4, np.array([3, 1, 0, 2]), np.asarray(3.0))
    inner = Monomial(8, np.array([7, 1, 2, 3, 5, 6]), np.asarray(-0.5))
    mean = Matrix(np.full((1, 1, 9), 1 / 9), outer=6)
    for rest, truth in (((inner,), 1.5), ((mean, Monomial(54, None, np.asarray(-0.5))), 0.5)):
        a = Product((outer, v, w, *rest))
        found = bracket(a, LOWERINGS, 2.0)
        assert found.upper_method in ("merged, dense Cholesky", "product of factors, merged")
        exact = truth * svd_norm(v.blocks[0].astype(np.float64) @ w.blocks[0])
        assert exact * (1 - 1e-12) <= found.upper <= exact * (1 + 1e-9)
        assert found.lower <= exact * (1 + 1e-12)


@pytest.mark.parametrize("ulps", [1e6, 2.0**40])
def test_ulps_of_what_is_merged_count(ulps: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """True coefficients may all be larger, or smaller, by ulps · 2⁻⁵³."""
    monkeypatch.setattr(workspace, "_SHORT", 0)
    grown, shrunk = 1 + ulps * 2.0**-53, 1 - ulps * 2.0**-53
    rng = np.random.default_rng(12)
    v, w = (Matrix(rng.random((1, 5, 5)) + 0.1, relative=ulps) for _ in range(2))
    mean = Matrix(np.full((1, 1, 9), 1 / 9), outer=5)
    truth = svd_norm(v.blocks[0] @ w.blocks[0]) / 3
    assert bracket(Product((v, w, mean)), LOWERINGS, 2.0).upper >= truth * grown**2 * (1 - 1e-13)
    found = joint([v, w], [bracket(a, LOWERINGS, 2.0) for a in (v, w)], LOWERINGS, 2.0)
    truth = svd_norm(np.hstack([v.blocks[0], w.blocks[0]]))
    assert found.upper_method == "merged, dense Cholesky"
    assert found.upper >= truth * grown * (1 - 1e-13)
    assert found.lower <= truth * shrunk * (1 + 1e-13)


def test_factors_that_are_sharper_than_what_they_merge_into(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where all leading vectors meet nothing is lost: the merged map may have the looser torus."""
    monkeypatch.setattr(workspace, "_SHORT", 0)
    ones = replace(small_conv((3, 3, 3), (7,), pad=1), kernel=np.ones((3, 3, 3)))
    a = Product(
        (Matrix(np.ones((1, 3, 3)), inner=7), replace(ones, groups=3, kernel=ones.kernel[:, :1]))
    )
    work = Workspace(LOWERINGS, tolerance=0.0)
    product = math.prod(spectral_upper(f, work).value for f in a.factors)
    assert spectral_upper(a, work).value <= product * (1 + 1e-15)
    assert spectral_upper(a, Workspace(LOWERINGS)).method == "product of factors"
    monkeypatch.setattr(upper, "_of_merged", lambda *args: Bound(math.inf, "loose"))
    for work in (
        Workspace(LOWERINGS, tolerance=0.0),
        Workspace(LOWERINGS, tolerance=1e-4, sharp=False),
    ):
        assert spectral_upper(a, work).method == "product of factors"
