"""Upper bounds by kind of map: each method on a case whose norm is known in closed form.

A bound must not be below the truth and at most 5e-4 above it, so that a factor of 0.999 slipped
into any of them fails here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from onnxlip.linear import (
    Convolution,
    LinearMap,
    Matrix,
    Monomial,
    Product,
    Sum,
    Transposed,
    diagonal,
    identity,
    selection,
)
from onnxlip.norms import torus, upper, workspace
from onnxlip.norms.structure import isometric_core, overlap, row_support
from onnxlip.norms.upper import least, meeting, spectral_upper
from onnxlip.norms.workspace import Bound, Workspace
from onnxlip.registry import built_in

from .oracle import dense_convolution, svd_norm

ONE = np.eye(1)
HADAMARD = np.array([[1.0, 1.0], [1.0, -1.0]])


def _work() -> Workspace:
    return Workspace(built_in().lowerings)


def _matrix(rows: int, columns: int, seed: int = 0) -> Matrix:
    return Matrix(np.random.default_rng(seed).standard_normal((1, rows, columns)))


def _placed(a: LinearMap, begin: int, rows: int) -> LinearMap:
    """a's output as entries begin … of a longer vector of zeros."""
    index = np.full(rows, -1)
    index[begin : begin + a.rows] = np.arange(a.rows)
    return Product((Monomial(a.rows, index), a))


def _line(size: int, channels: np.ndarray = ONE, groups: int = 1) -> Convolution:
    """K ⊗ [1 2 1], whose norm is ‖K‖(2 + 2cos(π/(size + 1)))."""
    kernel = channels[:, :, None] * np.array([1.0, 2.0, 1.0])
    return Convolution(kernel, (size,), (size,), (1,), (1,), (1,), groups)


def _line_norm(size: int) -> float:
    return 2 + 2 * math.cos(math.pi / (size + 1))


def _no_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)


def _no_merging(monkeypatch: pytest.MonkeyPatch) -> None:
    _no_writing(monkeypatch)
    monkeypatch.setattr(upper, "merged", lambda a, memory: None)


def _no_torus(monkeypatch: pytest.MonkeyPatch) -> None:
    _no_writing(monkeypatch)
    monkeypatch.setattr(torus, "_BUDGET", 0.0)
    monkeypatch.setattr(torus, "_LOSSES", (1e-4,))


def _nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pass


@dataclass(frozen=True)
class Case:
    linear: LinearMap
    truth: float
    method: str
    prepare: Callable[[pytest.MonkeyPatch], None] = _nothing


A, B = _matrix(5, 7), _matrix(4, 7, seed=1)
CASES = {
    "identity": Case(identity(9), 1.0, "closed form"),
    "repeat": Case(selection(np.repeat(np.arange(3), 5), 3), math.sqrt(5), "closed form"),
    "dense": Case(Matrix(HADAMARD[None] * 3), 3 * math.sqrt(2), "dense Cholesky"),
    "kronecker": Case(Matrix(HADAMARD[None], outer=3, inner=5), math.sqrt(2), "dense Cholesky"),
    "blocks": Case(Matrix(np.stack([HADAMARD, 2 * HADAMARD])), math.sqrt(8), "dense Cholesky"),
    "row": Case(Matrix(np.full((1, 1, 49), 1 / 49)), 1 / 7, "dense Cholesky"),
    "torus": Case(_line(40), _line_norm(40), "twisted torus", _no_writing),
    "torus of matrices": Case(
        _line(40, HADAMARD), math.sqrt(2) * _line_norm(40), "twisted torus", _no_writing
    ),
    "torus of groups": Case(
        _line(40, np.stack([HADAMARD, 2 * HADAMARD]).reshape(4, 2), groups=2),
        math.sqrt(8) * _line_norm(40),
        "twisted torus",
        _no_writing,
    ),
    "torus of the adjoint": Case(
        Transposed(_line(40)), _line_norm(40), "twisted torus", _no_writing
    ),
    "torus in a batch": Case(
        replace(_line(40), batch=3), _line_norm(40), "twisted torus", _no_writing
    ),
    "supremum": Case(_line(3000), _line_norm(3000), "supremum over all sizes", _no_torus),
    "supremum of matrices": Case(
        _line(3000, HADAMARD),
        math.sqrt(2) * _line_norm(3000),
        "supremum over all sizes",
        _no_torus,
    ),
    "separate windows": Case(
        Convolution(HADAMARD[:, None], (10,), (5,), (2,), (1,), (0,)),
        math.sqrt(2),
        "dense Cholesky",
        _no_writing,
    ),
    "written out": Case(_line(6), _line_norm(6), "written out, dense Cholesky"),
    "isometries": Case(
        Product(
            (
                selection(np.array([1, 0, 1, 0]), 2),
                Matrix(HADAMARD[None]),
                diagonal(np.array([-3.0]), (2,)),
            )
        ),
        6.0,
        "dense Cholesky",
    ),
    "product": Case(  # W along the channels, a mean along the pixels: W ⊗ P
        Product((A, Matrix(np.full((1, 1, 9), 1 / 9), outer=7))),
        svd_norm(A.blocks[0]) / 3,
        "product of factors",
        _no_writing,
    ),
    "product of factors that merge": Case(
        Product((B, A.adjoint)),
        svd_norm(B.blocks[0] @ A.blocks[0].T),
        "merged, dense Cholesky",
        _no_writing,
    ),
    "product of which some merge": Case(
        Product((B, A.adjoint, Matrix(np.full((1, 1, 9), 1 / 9), outer=5))),
        svd_norm(B.blocks[0] @ A.blocks[0].T) / 3,
        "product of factors, merged",
        _no_writing,
    ),
    "product written out": Case(
        Product((B, A.adjoint)),
        svd_norm(B.blocks[0] @ A.blocks[0].T),
        "written out, dense Cholesky",
    ),
    "sum": Case(Sum((A, A)), 2 * svd_norm(A.blocks[0]), "sum of branches", _no_merging),
    "sum of maps that merge": Case(
        Sum((A, Matrix(-0.5 * A.blocks))),
        0.5 * svd_norm(A.blocks[0]),
        "merged, dense Cholesky",
        _no_writing,
    ),
    "concatenation": Case(
        Sum((_placed(A, 0, 10), _placed(A, 5, 10))),
        math.sqrt(2) * svd_norm(A.blocks[0]),
        "sum of branches",
        _no_merging,
    ),
    "split and added": Case(
        Sum((_placed(A, 0, 10).adjoint, _placed(A, 5, 10).adjoint)),
        math.sqrt(2) * svd_norm(A.blocks[0]),
        "sum of branches",
        _no_merging,
    ),
    "diagonal blocks": Case(
        Sum(
            (
                Product((_placed(A, 0, 9), selection(np.arange(7), 14))),
                Product((_placed(B, 5, 9), selection(np.arange(7, 14), 14))),
            )
        ),
        max(svd_norm(A.blocks[0]), svd_norm(B.blocks[0])),
        "sum of branches",
        _no_merging,
    ),
    "sum written out": Case(
        Sum((A, Matrix(-0.5 * A.blocks))),
        0.5 * svd_norm(A.blocks[0]),
        "written out, dense Cholesky",
    ),
    "adjoint of repeat": Case(
        Transposed(selection(np.repeat(np.arange(3), 4), 3)), 2.0, "closed form"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_known_norms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    case.prepare(monkeypatch)
    found = spectral_upper(case.linear, _work())
    assert case.truth * (1 - 1e-13) <= found.value <= case.truth * (1 + 5e-4)
    if found.value < case.linear.cap():
        assert found.method == case.method


def test_the_cap_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    _no_writing(monkeypatch)
    monkeypatch.setattr(torus, "_MEMORY", 1)
    conv = _line(40, np.ones((2, 2)))
    limited = Bound(conv.cap(), "row and column sums (memory limit)")
    assert spectral_upper(conv, _work()) == limited
    monkeypatch.undo()
    _no_writing(monkeypatch)
    assert spectral_upper(conv, Workspace(built_in().lowerings, memory=1000)) == limited


@pytest.mark.parametrize("memory", [0, 1000, 80_000_000, 1 << 30])
def test_with_little_memory_a_cheaper_bound_is_taken(memory: int) -> None:
    rng = np.random.default_rng(4)
    kernel = rng.standard_normal((20, 20, 3, 3))
    conv = Convolution(kernel, (20, 20), (20, 20), (1, 1), (1, 1), (1, 1))
    for linear in (conv, Matrix(rng.standard_normal((1, 600, 700)))):
        found = spectral_upper(linear, Workspace(built_in().lowerings, memory=memory))
        best = spectral_upper(linear, _work())
        assert found.value >= best.value * (1 - 5e-3)
        assert ("(memory limit)" in found.method) == (memory < 80_000_000)
        if isinstance(linear, Matrix):
            assert found.value >= svd_norm(linear.blocks[0]) * (1 - 1e-13)


def test_a_kind_of_map_that_norms_does_not_know() -> None:
    """A user's map with a cap gets it; one with a lowering is written out if it is small."""

    @dataclass(frozen=True, eq=False)
    class Reversal(LinearMap):
        n: int

        @property
        def rows(self) -> int:
            return self.n

        @property
        def columns(self) -> int:
            return self.n

        @property
        def adjoint(self) -> LinearMap:
            return self

        @property
        def terms(self) -> int:
            return 1

        def cap(self) -> float:
            return 1.5

    from onnxlip.emitter import Emitter
    from onnxlip.lowering import Lowering

    def apply(e: Emitter, a: Reversal, x: str) -> str:
        return str(e.Gather(x, e.constant(np.arange(a.n)[::-1]), axis=1))

    lowerings = built_in().lowerings.extended((Lowering(Reversal, apply, apply),))
    assert spectral_upper(Reversal(5000), Workspace(lowerings)).value == 1.5
    assert spectral_upper(Reversal(5), Workspace(lowerings)).value == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("prepare", [_nothing, _no_writing])
@pytest.mark.parametrize("ulps", [1.0, 1e6, 2.0**40])
def test_errors_of_coefficients_are_included(
    ulps: float, prepare: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """True coefficients may all be larger by ulps · 2⁻⁵³: then ‖A‖ grows by as much."""
    prepare(monkeypatch)
    grown = 1 + ulps * 2.0**-53
    positive = np.abs(A.blocks) + 0.1
    for stored in (
        Matrix(positive, relative=ulps),
        replace(_line(6), relative=ulps),
        replace(_line(40), relative=ulps),
        Product((Matrix(positive, relative=ulps), Monomial(7, None, np.arange(1.0, 8.0)))),
        Sum((Matrix(positive, relative=ulps), Matrix(positive[:, ::-1], relative=ulps))),
    ):
        exact = _work()
        dense = exact.double(stored).matvec(np.eye(stored.columns)).T
        found = spectral_upper(stored, _work()).value
        assert found >= svd_norm(dense) * grown * (1 - 1e-13)
        if prepare is _nothing:
            assert found <= svd_norm(dense) * (1 + 1e-9) * (1 + 3 * (grown - 1))


def test_meeting_is_sound_for_any_supports() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        count = int(rng.integers(1, 5))
        masks = rng.random((count, 6, 1)) < 0.6, rng.random((count, 1, 7)) < 0.6
        parts = rng.standard_normal((count, 6, 7)) * masks[0] * masks[1]
        norms = [svd_norm(part) for part in parts]
        rows = int(masks[0].sum(axis=0).max())
        columns = int(masks[1].sum(axis=0).max())
        assert svd_norm(parts.sum(axis=0)) <= meeting(norms, rows, columns) * (1 + 1e-13)


def test_supports_are_read_off_outer_factors() -> None:
    a = _placed(A, 2, 9)
    support = row_support(a)
    assert support is not None
    assert np.flatnonzero(support).tolist() == [2, 3, 4, 5, 6]
    assert row_support(A) is None
    assert row_support(Sum((a, _placed(A, 0, 9)))).sum() == 7  # type: ignore[union-attr]
    assert row_support(Sum((a, Matrix(np.ones((1, 9, 7)))))) is None
    assert overlap((a, a, _placed(A, 4, 9))) == 3
    assert overlap((a, Matrix(np.ones((1, 9, 7))))) == 2
    assert overlap((A, A)) == 2
    repeated = Transposed(selection(np.array([0, 0, 3]), 5))
    assert row_support(repeated).tolist() == [True, False, False, True, False]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("left", "right", "isometric"),
    [
        (identity(5), identity(7), True),
        (selection(np.arange(5)[::-1].copy(), 5), identity(7), True),
        (selection(np.repeat(np.arange(5), 3), 5), identity(7), True),  # every entry three times
        (selection(np.array([0, 0, 1, 2, 3, 4]), 5), identity(7), False),
        (selection(np.arange(4), 5), identity(7), False),  # drops a row
        (Monomial(5, np.array([0, 1, -1, 2, 3, 4])), identity(7), True),  # a row of zeros
        (identity(5), selection(np.arange(7), 9), True),  # drops columns of its own
        (identity(5), Monomial(7, np.array([0, 1, 2, 3, 4, 5, -1])), False),
        (identity(5), selection(np.array([0, 0, 1, 2, 3, 4, 5]), 6), False),
        (Monomial(5, None, np.array([2.0, -2, 2, 2, -2])), identity(7), True),
        (Monomial(5, None, np.array([2.0, -2, 2, 2, 1])), identity(7), False),
        (Monomial(5, None, np.asarray(0.1), relative=1.0), identity(7), False),
        (identity(5), Transposed(selection(np.repeat(np.arange(7), 2), 7)), True),
        (Transposed(selection(np.repeat(np.arange(2), 3)[:5], 2)), identity(7), False),
    ],
)
def test_isometries_change_no_norm(left: LinearMap, right: LinearMap, isometric: bool) -> None:
    found = isometric_core(Product((left, A, right)))
    assert (found is not None) == isometric
    if found is None:
        return
    assert found[0] is A
    dense = _work().double(Product((left, A, right))).matvec(np.eye(right.columns)).T
    ratio = svd_norm(dense) / svd_norm(A.blocks[0])
    assert found[1].lower * (1 - 1e-13) <= ratio <= found[1].upper * (1 + 1e-13)
    assert found[1].upper <= found[1].lower * (1 + 1e-14)


def test_the_least_of_bounds_ignores_what_is_no_number() -> None:
    assert least(Bound(math.nan, "a"), Bound(2.0, "b")) == Bound(2.0, "b")
    assert least(Bound(math.nan, "a")).value == math.inf


def test_written_out_where_the_torus_is_loose() -> None:
    kernel = np.random.default_rng(0).standard_normal((5, 5, 3, 3))
    conv = Convolution(kernel, (4, 4), (4, 4), (1, 1), (1, 1), (1, 1))
    truth = svd_norm(dense_convolution(conv))
    found = spectral_upper(conv, _work())
    assert truth * (1 - 1e-13) <= found.value <= truth * (1 + 1e-10)
    assert torus.torus_bound(conv).upper > truth * 1.01  # type: ignore[union-attr]
