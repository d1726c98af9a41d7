"""Ops that move entries about: their maps against onnxruntime, over random attributes.

Entries carry distinct whole numbers, so the comparison is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from onnxlip.linear import LinearMap, Monomial, Transposed
from onnxlip.registry import built_in, rule_set
from onnxlip.rules import Affine, Node, Value

Array = npt.NDArray[Any]

OPSET = 21
many = settings(max_examples=60, deadline=None)


# ── the comparison ────────────────────────────────────────────────────────────────────────


class Variable:
    """An input that is not constant."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape


def _apply(a: LinearMap, x: Array) -> Array:
    if isinstance(a, Transposed):
        b = a.of
        assert isinstance(b, Monomial)
        assert b.index is not None
        total = np.zeros(b.n)
        np.add.at(total, b.index[b.index >= 0], x[b.index >= 0])
        return total
    assert isinstance(a, Monomial)
    assert a.weight is None
    if a.index is None:
        return x
    return np.where(a.index >= 0, np.append(x, 0)[a.index], 0)


def check(
    op_type: str, inputs: Sequence[Variable | Array | None], outputs: int = 1, **attributes: Any
) -> None:
    names = ["" if given is None else f"x{k}" for k, given in enumerate(inputs)]
    results = [f"y{k}" for k in range(outputs)]
    probe = {
        name: np.zeros(given.shape, np.float32) if isinstance(given, Variable) else given
        for name, given in zip(names, inputs, strict=True)
        if given is not None
    }
    graph = helper.make_graph(
        [helper.make_node(op_type, names, results, **attributes)],
        "op",
        [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for k, a in probe.items()
        ],
        [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(np.dtype("f4")), None)
            for k in results
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    offset = session.run(None, probe)
    values = [
        None
        if given is None
        else Value(name, given.shape, np.dtype(np.float32))
        if isinstance(given, Variable)
        else Value(name, given.shape, given.dtype, given)
        for name, given in zip(names, inputs, strict=True)
    ]
    node = Node(
        op_type,
        tuple(values),
        tuple(Value(k, y.shape, y.dtype) for k, y in zip(results, offset, strict=True)),
        attributes,
        opset=OPSET,
        name=op_type,
    )
    found = built_in().find(node)
    assert found is not None
    assert isinstance(found.rule.form, Affine)
    for i in node.variables:
        x = np.arange(1, node.value(i).size + 1, dtype=np.float32)
        feeds = {**probe, names[i]: x.reshape(node.value(i).shape)}
        for o, y in enumerate(session.run(None, feeds)):
            a = found.rule.form.linear(node, i, o)
            assert (a.rows, a.columns) == (y.size, x.size)
            np.testing.assert_array_equal(_apply(a, x), (y - offset[o]).reshape(-1))


def _whole(*shape: int) -> Array:
    return np.arange(math.prod(shape), dtype=np.float32).reshape(shape)


# ── random uses ───────────────────────────────────────────────────────────────────────────

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4)
END = 2**63 - 1


def _signed(data: st.DataObject, axis: int, rank: int) -> int:
    return axis - rank if data.draw(st.booleans()) else axis


def _axes(data: st.DataObject, rank: int) -> list[int]:
    chosen = data.draw(st.lists(st.integers(0, rank - 1), unique=True, min_size=1))
    return [_signed(data, a, rank) for a in chosen]


@many
@given(st.data())
def test_slice(data: st.DataObject) -> None:
    draw = data.draw
    shape = draw(shapes)
    bound = st.one_of(st.integers(-6, 6), st.sampled_from([END, -END, 2**31 - 1, -(2**31)]))
    if draw(st.booleans()):
        axes = _axes(data, len(shape))
    else:
        axes = list(range(draw(st.integers(1, len(shape)))))
    kind = draw(st.sampled_from([np.int64, np.int64, np.int32]))
    if kind is np.int32:
        bound = st.integers(-6, 6)
    starts, ends = ([draw(bound) for _ in axes] for _ in range(2))
    inputs: list[Any] = [Variable(*shape), np.array(starts, kind), np.array(ends, kind)]
    steps = [draw(st.sampled_from([-3, -2, -1, 1, 2, 3])) for _ in axes]
    assume(
        not any(end in (END, 2**31 - 1) and step < 0 for end, step in zip(ends, steps, strict=True))
    )
    if axes == list(range(len(axes))) and draw(st.booleans()):
        inputs.append(None)
        if draw(st.booleans()):
            inputs.append(np.array(steps, kind))
        else:
            inputs.pop()
    else:
        inputs.append(np.array(axes, kind))
        if draw(st.booleans()):
            inputs.append(np.array(steps, kind))
    check("Slice", inputs)


def test_slice_backwards_from_before_the_axis() -> None:
    """A start beyond the front is clamped to entry 0, where Python's slice would be empty."""
    bounds = [np.array([v], np.int64) for v in (-5, -9, 0, -1)]
    check("Slice", [Variable(3), *bounds])


def test_slice_backwards_to_the_largest_integer_has_no_rule() -> None:
    """The specification and onnxruntime disagree about it."""
    bounds = [np.array([v], np.int64) for v in (2, END, 0, -1)]
    with pytest.raises(AssertionError):
        check("Slice", [Variable(3), *bounds])


@many
@given(st.data())
def test_pad(data: st.DataObject) -> None:
    draw = data.draw
    shape = draw(shapes)
    mode = draw(st.sampled_from(["constant", "reflect", "edge", "wrap"]))
    axes = _axes(data, len(shape)) if draw(st.booleans()) else list(range(len(shape)))
    begin, end = ([draw(st.integers(-2, 4)) for _ in axes] for _ in range(2))
    for axis, b, e in zip(axes, begin, end, strict=True):
        left = shape[axis] + min(0, b) + min(0, e)
        assume(left >= 1)
        if mode == "reflect":  # onnxruntime takes no more than one reflection
            assume(max(b, e) < left)
    inputs: list[Any] = [Variable(*shape), np.array(begin + end, np.int64)]
    whole = axes == list(range(len(shape)))
    value = np.array(7, np.float32) if draw(st.booleans()) else None
    if not whole or draw(st.booleans()):
        inputs += [value, np.array(axes, np.int64)]
    elif value is not None:
        inputs.append(value)
    check("Pad", inputs, mode=mode)


@many
@given(st.data())
def test_gather(data: st.DataObject) -> None:
    draw = data.draw
    shape = draw(shapes)
    axis = draw(st.integers(0, len(shape) - 1))
    wanted = draw(st.lists(st.integers(0, 3), max_size=2))
    n = shape[axis]
    count = math.prod(wanted)
    indices = draw(st.lists(st.integers(-n, n - 1), min_size=count, max_size=count))
    array = np.array(indices, np.int64).reshape(wanted)
    check("Gather", [Variable(*shape), array], axis=_signed(data, axis, len(shape)))


@many
@given(st.data())
def test_gather_elements_and_scatter_elements(data: st.DataObject) -> None:
    draw = data.draw
    shape = draw(shapes)
    axis = draw(st.integers(0, len(shape) - 1))
    n = shape[axis]
    wanted = [draw(st.integers(1, k)) for k in shape]
    distinct = draw(st.booleans())
    if not distinct:
        wanted[axis] = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    array = rng.integers(-n, n, wanted)
    if distinct:
        order = rng.random([*wanted[:axis], n, *wanted[axis + 1 :]]).argsort(axis)
        array = np.take(order, range(wanted[axis]), axis) - n * (rng.random(wanted) < 0.5)
    signed = _signed(data, axis, len(shape))
    check("GatherElements", [Variable(*shape), array], axis=signed)
    updates = Variable(*wanted)
    check("ScatterElements", [Variable(*shape), array, updates], axis=signed, reduction="add")
    if distinct:
        check("ScatterElements", [Variable(*shape), array, updates], axis=signed)
        check("ScatterElements", [_whole(*shape), array, updates], axis=signed)


@many
@given(st.data())
def test_gather_nd_and_scatter_nd(data: st.DataObject) -> None:
    draw = data.draw
    shape = draw(shapes)
    batch = draw(st.integers(0, len(shape) - 1))
    depth = draw(st.integers(1, len(shape) - batch))
    middle = draw(st.lists(st.integers(1, 3), max_size=2 if batch else 1)) or [1]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    sizes = np.array(shape[batch : batch + depth])
    array = rng.integers(-sizes, sizes, (*shape[:batch], *middle, depth))
    check("GatherND", [Variable(*shape), array], batch_dims=batch)
    if batch == 0:
        updates = Variable(*middle, *shape[depth:])
        check("ScatterND", [Variable(*shape), array, updates], reduction="add")
        if len(np.unique(array % sizes, axis=0)) == math.prod(middle) and len(middle) == 1:
            check("ScatterND", [Variable(*shape), array, updates])


@many
@given(st.data())
def test_expand_and_tile(data: st.DataObject) -> None:
    draw = data.draw
    shape = draw(shapes)
    wanted = [draw(st.sampled_from([1, n] if n > 1 else [1, 2, 3])) for n in shape]
    lead = draw(st.lists(st.integers(1, 3), max_size=2))
    if draw(st.booleans()):
        wanted = wanted[draw(st.integers(0, len(wanted) - 1)) :]
    else:
        wanted = lead + wanted
    check("Expand", [Variable(*shape), np.array(wanted, np.int64)])
    repeats = [draw(st.integers(0, 3)) for _ in shape]
    check("Tile", [Variable(*shape), np.array(repeats, np.int64)])


@many
@given(st.data())
def test_concat_and_split(data: st.DataObject) -> None:
    draw = data.draw
    shape = draw(shapes)
    axis = draw(st.integers(0, len(shape) - 1))
    lengths = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    inputs: list[Any] = []
    for k in lengths:
        part = [*shape[:axis], k, *shape[axis + 1 :]]
        inputs.append(Variable(*part) if draw(st.booleans()) else _whole(*part))
    assume(any(isinstance(given, Variable) for given in inputs))
    signed = _signed(data, axis, len(shape))
    check("Concat", inputs, axis=signed)
    whole = Variable(*shape[:axis], sum(lengths), *shape[axis + 1 :])
    check("Split", [whole, np.array(lengths, np.int64)], outputs=len(lengths), axis=signed)


@pytest.mark.parametrize(("n", "parts"), [(6, 3), (7, 3), (5, 4), (9, 2), (1, 1)])
def test_split_in_equal_parts(n: int, parts: int) -> None:
    if (parts - 1) * -(-n // parts) >= n:
        pytest.skip("onnxruntime has no part left for the last output")
    check("Split", [Variable(2, n)], outputs=parts, axis=1, num_outputs=parts)


@many
@given(
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["DCR", "CRD", None]),
)
def test_depth_to_space(n: int, c: int, h: int, w: int, b: int, mode: str | None) -> None:
    chosen: dict[str, Any] = {} if mode is None else {"mode": mode}
    check("DepthToSpace", [Variable(n, c * b * b, h, w)], blocksize=b, **chosen)
    check("SpaceToDepth", [Variable(n, c, h * b, w * b)], blocksize=b)


@many
@given(st.data())
def test_where(data: st.DataObject) -> None:
    draw = data.draw
    full = draw(shapes)

    def some() -> list[int]:
        kept = [draw(st.sampled_from([1, n])) for n in full]
        return kept[draw(st.integers(0, len(full))) :]

    rng = np.random.default_rng(draw(st.integers(0, 99)))
    condition = rng.random(some()) < 0.5
    branches: list[Any] = [
        Variable(*some()) if draw(st.booleans()) else _whole(*some()) for _ in range(2)
    ]
    assume(any(isinstance(given, Variable) for given in branches))
    check("Where", [np.asarray(condition), *branches])


@many
@given(st.data())
def test_trilu_transpose_and_center_crop_pad(data: st.DataObject) -> None:
    draw = data.draw
    shape = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    k = draw(st.integers(-6, 6))
    upper = draw(st.sampled_from([0, 1]))
    check("Trilu", [Variable(*shape), np.array(k, np.int64)], upper=upper)
    check("Transpose", [Variable(*shape)], perm=draw(st.permutations(range(len(shape)))))


def test_the_comparison_sees_a_wrong_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """A DepthToSpace that takes one mode for the other must not pass."""
    (entry,) = (e for e in built_in() if e.rule.op_type == "DepthToSpace")
    form = entry.rule.form
    assert isinstance(form, Affine)

    def confused(node: Node, i: int, o: int) -> LinearMap:
        return form.linear(replace(node, attributes={"blocksize": 2, "mode": "CRD"}), i, o)

    rules = rule_set([replace(entry.rule, form=Affine(confused))])
    monkeypatch.setitem(globals(), "built_in", lambda: rules)
    with pytest.raises(AssertionError, match="not equal"):
        check("DepthToSpace", [Variable(1, 8, 2, 2)], blocksize=2, mode="DCR")
