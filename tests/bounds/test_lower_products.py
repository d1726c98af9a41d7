"""Jacobian-vector products both ways, against each other, difference quotients and onnx-ad."""

import numpy as np
import onnx
import onnx_ad
import onnxruntime as ort
import pytest

from onnxlip import Analysis, OnnxlipError
from onnxlip.bounds.lower.double import EXACT, Double
from onnxlip.bounds.lower.problem import Problem, whole
from tests.random_graphs.graphs import random_graph

FIXTURES = ("mlp_gelu", "mlp_relu", "mlp_tanh", "residual_cnn", "two_inputs_two_outputs")
PATH = "fixtures/models/{}.onnx"
MIXED = """n (float[1,2,6,6] x) => (float[1,4] y, float[1,2,3,3] m) {
    c = Conv <pads = [1,1,1,1]> (x, w) t = Tanh(c)
    m = MaxPool <kernel_shape = [2,2], strides = [2,2]> (t)
    f = Flatten(m) n = LayerNormalization(f, g) s = Softmax(n) z = MatMul(s, v)
    q = Sigmoid(z) r = Sin(z) u = Mul(q, r) y = Max(u, z) }"""


def mixed(make_model):
    rng = np.random.default_rng(0)
    weights = {"w": (2, 2, 3, 3), "g": (18,), "v": (18, 4)}
    return make_model(MIXED, **{k: rng.standard_normal(s) for k, s in weights.items()})


def dot_test(problem: Problem, rng: np.random.Generator) -> float:
    x = rng.standard_normal((3, problem.n))
    v = rng.standard_normal((3, problem.n)).astype(np.float32)
    g = rng.standard_normal((3, problem.rows)).astype(np.float32)
    j = problem.linearised(x)
    forth, back = j.push(v).astype(float), j.pull(g).astype(float)
    size = np.linalg.norm(forth) * np.linalg.norm(g) + 1e-6
    return abs(float(np.vdot(forth, g) - np.vdot(v, back))) / float(size)


@pytest.mark.parametrize("name", FIXTURES)
def test_the_products_are_adjoint(name, rng):
    assert dot_test(Problem(Analysis(PATH.format(name))), rng) < 1e-4


def test_the_products_of_other_blocks_are_adjoint(make_model, rng):
    problem = Problem(Analysis(mixed(make_model)))
    assert problem.is_differentiable
    assert dot_test(problem, rng) < 1e-4


def test_a_planted_error_is_caught(rng, monkeypatch):
    problem = Problem(Analysis(PATH.format("mlp_tanh")))
    operators = next(iter(problem.derivatives.operators.values()))
    right = operators[0].rmatvec
    monkeypatch.setattr(operators[0], "rmatvec", lambda y: 1.01 * right(y))
    assert dot_test(problem, rng) > 1e-4


@pytest.mark.parametrize("name", ["mlp_gelu", "mlp_tanh", "mixed"])
def test_products_are_limits_of_quotients(name, make_model, rng):
    model = mixed(make_model) if name == "mixed" else PATH.format(name)
    analysis = Analysis(model)
    problem = Problem(analysis)
    f = Double(analysis.model, analysis.graph, analysis.rule_set.lowerings)
    assert f.accuracy == EXACT or name != "mlp_tanh"
    x, v = rng.standard_normal((2, 4, problem.n))
    x = x.astype(np.float32).astype(float)
    pushed = problem.linearised(x).push(v.astype(np.float32))
    for a, d, y in zip(x, v, pushed, strict=True):
        quotient = (f(a + 1e-6 * d) - f(a - 1e-6 * d)) / 2e-6
        np.testing.assert_allclose(y, quotient, atol=3e-4 * (1 + np.abs(quotient).max()))


def test_the_whole_jacobian_is_that_of_onnx_ad(rng):
    path = PATH.format("mlp_tanh")
    analysis = Analysis(path)
    (x_name,), (y_name,) = analysis.network.inputs, analysis.network.outputs
    shape = analysis.model.inputs[x_name][0]
    model = onnx.load(path)
    kind = model.graph.input[0].type.tensor_type.elem_type
    model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info(x_name, kind, shape))
    forward = onnx_ad.forward(model, inputs=[x_name], outputs=[y_name])
    session = ort.InferenceSession(forward.SerializeToString(), None, ["CPUExecutionProvider"])
    x = rng.standard_normal(shape).astype(np.float32)
    n = x.size
    columns = [
        session.run([f"fwd_{y_name}"], {x_name: x, f"fwd_{x_name}": e.reshape(1, -1)})[0].ravel()
        for e in np.eye(n, dtype=np.float32)
    ]
    problem = Problem(analysis)
    (j,) = whole(problem.linearised(x.reshape(1, n)), 1, problem.rows, n)
    np.testing.assert_allclose(j, np.stack(columns, axis=1), atol=1e-4)


def test_values_of_many_points_are_those_of_each(rng):
    for name in FIXTURES:
        analysis = Analysis(PATH.format(name))
        problem = Problem(analysis)
        f = Double(analysis.model, analysis.graph, analysis.rule_set.lowerings)
        x = rng.standard_normal((5, problem.n)).astype(np.float32)
        single = np.stack([f(a.astype(float)) for a in x])
        np.testing.assert_allclose(problem.values(x), single, rtol=1e-3, atol=1e-3)


def test_a_stated_shape_does_not_hinder_batches(make_model):
    text = """n (float[1,2,3] x) => (float[1,6] y) { r = Reshape(x, s) y = Tanh(r) }"""
    problem = Problem(Analysis(make_model(text, s=np.array([1, 6]))))
    assert problem._forward.is_batched
    assert problem.values(np.ones((4, 6))).shape == (4, 6)


def test_a_network_of_one_example_only_is_run_point_by_point(make_model, rng):
    text = """n (float[3] x) => (float[2] y) { t = Tanh(x) y = MatMul(t, w) }"""
    w = rng.standard_normal((3, 2))
    problem = Problem(Analysis(make_model(text, w=w)))
    assert not problem._forward.is_batched
    x = rng.standard_normal((4, 3))
    np.testing.assert_allclose(problem.values(x), np.tanh(x) @ w, rtol=1e-4)


def test_the_gradient_of_steepness(rng):
    """Away from where smoothed slopes bend, growth is the derivative of ln ‖J_τ v‖."""
    problem = Problem(Analysis(PATH.format("mlp_tanh")))
    x, d = rng.standard_normal((2, 3, problem.n))
    v = rng.standard_normal((3, problem.n)).astype(np.float32)
    width, step = 0.05, 1e-2

    def size(at):
        return np.log(np.linalg.norm(problem.linearised(at, width).push(v), axis=1))

    slope = (size(x + step * d) - size(x - step * d)) / (2 * step)
    growth = (problem.linearised(x, width).growth(v, 2.0) * d).sum(axis=1)
    np.testing.assert_allclose(growth, slope, rtol=0.1, atol=0.02)


def test_random_graphs_have_adjoint_products():
    seen = 0
    for seed in range(40):
        made = random_graph(seed)
        chosen = () if made.sources is made.inputs else tuple(made.sources)
        analysis = Analysis(made.model(made.outputs), inputs=chosen, below="none")
        try:
            analysis.report()
            problem = Problem(analysis)
        except OnnxlipError:
            continue
        if problem.is_differentiable and problem.n and problem.rows:
            assert dot_test(problem, np.random.default_rng(seed)) < 1e-3, seed
            seen += 1
    assert seen >= 10
