"""Affine rules against onnxruntime on random configurations, and what their examples cannot say.

onnxruntime is the witness here because it is what users run: onnx's reference differs from it on
ceil_mode, on auto_pad and in the precision of cubic weights.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxlip.errors import ModelError
from onnxlip.linear import Convolution, LinearMap, Matrix, Monomial, Product, Transposed
from onnxlip.operators import Operator
from onnxlip.registry import Registered, built_in
from onnxlip.rules import Affine, Node, Refusal, Value
from onnxlip.univariate import MAX_TERMS, Expression

Array = npt.NDArray[Any]
FEW = settings(max_examples=60, deadline=None)
OPSET = 21
UNIT = Fraction(1, 2**53)


# ── a node, its map, and the matrix that onnxruntime gives ────────────────────────────────


def _session(op_type: str, inputs: list[Array | None], attributes: dict[str, Any]) -> Any:
    import onnxruntime as ort
    from onnx import TensorProto, helper

    names = ["" if a is None else f"x{k}" for k, a in enumerate(inputs)]
    graph = helper.make_graph(
        [helper.make_node(op_type, names, ["y"], **attributes)],
        "one",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in zip(names, inputs, strict=True)
            if a is not None
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def _node(
    op_type: str,
    inputs: list[Array | None],
    out: tuple[int, ...],
    variables: tuple[int, ...] = (0,),
    **attributes: Any,
) -> Node:
    values = tuple(
        None if a is None else Value(f"x{k}", a.shape, a.dtype, None if k in variables else a)
        for k, a in enumerate(inputs)
    )
    results = (Value("y", out, np.dtype(np.float32)),)
    return Node(op_type, values, results, attributes, "", OPSET, "it")


def _rule(node: Node) -> Registered:
    found = built_in().find(node)
    assert found is not None
    return found


def _linear(node: Node, i: int = 0) -> LinearMap:
    form = _rule(node).rule.form
    assert isinstance(form, Affine)
    return form.linear(node, i, 0)


def _dense(linear: LinearMap) -> Array:
    return Operator(linear, built_in().lowerings, np.float64).matvec(np.eye(linear.columns)).T


def _agree(op_type: str, inputs: list[Array | None], variable: int = 0, **attributes: Any) -> None:
    """Compare the rule's matrix with onnxruntime's; configurations that it rejects pass."""
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

    feeds = {f"x{k}": a for k, a in enumerate(inputs) if a is not None}
    x = inputs[variable]
    assert x is not None
    columns = []
    try:
        session = _session(op_type, inputs, attributes)
        for e in np.vstack([np.zeros(x.size), np.eye(x.size)]):
            feeds[f"x{variable}"] = e.reshape(x.shape).astype(np.float32)
            columns.append(session.run(None, feeds)[0])
    except (Fail, InvalidArgument, RuntimeException):
        assume(False)
    node = _node(op_type, inputs, columns[0].shape, (variable,), **attributes)
    try:
        mine = _dense(_linear(node, variable))
    except ModelError as error:
        if "runtimes disagree" in str(error):
            return
        raise
    theirs = np.stack([(c - columns[0]).ravel().astype(np.float64) for c in columns[1:]], axis=1)
    assert mine.shape == theirs.shape
    assert np.abs(mine - theirs).max(initial=0) <= 2e-5 * (1 + np.abs(theirs).max(initial=0))


def _ints(low: int, high: int, n: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(low, high), min_size=n, max_size=n)


def _whole(data: st.DataObject, shape: tuple[int, ...]) -> Array:
    """Weights that are small integers: onnxruntime's float32 is exact on them."""
    seed = data.draw(st.integers(0, 2**16))
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


def _zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


@FEW
@given(st.data())
def test_conv_is_onnxruntimes(data: st.DataObject) -> None:
    draw = data.draw
    d, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3]))
    taps = draw(_ints(1, 4 if d < 3 else 2, d))
    attributes: dict[str, Any] = {"strides": draw(_ints(1, 4, d)), "group": groups}
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto == "NOTSET":
        attributes["pads"] = draw(_ints(0, 2, 2 * d))
    else:
        attributes["auto_pad"] = auto
    if draw(st.booleans()):
        attributes["dilations"] = draw(_ints(1, 3, d))
    kernel = _whole(data, (draw(st.integers(1, 2)) * groups, draw(st.integers(1, 2)), *taps))
    spatial = draw(_ints(1, 8 if d < 3 else 4, d))
    x = _zeros(draw(st.integers(1, 2)), kernel.shape[1] * groups, *spatial)
    _agree("Conv", [x, kernel], **attributes)


@FEW
@given(st.data())
def test_conv_transpose_is_onnxruntimes(data: st.DataObject) -> None:
    draw = data.draw
    d, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2]))
    taps, strides = draw(_ints(1, 4 if d < 3 else 2, d)), draw(_ints(1, 3, d))
    spatial = draw(_ints(1, 5 if d < 3 else 3, d))
    attributes: dict[str, Any] = {"strides": strides, "group": groups}
    if draw(st.booleans()):
        attributes["dilations"] = draw(_ints(1, 2, d))
    size = draw(st.sampled_from(["pads", "auto_pad", "output_shape"]))
    if size == "pads":
        attributes["pads"] = draw(_ints(0, 2, 2 * d))
        attributes["output_padding"] = [draw(st.integers(0, s - 1)) for s in strides]
    elif size == "auto_pad":
        attributes["auto_pad"] = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    else:
        less = draw(_ints(0, 2, d))
        attributes["output_shape"] = [
            max(1, s * (n - 1) + k - c)
            for s, n, k, c in zip(strides, spatial, taps, less, strict=True)
        ]
        attributes["auto_pad"] = draw(st.sampled_from(["NOTSET", "SAME_UPPER"]))
    kernel = _whole(data, (draw(st.integers(1, 2)) * groups, draw(st.integers(1, 2)), *taps))
    _agree("ConvTranspose", [_zeros(1, kernel.shape[0], *spatial), kernel], **attributes)


def _pool(data: st.DataObject) -> tuple[list[int], dict[str, Any]]:
    draw = data.draw
    d = draw(st.integers(1, 2))
    taps = draw(_ints(1, 4, d))
    attributes: dict[str, Any] = {
        "kernel_shape": taps,
        "strides": draw(_ints(1, 4, d)),
        "count_include_pad": draw(st.integers(0, 1)),
    }
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto == "NOTSET":
        attributes["pads"] = [draw(st.integers(0, k - 1)) for k in taps + taps]
        attributes["ceil_mode"] = draw(st.integers(0, 1))
    else:
        attributes["auto_pad"] = auto
    if not auto.startswith("SAME") and draw(st.booleans()):
        attributes["dilations"] = draw(_ints(1, 3, d))
    return draw(_ints(1, 8, d)), attributes


@FEW
@given(st.data())
def test_average_pool_is_onnxruntimes(data: st.DataObject) -> None:
    spatial, attributes = _pool(data)
    _agree("AveragePool", [_zeros(1, 2, *spatial)], **attributes)


@FEW
@given(st.data())
def test_average_pool_of_long_axes_is_the_same(data: st.DataObject) -> None:
    from onnxlip.ops import average_pool

    spatial, attributes = _pool(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(average_pool, "_LARGEST", 0)
        _agree("AveragePool", [_zeros(1, 2, *spatial)], **attributes)


def _resize(data: st.DataObject) -> tuple[list[Array | None], dict[str, Any]]:
    draw = data.draw
    mode = draw(st.sampled_from(["nearest", "linear", "cubic"]))
    coordinates = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]
    coordinates += ["half_pixel_symmetric"]
    attributes: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": draw(st.sampled_from(coordinates)),
    }
    if mode == "nearest":
        roundings = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
        attributes["nearest_mode"] = draw(st.sampled_from(roundings))
    if mode == "cubic":
        attributes["cubic_coeff_a"] = draw(st.sampled_from([-0.75, -0.5, -0.6]))
        attributes["exclude_outside"] = draw(st.integers(0, 1))
    d = 2 if mode == "cubic" else draw(st.integers(1, 2))
    lead = 0 if draw(st.booleans()) else 2
    if not lead:
        attributes["axes"] = list(range(2, 2 + d))
    x = _zeros(1, 1, *draw(_ints(1, 7, d)))
    if draw(st.booleans()):
        some = st.sampled_from([0.3, 0.5, 0.6, 1 / 3, 2 / 3, 1.0, 1.3, 1.5, 2.0, 2.6, 3.0])
        scales = [1.0] * lead + draw(st.lists(some, min_size=d, max_size=d))
        return [x, None, np.array(scales, np.float32)], attributes
    sizes = np.array([1] * lead + draw(_ints(1, 11, d)), np.int64)
    if not lead:
        policies = ["stretch", "not_larger", "not_smaller"]
        attributes["keep_aspect_ratio_policy"] = draw(st.sampled_from(policies))
    return [x, None, None, sizes], attributes


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_resize_is_onnxruntimes(data: st.DataObject) -> None:
    inputs, attributes = _resize(data)
    _agree("Resize", inputs, **attributes)


@pytest.mark.parametrize("rounding", ["round_prefer_ceil", "round_prefer_floor"])
@pytest.mark.parametrize(("n", "m"), [(7, 2), (7, 8), (10, 12), (23, 28), (29, 60), (28, 1)])
def test_resize_rounds_halves_as_onnxruntime_does(n: int, m: int, rounding: str) -> None:
    """Coordinates that are halves but for float32's rounding."""
    for coordinates in ("asymmetric", "half_pixel"):
        _agree(
            "Resize",
            [_zeros(1, 1, n), None, None, np.array([1, 1, m])],
            mode="nearest",
            nearest_mode=rounding,
            coordinate_transformation_mode=coordinates,
        )


@FEW
@given(st.data())
def test_resize_of_long_axes_is_the_same(data: st.DataObject) -> None:
    from onnxlip.ops import resize

    inputs, attributes = _resize(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resize, "_LARGEST", 0)
        _agree("Resize", inputs, **attributes)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_einsum_is_numpys(data: st.DataObject) -> None:
    draw = data.draw
    letters = "abcde"
    sizes = dict(zip(letters, draw(_ints(1, 3, len(letters))), strict=True))
    terms = draw(st.lists(st.text(letters, min_size=1, max_size=3), min_size=1, max_size=3))
    used = sorted(set("".join(terms)))
    out = "".join(draw(st.lists(st.sampled_from(used), unique=True)))
    equation = ",".join(terms) + draw(st.sampled_from(["->" + out, "->" + out, ""]))
    operands = [_whole(data, tuple(sizes[c] for c in term)) for term in terms]
    variable = draw(st.integers(0, len(terms) - 1))
    columns = []
    for e in np.eye(operands[variable].size):
        moved = list(operands)
        moved[variable] = e.reshape(operands[variable].shape)
        columns.append(np.einsum(equation, *moved))
    node = _node("Einsum", [*operands], columns[0].shape, (variable,), equation=equation)
    linear = _linear(node, variable)
    assert linear.ulps < len(terms)
    assert np.array_equal(_dense(linear), np.stack([c.ravel() for c in columns], axis=1))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_matmul_is_numpys(data: st.DataObject) -> None:
    draw = data.draw
    i, j, k = draw(_ints(1, 3, 3))
    batch = draw(_ints(1, 3, 2))
    shapes = []
    for matrix in ((i, j), (j, k)):
        rank = draw(st.integers(1, 4))
        lead = [n if draw(st.booleans()) else 1 for n in batch[4 - rank :]] if rank > 2 else []
        vector = matrix[1:] if matrix == (i, j) else matrix[:1]
        shapes.append((*lead, *matrix) if rank > 1 else vector)
    operands = [_whole(data, shape) for shape in shapes]
    variable = draw(st.integers(0, 1))
    columns = []
    for e in np.eye(operands[variable].size):
        moved = list(operands)
        moved[variable] = e.reshape(shapes[variable]).astype(np.float32)
        columns.append(np.matmul(*moved))
    node = _node("MatMul", [*operands], np.shape(columns[0]), (variable,))
    theirs = np.stack([np.ravel(c) for c in columns], axis=1)
    assert np.array_equal(_dense(_linear(node, variable)), theirs)


# ── errors of coefficients ────────────────────────────────────────────────────────────────


def _statistics(channels: int, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal((3, channels)).astype(np.float32)
    return [*draw, np.exp(4 * rng.standard_normal(channels)).astype(np.float32)]


@pytest.mark.parametrize("seed", range(20))
def test_batch_normalization_errs_by_less_than_its_ulps(seed: int) -> None:
    scale, bias, mean, variance = _statistics(50, seed)
    x = _zeros(1, 50, 1)
    node = _node("BatchNormalization", [x, scale, bias, mean, variance], x.shape, epsilon=1e-3)
    linear = _linear(node)
    assert isinstance(linear, Monomial)
    assert linear.weight is not None
    for w, gamma, v in zip(linear.weight, scale, variance, strict=True):
        # (w / true)² is rational: the root never has to be taken
        square = (
            Fraction(w) ** 2 * (Fraction(float(v)) + Fraction(1e-3)) / Fraction(float(gamma)) ** 2
        )
        slack = linear.ulps * UNIT
        assert (1 - slack) ** 2 <= square <= (1 + slack) ** 2


@pytest.mark.parametrize("n", range(1, 40))
def test_means_err_by_less_than_their_ulps(n: int) -> None:
    x = _zeros(1, 1, n)
    maps = [
        _linear(_node("GlobalAveragePool", [x], (1, 1, 1))),
        _linear(_node("ReduceMean", [x], (1, 1, 1))),
        _linear(_node("AveragePool", [x], (1, 1, 1), kernel_shape=[n])),
    ]
    for linear in maps:
        if n == 1:
            assert linear.ulps == 0
            continue
        assert isinstance(linear, Matrix)
        entry = Fraction(float(linear.blocks[0, 0, 0]))
        assert abs(entry * n - 1) <= Fraction(linear.ulps) * UNIT * entry * n


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize(("n", "m"), [(3, 7), (10, 3), (7, 100)])
def test_interpolation_weights_err_by_less_than_one_ulp(mode: str, n: int, m: int) -> None:
    """Linear and cubic weights sum to 1 exactly; each is rounded once."""
    x = _zeros(1, n, 1)
    node = _node("Resize", [x, None, None, np.array([1, m, 1])], (1, m, 1), mode=mode)
    linear = _linear(node)
    assert isinstance(linear, Matrix)
    assert linear.ulps == 1
    for row in linear.blocks[0]:
        slack = sum(abs(Fraction(float(w))) for w in row) * UNIT
        assert abs(sum(Fraction(float(w)) for w in row) - 1) <= slack


@pytest.mark.parametrize(("divisor", "ulps"), [([4.0, -0.5], 0), ([3.0, 4.0], 1)])
def test_division_errs_by_less_than_its_ulps(divisor: list[float], ulps: float) -> None:
    constant = np.array(divisor, np.float32)
    linear = _linear(_node("Div", [_zeros(2), constant], (2,)))
    assert isinstance(linear, Monomial)
    assert linear.weight is not None
    assert linear.ulps == ulps
    for w, c in zip(linear.weight, divisor, strict=True):
        assert abs(Fraction(float(w)) * Fraction(c) - 1) <= UNIT


# ── large weights ─────────────────────────────────────────────────────────────────────────


def test_weights_are_not_copied() -> None:
    weights = np.random.default_rng(0).standard_normal((30, 40)).astype(np.float32)
    for node, i in (
        (_node("MatMul", [_zeros(2, 30), weights], (2, 40)), 0),
        (_node("MatMul", [weights, _zeros(40, 2)], (30, 2), (1,)), 1),
        (_node("Einsum", [_zeros(2, 30), weights], (2, 40), equation="ni,ij->nj"), 0),
    ):
        linear = _linear(node, i)
        assert isinstance(linear, Matrix)
        assert linear.blocks.dtype == np.float32
        assert np.shares_memory(linear.blocks, weights)
    kernel = weights.reshape(10, 3, 5, 8)
    conv = _linear(_node("Conv", [_zeros(1, 3, 9, 9), kernel], (1, 10, 5, 2)))
    assert isinstance(conv, Convolution)
    assert np.shares_memory(conv.kernel, weights)
    turned = _linear(_node("ConvTranspose", [_zeros(1, 10, 9, 9), kernel], (1, 3, 13, 16)))
    assert isinstance(turned, Transposed)
    assert isinstance(turned.of, Convolution)
    assert np.shares_memory(turned.of.kernel, weights)


def test_repeated_weights_stay_repeated() -> None:
    """A terabyte of zero-stride weights costs nothing until somebody multiplies with it."""
    weights = np.broadcast_to(np.float32(0.5), (1 << 19, 1 << 19))
    data = _node("MatMul", [np.broadcast_to(np.float32(0), (1 << 19,)), weights], (1 << 19,))
    from onnxlip.ops.families import contraction

    linear = contraction.contraction(data.x.shape, ["j"], [(weights, ["j", "k"])], ["k"])
    assert isinstance(linear, Matrix)
    assert np.shares_memory(linear.blocks, weights)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_narrow_floats_widen_exactly(name: str) -> None:
    import ml_dtypes

    narrow = np.dtype(np.float16 if name == "float16" else ml_dtypes.bfloat16)
    weights = np.random.default_rng(0).standard_normal((3, 4)).astype(narrow)
    linear = _linear(_node("MatMul", [_zeros(2, 3), weights], (2, 4)))
    assert isinstance(linear, Matrix)
    assert linear.blocks.dtype == np.float32
    assert np.array_equal(linear.blocks[0].T, weights.astype(np.float64))


# ── what is refused ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_named(value: float) -> None:
    bad = np.array([[1.0, value]], np.float32)
    for node, i in (
        (_node("Mul", [_zeros(1, 2), bad], (1, 2)), 0),
        (_node("MatMul", [bad, _zeros(2, 1)], (1, 1), (1,)), 1),
        (_node("Conv", [_zeros(1, 1, 4), bad[None]], (1, 1, 3)), 0),
    ):
        with pytest.raises(ModelError, match=r"'it'.*NaN or infinite"):
            _linear(node, i)


@pytest.mark.parametrize("divisor", [0.0, math.inf, math.nan, 1e-310])
def test_division_by_what_has_no_reciprocal_is_refused(divisor: float) -> None:
    node = _node("Div", [_zeros(2), np.array([1.0, divisor])], (2,))
    assert isinstance(_rule(node).rule.form, Refusal)


def test_variable_weights_are_refused() -> None:
    x, w = _zeros(1, 2, 4), _zeros(2, 2, 3)
    for op_type, inputs, out, attributes in (
        ("Conv", [x, w], (1, 2, 2), {}),
        ("ConvTranspose", [x, w], (1, 2, 6), {}),
        ("Einsum", [w, w], (2, 2), {"equation": "abc,dbc->ad"}),
    ):
        node = _node(op_type, [*inputs], out, (0, 1), **attributes)
        assert isinstance(_rule(node).rule.form, Refusal)


def test_batch_normalization_of_batches_is_refused() -> None:
    x = _zeros(2, 3, 1)
    inputs = [x, *_statistics(3, 0)]
    for node in (
        _node("BatchNormalization", [*inputs], x.shape, training_mode=1),
        _node("BatchNormalization", [*inputs], x.shape, (0, 1)),
    ):
        assert isinstance(_rule(node).rule.form, Refusal)
    inputs[4] = np.full(3, -1.0, np.float32)
    with pytest.raises(ModelError, match="not positive"):
        _linear(_node("BatchNormalization", [*inputs], x.shape))


@pytest.mark.parametrize(
    "attributes",
    [{"antialias": 1, "mode": "linear"}, {"coordinate_transformation_mode": "tf_crop_and_resize"}],
)
def test_resize_names_what_it_lacks(attributes: dict[str, Any]) -> None:
    sizes = np.array([1, 1, 2])
    with pytest.raises(ModelError, match="not supported"):
        _linear(_node("Resize", [_zeros(1, 1, 4), None, None, sizes], (1, 1, 2), **attributes))


# ── expressions ───────────────────────────────────────────────────────────────────────────


def _made(op_type: str, *operands: Expression | None) -> Expression | None:
    inputs: list[Array | None] = [_zeros(2), *(np.ones(2, np.float32) for _ in operands[1:])]
    rule = _rule(_node(op_type, inputs, (2,))).rule
    assert rule.algebra is not None
    return rule.algebra(_node(op_type, inputs, (2,)), operands)


def test_algebra_is_exact() -> None:
    x, c = Expression.x(), Expression.number(0.1)
    third = Expression.number(3)
    assert _made("Add", x, c) == x + c
    assert _made("Sub", c, x) == c - x
    assert _made("Sum", x, x, c) == x + x + c
    assert _made("Mul", x, c) == x * c
    assert _made("Div", x, third) == x * Expression.number(Fraction(1, 3))
    assert _made("Mean", x, x, c) == (x + x + c) * Expression.number(Fraction(1, 3))
    assert _made("Neg", x) == -x


def test_algebra_gives_up_where_it_should() -> None:
    x = Expression.x()
    assert _made("Div", x, x) is None
    assert _made("Div", x, Expression.number(0)) is None
    assert _made("Add", x, None) is None
    assert _made("Mul", x, None) is None
    long = Expression.make({(k, ()): Fraction(1) for k in range(MAX_TERMS)})
    further = Expression.make({(k + MAX_TERMS, ()): Fraction(1) for k in range(MAX_TERMS)})
    assert _made("Add", long, further) is None
    assert _made("Mul", long, long) is None


def test_sums_over_neighbouring_axes_are_one_matrix() -> None:
    x = _zeros(2, 3, 1, 2)
    linear = _linear(_node("ReduceSum", [x, np.array([1, -1])], (2, 1, 1, 1), keepdims=1))
    assert isinstance(linear, Matrix)
    assert linear.blocks.shape == (1, 1, 6)


def test_products_of_maps_of_one_axis_each_are_kept_apart() -> None:
    """Two factors of a Kronecker product never become one large matrix."""
    x = _zeros(1, 1, 6, 6)
    linear = _linear(_node("AveragePool", [x], (1, 1, 4, 4), kernel_shape=[3, 3]))
    assert isinstance(linear, Product)
    assert [type(f) for f in linear.factors] == [Matrix, Matrix]
