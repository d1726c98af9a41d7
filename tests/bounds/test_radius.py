"""Certified radii: nothing found inside changes its class, on the border something may."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from onnxlip import Analysis
from onnxlip.bounds.classes import by_products
from onnxlip.bounds.radius import certified_radii
from onnxlip.errors import UsageError
from onnxlip.norms.workspace import Workspace

NORMS = [1.0, 2.0, math.inf]


def network(make_model: Any, p: float, seed: int = 0) -> tuple[Analysis, Any]:
    """(analysis, f on rows)."""
    rng = np.random.default_rng(seed)
    w, v = (rng.standard_normal(s).astype(np.float32) for s in ((5, 12), (12, 3)))
    text = """agraph (float[1,5] x) => (float[1,3] out) {
        z = MatMul(x, w)  h = Relu(z)  out = MatMul(h, v) }"""
    analysis = Analysis(make_model(text, w=w, v=v), norm=p)
    return analysis, lambda x: np.maximum(x @ w.astype(float), 0) @ v.astype(float)


def constants(analysis: Analysis) -> Any:
    work = Workspace(analysis.rule_set.lowerings)
    return by_products(analysis.network, analysis.norms(), work, analysis.norm).upper


def moved(rng: Any, rows: Any, p: float, size: Any) -> Any:
    """Random steps of p-norm `size`, of many shapes."""
    way = rng.standard_normal(rows.shape) ** rng.choice([1, 3])
    if p == math.inf:
        way = np.sign(way)
    return rows + size[:, None] * way / np.linalg.norm(way, p, axis=1, keepdims=True)


@pytest.mark.parametrize("p", NORMS)
def test_nothing_inside_the_radius_has_another_class(make_model: Any, p: float) -> None:
    analysis, f = network(make_model, p)
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((60, 5))
    found = certified_radii(analysis, rows, constants(analysis))
    assert np.array_equal(found.predictions, f(rows).argmax(axis=1))
    assert (found.radii > 0).all()
    for _ in range(400):
        tried = moved(rng, rows, p, found.radii * 0.999999)
        assert np.array_equal(f(tried).argmax(axis=1), found.predictions)


def test_a_linear_network_has_its_exact_distance(make_model: Any) -> None:
    w = np.random.default_rng(2).standard_normal((4, 3)).astype(np.float32)
    text = "agraph (float[1,4] x) => (float[1,3] out) { out = MatMul(x, w) }"
    analysis = Analysis(make_model(text, w=w))
    rows = np.random.default_rng(3).standard_normal((20, 4))
    found = certified_radii(analysis, rows, constants(analysis))
    y, wide = rows @ w.astype(float), w.astype(float)
    for k, x in enumerate(y):
        i = int(x.argmax())
        true = min(
            (x[i] - x[j]) / np.linalg.norm(wide[:, i] - wide[:, j]) for j in range(3) if j != i
        )
        assert true * (1 - 1e-9) <= found.radii[k] <= true


def test_larger_constants_make_smaller_radii(make_model: Any) -> None:
    analysis, _ = network(make_model, 2.0)
    rows, upper = np.random.default_rng(4).standard_normal((10, 5)), constants(analysis)
    one, two = (certified_radii(analysis, rows, upper * s) for s in (1.0, 2.0))
    assert np.allclose(one.radii, 2 * two.radii)
    none = certified_radii(analysis, rows, np.where(upper > 0, np.inf, 0.0))
    assert not none.radii.any()


def test_accuracy_counts_labels_and_falls(make_model: Any) -> None:
    analysis, f = network(make_model, 2.0)
    rows = np.random.default_rng(5).standard_normal((40, 5))
    labels = f(rows).argmax(axis=1)
    labels[:10] = (labels[:10] + 1) % 3
    given = {"x": rows, "y": labels}
    found = certified_radii(analysis, given, constants(analysis), radii=[0.0, 0.1, 1e9])
    shares = [share for _, share in found.table]
    assert found.labelled
    assert shares[0] == 0.75
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0.0
    plain = certified_radii(analysis, rows, constants(analysis))
    assert not plain.labelled
    assert plain.table[0] == (0.0, 1.0)


def test_constant_zero_and_ties(make_model: Any) -> None:
    analysis, _ = network(make_model, 2.0)
    rows = np.concatenate([np.zeros((1, 5)), np.ones((1, 5))])
    found = certified_radii(analysis, rows, np.zeros((3, 3)))
    assert found.radii[0] == 0.0
    assert math.isinf(found.radii[1])
    assert json.loads(json.dumps(found.as_json()))["radii"] == [0.0, None]


def test_bad_input_is_refused(make_model: Any) -> None:
    analysis, _ = network(make_model, 2.0)
    upper, rows = constants(analysis), np.ones((2, 5))
    with pytest.raises(UsageError, match="one whole number"):
        certified_radii(analysis, {"x": rows, "y": np.array([0.5, 1])}, upper)
    with pytest.raises(UsageError, match="classes 0 to 2"):
        certified_radii(analysis, {"x": rows, "y": np.array([0, 3])}, upper)
    with pytest.raises(UsageError, match="constants of 3"):
        certified_radii(analysis, rows, upper[:2, :2])
