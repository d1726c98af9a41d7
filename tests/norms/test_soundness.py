"""Brackets of 2,000 convolutions and 1,000 dense, composed and structured maps: no end is on the
wrong side of the truth.

Where an end is within 1e-12 of an SVD, exact integers decide (`exact`).
"""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from onnxlip.linear import Convolution, LinearMap, Matrix, Monomial, Product, Sum, Transposed
from onnxlip.norms import bracket, workspace
from onnxlip.registry import built_in

from .exact import Exact
from .oracle import dense_convolution, random_convolution, svd_norm

LOWERINGS = built_in().lowerings
ULPS = (0.0, 0.0, 0.0, 1.0, 1000.0, 2.0**36)


def _written(a: LinearMap) -> Exact:
    """The stored coefficients of a map, by the definition of its kind."""
    if isinstance(a, Transposed):
        return _written(a.of).T
    if isinstance(a, Product):
        found = _written(a.factors[-1])
        for factor in a.factors[-2::-1]:
            found = _written(factor) @ found
        return found
    if isinstance(a, Sum):
        found = _written(a.summands[0])
        for summand in a.summands[1:]:
            found = found + _written(summand)
        return found
    if isinstance(a, Convolution):  # every entry is one weight: no window reads a pixel twice
        return Exact.of(np.kron(np.eye(a.batch), dense_convolution(a)))
    if isinstance(a, Monomial):
        index = np.arange(a.n) if a.index is None else a.index
        weight = np.broadcast_to(1.0 if a.weight is None else a.weight, index.shape)
        dense = np.zeros((len(index), a.n))
        read = np.flatnonzero(index >= 0)
        dense[read, index[read]] = weight[read]
        return Exact.of(dense)
    assert isinstance(a, Matrix)
    b, m, k = a.blocks.shape
    dense = np.zeros((a.outer, b, m, a.inner, a.outer, b, k, a.inner))
    for o in range(a.outer):
        for j in range(b):
            for i in range(a.inner):
                dense[o, j, :, i, o, j, :, i] = a.blocks[j]
    return Exact.of(dense.reshape(a.rows, a.columns))


def _moved(truth: Exact, ulps: float) -> list[Exact]:
    """The matrix, or two of those that it may stand for: nearly the largest and the smallest."""
    if not ulps or not truth.ints.size:
        return [truth]
    u, _, v = truth.singular()
    signs = np.sign(np.outer(u, v)) * np.sign(truth.ints.astype(np.float64))
    return [truth.moved(ulps, signs), truth.moved(ulps, -signs)]


def _hold(a: LinearMap, truths: list[Exact], p: float) -> str:
    """Asserts lower ≤ ‖A‖_p ≤ upper; how the upper end was found."""
    found = bracket(a, LOWERINGS, p)
    for truth in truths:
        if p == 2:
            assert truth.norm_is_at_least(found.lower), (a, found)
            assert truth.norm_is_at_most(found.upper), (a, found)
        else:
            size = truth.sums(p)
            assert Fraction(found.lower) <= size, (a, found)
            assert math.isinf(found.upper) or size <= Fraction(found.upper), (a, found)
    return found.upper_method


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("chunk", range(20))
def test_convolutions(chunk: int, written: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not written:  # the torus, its border and Lanczos, as for large images
        monkeypatch.setattr(workspace, "_SHORT", 0)
    rng = np.random.default_rng([chunk, written])
    methods = set()
    for trial in range(50):
        d, size = 1 + trial % 3, math.inf
        while size > (36 if written else 200):  # those that exact integers may have to decide
            conv = random_convolution(rng, d, {1: 10, 2: 4, 3: 3}[d], channels=3)
            size = min(conv.rows, conv.columns)
        ulps = float(rng.choice(ULPS))
        kind = int(rng.integers(6))
        if kind == 0:
            conv = replace(conv, kernel=conv.kernel.astype(np.float64) * rng.uniform(1, 2))
        elif kind == 1:
            conv = replace(conv, kernel=rng.integers(-2, 3, conv.kernel.shape).astype(np.float32))
        elif kind == 2:
            conv = replace(conv, batch=2)
        truths = _moved(_written(replace(conv, batch=1)), ulps)
        conv = replace(conv, relative=ulps)
        methods.add(_hold(Transposed(conv) if kind == 3 else conv, truths, 2))
        if trial % 5 == 0:
            for p in (1, math.inf):
                _hold(conv, _moved(_written(replace(conv, batch=1)), 0.0), p)
    if written:
        assert methods <= {"written out, dense Cholesky", "dense Cholesky", "row and column sums"}
    else:
        assert methods >= {"twisted torus", "torus, border released", "dense Cholesky"}


def _leaf(rng: np.random.Generator, n: int) -> LinearMap:
    """A map of n columns: a matrix in float32 or float64, an index map, a convolution …"""
    m = int(rng.integers(1, 9))
    w = rng.standard_normal((1, m, n)) * 10.0 ** rng.integers(-2, 3)
    leaves: list[LinearMap] = [
        Matrix(w),
        Matrix(w.astype(np.float32)),
        Matrix(rng.integers(-2, 3, (1, m, n)).astype(np.float64)),
        Matrix(rng.standard_normal((1, m, 1)) * rng.standard_normal((1, 1, n))),
        Monomial(n, rng.integers(-1, n, m), rng.standard_normal(m)),
        Monomial(n, rng.permutation(n)),
        Monomial(n, None, np.asarray(-0.3)),
        Monomial(n, np.repeat(np.arange(n), 2), np.asarray(0.7)),
        Transposed(Monomial(m, rng.integers(-1, m, n), rng.standard_normal(n))),
        Convolution(rng.standard_normal((2, 1, 3)), (n,), (n,), (1,), (1,), (1,)),
    ]
    divisors = [k for k in range(1, n + 1) if n % k == 0]
    outer = int(rng.choice(divisors))
    blocks = int(rng.choice([k for k in divisors if (n // outer) % k == 0]))
    rest = n // outer // blocks
    inner = int(rng.choice([k for k in divisors if rest % k == 0]))
    few = rng.standard_normal((blocks, int(rng.integers(1, 4)), rest // inner))
    leaves += 3 * [Matrix(few.astype(np.float32), outer=outer, inner=inner)]
    return leaves[int(rng.integers(len(leaves)))]


def _composed(rng: np.random.Generator, depth: int, n: int) -> LinearMap:
    """Products, sums of branches that meet or stand side by side, adjoints; n columns."""
    kind = int(rng.integers(4)) if depth else 3
    if kind == 0:
        inner = _composed(rng, depth - 1, n)
        return Product((_composed(rng, depth - 1, inner.rows), inner))
    if kind == 1:
        parts = [_composed(rng, depth - 1, n) for _ in range(int(rng.integers(2, 4)))]
        total, begin, placed = sum(p.rows for p in parts), 0, []
        apart = rng.random() < 0.6
        for part in parts:
            index = np.full(total, -1)
            index[begin : begin + part.rows] = np.arange(part.rows)
            begin += part.rows if apart else 0
            placed.append(Product((Monomial(part.rows, index), part)))
        return Sum(tuple(placed))
    if kind == 2:  # blocks on a diagonal
        at = int(rng.integers(0, n + 1))
        if at in (0, n):
            return _leaf(rng, n)
        parts = [_leaf(rng, at), _leaf(rng, n - at)]
        total, placed, row, column = sum(p.rows for p in parts), [], 0, 0
        for part in parts:
            index = np.full(total, -1)
            index[row : row + part.rows] = np.arange(part.rows)
            read = Monomial(n, np.arange(column, column + part.columns))
            placed.append(Product((Monomial(part.rows, index), part, read)))
            row, column = row + part.rows, column + part.columns
        return Sum(tuple(placed))
    return _leaf(rng, n)


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("chunk", range(10))
def test_dense_composed_and_structured_maps(
    chunk: int, written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not written:
        monkeypatch.setattr(workspace, "_SHORT", 0)
    rng = np.random.default_rng([chunk, written, 1])
    for trial in range(50):
        n, ulps = int(rng.integers(1, 10)), 0.0
        if trial % 2:
            a = _composed(rng, int(rng.integers(1, 4)), n)
        else:
            a = _leaf(rng, n)
            if isinstance(a, Matrix | Convolution | Monomial):
                ulps = float(rng.choice(ULPS))
                a = replace(a, relative=ulps)
        if rng.random() < 0.3:
            a = a.adjoint
        truths = _moved(_written(a), ulps)
        for p in (1, 2, math.inf):
            _hold(a, truths, p)


@pytest.mark.parametrize("written", [True, False])
def test_sums_of_copies_are_no_isometry(written: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """RᵀB adds rows of B that R copies: ‖RᵀB‖ is not √2 ‖B‖, though RᵀR = 2I."""
    if not written:
        monkeypatch.setattr(workspace, "_SHORT", 0)
    rng = np.random.default_rng(1)
    copies = Transposed(Monomial(4, np.repeat(np.arange(4), 2)))
    for _ in range(5):
        b, c = rng.standard_normal((1, 8, 5)), rng.standard_normal((1, 5, 4))
        outer, inner = Product((copies, Matrix(b))), Product((Matrix(c), copies))
        for a in (outer, inner, Product((copies, Matrix(b), Matrix(c), copies))):
            _hold(a, [_written(a)], 2)


def test_factors_in_line_with_each_other_leave_no_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Top singular vectors meet, so that ‖A‖‖B‖ is the norm: multiples of isometries around, and
    errors of coefficients within, would be missed at once."""
    monkeypatch.setattr(workspace, "_SHORT", 0)
    n, rng = 6, np.random.default_rng(2)
    line = Convolution(np.array([[[1.0, 2.0, 1.0]]]), (n,), (n,), (1,), (1,), (1,))
    top = np.sin(np.pi * np.arange(1, n + 1) / (n + 1))  # of the line, and so of what stands inside
    w, m = np.outer(top, rng.random(4) + 0.1), rng.random((4, 5)) + 0.1
    for ulps in (0.0, 2.0**36):
        first, second = Matrix(w[None], relative=ulps), Matrix(m[None])
        around = Monomial(n, rng.permutation(n), np.asarray(-3.0))
        inside = Monomial(5, rng.permutation(5), np.asarray(1.5))
        for factors in (
            (line, first, second),
            (around, line, first, second),
            (line, first, second, inside),
            (around, line, first, second, inside),
        ):
            truth = _written(factors[-1])
            for factor in factors[-2::-1]:
                exact = _written(factor)
                if factor is first and ulps:
                    exact = exact.moved(ulps, np.ones(exact.ints.shape))
                truth = exact @ truth
            _hold(Product(factors), [truth], 2)


def test_the_oracle_decides_what_floating_point_can_not() -> None:
    """Neighbours of an irrational norm fall on both sides; a norm that is a number is itself."""
    rng = np.random.default_rng(0)
    below = 0
    for _ in range(20):
        w = rng.standard_normal((3, 4))
        truth, near = Exact.of(w), svd_norm(w)
        ends = [near * (1 + k * 2.0**-52) for k in range(-40, 41)]
        verdicts = [truth.norm_is_at_most(x) for x in ends]
        assert verdicts == sorted(verdicts)  # false up to the truth, true from there on
        assert not verdicts[0]
        assert verdicts[-1]
        assert [truth.norm_is_at_least(x) for x in ends] == [not v for v in verdicts]
        below += verdicts[40]
    assert 2 <= below <= 18  # an SVD, not rounded up, is often too small
    exact = Exact.of(np.array([[3.0, 4.0], [0.0, 0.0]]) * 2.0**-1074)
    assert exact.norm_is_at_most(5 * 2.0**-1074)
    assert exact.norm_is_at_least(5 * 2.0**-1074)
    assert not exact.norm_is_at_least(6 * 2.0**-1074)
    moved = Exact.of(np.ones((1, 1))).moved(1.0, np.ones((1, 1)))
    assert not moved.norm_is_at_most(1.0)
    assert moved.norm_is_at_most(1.0 + 2.0**-52)
