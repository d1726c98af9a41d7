"""The portfolio: the best bound wins, budgets are kept, what fails is told and taken away."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

import onnxlip
from onnxlip import Analysis
from onnxlip.bounds import multipliers, portfolio
from onnxlip.bounds.sdp import interior
from onnxlip.choices import METHODS
from onnxlip.errors import UsageError

MODELS = Path(__file__).parent.parent.parent / "fixtures" / "models"
UPPER = ("certified", "probabilistic")


def analyze(model, **options):
    return onnxlip.analyze(model, **{"lower": "none", "seqlip": "none"} | options)


def deep(make_model, rng, widths=(6, 12, 12, 12, 3)):
    text, weights, before = "net (float[1,6] x) => (float[1,3] y) {", {}, "x"
    for k, (n, m) in enumerate(itertools.pairwise(widths)):
        weights[f"w{k}"] = rng.standard_normal((n, m)) / math.sqrt(n)
        after = "y" if m == widths[-1] and k == len(widths) - 2 else f"z{k}"
        text += f" {after} = MatMul({before}, w{k})"
        before = after
        if after != "y":
            text += f" u{k} = Relu({after})"
            before = f"u{k}"
    return make_model(text + " }", **weights)


def test_the_least_certified_bound_is_the_answer(make_model, rng):
    report = analyze(deep(make_model, rng))
    uppers = {name: m.value for name, m in report.methods.items() if m.kind == "certified"}
    assert {"autolip", "liplt", "closed-form multipliers", "lipsdp-neuron"} <= set(uppers)
    assert report.upper.value == min(uppers.values()) == uppers["slopes, branch and bound"]
    assert uppers["slopes, branch and bound"] < uppers["lipsdp-neuron"] < 0.9 * uppers["autolip"]
    assert report.upper.kind == "certified"


@pytest.mark.parametrize("method", [m for m in METHODS if m != "auto"])
def test_one_method_alone(make_model, rng, method):
    model = deep(make_model, rng)
    report, whole = analyze(model, method=method), analyze(model)
    others = set(report.methods) - {"autolip"}
    assert len(others) <= 3
    assert report.upper.value >= whole.upper.value * (1 - 1e-4)
    if method != "autolip":
        assert others


def test_too_many_slopes_for_an_exact_method(make_model, rng):
    report = analyze(deep(make_model, rng, (6, 70, 70, 70, 3)), method="exact")
    assert set(report.methods) == {"autolip"}
    assert any("exact: it has 3 nonlinear layers of 210 slopes" in note for note in report.notes)


def test_layers_share_less_than_neurons(make_model, rng):
    model = deep(make_model, rng)
    layer = analyze(model, method="lipsdp-layer").methods["lipsdp-layer"].value
    neuron = analyze(model, method="lipsdp").methods["lipsdp-neuron"].value
    closed = analyze(model, method="closed").methods["closed-form multipliers"].value
    assert neuron <= layer * (1 + 1e-5)
    assert neuron <= closed


def test_no_time_at_all_leaves_autolip_and_says_so(make_model, rng):
    report = analyze(deep(make_model, rng), timeout=0.0)
    assert report.upper.method == "autolip"
    assert any("no time was left" in note for note in report.notes)


def test_a_small_budget_leaves_out_what_takes_long(make_model, rng, monkeypatch):
    monkeypatch.setattr(portfolio, "_WORK", 3e5)
    report = analyze(deep(make_model, rng))
    assert "lipsdp-neuron" not in report.methods
    assert any("--timeout 60 tries it" in note for note in report.notes)


def test_a_solver_that_finds_no_way_keeps_the_start(make_model, rng, monkeypatch):
    monkeypatch.setattr(interior, "minimised", lambda *_args, **_options: None)
    report = analyze(deep(make_model, rng))
    assert "closed-form multipliers" in report.methods
    assert any("found no way in" in note for note in report.notes)


def test_a_solver_that_stalls_says_so_and_its_bound_holds(make_model, rng, monkeypatch):
    monkeypatch.setattr(interior, "_STEPS", 2)
    model = deep(make_model, rng)
    early = analyze(model)
    monkeypatch.undo()
    assert early.upper.value >= analyze(model).upper.value * (1 - 1e-5)
    assert any("its optimum is at least" in note for note in early.notes)


def test_beyond_the_dense_limit_the_first_order_method_takes_over(make_model, rng, monkeypatch):
    model = deep(make_model, rng)
    best = analyze(model, method="lipsdp").upper.value
    monkeypatch.setattr(multipliers, "_DENSE", 10)
    found = analyze(model, method="lipsdp").upper.value
    assert best * (1 - 1e-5) <= found <= best * 1.02


def test_a_network_without_a_nonlinearity_is_its_matrix(make_model, rng):
    w, v = rng.standard_normal((2, 5, 5))
    model = make_model(
        "net (float[1,5] x) => (float[1,5] y) { a = MatMul(x, w) b = MatMul(a, v) y = Add(b, x) }",
        w=w, v=v,
    )  # fmt: skip
    w, v = (m.astype(np.float32).astype(float) for m in (w, v))
    truth = np.linalg.norm(w @ v + np.eye(5), 2)
    for method in ("auto", "exact"):
        report = analyze(model, method=method)
        assert truth <= report.upper.value <= truth * (1 + 1e-9)


def test_one_hidden_layer_closes_the_bracket():
    report = onnxlip.analyze(MODELS / "mlp_shallow.onnx")
    assert report.methods["one hidden layer"].kind == "certified"
    assert report.upper.value / report.lower.value <= 1.0001


def test_the_same_figures_again(make_model, rng):
    model = deep(make_model, rng)
    first, again = (analyze(model) for _ in range(2))
    assert {k: m.value for k, m in first.methods.items()} == {
        k: m.value for k, m in again.methods.items()
    }


def test_multipliers_stay_at_hand(make_model, rng):
    model = deep(make_model, rng)
    analysis = Analysis(model, below="none", sequential="none", method="lipsdp")
    report = analysis.report()
    given = analysis.multipliers
    assert given is not None
    assert given.bound == report.upper.value
    assert len(given.values) == given.system.multipliers == 36


def test_wrong_use(make_model):
    with pytest.raises(UsageError, match="unknown method 'best'"):
        analyze(MODELS / "mlp_relu.onnx", method="best")
    with pytest.raises(UsageError, match="for the 2-norm"):
        analyze(MODELS / "mlp_relu.onnx", method="lipsdp", norm=1)
    one = make_model("net (float[1,2] x) => (float[1,1] y) { y = MatMul(x, w) }", w=np.ones((2, 1)))
    with pytest.raises(UsageError, match="--pairs compares"):
        analyze(one, pairs=True)


def test_every_pair_of_classes_and_the_rows_of_data():
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((8, 64)).astype(np.float32)
    report = analyze(MODELS / "mlp_relu.onnx", pairs=True, data={"x": rows, "y": np.arange(8)})
    upper = np.array(report.classes.upper)
    np.testing.assert_array_equal(upper, upper.T)
    assert np.all(np.diag(upper) == 0)
    assert np.all(upper <= math.sqrt(2) * report.upper.value * (1 + 1e-12))
    assert len(report.radii.radii) == 8
    assert report.radii.labelled
    assert onnxlip.Report.from_json(report.to_json()) == report
