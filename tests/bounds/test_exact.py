"""What ends with the constant: brackets that close, on files, brute force and odd cases."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxlip import Analysis
from onnxlip.bounds.exact import Exact, Skipped, affine, full_rank, hidden_layer, layer_of
from onnxlip.bounds.realised import realised
from onnxlip.bounds.sdp.build import layered, system
from onnxlip.bounds.sdp.system import System
from onnxlip.bounds.sdp.tracked import Tracked
from onnxlip.norms.workspace import Workspace

SHARED = Path(__file__).parents[3] / "shared"
ACTS = ["Relu", "LeakyRelu", "Tanh", "Sigmoid", "Elu"]


def system_of(analysis: Analysis) -> System:
    work = Workspace(analysis.rule_set.lowerings)
    return system(analysis.network, analysis.norms(), work)


def hidden(make_model: Any, act: str, w: Any, v: Any, b: Any, skip: Any = None) -> Analysis:
    """y = V act(Wx + b) (+ S x)."""
    n, m = w.shape[1], v.shape[0]
    last = "y = MatMul(h, v)" if skip is None else "g = MatMul(h, v) k = MatMul(x, s) y = Add(g, k)"
    text = f"""agraph (float[1,{n}] x) => (float[1,{m}] y) {{
        z = MatMul(x, w)  a = Add(z, b)  h = {act}(a)  {last} }}"""
    weights = {"w": w.T, "v": v.T, "b": b} | ({} if skip is None else {"s": skip.T})
    return Analysis(make_model(text, **weights))


def solved(analysis: Analysis, **options: Any) -> Exact:
    found = hidden_layer(system_of(analysis), **options)
    assert isinstance(found, Exact)
    return found


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("seed", range(3))
def test_every_pattern_is_realised_where_rows_are_independent(
    make_model: Any, act: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    w, v, b = rng.standard_normal((6, 9)), rng.standard_normal((3, 6)), rng.standard_normal(6)
    analysis = hidden(make_model, act, w, v, b)
    found = solved(analysis)
    layer = layer_of(system_of(analysis))
    assert found.realisable
    assert not isinstance(layer, str)
    pair = realised(analysis, layer, found.d)
    assert pair is not None
    near = 1e-5 if act in ("Relu", "LeakyRelu") else 1e-2
    assert found.upper * (1 - near) <= pair.value <= found.upper


def test_a_skip_connection_is_part_of_the_pair(make_model: Any) -> None:
    rng = np.random.default_rng(3)
    w, v, s = (rng.standard_normal(k) for k in ((5, 4), (3, 5), (3, 4)))
    w, v, s = (a.astype(np.float32).astype(float) for a in (w, v, s))
    analysis = hidden(make_model, "Relu", w, v, rng.standard_normal(5), s)
    found = solved(analysis)
    patterns = itertools.product((0.0, 1.0), repeat=5)
    truth = max(np.linalg.norm(s + (v * d) @ w, 2) for d in map(np.array, patterns))
    assert truth * (1 - 1e-12) <= found.upper <= truth * 1.0001
    assert found.lower <= truth * (1 + 1e-12)
    assert not found.realisable  # five rows in ℝ⁴
    assert analysis.lower(seed=0).value <= found.upper


def test_stopped_at_once_it_is_a_bound_still() -> None:
    rng = np.random.default_rng(0)
    chain = layered([rng.standard_normal((40, 30)), rng.standard_normal((20, 40))])
    hasty, patient = hidden_layer(chain, seconds=0.0), hidden_layer(chain)
    assert isinstance(hasty, Exact)
    assert isinstance(patient, Exact)
    assert patient.lower <= patient.upper <= hasty.upper * (1 + 1e-9)
    assert patient.lower <= hasty.upper


def test_errors_of_the_stored_matrices_are_paid_for() -> None:
    """A part that says its matrix may be off by ε: all networks as near as that are below."""
    from dataclasses import replace

    from onnxlip.bounds.sdp.system import Affine

    rng = np.random.default_rng(1)
    w, v = rng.standard_normal((4, 5)), rng.standard_normal((3, 4))
    exact = layered([w, v])
    off = 1e-3
    nodes = []
    for node in exact.nodes:
        if isinstance(node, Affine):
            (only,) = node.parts
            node = replace(node, parts=(replace(only, error=off, norm=only.norm + off),))
        nodes.append(node)
    found = hidden_layer(replace(exact, nodes=tuple(nodes)))
    assert isinstance(found, Exact)
    for _ in range(200):
        steps = (rng.standard_normal(m.shape) for m in (w, v))
        near = [m + off * e / np.linalg.norm(e, 2) for m, e in zip((w, v), steps, strict=True)]
        top = max(
            np.linalg.norm((near[1] * np.array(d)) @ near[0], 2)
            for d in itertools.product((0.0, 1.0), repeat=4)
        )
        assert top <= found.upper


def test_rank_is_proved_where_it_is_there_and_never_where_it_is_not() -> None:
    rng = np.random.default_rng(2)
    a = rng.standard_normal((5, 8))
    assert full_rank(Tracked(a))
    assert full_rank(Tracked(a * 10.0 ** rng.integers(-30, 30, (5, 1))))
    assert not full_rank(Tracked(a, 100.0))
    assert not full_rank(Tracked(a.T))
    assert not full_rank(Tracked(np.concatenate([a, a[:1] + a[1:2]])))
    assert not full_rank(Tracked(np.zeros((1, 3))))


def test_one_linear_map_is_its_norm(make_model: Any) -> None:
    w = np.random.default_rng(4).standard_normal((6, 3))
    text = "agraph (float[1,6] x) => (float[1,3] y) { z = MatMul(x, w)  y = Add(z, b) }"
    analysis = Analysis(make_model(text, w=w, b=np.ones(3)))
    found = affine(analysis.network, analysis.norms())
    assert isinstance(found, Exact)
    truth = np.linalg.norm(w.astype(np.float32).astype(float), 2)
    assert found.lower <= truth * (1 + 1e-15)
    assert truth <= found.upper * (1 + 1e-15)
    assert found.upper <= found.lower * (1 + 1e-6)


def test_what_does_not_apply_says_why(make_model: Any) -> None:
    rng = np.random.default_rng(5)
    deep = layered([rng.standard_normal((3, 3)) for _ in range(3)])
    assert hidden_layer(deep) == Skipped("one hidden layer", "it has 2 nonlinear layers")
    analysis = hidden(make_model, "Relu", np.eye(2), np.eye(2), np.zeros(2))
    skipped = affine(analysis.network, analysis.norms())
    assert isinstance(skipped, Skipped)
    assert "nonlinearity" in skipped.reason


def _published() -> list[dict[str, Any]]:
    facts = SHARED / "facts.json"
    if not facts.is_file():
        return []
    rows = json.loads(facts.read_text())["networks_with_files"]
    return [r for r in rows if "exact_seqlip" in r and (SHARED / r["file"]).is_file()]


@pytest.mark.parametrize("row", _published(), ids=lambda r: Path(r["file"]).stem)
def test_published_networks_of_one_hidden_layer(row: dict[str, Any]) -> None:
    analysis = Analysis(SHARED / row["file"])
    found = solved(analysis)
    layer = layer_of(system_of(analysis))
    assert not isinstance(layer, str)
    pair = realised(analysis, layer, found.d)
    assert pair is not None
    assert found.realisable
    assert found.upper == pytest.approx(row["exact_seqlip"], rel=2e-5)
    assert found.upper <= 1.00002 * pair.value
    assert pair.value <= found.upper < row["lipsdp_neuron"]
