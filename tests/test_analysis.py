"""What AutoLip says of whole networks: closed forms, invariants, and samples of the truth."""

import math

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxlip
from onnxlip import Analysis, Report
from onnxlip.errors import ModelError, NotLipschitzError, UnsupportedError, UsageError
from onnxlip.network import AffineBlock

RNG = np.random.default_rng(7)
W1, W2, W3 = RNG.standard_normal((4, 8)), RNG.standard_normal((8, 8)), RNG.standard_normal((8, 3))
MLP = """n (float[1,4] x) => (float[1,3] y) {
    a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) d = Relu(c) y = MatMul(d, w3) }"""


def norm(w: np.ndarray, p: float = 2) -> float:
    """‖x ↦ x w‖_p: the matrix acts from the right."""
    return float(np.linalg.norm(np.asarray(w, np.float32).astype(np.float64).T, p))


def upper(model: onnx.ModelProto, **options) -> float:
    """AutoLip."""
    return onnxlip.analyze(model, method="autolip", lower="none", **options).upper.value


@pytest.fixture
def mlp(make_model):
    return make_model(MLP, w1=W1, w2=W2, w3=W3)


class TestClosedForms:
    @pytest.mark.parametrize("p", [1, 2, math.inf])
    def test_a_chain_is_the_product_of_its_norms(self, mlp, p):
        expected = norm(W1, p) * norm(W2, p) * norm(W3, p)
        assert expected <= upper(mlp, norm=p) * (1 + 1e-12)
        assert upper(mlp, norm=p) <= expected * (1 + 1e-7)

    @pytest.mark.parametrize("omega", [0.0, 0.5, 2.0, -3.0])
    def test_the_graph_example_of_the_paper(self, make_model, omega):
        """f(x) = ln(1 + e^{x/2}) + |x/2 − ω sin x| has AutoLip 1 + |ω| [VS, section 3]."""
        text = """n (float[1,1] x) => (float[1,1] y) {
            h = Mul(x, half) a = Softplus(h) s = Sin(x) t = Mul(s, omega)
            d = Sub(h, t) b = Abs(d) y = Add(a, b) }"""
        model = make_model(text, half=np.float64(0.5), omega=np.float64(omega))
        assert upper(model) == pytest.approx(1 + abs(omega), rel=1e-12)
        assert upper(model) >= 1 + abs(omega)

    def test_a_residual_branch_adds(self, make_model):
        text = "n (float[1,4] x) => (float[1,4] y) { a = Relu(x) b = MatMul(a, w) y = Add(x, b) }"
        w = RNG.standard_normal((4, 4))
        assert upper(make_model(text, w=w)) == pytest.approx(1 + norm(w), rel=1e-8)

    def test_linear_branches_from_one_tensor_are_one_map(self, make_model):
        """x + x W is the map I + W, not 1 + ‖W‖."""
        text = "n (float[1,4] x) => (float[1,4] y) { b = MatMul(x, w) y = Add(x, b) }"
        w = -0.5 * np.eye(4)
        assert upper(make_model(text, w=w)) == pytest.approx(0.5, rel=1e-6)

    @pytest.mark.parametrize(("p", "expected"), [(1, 7.0), (2, 5.0), (math.inf, 4.0)])
    def test_concatenation_stacks(self, make_model, p, expected):
        text = """n (float[1,4] x) => (float[1,8] y) {
            a = Relu(x) b = Abs(x) c = Mul(a, three) d = Mul(b, four)
            y = Concat <axis = 1> (c, d) }"""
        model = make_model(text, three=np.float64(3), four=np.float64(4))
        assert upper(model, norm=p) == pytest.approx(expected, rel=1e-8)

    def test_batch_normalization_is_folded_into_its_convolution(self, make_model):
        text = """n (float[1,2,6,6] x) => (float[1,3,6,6] y) {
            c = Conv <pads = [1,1,1,1]> (x, k)
            y = BatchNormalization <epsilon = 0.0> (c, scale, bias, mean, var) }"""
        k = RNG.standard_normal((3, 2, 3, 3))
        scale, ones = np.array([3.0, 0.1, 0.1]), np.ones(3)
        k[0] *= 0.01  # the large scale meets a small channel
        folded = make_model(text, k=k, scale=scale, bias=ones, mean=ones, var=ones)
        alone = make_model(
            "n (float[1,2,6,6] x) => (float[1,3,6,6] y) { y = Conv <pads = [1,1,1,1]> (x, k) }",
            k=k * scale[:, None, None, None],
        )
        assert upper(folded) == pytest.approx(upper(alone), rel=1e-5)
        assert len(Analysis(folded).network.blocks) == 1

    def test_overlapping_pools_count(self, make_model):
        text = """n (float[1,1,9,9] x) => (float[1,1,4,4] y) {
            y = MaxPool <kernel_shape = [3,3], strides = [2,2]> (x) }"""
        assert upper(make_model(text)) == 2

    @pytest.mark.parametrize(
        ("body", "bound"),
        [
            ("s = Sigmoid(x) y = Mul(x, s)", 1.09984),
            ("s = Sigmoid(x) y = Mul(s, x)", 1.09984),
            ("d = Div(x, r2) e = Erf(d) f = Add(e, one) g = Mul(x, f) y = Mul(g, half)", 1.128904),
            ("h = Mul(x, half) d = Div(x, r2) e = Erf(d) f = Add(one, e) y = Mul(h, f)", 1.128904),
            ("t = Add(x, three) c = Clip(t, zero, six) m = Mul(x, c) y = Div(m, six)", 1.5),
            ("h = HardSigmoid <alpha = 0.16666667> (x) y = Mul(x, h)", 1.5),
            ("s = Softplus(x) t = Tanh(s) y = Mul(x, t)", 1.08850),
            ("s = Softplus(x) g = Greater(x, twenty) y = Where(g, x, s)", 1.0),
            ("e = Exp(x) f = Add(one, e) y = Log(f)", 1.0),
            ("n = Neg(x) e = Exp(n) f = Add(one, e) y = Div(x, f)", 1.09984),
            ("n = Neg(x) e = Exp(n) f = Add(one, e) r = Reciprocal(f) y = Mul(r, x)", 1.09984),
        ],
    )
    def test_decomposed_activations_are_one_function(self, make_model, body, bound):
        constants = {"one": 1, "half": 0.5, "three": 3, "six": 6, "zero": 0, "twenty": 20}
        used = {k: np.float64(v) for k, v in constants.items() if k in body}
        if "r2" in body:
            used["r2"] = np.float64(math.sqrt(2))
        model = make_model(f"n (float[1,5] x) => (float[1,5] y) {{ {body} }}", **used)
        report = onnxlip.analyze(model)
        assert report.upper.value == pytest.approx(bound, abs=2e-5)
        assert report.upper.value >= bound - 1e-5

    def test_an_idealisation_is_told(self, make_model):
        body = "s = Softplus(x) g = Greater(x, t) y = Where(g, x, s)"
        text = f"n (float[1,5] x) => (float[1,5] y) {{ {body} }}"
        assert onnxlip.analyze(make_model(text, t=np.float64(20))).notes

    def test_an_output_that_does_not_depend_on_the_input(self, make_model):
        text = "n (float[1,4] x) => (float[1,4] y) { y = Mul(x, zero) }"
        report = onnxlip.analyze(make_model(text, zero=np.float64(0)))
        assert report.upper.value == 0
        assert "does not depend" in report.notes[0]

    def test_an_output_computed_from_constants_alone(self, make_model):
        text = "n (float[1,4] x) => (float[4] y) { s = Shape(x) y = ConstantOfShape(four) }"
        report = onnxlip.analyze(make_model(text, four=np.array([4])))
        assert report.upper.value == 0


class TestSeveralInputsAndOutputs:
    TEXT = """n (float[1,4] a, float[1,4] b) => (float[1,4] u, float[1,4] v) {
        p = Relu(a) q = Mul(b, two) u = Add(p, q) v = Mul(b, three) }"""

    @pytest.fixture
    def report(self, make_model) -> Report:
        model = make_model(self.TEXT, two=np.float64(2), three=np.float64(3))
        return onnxlip.analyze(model, method="autolip")

    def test_a_bound_per_pair(self, report):
        pairs = {(p.input, p.output): p.upper for p in report.pairs}
        expected = {("a", "u"): 1, ("b", "u"): 2, ("a", "v"): 0, ("b", "v"): 3}
        assert pairs == pytest.approx(expected, rel=1e-9)

    def test_all_together(self, report):
        """u: √(1² + 2²); both stacked: √(5 + 9)."""
        assert report.upper.value == pytest.approx(math.sqrt(14), rel=1e-8)

    def test_one_chosen_input_holds_the_other(self, make_model):
        model = make_model(self.TEXT, two=np.float64(2), three=np.float64(3))
        report = onnxlip.analyze(model, inputs=["a"], outputs=["u"], method="autolip")
        assert report.upper.value == pytest.approx(1, rel=1e-12)

    def test_shared_weights(self, make_model):
        text = (
            "n (float[1,4] x) => (float[1,4] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }"
        )
        w = RNG.standard_normal((4, 4))
        assert upper(make_model(text, w=w)) == pytest.approx(norm(w) ** 2, rel=1e-7)

    def test_an_interior_tensor_as_input(self, mlp):
        assert upper(mlp, inputs=["b"]) == pytest.approx(norm(W2) * norm(W3), rel=1e-7)

    def test_an_interior_tensor_as_output(self, mlp):
        assert upper(mlp, outputs=["c"]) == pytest.approx(norm(W1) * norm(W2), rel=1e-7)

    def test_a_chosen_input_that_a_kept_node_makes_too_is_cut_off(self, make_model):
        """`a` is one of two outputs of a Split whose other output is still needed."""
        text = """n (float[1,4] x) => (float[1,2] y) {
            m = MatMul(x, w) a, b = Split <axis = 1, num_outputs = 2> (m)
            c = Mul(a, two) d = Mul(b, three) y = Add(c, d) }"""
        model = make_model(text, w=10 * np.eye(4), two=np.float64(2), three=np.float64(3))
        report = onnxlip.analyze(model, inputs=["x", "a"], method="autolip")
        pairs = {p.input: p.upper for p in report.pairs}
        assert pairs == pytest.approx({"x": 30, "a": 2}, rel=1e-8)

    def test_no_such_tensor(self, mlp):
        with pytest.raises(UsageError, match="--input nowhere"):
            upper(mlp, inputs=["nowhere"])


class TestInvariants:
    def test_identity_dropout_and_reshapes_change_nothing(self, mlp, make_model):
        text = """n (float[1,4] x) => (float[1,3] y) {
            i = Identity(x) a = MatMul(i, w1) r = Reshape(a, s) b = Relu(r) q = Reshape(b, t)
            c = MatMul(q, w2) d = Relu(c) e = Dropout(d) y = MatMul(e, w3) }"""
        shapes = {"s": np.array([2, 4]), "t": np.array([1, 8])}
        assert upper(make_model(text, w1=W1, w2=W2, w3=W3, **shapes)) == upper(mlp)

    def test_permuting_neurons_changes_nothing(self, mlp, make_model):
        order = RNG.permutation(8)
        permuted = make_model(MLP, w1=W1[:, order], w2=W2[order], w3=W3)
        assert upper(permuted) == pytest.approx(upper(mlp), rel=1e-8)

    def test_splitting_a_layer_changes_little(self, make_model):
        """Two linear layers in a row are one."""
        text = "n (float[1,4] x) => (float[1,3] y) { a = MatMul(x, w1) y = MatMul(a, w3) }"
        product = np.float32(W1).astype(float) @ np.float32(W3).astype(float)
        bound = upper(make_model(text, w1=W1, w3=W3))
        assert np.linalg.norm(product, 2) <= bound <= np.linalg.norm(product, 2) * (1 + 1e-6)

    def test_scaling_the_output_scales_the_bound(self, mlp, make_model):
        scaled = make_model(MLP, w1=W1, w2=W2, w3=4 * np.float32(W3).astype(float))
        assert upper(scaled) == pytest.approx(4 * upper(mlp), rel=1e-8)

    def test_same_seed_same_report(self, mlp):
        def strip(report: Report) -> dict:
            data = report.to_dict()
            del data["seconds"]
            for method in data["methods"].values():
                del method["seconds"]
            for pair in (pair for chain in data["chains"] for pair in chain["pairs"]):
                del pair["seconds"]
            return data

        assert strip(onnxlip.analyze(mlp)) == strip(onnxlip.analyze(mlp))

    @pytest.mark.parametrize("p", [1, 2, math.inf])
    def test_no_sampled_quotient_exceeds_the_bound(self, mlp, p):
        bound = upper(mlp, norm=p)
        session = ort.InferenceSession(mlp.SerializeToString(), providers=["CPUExecutionProvider"])
        for _ in range(300):
            a, b = RNG.standard_normal((2, 1, 4)) * 10 ** RNG.uniform(-1, 2)
            fa, fb = (session.run(None, {"x": v.astype(np.float32)})[0] for v in (a, b))
            rise = np.linalg.norm((fa - fb).ravel().astype(float), p)
            assert rise <= bound * np.linalg.norm((a - b).ravel(), p) * (1 + 1e-4)

    def test_brackets_hold(self, mlp):
        for block in onnxlip.analyze(mlp).blocks:
            if block.kind == "affine":
                assert 0 < block.lower <= block.upper <= block.lower * 1.01

    def test_shares_sum_to_one(self, mlp):
        assert sum(abs(b.share) for b in onnxlip.analyze(mlp).blocks) == pytest.approx(1)


class TestRefusals:
    def test_all_unknown_ops_at_once(self, make_model):
        text = """n (float[1,4] x) => (float[1,4] y) {
            a = mine.Foo(x) b = Relu(a) c = mine.Bar(b) y = mine.Foo(c) }"""
        with pytest.raises(UnsupportedError) as caught:
            onnxlip.analyze(make_model(text, domains={"mine": 3}))
        message = str(caught.value)
        for part in ("mine.Foo (opset 3)", "mine.Bar", "'a', 'y'", "--rules"):
            assert part in message
        assert {r.op_type for r in caught.value.refused} == {"Foo", "Bar"}

    def test_an_unknown_op_beside_the_way_needs_no_rule(self, make_model):
        text = "n (float[1,4] x) => (float[1,4] y) { a = mine.Foo(x) y = Relu(x) }"
        assert upper(make_model(text, domains={"mine": 3})) == 1

    def test_a_product_of_two_variables(self, make_model):
        text = "n (float[1,4] x) => (float[1,4] y) { a = MatMul(x, w) y = Mul(x, a) }"
        with pytest.raises(NotLipschitzError, match="Mul 'y'"):
            onnxlip.analyze(make_model(text, w=np.eye(4)))

    def test_a_product_of_bounded_variables_has_a_bound(self, make_model):
        text = """n (float[1,4] x) => (float[1,4] y) {
            h = MatMul(x, w) a = Sigmoid(h) b = Tanh(x) y = Mul(a, b) }"""
        w = np.flipud(np.eye(4))
        assert upper(make_model(text, w=w)) == pytest.approx(1.25, rel=1e-6)

    def test_integer_inputs_name_a_float_tensor(self, make_model):
        text = "n (int64[1,4] ids) => (float[1,4,2] y) { e = Gather(table, ids) y = Relu(e) }"
        with pytest.raises(ModelError, match=r"input 'ids' has type int64.*--input e"):
            onnxlip.analyze(make_model(text, table=np.ones((9, 2))))
        assert upper(make_model(text, table=np.ones((9, 2))), inputs=["e"]) == 1

    def test_a_piecewise_constant_op(self, make_model):
        text = "n (float[1,4] x) => (float[1,4] y) { y = Sign(x) }"
        with pytest.raises(NotLipschitzError, match="Sign 'y'"):
            onnxlip.analyze(make_model(text))

    @pytest.mark.parametrize("op", ["MaxPool", "LpPool", "AveragePool"])
    def test_windows_that_runtimes_read_differently(self, make_model, op):
        """onnxruntime makes one window of it, shape inference two: what is exported after it may
        rest on either."""
        text = f"""n (float[1,2,4] x) => (float[1,2,1,1] z) {{
            y = {op} <auto_pad = "SAME_UPPER", dilations = [2], kernel_shape = [2], strides = [2]>
                (x) z = Reshape(y, shape) }}"""
        with pytest.raises(ModelError, match=f"{op} 'y': runtimes disagree"):
            onnxlip.analyze(make_model(text, shape=np.array([1, 2, 1, 1])))

    def test_unknown_norm(self, mlp):
        with pytest.raises(UsageError, match="use 1, 2 or inf"):
            onnxlip.analyze(mlp, norm=3)


def test_the_stations_are_open_to_users(mlp):
    analysis = Analysis(mlp)
    assert analysis.graph.network.number_of_nodes() == 7  # five ops and both ends
    blocks = analysis.network.blocks
    assert [isinstance(b, AffineBlock) for b in blocks] == [True, False, True, False, True]
