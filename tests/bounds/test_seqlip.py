"""SeqLip over networks: chains, and AutoLip ≥ certified ≥ estimate ≥ what gated products reach."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from onnxlip import Analysis
from onnxlip.bounds.autolip import network_bound
from onnxlip.bounds.chains import chains
from onnxlip.bounds.gates import choice, gate_gain
from onnxlip.bounds.seqlip import SeqLip, SeqLipEffort, seqlip
from onnxlip.network import SlopeBlock
from onnxlip.norms.workspace import Workspace

Floats = np.ndarray
ACTS = ["Relu", "LeakyRelu", "Tanh", "Gelu", "Abs", "Elu"]


def run(model: Any, search: str = "sign-power", **effort: Any) -> tuple[float, SeqLip]:
    """(AutoLip, SeqLip)."""
    analysis = Analysis(model)
    norms = analysis.norms()
    work = Workspace(analysis.rule_set.lowerings)
    found = seqlip(analysis.network, norms, work, SeqLipEffort(search, **effort))
    return network_bound(analysis.network, norms, 2.0)[0], found


def dense(make_model: Any, widths: list[int], act: str, weights: list[Floats]) -> Any:
    """A chain of MatMuls."""
    body, tensor = [], "x"
    for k in range(len(weights)):
        last = k == len(weights) - 1
        out = "y" if last else f"z{k}"
        body.append(f"{out} = MatMul({tensor}, w{k})")
        if not last:
            body.append(f"h{k} = {act}(z{k})")
            tensor = f"h{k}"
    text = "\n".join(body)
    return make_model(
        f"n (float[1,{widths[0]}] x) => (float[1,{widths[-1]}] y) {{ {text} }}",
        **{f"w{k}": w for k, w in enumerate(weights)},
    )


def random_chain(make_model: Any, seed: int) -> tuple[Any, list[Floats], str]:
    rng = np.random.default_rng(seed)
    widths = [int(n) for n in rng.integers(1, 9, int(rng.integers(3, 6)))]
    weights = [
        rng.standard_normal((a, b)).astype(np.float32) for a, b in itertools.pairwise(widths)
    ]
    act = ACTS[seed % len(ACTS)]
    return dense(make_model, widths, act, weights), weights, act


@pytest.mark.parametrize("seed", range(60))
def test_order_of_the_three_figures(make_model: Any, seed: int) -> None:
    """No product of the layers with slopes of the interval exceeds the certified value."""
    model, weights, act = random_chain(make_model, seed)
    auto, found = run(model, vectors=[None, 1, 3][seed % 3])
    assert found.estimate <= found.certified <= auto
    (chain,) = found.chains
    for pair in chain.pairs:
        assert pair.estimate <= pair.certified <= pair.autolip * (1 + 1e-12)
    low, high = {
        "Relu": (0, 1), "LeakyRelu": (0.01, 1), "Tanh": (0, 1), "Gelu": (-0.12, 1.12),
        "Abs": (-1, 1), "Elu": (0, 1),
    }[act]  # fmt: skip
    rng = np.random.default_rng(seed)
    for _ in range(200):
        j = weights[0].astype(np.float64)
        for w in weights[1:]:
            j = (j * rng.choice([low, high], j.shape[1])) @ w.astype(np.float64)
        assert np.linalg.norm(j, 2) <= found.certified


@pytest.mark.parametrize("seed", range(10))
def test_two_layers_are_exact(make_model: Any, seed: int) -> None:
    """With one hidden layer SeqLip is the maximum over all patterns itself."""
    rng = np.random.default_rng(seed)
    w, v = (rng.standard_normal(s).astype(np.float32) for s in ((4, 7), (7, 3)))
    model = dense(make_model, [4, 7, 3], "Relu", [w, v])
    patterns = np.array(np.meshgrid(*[[0, 1]] * 7)).reshape(7, -1).T
    best = max(float(np.linalg.norm((w * d).astype(np.float64) @ v, 2)) for d in patterns)
    for search in ("exact", "sign-power", "greedy"):
        _, found = run(model, search)
        assert best <= found.certified
        assert found.estimate <= best * (1 + 1e-9)
        if search != "greedy":
            assert found.estimate == pytest.approx(best, rel=1e-6)
        if search == "exact":
            assert found.certified == pytest.approx(best, rel=2e-5)


@pytest.mark.parametrize("seed", range(6))
def test_neither_order_nor_scale_of_neurons_matters(make_model: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    w, v = (rng.standard_normal(s).astype(np.float32) for s in ((5, 8), (8, 4)))
    _, plain = run(dense(make_model, [5, 8, 4], "Relu", [w, v]))
    order = rng.permutation(8)
    _, turned = run(dense(make_model, [5, 8, 4], "Relu", [w[:, order], v[order]]))
    _, scaled = run(dense(make_model, [5, 8, 4], "Relu", [w, v * np.float32(-4)]))
    assert turned.certified == pytest.approx(plain.certified, rel=2e-4)
    assert scaled.certified == pytest.approx(4 * plain.certified, rel=2e-4)
    assert scaled.estimate == pytest.approx(4 * plain.estimate, rel=1e-6)


RESIDUAL = """n (float[1,5] x) => (float[1,5] y) {
    a = MatMul(x, w0) b = Relu(a) c = MatMul(b, w1) d = Relu(c)
    e = MatMul(d, w2) f = Add(e, x) g = Relu(f) y = MatMul(g, w3) }"""


def test_a_residual_branch_has_its_own_chain(make_model: Any, rng: np.random.Generator) -> None:
    shapes = [(5, 6), (6, 6), (6, 5), (5, 5)]
    weights = {f"w{k}": rng.standard_normal(s) for k, s in enumerate(shapes)}
    model = make_model(RESIDUAL, **weights)
    found = chains(Analysis(model).network)
    assert [len(chain.legs) for chain in found] == [3]
    auto, bound = run(model)
    assert bound.certified < auto
    for _ in range(300):
        w0, w1, w2, w3 = (w.astype(np.float32).astype(np.float64) for w in weights.values())
        d = [rng.choice([0.0, 1.0], n) for n in (6, 6, 5)]
        branch = ((w0 * d[0]) @ w1 * d[1]) @ w2
        assert np.linalg.norm(((branch + np.eye(5)) * d[2]) @ w3, 2) <= bound.certified


def test_a_tensor_that_others_read_ends_a_chain(make_model: Any, rng: np.random.Generator) -> None:
    model = make_model(
        """n (float[1,4] x) => (float[1,4] y, float[1,4] b) {
        a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }""",
        w=rng.standard_normal((4, 4)),
    )
    assert chains(Analysis(model).network) == ()
    auto, bound = run(model)
    assert bound.certified == bound.estimate == auto
    assert not bound.chains


POOLED = """n (float[1,1,8,8] x) => (float[1,3] y) {
    a = Conv<kernel_shape=[3,3]>(x, w) b = Relu(a)
    c = MaxPool<kernel_shape=[3,3], strides=[1,1]>(b)
    d = Flatten(c) y = MatMul(d, v) }"""


def test_pools_are_part_of_a_gate(make_model: Any, rng: np.random.Generator) -> None:
    w, v = rng.standard_normal((2, 1, 3, 3)), rng.standard_normal((32, 3))
    model = make_model(POOLED, w=w, v=v)
    network = Analysis(model).network
    (chain,) = chains(network)
    picked = choice(chain.gates[0])
    assert picked.picks is not None
    assert picked.picks.shape == (32, 9)
    assert gate_gain(chain.gates[0]) == 3.0
    auto, found = run(model)
    assert 0 < found.estimate < found.certified == auto  # pools are not certified in pairs


def test_large_chains_are_left_by_default(make_model: Any, rng: np.random.Generator) -> None:
    weights = [rng.standard_normal(s).astype(np.float32) for s in ((3, 1100), (1100, 3))]
    model = dense(make_model, [3, 1100, 3], "Relu", weights)
    auto, found = run(model, "auto")
    assert found.left == 1
    assert found.certified == auto
    small = dense(make_model, [3, 9, 3], "Relu", [w[:9, :9] for w in (weights[0], weights[1])])
    assert run(small, "auto")[1].left == 0


def test_same_seed_same_figures(make_model: Any) -> None:
    model, _, _ = random_chain(make_model, 7)
    first, second = (run(model)[1] for _ in range(2))
    assert (first.certified, first.estimate) == (second.certified, second.estimate)


def test_weights_beyond_float32_squares_keep_autolip(make_model: Any) -> None:
    big = np.full((3, 3), 1e18, np.float32)
    auto, found = run(dense(make_model, [3, 3, 3], "Relu", [big, big / np.float32(1e18)]))
    assert found.certified == auto
    assert found.left == 1


BEHIND = """n (float[1,4] x) => (float[1,3] y) {
    p = MatMul(x, w0) q = Tanh(p) r = Add(q, x)
    a = MatMul(r, w1) b = Relu(a) c = MatMul(b, w2) d = Relu(c) s = Add(d, r)
    e = MatMul(s, w3) f = Relu(e) y = MatMul(f, w4) }"""


@pytest.mark.parametrize("size", [4.0, 0.25])
def test_a_chain_builds_on_what_is_before_it(
    make_model: Any, size: float, rng: np.random.Generator
) -> None:
    """Its gain is relative to its source, whose own bound is not 1."""
    shapes = [(4, 4), (4, 6), (6, 4), (4, 5), (5, 3)]
    ws = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    ws[0] *= np.float32(size)
    auto, found = run(make_model(BEHIND, **{f"w{k}": w for k, w in enumerate(ws)}))
    assert found.chains
    assert found.certified < auto
    w0, w1, w2, w3, w4 = (w.astype(np.float64) for w in ws)
    best = 0.0
    for _ in range(2000):
        d = [rng.choice([0.0, 1.0], n) for n in (4, 6, 4, 5)]
        trunk = w0 * d[0] + np.eye(4)
        whole = trunk @ ((w1 * d[1]) @ (w2 * d[2]) + np.eye(4)) @ (w3 * d[3]) @ w4
        best = max(best, float(np.linalg.norm(whole, 2)))
    assert best <= found.certified


def _slopes(alpha: list[float], beta: list[float]) -> SlopeBlock:
    shape = (len(alpha),)
    return SlopeBlock("s", (), (), ("x",), ("y",), np.array(alpha), np.array(beta), shape)


def test_slopes_in_a_row_multiply_as_intervals() -> None:
    one, two = _slopes([-0.5, 0.2, -1.0], [1.0, 0.3, -0.5]), _slopes([0.0, -2.0, -3.0], [2, 1, -1])
    found = choice((one, two))
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = (rng.uniform(s.alpha, s.beta) for s in (one, two))
        assert np.all(found.alpha <= a * b)
        assert np.all(a * b <= found.beta)
    assert found.alpha == pytest.approx([-1.0, -0.6, 0.5])
    assert found.beta == pytest.approx([2.0, 0.3, 3.0])


def test_slopes_before_and_after_a_pool_are_those_of_the_entries(make_model: Any) -> None:
    text = """n (float[1,2,2,2] x) => (float[1,2,1,1] y) {
        a = Conv<kernel_shape=[1,1]>(x, w) b = PRelu(a, s)
        c = MaxPool<kernel_shape=[2,2]>(b) d = LeakyRelu<alpha=0.5>(c)
        y = Conv<kernel_shape=[1,1]>(d, w) }"""
    slopes = np.array([0.25, 2.0], np.float32).reshape(2, 1, 1)
    model = make_model(text, w=np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1), s=slopes)
    (chain,) = chains(Analysis(model).network)
    found = choice(chain.gates[0])
    assert found.picks is not None
    assert found.picks.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert found.alpha == pytest.approx(np.repeat([[0.125], [0.5]], 4, axis=1))
    assert found.beta == pytest.approx(np.repeat([[1.0], [2.0]], 4, axis=1))
