"""Products of two variables: which rule is taken, and how sharp the bounds are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxlip.ops.families.magnitudes import squared_spectral
from onnxlip.registry import built_in
from onnxlip.rules import Affine, Box, Elementwise, Gain, Node, Value

Array = npt.NDArray[Any]


def _node(op_type: str, y: tuple[int, ...], *inputs: tuple[int, ...] | Array) -> Node:
    values = tuple(
        Value(f"x{k}", v.shape, v.dtype, v)
        if isinstance(v, np.ndarray)
        else Value(f"x{k}", v, np.dtype(np.float32))
        for k, v in enumerate(inputs)
    )
    return Node(op_type, values, (Value("y", y, np.dtype(np.float32)),), opset=21, name="node")


def _gain(node: Node) -> Gain:
    found = built_in().find(node)
    assert found is not None
    assert isinstance(found.rule.form, Gain)
    return found.rule.form


@pytest.mark.parametrize("op_type", ["Mul", "MatMul", "Div"])
def test_one_variable_is_affine_and_two_have_a_gain(op_type: str) -> None:
    two = built_in().find(_node(op_type, (2, 2), (2, 2), (2, 2)))
    one = built_in().find(_node(op_type, (2, 2), (2, 2), np.ones((2, 2), np.float32)))
    assert two is not None
    assert one is not None
    assert isinstance(two.rule.form, Gain)
    assert isinstance(one.rule.form, Affine)


def test_a_constant_over_a_variable_is_elementwise_unless_it_enlarges() -> None:
    same = built_in().find(_node("Div", (2, 3), np.ones(3, np.float32), (2, 3)))
    larger = built_in().find(_node("Div", (2, 3), np.ones((2, 3), np.float32), (3,)))
    assert same is not None
    assert larger is not None
    assert isinstance(same.rule.form, Elementwise)
    assert isinstance(larger.rule.form, Gain)


@pytest.mark.parametrize("op_type", ["Mul", "MatMul", "Div"])
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_unbounded_factors_have_no_gain_and_a_remedy(op_type: str, p: float) -> None:
    node = _node(op_type, (2, 2), (2, 2), (2, 2))
    form = _gain(node)
    boxes = [Box.whole(), Box.whole()]
    assert all(form.gain(node, i, p, boxes) == math.inf for i in (0, 1))
    assert form.joint is not None
    assert form.joint(node, p, boxes) == math.inf
    assert form.image(node, boxes, 0).is_whole
    assert "bound the input" in form.reason


@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_a_divisor_that_may_vanish_has_no_gain(low: float) -> None:
    node = _node("Div", (2,), (2,), (2,))
    boxes = [Box.of(0, 1), Box.of(low, 1)]
    assert _gain(node).gain(node, 0, 2.0, boxes) == math.inf
    assert _gain(node).image(node, boxes, 0).is_whole


def test_the_square_of_a_tensor_has_gain_twice_its_size() -> None:
    """x ∘ x through the joint gain √2·max|x| of two copies, whose stack has norm √2."""
    node = _node("Mul", (3,), (3,), (3,))
    form, boxes = _gain(node), [Box.of(-2, 1)] * 2
    assert form.joint is not None
    assert form.joint(node, 2.0, boxes) == pytest.approx(2 * math.sqrt(2), rel=1e-12)


def test_a_repeated_factor_counts_every_time() -> None:
    """(3,) against (4, 3): each entry is met four times."""
    node = _node("Mul", (4, 3), (3,), (4, 3))
    form, boxes = _gain(node), [Box.of(-1, 1), Box.of(-5, 2)]
    assert form.gain(node, 0, math.inf, boxes) == 5
    assert form.gain(node, 0, 2.0, boxes) == pytest.approx(10)
    assert form.gain(node, 0, 1.0, boxes) == pytest.approx(20)
    assert form.gain(node, 1, 1.0, boxes) == 1


@pytest.mark.parametrize(
    ("a", "b"),
    [((2, 3), (3, 4)), ((3,), (5, 3, 2)), ((4, 2, 3), (3,)), ((1, 2, 2, 3), (3, 1, 3, 2))],
)
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_matmul_gain_is_attained_for_nonnegative_boxes(
    a: tuple[int, ...], b: tuple[int, ...], p: float, rng: np.random.Generator
) -> None:
    """With the other factor at its largest the map is linear, and the gain its exact norm."""
    tops = [rng.uniform(0.1, 1, a), rng.uniform(0.1, 1, b)]
    node = _node("MatMul", np.matmul(*tops).shape, a, b)
    boxes = [Box.of(0, top) for top in tops]
    for i in (0, 1):
        columns = []
        for unit in np.eye(tops[i].size):
            factors = list(tops)
            factors[i] = unit.reshape(tops[i].shape)
            columns.append(np.matmul(*factors).ravel())
        exact = np.linalg.norm(np.stack(columns, axis=1), p)
        gain = _gain(node).gain(node, i, p, boxes)
        # Sums of squares over several matrices need not be attained by one vector.
        slack = 1.25 if p == 2 else 1 + 1e-12
        assert exact <= gain <= exact * slack


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6), st.sampled_from([0, 0.5, 1]))
def test_spectral_bound_of_nonnegative_matrices(seed: int, k: int, n: int, zeros: float) -> None:
    rng = np.random.default_rng(seed)
    m = rng.random((3, k, n)) * (rng.random((3, k, n)) >= zeros) * 10.0 ** rng.integers(-9, 9)
    exact = np.linalg.norm(m, 2, axis=(-2, -1)) ** 2
    bound = squared_spectral(m)
    rows, columns = m.sum(axis=-1).max(axis=-1), m.sum(axis=-2).max(axis=-1)
    assert np.all(bound >= exact * (1 - 1e-14))
    assert np.all(bound <= rows * columns * (1 + 1e-12) + 1e-280)


def test_spectral_bound_is_sharp() -> None:
    m = np.abs(np.random.default_rng(0).standard_normal((40, 60)))
    exact = float(np.linalg.norm(m, 2)) ** 2
    assert exact <= float(squared_spectral(m)) <= exact * (1 + 1e-9)
    assert float(squared_spectral(np.full((3, 5), 2.0))) == pytest.approx(60, rel=1e-13)
    assert float(squared_spectral(np.full((2, 2), 1e-300))) >= 0
    assert np.isfinite(squared_spectral(np.full((2, 2), 1e150)))
