"""What is attained: never above the truth, found again, and near it where the truth is known."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxlip
from onnxlip import Analysis, UsageError
from onnxlip.bounds.lower.attained import Quotients, replay
from onnxlip.bounds.lower.data import load_data, rows_of
from onnxlip.bounds.lower.freepattern import free_pattern
from onnxlip.bounds.lower.portfolio import METHODS, lower_bound
from onnxlip.bounds.lower.problem import Problem
from onnxlip.cli import main
from tests.random_graphs.graphs import random_graph

MODELS = sorted((Path(__file__).parent.parent.parent / "fixtures" / "models").glob("*.onnx"))
NORMS = (1.0, 2.0, math.inf)
SMALL = "n (float[N,3] x) => (float[N,2] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }"


@pytest.fixture
def small(make_model):
    rng = np.random.default_rng(1)
    return make_model(SMALL, w=rng.standard_normal((3, 5)), v=rng.standard_normal((5, 2)))


def fixture(name: str, **options) -> Analysis:
    return Analysis(next(p for p in MODELS if p.stem == name), below="none", **options)


# ── laws ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_lower_is_at_most_upper(path):
    for p in NORMS:
        analysis = Analysis(path, norm=p, below="none")
        try:
            upper = analysis.report().upper.value
        except onnxlip.OnnxlipError:
            return
        found = lower_bound(analysis, evaluations=200)
        assert 0 <= found.value <= upper
        assert found.value > 0 or upper == 0


def test_every_random_graph_with_an_upper_bound_has_a_lower_one():
    seen = 0
    for seed in range(50):
        made = random_graph(seed)
        chosen = () if made.sources is made.inputs else tuple(made.sources)
        p = NORMS[seed % 3]
        analysis = Analysis(made.model(made.outputs), norm=p, inputs=chosen, below="none")
        try:
            upper = analysis.report().upper.value
        except onnxlip.OnnxlipError:
            continue
        found, why = _cheaply(analysis)
        assert found is not None or "no runtime" in why or "cannot run" in why, (seed, why)
        if found is not None:
            assert found.value <= upper * (1 + 1e-12), seed
            seen += found.value > 0.3 * upper
    assert seen >= 15


def _cheaply(analysis: Analysis):
    try:
        return lower_bound(analysis, evaluations=150), ""
    except onnxlip.ModelError as error:
        return None, str(error)


@pytest.mark.parametrize("p", NORMS)
def test_a_linear_network_attains_its_norm(make_model, p):
    w = np.random.default_rng(0).standard_normal((40, 30))
    model = make_model("n (float[1,40] x) => (float[1,30] y) { y = MatMul(x, w) }", w=w)
    found = lower_bound(Analysis(model, norm=p), evaluations=500)
    truth = np.linalg.norm(w.astype(np.float32).astype(float).T, p)
    assert truth * (1 - 1e-4) <= found.value <= truth


def test_the_papers_graph():
    """AutoLip gives 1 + |ω|, ω = 3, which is approached: σ(x/2)/2 + ½ + 3 → 4."""
    for name in ("paper_graph", "paper_graph_log_exp"):
        found = lower_bound(fixture(name), evaluations=3000)
        assert 3.98 <= found.value <= 4


def test_two_layers_come_near_the_free_pattern_and_that_near_autolip():
    analysis = fixture("mlp_relu")
    found = lower_bound(analysis, evaluations=6000)
    free = free_pattern(analysis, points=found.x[None])
    assert found.value * (1 - 1e-5) <= free <= analysis.report().methods["autolip"].value
    assert found.value >= 0.97 * free


def test_other_blocks_have_no_free_pattern(make_model):
    text = "n (float[1,4] x) => (float[1,4] y) { y = Softmax(x) }"
    assert free_pattern(Analysis(make_model(text))) is None


# ── the quotient ──────────────────────────────────────────────────────────────────────────


def exact_quotient(model: onnx.ModelProto, x: np.ndarray, y: np.ndarray) -> float:
    """‖f(x) − f(y)‖²/‖x − y‖² in rational arithmetic."""
    w, v = (
        [[Fraction(float(a)) for a in row] for row in onnx.numpy_helper.to_array(t)]
        for t in model.graph.initializer
    )

    def f(point):
        h = [
            max(Fraction(0), sum(a * row[j] for a, row in zip(point, w, strict=True)))
            for j in range(len(w[0]))
        ]
        return [sum(a * row[j] for a, row in zip(h, v, strict=True)) for j in range(len(v[0]))]

    a, b = ([Fraction(float(t)) for t in point] for point in (x, y))
    rise = sum((s - t) ** 2 for s, t in zip(f(a), f(b), strict=True))
    return rise / sum((s - t) ** 2 for s, t in zip(a, b, strict=True))


def test_no_quotient_is_above_the_exact_one(small):
    rng = np.random.default_rng(0)
    quotients = Quotients(Analysis(small))
    for k in range(60):
        x = 10.0 ** rng.uniform(-3, 4) * rng.standard_normal(3)
        y = x + 10.0 ** -(k % 12) * rng.standard_normal(3)
        value = quotients.value(x, y)
        exact = exact_quotient(small, x, y)
        assert Fraction(value) ** 2 <= exact
        if k % 12 < 5:
            assert value >= (1 - 1e-6) * math.sqrt(exact)


def test_the_allowance_is_what_keeps_it_below(small, monkeypatch):
    """Planted: without it, some computed quotients are above the exact ones."""
    monkeypatch.setattr("onnxlip.bounds.lower.attained._MARGIN", 0.0)
    rng = np.random.default_rng(0)
    quotients = Quotients(Analysis(small))
    above = 0
    for _ in range(60):
        x = 1e3 * rng.standard_normal(3)
        y = x + 1e-8 * rng.standard_normal(3)
        above += Fraction(quotients.value(x, y)) ** 2 > exact_quotient(small, x, y)
    assert above > 0


def test_a_staircase_is_not_taken_for_float64():
    """onnx's Erf rounds to float32 on its way; the rule's own values serve instead."""
    quotients = Quotients(fixture("mlp_gelu"))
    assert quotients.accuracy == "float64"
    rng = np.random.default_rng(0)
    x, d = rng.standard_normal((2, 64))
    values = [quotients.value(x, x + t * d) for t in (1e-3, 1e-5, 1e-6)]
    assert max(values) <= min(values) * (1 + 1e-2)


def test_an_op_that_runs_in_float32_only_says_so(make_model):
    text = "n (float[1,4,3,3] x) => (float[1,4,3,3] y) { y = LRN <size = 3, alpha = 0.1> (x) }"
    analysis = Analysis(make_model(text), below="none")
    found = lower_bound(analysis, evaluations=300)
    assert "float32" in found.method
    assert 0.5 <= found.value <= analysis.report().upper.value


# ── searches ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", [m for m in METHODS if m != "data"])
def test_every_search_finds_something(small, method):
    analysis = Analysis(small, below="none")
    found = lower_bound(analysis, methods=(method,), evaluations=1000)
    assert 0.8 * analysis.report().upper.value <= found.value
    assert found.method == method


def test_the_same_seed_finds_the_same_pair(small):
    def run(seed: int) -> np.ndarray:
        return lower_bound(Analysis(small), evaluations=600, seed=seed).x

    np.testing.assert_array_equal(run(3), run(3))
    assert not np.array_equal(run(3), run(4))


def test_without_derivatives_values_do(small, monkeypatch):
    analysis = Analysis(small, below="none")
    monkeypatch.setattr(
        "onnxlip.bounds.lower.jacobian.Derivatives.at", lambda *_: pytest.fail("a derivative")
    )
    monkeypatch.setattr(Problem, "__init__", _without_derivatives(Problem.__init__))
    found = lower_bound(analysis, evaluations=2000)
    assert 0.8 * analysis.report().upper.value <= found.value <= analysis.report().upper.value


def _without_derivatives(init):
    return lambda self, subject: init(self, subject, derivatives=False)


def test_data_alone(small):
    rows = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0]])
    found = lower_bound(Analysis(small), data=rows, methods=("data",))
    assert found.method == "data"
    assert any(np.allclose(found.x, row) for row in rows)


def test_nothing_moves(make_model):
    analysis = fixture("constant_output")
    assert lower_bound(analysis, evaluations=50).value <= analysis.report().upper.value


# ── data, files, the command line ─────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (np.zeros((4, 2)), r"the shape is \(4, 2\), not \(rows, 3\)"),
        (np.zeros(()), "the shape is"),
        (np.zeros((0, 3)), "there is no row"),
        (np.array([[0, 1, np.nan]]), "row 0 holds NaN"),
        (np.array([["a", "b", "c"]]), "not numbers"),
        (np.zeros((1, 3), complex), "not numbers"),
        ({"x": np.zeros((1, 3)), "z": 1}, None),
        ({"a": np.zeros((1, 3)), "b": 1}, "no array for input 'x'"),
    ],
)
def test_bad_rows(small, data, part):
    inputs = Analysis(small).graph.inputs
    if part is None:
        assert rows_of(data, inputs).shape == (1, 3)
        return
    with pytest.raises(UsageError, match=part):
        rows_of(data, inputs)


def test_rows_may_come_in_the_inputs_shape():
    inputs = fixture("paper_cnn").graph.inputs
    shape = inputs[0].shape
    for some in (np.zeros((5, *shape[1:])), np.zeros((5, *shape)), np.zeros((5, inputs[0].size))):
        assert rows_of(some, inputs).shape == (5, inputs[0].size)
    assert rows_of(np.zeros(shape), inputs).shape == (1, inputs[0].size)
    two = fixture("two_inputs_two_outputs").graph.inputs
    with pytest.raises(UsageError, match="as many rows for every input"):
        rows_of({v.name: np.zeros((k + 1, v.size)) for k, v in enumerate(two)}, two)


def test_bad_data_files(tmp_path):
    for name, content in (("a.npy", b""), ("b.npz", b"PK\3\4junk"), ("c.npy", b"\x93NUMPY\1\0")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=r"no \.npy or \.npz file"):
            load_data(tmp_path / name)
    np.save(tmp_path / "d.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(UsageError, match="objects are not read"):
        load_data(tmp_path / "d.npy")
    with pytest.raises(UsageError, match="no such file"):
        load_data(tmp_path / "e.npy")


def test_replay(small, tmp_path):
    analysis = Analysis(small)
    found = lower_bound(analysis, evaluations=500)
    path = tmp_path / "pair.npz"
    found.save(path)
    assert replay(Analysis(small), path) == found.value
    assert [p.name for p in tmp_path.iterdir()] == ["pair.npz"]
    with pytest.raises(UsageError, match="another norm"):
        replay(Analysis(small, norm=1.0), path)
    with pytest.raises(UsageError, match="on another file"):
        replay(fixture("mlp_relu"), path)
    with pytest.raises(UsageError, match="cannot be written"):
        found.save(tmp_path / "nowhere" / "pair.npz")
    data = path.read_bytes()
    for damaged in (data[:100], data[:-30], b"", b"junk" * 50):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match="damaged"):
            replay(analysis, path)


def test_the_command_line(small, tmp_path, capsys):
    model, pair, rows = tmp_path / "n.onnx", tmp_path / "pair.npz", tmp_path / "rows.npy"
    model.write_bytes(small.SerializeToString())
    np.save(rows, np.ones((4, 3)))
    words = [str(model), "--data", str(rows), "--lower", "data", "--attained", str(pair)]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "lower bound" in out
    assert "attained" in out
    assert "ratio" in out
    assert main(["replay", str(pair), str(model)]) == 0
    assert float(capsys.readouterr().out) > 0
    assert main([str(model), "--lower", "none"]) == 0
    assert "lower bound" not in capsys.readouterr().out
    np.save(rows, np.ones((4, 2)))
    assert main(words) == 2
    assert "--data: the shape is (4, 2)" in capsys.readouterr().err
    assert main(["replay", str(rows), str(model)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_cannot_run_keeps_its_upper_bound(make_model):
    from onnxlip.rules import Box, Elementwise, Rule, example, variable

    form = Elementwise(lambda node, box: (np.zeros(()), np.ones(())), lambda node, box: Box.whole())
    rule = Rule("Foo", form, "a test", (example(variable(2)),), domain="mine")
    text = "n (float[1,4] x) => (float[1,4] y) { y = mine.Foo(x) }"
    report = onnxlip.analyze(make_model(text, domains={"mine": 1}), rules=[rule])
    assert report.upper.value == 1
    assert report.lower is None
    assert any("no lower bound" in note for note in report.notes)


def test_a_wrong_rule_is_told(make_model):
    """Planted: a rule that halves the slopes of a ReLU; the quotient attained is above."""
    from onnxlip.rules import Box, Elementwise, Rule, example, variable

    form = Elementwise(
        lambda node, box: (np.zeros(()), np.full((), 0.5)), lambda node, box: Box.whole()
    )
    rule = Rule("Relu", form, "wrong on purpose", (example(variable(2)),), since=14)
    text = "n (float[1,4] x) => (float[1,4] y) { y = Relu(x) }"
    report = onnxlip.analyze(make_model(text), rules=[rule])
    assert report.lower.value > report.upper.value
    assert any("above the upper bound" in note for note in report.notes)
