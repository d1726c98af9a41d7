"""Affine blocks: what they compose, when, and for how long."""

import gc
import weakref

import numpy as np
import pytest

from onnxlip import Analysis
from onnxlip.errors import RuleError
from onnxlip.linear import LinearMap, Matrix, Monomial, Transposed, selection
from onnxlip.network import AffineBlock
from onnxlip.operators import Operator
from onnxlip.registry import rule_set
from onnxlip.rules import Affine, Node, Rule, example, variable

RNG = np.random.default_rng(3)
BRANCHES = """n (float[1,6] x, float[1,6] z) => (float[1,6] y) {
    a = MatMul(x, u) b = Relu(a)
    c = MatMul(b, v) d = Add(c, b) e = Mul(d, s) f = Add(e, d) g = Add(f, z) y = MatMul(g, w) }"""


def affine(analysis: Analysis) -> list[AffineBlock]:
    return [b for b in analysis.network.blocks if isinstance(b, AffineBlock)]


def written_out(a: LinearMap, analysis: Analysis) -> np.ndarray:
    return Operator(a, analysis.rule_set.lowerings, np.float64).matvec(np.eye(a.columns)).T


class Recorder:
    """A rule y = 2 x whose maps can be counted, and watched while they live."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[LinearMap]] = []

    @property
    def alive(self) -> int:
        return sum(known() is not None for known in self.made)

    def analysis(self, model, norm: float = 2.0) -> Analysis:
        rule = Rule("Twice", Affine(self._linear), "a test", (example(variable(4)),), "com.acme")
        return Analysis(model, norm, rules=rule_set([rule]))

    def _linear(self, node: Node, i: int, o: int) -> LinearMap:
        made = Matrix(2 * np.eye(node.x.size)[None])
        self.made.append(weakref.ref(made))
        return made


@pytest.fixture
def branches(make_model):
    scale, (u, v, w) = RNG.standard_normal(6), RNG.standard_normal((3, 6, 6))
    return make_model(BRANCHES, u=u, v=v, w=w, s=scale), (u, v, w, np.diag(scale))


@pytest.fixture
def chain(make_model):
    body = "t0 = com.acme.Twice(x)"
    for k in range(5):
        body += f" r{k} = Relu(t{k}) t{k + 1} = com.acme.Twice(r{k})"
    text = f"n (float[1,4] x) => (float[1,4] t5) {{ {body} }}"
    return make_model(text, domains={"com.acme": 1})


class TestMaps:
    def test_branches_and_chains_are_composed(self, branches):
        """d = (V + 1) b, y = W ((S + 1) d + z): d is read twice, by one block alone."""
        model, arrays = branches
        u, v, w, s = (np.asarray(a, np.float32).astype(np.float64).T for a in arrays)
        analysis = Analysis(model)
        first, last = affine(analysis)
        one = np.eye(6)
        expected = {"b": w @ (s + one) @ (v + one), "z": w}
        assert dict(zip(last.inputs, last.maps, strict=True)).keys() == expected.keys()
        for name, a in zip(last.inputs, last.maps, strict=True):
            assert np.allclose(written_out(a, analysis), expected[name], atol=1e-12)
        assert np.allclose(written_out(first.maps[0], analysis), u, atol=1e-12)

    def test_shapes_are_those_of_the_maps(self, branches):
        for block in affine(Analysis(branches[0])):
            assert block.shapes == tuple((a.rows, a.columns) for a in block.maps)
            assert len(block.shapes) == len(block.inputs)

    def test_maps_are_the_same_while_somebody_holds_one(self, branches):
        block = affine(Analysis(branches[0]))[-1]
        assert len(block.maps) == 2
        for j in range(2):
            held = block.maps[j]
            assert block.maps[j] is held
            assert block.maps[j] is block.maps[j]

    def test_what_is_composed_anew_is_equal(self, branches):
        analysis = Analysis(branches[0])
        for block in affine(analysis):
            before = [written_out(a, analysis) for a in block.maps]
            after = [written_out(a, analysis) for a in block.maps]
            assert np.array_equal(before, after)

    def test_a_chain_of_any_length_is_composed(self, make_model):
        length = 1200  # more than a recursion could be deep
        ops = [f"t{k} = Neg(t{k - 1})" for k in range(1, length)]
        ops[1::2] = [f"t{k} = CumSum(t{k - 1}, axis)" for k in range(2, length, 2)]
        text = f"n (float[1,1] t0) => (float[1,1] t{length - 1}) {{ {' '.join(ops)} }}"
        (block,) = affine(Analysis(make_model(text, axis=np.int64(1))))
        (a,) = block.maps
        assert (a.rows, a.columns) == (1, 1)


class TestLifetime:
    def test_a_network_holds_no_map(self, chain):
        recorder = Recorder()
        analysis = recorder.analysis(chain)
        blocks = affine(analysis)
        assert len(recorder.made) == len(blocks)
        assert recorder.alive == 0
        maps = blocks[0].maps
        assert recorder.alive == 1
        del maps
        assert recorder.alive == 0

    @pytest.mark.parametrize("norm", [1.0, 2.0])
    def test_norms_compose_each_block_once_and_drop_it(self, chain, norm: float):
        recorder = Recorder()
        analysis = recorder.analysis(chain, norm)
        blocks = affine(analysis)
        recorder.made.clear()
        left = []

        def progress(done: int, total: int, name: str) -> None:
            gc.collect()
            left.append(recorder.alive)

        analysis.norms(progress)
        assert len(recorder.made) == len(blocks)
        assert left == [0] * len(blocks)

    @pytest.mark.parametrize(
        "a", [Monomial(3), selection(np.array([2, 0]), 3), selection(np.array([0, 0]), 3)]
    )
    def test_an_adjoint_does_not_keep_its_map_alive(self, a: Monomial):
        again = Monomial(a.n, a.index)
        known = weakref.ref(again)
        gc.disable()
        try:
            assert isinstance(again.adjoint, (Monomial, Transposed))
            del again
            assert known() is None
        finally:
            gc.enable()


class TestErrors:
    """Rules that fail are told by the network's station, before any norm is taken."""

    def station(self, chain, linear) -> None:
        rule = Rule("Twice", Affine(linear), "a test", (example(variable(4)),), "com.acme")
        analysis = Analysis(chain, rules=rule_set([rule]))
        assert analysis.graph.nodes
        analysis.network  # noqa: B018

    def test_a_rule_that_fails(self, chain):
        with pytest.raises(RuleError, match=r"rule for Twice failed at 't0': KeyError: 'gamma'"):
            self.station(chain, lambda node, i, o: {}["gamma"])

    def test_a_rule_that_fails_in_the_last_block_alone(self, chain):
        def linear(node: Node, i: int, o: int) -> LinearMap:
            return Monomial(4 // (node.name != "t5"))

        with pytest.raises(RuleError, match="failed at 't5': ZeroDivisionError"):
            self.station(chain, linear)

    def test_a_map_of_another_shape(self, chain):
        expected = r"rule for Twice gave a 3×3 map at 't0', where the op is 4×4"
        with pytest.raises(RuleError, match=expected):
            self.station(chain, lambda node, i, o: Monomial(3))
