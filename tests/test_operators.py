"""Operators: products, weights that are shared and not copied, devices, and errors that tell."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from onnxlip.emitter import Emitter, Weights
from onnxlip.errors import UsageError
from onnxlip.linear import Convolution, LinearMap, Matrix, Monomial, Product, Sum, Transposed
from onnxlip.operators import (
    NonFiniteError,
    Operator,
    cpu_nodes,
    providers,
    resolve,
)
from onnxlip.registry import built_in

LOWERINGS = built_in().lowerings
RNG = np.random.default_rng(0)
CONV = Convolution(
    RNG.standard_normal((4, 3, 3, 3)).astype(np.float32), (6, 6), (6, 6), (1, 1), (1, 1), (1, 1)
)
MATRIX = Matrix(RNG.standard_normal((1, 5, 144)).astype(np.float32))
MAPS: list[LinearMap] = [
    CONV,
    MATRIX,
    Matrix(RNG.standard_normal((2, 3, 4)), outer=2, inner=3),
    Monomial(6, np.array([3, 1, -1, 1]), RNG.standard_normal(4)),
    Product((MATRIX, CONV)),
    Sum((CONV, CONV)),
    Transposed(CONV),
]


@pytest.mark.parametrize("a", MAPS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_agree_with_one_another(a: LinearMap, dtype: npt.DTypeLike) -> None:
    operator = Operator(a, LOWERINGS, dtype)
    close = 1e-5 if dtype == np.float32 else 1e-13
    dense = Operator(a, LOWERINGS, np.float64).matvec(np.eye(a.columns)).T
    x, y = RNG.standard_normal((3, a.columns)), RNG.standard_normal((3, a.rows))
    scale = np.abs(dense).sum()
    np.testing.assert_allclose(operator.matvec(x), x @ dense.T, atol=close * scale)
    np.testing.assert_allclose(operator.rmatvec(y), y @ dense, atol=close * scale)
    np.testing.assert_allclose(operator.gram(x), x @ dense.T @ dense, atol=close * scale**2)
    assert operator.matvec(x[0]).shape == (a.rows,)
    assert operator.matvec(x).dtype == dtype
    thrice = operator.gram(operator.gram(operator.gram(x[0])))
    np.testing.assert_array_equal(operator.iterate(x[0], 3), thrice)


def test_results_stay_as_they_are_when_more_products_follow() -> None:
    operator = Operator(CONV, LOWERINGS)
    x = RNG.standard_normal((20, CONV.columns)).astype(np.float32)
    results = [operator.matvec(row) for row in x]
    expected = [Operator(CONV, LOWERINGS).matvec(row) for row in x]
    np.testing.assert_array_equal(results, expected)
    different = [operator.matvec(x[:k]) for k in (1, 7, 20)]  # other batches in between
    np.testing.assert_allclose(different[2], expected, atol=1e-5)


def test_contiguous_float32_weights_are_not_copied_and_others_once() -> None:
    operator = Operator(CONV, LOWERINGS)
    x, y = np.ones(CONV.columns, np.float32), np.ones(CONV.rows, np.float32)
    operator.matvec(x), operator.rmatvec(y), operator.gram(x)
    arrays = operator._weights.arrays
    assert [np.shares_memory(w, CONV.kernel) for w in arrays.values()] == [True]
    assert len(operator._values) == 1
    value = next(iter(operator._values.values()))
    operator.matvec(x)
    assert next(iter(operator._values.values())) is value
    wide = Matrix(np.ones((1, 3, 4)))
    other = Operator(wide, LOWERINGS)
    other.matvec(np.ones(4)), other.rmatvec(np.ones(3)), other.gram(np.ones(4))
    (copy,) = other._weights.arrays.values()
    assert copy.dtype == np.float32


def test_weights_are_known_by_identity() -> None:
    weights = Weights(np.float64, modulus=True)
    a = np.array([[-1.0, 2.0]])
    first, second = Emitter(weights), Emitter(weights)
    assert first.weight(a) == second.weight(a) != second.weight(a.copy())
    assert len(first.used) == 1
    assert len(weights.arrays) == 2
    np.testing.assert_array_equal(first.used["w0"], [[1.0, 2.0]])
    assert first.double
    assert first.modulus


def test_devices() -> None:
    operator = Operator(CONV, LOWERINGS, provider="auto")
    assert operator.device == resolve("auto")
    operator.matvec(np.ones(CONV.columns))
    assert operator.device in ("cpu", "cuda")
    assert Operator(Monomial(3), LOWERINGS).matvec(np.ones(3)).tolist() == [1, 1, 1]
    assert Operator(CONV, LOWERINGS).fallbacks == ()
    assert providers("cpu") == ["CPUExecutionProvider"]
    with pytest.raises(UsageError, match="unknown provider"):
        providers("tpu")


def test_threads_change_no_figure_beyond_rounding() -> None:
    x = np.ones(CONV.columns)
    one, two = (Operator(CONV, LOWERINGS, threads=t).matvec(x) for t in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_what_ran_on_the_cpu_is_told_by_a_profile() -> None:
    from onnx import TensorProto, helper

    def value(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])

    nodes = [helper.make_node("Exp", ["x"], ["t"]), helper.make_node("Neg", ["t"], ["y"])]
    graph = helper.make_graph(nodes, "g", [value("x")], [value("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    feeds = {"x": np.zeros(2, np.float32)}
    assert cpu_nodes(model.SerializeToString(), feeds, False, providers("cpu")) == ["Exp", "Neg"]


@pytest.mark.parametrize("what", ["matvec", "rmatvec", "gram"])
def test_products_that_are_not_finite_are_named(what: str) -> None:
    for values, why in (
        (np.full((1, 2, 2), 1e30), "overflows"),
        (np.array([[[1.0, np.nan], [1.0, 1.0]]]), "NaN"),
    ):
        operator = Operator(Matrix(values), LOWERINGS)
        with pytest.raises(NonFiniteError, match=f"2×2 Matrix is not finite in float32: .*{why}"):
            getattr(operator, what)(np.full(2, 1e9))
    assert np.isnan(Operator(Matrix(np.ones((1, 1, 1))), LOWERINGS).matvec(np.array([np.nan])))


def test_empty_maps_need_no_session() -> None:
    a = Matrix(np.zeros((1, 0, 4)))
    assert Operator(a, LOWERINGS).matvec(np.ones((2, 4))).shape == (2, 0)
    np.testing.assert_array_equal(Operator(a, LOWERINGS).rmatvec(np.ones((2, 0))), np.zeros((2, 4)))


def test_what_fell_back_to_the_cpu_is_a_warning_of_the_report(monkeypatch, make_model):
    """No CUDA here: the operator only says so; from there on it is the same code."""
    import onnxlip

    monkeypatch.setattr(Operator, "fallbacks", property(lambda self: ("adjoint: Slice",)))
    monkeypatch.setattr(Operator, "device", property(lambda self: "cuda"))
    w = np.random.default_rng(0).standard_normal((12, 12, 3, 3))
    text = "n (float[1,12,10,10] x) => (float[1,12,10,10] y) { y = Conv<pads=[1,1,1,1]>(x, w) }"
    report = onnxlip.analyze(make_model(text, w=w))
    assert report.provider == "cuda"
    assert "warning: without a CUDA kernel, run on the CPU: adjoint: Slice" in report.notes
