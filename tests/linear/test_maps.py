"""The algebra of linear maps against matrices, in exact arithmetic.

`dense` writes a map down from its definition alone. Integer coefficients make every product of
matrices exact in float64, so folding must give *equal* matrices; real coefficients are compared in
rational numbers against what `ulps` and `terms` promise.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxlip.errors import RuleError
from onnxlip.linear import (
    Convolution,
    LinearMap,
    Matrix,
    Monomial,
    Product,
    Sum,
    Transposed,
    compose,
    convolution,
    diagonal,
    identity,
    selection,
)
from onnxlip.linear.scaling import scaled
from onnxlip.operators import Operator
from onnxlip.registry import built_in
from onnxlip.testing import check_linear_map

Array = npt.NDArray[Any]
UNIT = Fraction(1, 2**53)


# ── maps by their definitions ─────────────────────────────────────────────────────────────


def dense(a: LinearMap, zero: Any = 0.0) -> Array:
    """The matrix of a map; with `zero` a Fraction, in rational numbers."""
    number = type(zero)
    matrix = np.full((a.rows, a.columns), zero, dtype=object)
    if isinstance(a, Product):
        return reduce(np.matmul, [dense(f, zero) for f in a.factors])
    if isinstance(a, Sum):
        return reduce(np.add, [dense(s, zero) for s in a.summands])
    if isinstance(a, Transposed):
        return dense(a.of, zero).T
    if isinstance(a, Monomial):
        index = np.arange(a.n) if a.index is None else a.index
        weight = np.broadcast_to(1.0 if a.weight is None else a.weight, index.shape)
        for i, (k, w) in enumerate(zip(index, weight, strict=True)):
            if k >= 0:
                matrix[i, k] = number(float(w))
    elif isinstance(a, Matrix):
        b, m, k = a.blocks.shape
        rows = np.arange(a.rows).reshape(a.outer, b, m, a.inner)
        columns = np.arange(a.columns).reshape(a.outer, b, k, a.inner)
        for o, j, i in np.ndindex(a.outer, b, a.inner):
            for r, c in np.ndindex(m, k):
                matrix[rows[o, j, r, i], columns[o, j, c, i]] = number(float(a.blocks[j, r, c]))
    else:
        assert isinstance(a, Convolution)
        _fill_convolution(a, matrix, number)
    return matrix


def _fill_convolution(a: Convolution, matrix: Array, number: Any) -> None:
    y = np.arange(a.rows).reshape(a.batch, a.c_out, *a.out_spatial)
    x = np.arange(a.columns).reshape(a.batch, a.c_in, *a.in_spatial)
    per_group = a.c_out // a.groups
    for n, o, *p in np.ndindex(y.shape):
        for c, *t in np.ndindex(a.kernel.shape[1:]):
            q = np.multiply(a.strides, p) + np.multiply(a.dilations, t) - np.array(a.begin)
            if np.all(q >= 0) and np.all(q < a.in_spatial):
                channel = (o // per_group) * a.kernel.shape[1] + c
                entry = number(float(a.kernel[(o, c, *t)]))
                matrix[y[(n, o, *p)], x[(n, channel, *q)]] += entry


# ── random maps ───────────────────────────────────────────────────────────────────────────

WHOLE = st.integers(-3, 3).map(float)
REAL = st.floats(-4.0, 4.0).filter(lambda v: v == 0 or abs(v) > 1e-6)


def arrays(draw: Any, shape: tuple[int, ...], entries: Any) -> Array:
    values = draw(st.lists(entries, min_size=math.prod(shape), max_size=math.prod(shape)))
    single = draw(st.booleans())
    return np.array(values, np.float32 if single else np.float64).reshape(shape)


def split(draw: Any, n: int, parts: int) -> list[int]:
    """n as a product of so many factors."""
    factors = []
    for _ in range(parts - 1):
        divisor = draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0]))
        factors.append(divisor)
        n //= divisor
    return [*factors, n]


@st.composite
def monomials(draw: Any, columns: int, entries: Any, rows: int | None = None) -> Monomial:
    scale_only = rows in (None, columns) and draw(st.booleans())
    index = None
    m = columns
    if not scale_only:
        m = rows if rows is not None else draw(st.integers(1, 8))
        places = draw(st.lists(st.integers(-1, columns - 1), min_size=m, max_size=m))
        if draw(st.booleans()) and m <= columns:
            places = draw(st.permutations(range(columns)))[:m]
        index = np.array(places, np.int64)
    kind = draw(st.sampled_from(["none", "scalar", "runs", "array"]))
    weight = None
    if kind == "scalar":
        weight = np.array(draw(entries))
    elif kind == "runs":  # constant along channels, so that convolutions and matrices absorb it
        first, second = split(draw, m, 2)
        weight = np.repeat(arrays(draw, (first,), entries).astype(np.float64), second)
    elif kind == "array":
        weight = arrays(draw, (m,), entries).astype(np.float64)
    return Monomial(columns, index, weight)


@st.composite
def matrices(draw: Any, columns: int, entries: Any) -> Matrix:
    outer, b, k, inner = split(draw, columns, 4)
    m = draw(st.integers(1, 3))
    return Matrix(arrays(draw, (b, m, k), entries), outer, inner)


@st.composite
def convolutions(draw: Any, columns: int, entries: Any) -> Convolution:
    d = draw(st.integers(1, 2))
    batch, groups, c_in, *spatial = split(draw, columns, 3 + d)
    per_axis = [
        (
            draw(st.integers(1, 3)),  # taps
            draw(st.integers(1, 3)),  # outputs
            draw(st.integers(1, 3)),  # stride
            draw(st.integers(1, 2)),  # dilation
            draw(st.integers(0, 2)),  # begin
        )
        for _ in range(d)
    ]
    taps, out, strides, dilations, begin = zip(*per_axis, strict=True)
    c_out = draw(st.integers(1, 2)) * groups
    kernel = arrays(draw, (c_out, c_in, *taps), entries)
    return Convolution(kernel, tuple(spatial), out, strides, dilations, begin, groups, batch)


@st.composite
def maps(draw: Any, columns: int, entries: Any) -> LinearMap:
    kinds = ["monomial", "matrix", "convolution", "transposed", "sum"]
    kind = draw(st.sampled_from(kinds))
    if kind == "transposed":  # a map with `columns` rows, turned around
        inner = draw(st.integers(1, 8))
        straight = draw(monomials(inner, entries, rows=columns))
        turned = draw(st.sampled_from([Transposed(straight), straight.adjoint]))
        if turned.rows % 2 == 0:
            conv = Convolution(
                arrays(draw, (1, 1, 2), entries), (columns + 1,), (columns,), (1,), (1,), (0,)
            )
            turned = draw(st.sampled_from([turned, Transposed(conv)]))
        return turned
    if kind == "sum":
        first = draw(maps(columns, entries))
        second = draw(monomials(columns, entries, rows=first.rows))
        return first + second
    make = {"monomial": monomials, "matrix": matrices, "convolution": convolutions}[kind]
    return draw(make(columns, entries))


@st.composite
def chains(draw: Any, entries: Any, longest: int = 4) -> list[LinearMap]:
    """Maps that can be composed, the last one applied first."""
    chain: list[LinearMap] = []
    columns = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12]))
    for _ in range(draw(st.integers(1, longest))):
        a = draw(maps(columns, entries))
        if not 1 <= a.rows <= 24:
            break
        chain.insert(0, a)
        columns = a.rows
    return chain or [identity(columns)]


def composed(chain: list[LinearMap]) -> LinearMap:
    return reduce(compose, chain)


# ── laws ──────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=300, deadline=None)
@given(chains(WHOLE))
def test_folding_keeps_the_matrix(chain: list[LinearMap]) -> None:
    product = reduce(np.matmul, [dense(a) for a in chain])
    for a in (composed(chain), reduce(lambda inner, outer: outer @ inner, reversed(chain))):
        assert np.array_equal(dense(a), product)
        assert (a.rows, a.columns) == product.shape


@settings(max_examples=150, deadline=None)
@given(chains(WHOLE))
def test_adjoint_is_the_transposed_matrix(chain: list[LinearMap]) -> None:
    a = composed(chain)
    assert np.array_equal(dense(a.adjoint), dense(a).T)
    assert np.array_equal(dense(a.adjoint.adjoint), dense(a))
    assert a.adjoint.ulps == a.ulps
    turned = reduce(compose, [b.adjoint for b in reversed(chain)])
    assert np.array_equal(dense(turned), dense(a).T)


@settings(max_examples=100, deadline=None)
@given(chains(REAL))
def test_ulps_hold_what_folding_rounds(chain: list[LinearMap]) -> None:
    a = composed(chain)
    exact = reduce(np.matmul, [dense(f, Fraction(0)) for f in chain])
    stored = dense(a, Fraction(0))
    assert np.all(np.abs(exact - stored) <= Fraction(a.ulps) * UNIT * modulus(a))


def modulus(a: LinearMap) -> Array:
    """|A|, of a composed map the product of its factors' moduli."""
    if isinstance(a, Product):
        return reduce(np.matmul, [modulus(f) for f in a.factors])
    if isinstance(a, Sum):
        return reduce(np.add, [modulus(s) for s in a.summands])
    return np.abs(dense(a, Fraction(0)))


@settings(max_examples=100, deadline=None)
@given(chains(REAL), st.floats(0, 1e6))
def test_cap_bounds_row_and_column_sums(chain: list[LinearMap], relative: float) -> None:
    a = composed(chain)
    sums = modulus(a)
    most = max(sums.sum(axis=0).max(), sums.sum(axis=1).max())
    assert a.cap() >= most
    if isinstance(a, Matrix):  # the true coefficients may be larger by `ulps`
        wider = Matrix(a.blocks, a.outer, a.inner, relative)
        assert wider.cap() >= most * (1 + Fraction(relative) * UNIT)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_monomial_norms_are_those_of_its_matrix(data: st.DataObject) -> None:
    columns = data.draw(st.integers(1, 8))
    a = data.draw(monomials(columns, data.draw(st.sampled_from([WHOLE, REAL]))))
    exact = np.abs(dense(a, Fraction(0)))
    assert a.norm(1) >= exact.sum(axis=0).max()
    assert a.norm(math.inf) >= exact.sum(axis=1).max()
    assert Fraction(a.norm(2)) ** 2 >= (exact**2).sum(axis=0).max()
    plain = exact.astype(np.float64)
    for p in (1, 2, math.inf):
        assert a.norm(p) <= np.linalg.norm(plain, p) * (1 + 1e-14)
    wider = Monomial(a.n, a.index, a.weight, 7.0)
    for p in (1, math.inf):
        assert wider.norm(p) >= Fraction(a.norm(p)) * (1 + 7 * UNIT)


@pytest.mark.parametrize(("repeats", "norm"), [(1, 1.0), (4, 2.0), (9, 3.0)])
def test_selections_have_exact_norms(repeats: int, norm: float) -> None:
    a = selection(np.repeat(np.arange(5), repeats), 5)
    assert (a.norm(2), a.norm(1), a.norm(math.inf)) == (norm, repeats, 1.0)


@pytest.mark.parametrize("weight", [2.0**-1074, 2.0**-1022, 1e-310, 1e300, 1.7e308])
def test_monomial_norms_at_the_ends_of_the_range(weight: float) -> None:
    a = Monomial(2, np.zeros(4, np.int64), np.full(4, weight))
    assert Fraction(weight) * 2 <= a.norm(2)
    assert a.norm(2) <= weight * 2 * (1 + 1e-14) + 2.0**-1072
    total = a.norm(1)
    assert total == math.inf or total >= 4 * Fraction(weight)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_convolutions_that_are_matrices(data: st.DataObject) -> None:
    conv = data.draw(convolutions(data.draw(st.sampled_from([1, 4, 8, 12, 18])), WHOLE))
    assert np.array_equal(dense(convolution(conv)), dense(conv))


def test_convolution_recognises_matrices() -> None:
    kernel = np.arange(24.0).reshape(2, 3, 2, 2)
    whole = Convolution(kernel, (2, 2), (1, 1), (1, 1), (1, 1), (0, 0))
    assert isinstance(convolution(whole), Matrix)
    pointwise = Convolution(kernel[:, :, :1, :1], (4, 3), (4, 3), (1, 1), (1, 1), (0, 0), batch=2)
    assert isinstance(convolution(pointwise), Matrix)
    strided = Convolution(kernel[:, :, :1, :1], (5, 3), (3, 2), (2, 2), (1, 1), (0, 0))
    found = convolution(strided)
    assert isinstance(found, Product)
    assert [type(f) for f in found.factors] == [Matrix, Monomial]
    assert np.array_equal(dense(found), dense(strided))


@settings(max_examples=50, deadline=None)
@given(chains(REAL, longest=2), st.integers(0, 2**32 - 1))
def test_lowered_maps_obey_every_law(chain: list[LinearMap], seed: int) -> None:
    a = composed(chain)
    matrix = dense(a).astype(np.float64)
    check_linear_map(a, matrix, repr(chain), np.random.default_rng(seed), 1e-12)


@settings(max_examples=50, deadline=None)
@given(chains(REAL, longest=3), st.integers(0, 2**32 - 1))
def test_terms_bound_the_rounding_of_products(chain: list[LinearMap], seed: int) -> None:
    """|fl(Ax) − Ax| ≤ γ |A||x|, in rational numbers, and the same for the adjoint."""
    a = composed(chain)
    rng = np.random.default_rng(seed)
    gamma = a.terms * UNIT / (1 - a.terms * UNIT)
    operator = Operator(a, built_in().lowerings, np.float64)
    exact, size = dense(a, Fraction(0)), modulus(a)
    for apply, matrix, absolute in (
        (operator.matvec, exact, size),
        (operator.rmatvec, exact.T, size.T),
    ):
        x = rng.standard_normal(matrix.shape[1])
        rational = np.array([Fraction(v) for v in x], dtype=object)
        computed = np.array([Fraction(float(v)) for v in apply(x)], dtype=object)
        error = np.abs(computed - matrix @ rational)
        assert np.all(error <= gamma * (absolute @ np.abs(rational)))


# ── worst cases, which random numbers do not meet ─────────────────────────────────────────


def _lost(k: int) -> Array:
    """1 and k − 1 numbers so small that each, added to the sum, is rounded away."""
    return np.array([1.0] + [0.75 * 2.0**-53] * (k - 1))


@pytest.mark.parametrize(
    "a",
    [
        selection(np.zeros(64, np.int64), 1).adjoint,
        Matrix(np.ones((1, 1, 64))),
        Convolution(np.ones((1, 1, 64)), (64,), (1,), (1,), (1,), (0,)),
        Convolution(np.ones((1, 64, 1)), (1,), (1,), (1,), (1,), (0,)),
        Convolution(np.ones((64, 1, 1)), (1,), (1,), (1,), (1,), (0,)).adjoint,
        Sum(tuple(Monomial(64, np.array([i])) for i in range(64))),
    ],
    ids=["scatter", "matrix", "taps", "channels", "adjoint", "sum"],
)
def test_terms_hold_where_each_addition_rounds_down(a: LinearMap) -> None:
    x = _lost(64)
    (computed,) = Operator(a, built_in().lowerings, np.float64).matvec(x)
    exact = sum(Fraction(v) for v in x)
    gamma = a.terms * UNIT / (1 - a.terms * UNIT)
    assert abs(Fraction(float(computed)) - exact) <= gamma * exact


@pytest.mark.parametrize("p", [1, 2])
def test_monomial_norms_hold_where_each_addition_rounds_down(p: int) -> None:
    weight = _lost(5000) ** (1 / p)
    a = Monomial(1, np.zeros(5000, np.int64), weight)
    assert Fraction(a.norm(p)) ** p >= sum(Fraction(float(w)) ** p for w in weight)


def test_caps_hold_where_each_addition_rounds_down() -> None:
    weight = _lost(5000)
    exact = sum(Fraction(w) for w in weight)
    assert Matrix(weight.reshape(1, 1, -1)).cap() >= exact
    assert Matrix(weight.reshape(1, -1, 1)).cap() >= exact
    assert Convolution(weight.reshape(1, -1, 1), (1,), (1,), (1,), (1,), (0,)).cap() >= exact


@pytest.mark.parametrize("exact", [False, True])
def test_folding_adds_up_errors(exact: bool) -> None:
    """Coefficients that err by 3 and 5 ulps have products that err by 8, or 9 once rounded."""
    factor = np.array(-2.0 if exact else 1 / 3)
    matrix = Matrix(np.full((1, 3, 3), 0.1), relative=3.0)
    conv = Convolution(np.full((1, 1, 1), 0.1), (3,), (3,), (1,), (1,), (0,), relative=3.0)
    scale = Monomial(3, None, factor, 5.0)
    pairs = [(matrix, scale), (scale, matrix), (conv, scale), (scale, conv)]
    pairs += [(conv.adjoint, scale), (scale, conv.adjoint), (scale, Monomial(3, None, factor, 3.0))]
    for outer, inner in pairs:
        folded = compose(outer, inner)
        assert not isinstance(folded, Product)
        assert (8.0 if exact else 9.0) <= folded.ulps < 9.001
    chain = Product((matrix, conv))
    assert 6.0 <= chain.ulps < 6.001
    permuted = compose(matrix, Monomial(3, np.array([2, 0, 1]), None, 5.0))
    assert isinstance(permuted, Matrix)
    assert permuted.ulps >= 8


def test_scaling_the_channels_of_a_grouped_convolution() -> None:
    kernel = np.arange(1.0, 25.0).reshape(4, 3, 2)
    conv = Convolution(kernel, (3,), (2,), (1,), (1,), (0,), groups=2, batch=2)
    inner = diagonal(np.arange(1.0, 7.0).reshape(1, 6, 1), (2, 6, 3))
    outer = diagonal(np.arange(1.0, 5.0).reshape(1, 4, 1), (2, 4, 2))
    for a, b in ((conv, inner), (outer, conv), (conv.adjoint, outer), (inner, conv.adjoint)):
        folded = compose(a, b)
        assert isinstance(folded, Convolution | Transposed)
        assert np.array_equal(dense(folded), dense(a) @ dense(b))
    per_sample = diagonal(np.array([1.0, 2.0]).reshape(2, 1, 1), (2, 6, 3))
    assert isinstance(compose(conv, per_sample), Product)


def test_pointwise_convolutions_that_read_beyond_the_image_stay_convolutions() -> None:
    for out in (3, 4):
        conv = Convolution(np.ones((1, 1, 1)), (4,), (out,), (2,), (1,), (0,))
        assert isinstance(convolution(conv), Convolution)
        assert np.array_equal(dense(convolution(conv)), dense(conv))


# ── what was wrong once ───────────────────────────────────────────────────────────────────


def test_composing_with_a_repetition_ends() -> None:
    """Transposed maps used to ask each other for the same product without end."""
    conv = Convolution(np.ones((2, 3, 2)), (5,), (4,), (1,), (1,), (0,))
    repetition = selection(np.repeat(np.arange(4), 2), 4)
    for outer, inner in (
        (conv.adjoint, repetition),
        (repetition.adjoint, conv),
        (repetition.adjoint, repetition),
        (conv.adjoint, conv),
    ):
        a = compose(outer, inner)
        assert np.array_equal(dense(a), dense(outer) @ dense(inner))


def test_identities_cost_nothing() -> None:
    kernel = np.ones((2, 3, 2), np.float32)
    conv = Convolution(kernel, (5,), (4,), (1,), (1,), (0,))
    assert compose(conv, identity(15)) is conv
    assert compose(identity(8), conv) is conv
    assert isinstance(compose(conv.adjoint, identity(8)), Transposed)
    matrix = Matrix(np.ones((1, 2, 3), np.float32))
    assert compose(matrix, identity(3)) is matrix
    assert compose(identity(2), matrix) is matrix


def test_signs_and_powers_of_two_round_nothing_and_keep_the_type() -> None:
    weights = np.random.default_rng(0).standard_normal((1, 2, 3)).astype(np.float32)
    negative = compose(diagonal(np.array(-0.5), (2,)), Matrix(weights))
    assert isinstance(negative, Matrix)
    assert negative.blocks.dtype == np.float32
    assert negative.ulps == 0
    assert np.array_equal(negative.blocks, weights * np.float32(-0.5))


def test_products_of_float32_numbers_are_exact() -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((4, 5)).astype(np.float32)
    factors = rng.standard_normal(5).astype(np.float32).astype(np.float64)
    product = scaled(values, factors)
    assert product is not None
    assert product[1] == 0
    for (i, j), p in np.ndenumerate(product[0]):
        assert Fraction(float(p)) == Fraction(float(values[i, j])) * Fraction(float(factors[j]))


@pytest.mark.parametrize("factor", [1e-300, 1e300, math.inf, math.nan])
def test_products_out_of_range_are_not_folded(factor: float) -> None:
    tiny = 1e-300 if factor < 1 else 1e300
    matrix = Matrix(np.array([[[tiny, -3.0 * tiny]]]))
    assert isinstance(compose(matrix, diagonal(np.array(factor), (2,))), Product)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_caps_of_what_is_no_number_are_infinite(value: float) -> None:
    weights = np.array([[[1.0, value], [2.0, 3.0]]])
    assert Matrix(weights).cap() == math.inf
    assert diagonal(weights, (1, 2, 2)).cap() == math.inf
    conv = Convolution(weights, (4,), (3,), (1,), (1,), (0,))
    assert conv.cap() == math.inf


def test_empty_maps() -> None:
    assert Matrix(np.zeros((1, 0, 3))).cap() == 0
    assert identity(0).cap() == 0
    conv = Convolution(np.zeros((2, 3, 2)), (0,), (0,), (1,), (1,), (0,))
    assert compose(conv, diagonal(np.zeros((1, 3, 0)), (1, 3, 0))).cap() == 0


def test_maps_of_wrong_shapes_are_refused() -> None:
    with pytest.raises(RuleError, match="compose"):
        compose(identity(3), identity(4))
    with pytest.raises(RuleError, match="shapes"):
        identity(3) + identity(4)
    with pytest.raises(RuleError, match="index map"):
        selection(np.array([0, 5]), 5)
