"""‖A‖₁ and ‖A‖_∞ of composed maps, too large to write out, by what they merge into."""

import math
from dataclasses import replace

import numpy as np
import pytest

from onnxlip.certificate import Bracket
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
from onnxlip.norms import bracket, induced, joint, workspace
from onnxlip.norms.induced import induced_bounds
from onnxlip.norms.merging import Merged, neighbours
from onnxlip.norms.workspace import Workspace

from .composed import LOWERINGS, MERGE, REFUSE, gaussian, gaussian_conv, small_conv, written

NORMS = [1.0, math.inf]


@pytest.fixture(autouse=True)
def _nothing_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)


def _truth(dense: np.ndarray, p: float) -> float:
    return float(np.abs(dense).sum(axis=1 if p == math.inf else 0).max(initial=0))


def _holds(found: Bracket, truth: float) -> None:
    assert found.lower <= truth * (1 + 1e-13)
    assert truth * (1 - 1e-13) <= found.upper


def _is_tight(found: Bracket, truth: float) -> None:
    _holds(found, truth)
    assert found.upper <= truth * (1 + 1e-9)
    assert found.lower >= truth * (1 - 1e-9)


def _plain(a: LinearMap, p: float) -> float:
    """By moduli alone."""
    turned = a if p == math.inf else a.adjoint
    return float(Workspace(LOWERINGS).modulus(turned).matvec(np.ones(turned.columns)).max())


def _centred(n: int, pixels: int = 1) -> Sum:
    """x − mean(x) along the channels."""
    mean = Matrix(np.full((1, n, n), -1.0 / n), inner=pixels)
    return Sum((identity(n * pixels), mean))


def _moved(n: int, seed: int = 0) -> Monomial:
    rng = np.random.default_rng(seed)
    moved = selection(rng.permutation(n), n)
    return replace(moved, weight=rng.choice([-5.0, -3.0, 4.0], n))


def _cancelling() -> dict[str, LinearMap]:
    conv = gaussian_conv(small_conv((6, 6, 3, 3), (5, 4), pad=1))
    biased = replace(gaussian(6, 8, 1, 3), blocks=gaussian(6, 8, 1, 3).blocks + np.float32(3.0))
    near = Product((Monomial(conv.rows, None, np.asarray(-0.999)), conv))
    scaling = Monomial(36, None, np.random.default_rng(8).standard_normal(36))
    pool = Matrix(np.full((1, 6, 7), 0.1), outer=6)
    centred = Product((_moved(36), _centred(6, 6), gaussian(6, 7, 6, 4), _moved(42, 1)))
    beside = Sum(
        (
            Product((selection(np.r_[:36, [-1] * 36], 36), centred)),
            Product((selection(np.r_[[-1] * 36, :36], 36), scaling, pool)),
        )
    )
    return {
        "centred before": Product((biased, _centred(8))),
        "centred after": Product((_centred(6, 20), conv)),
        "centred twice": Product((_centred(6), biased, _centred(8))),
        "3×3 after 1×1": Product((conv, gaussian(6, 4, 20, 1))),
        "1×1 after 3×3": Product((gaussian(5, 6, 20, 2), conv)),
        "1×1 after strides": Product(
            (
                gaussian(4, 6, 6, 5),
                gaussian_conv(small_conv((6, 3, 3, 3), (5, 4), pad=1, stride=2)),
            )
        ),
        "nearly opposite": Sum((conv, near)),
        "opposite but for the middle": Sum(
            (conv, replace(gaussian_conv(conv), kernel=-conv.kernel), gaussian(6, 6, 20, 7))
        ),
        "signs and permutations around": Product(
            (_moved(120), gaussian(6, 6, 20, 2), conv, _moved(120, 1))
        ),
        "batch": Product(
            (
                replace(gaussian(5, 6, 20, 2), outer=3),
                replace(conv, batch=3),
            )
        ),
        "a branch that merges beside one that does not": beside,
        "a factor of such branches": Product((_moved(72), beside)),
    }


CANCELLING = _cancelling()


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("name", CANCELLING)
def test_what_cancels_is_not_counted(name: str, p: float) -> None:
    a = CANCELLING[name]
    for each in (a, a.adjoint, Transposed(a)):
        truth = _truth(written(each), p)
        found = bracket(each, LOWERINGS, p)
        _is_tight(found, truth)
        assert found.upper_method.startswith("merged, ")
    assert max(_plain(a, p) for p in NORMS) > 1.05 * max(_truth(written(a), p) for p in NORMS)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("name", [*MERGE, *sorted(REFUSE.keys() - {"empty", "not finite"})])
def test_all_cases_hold_and_are_tight_where_they_merge(name: str, p: float) -> None:
    a = (MERGE | REFUSE)[name]
    for each in (a, a.adjoint):
        found, truth = bracket(each, LOWERINGS, p), _truth(written(each), p)
        if name in MERGE:
            _is_tight(found, truth)
        else:
            _holds(found, truth)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("seed", range(6))
def test_random_compositions(seed: int, p: float) -> None:
    """Chains and sums of maps along channels and pixels, of which some merge."""
    rng = np.random.default_rng([seed, 9])
    for _ in range(5):
        c, image = int(rng.integers(2, 5)), (int(rng.integers(3, 6)),)

        def one(c: int = c, image: tuple[int, ...] = image) -> LinearMap:
            kind = int(rng.integers(0, 5))
            if kind == 0:
                return _centred(c, image[0])
            if kind == 1:
                return gaussian_conv(small_conv((c, c, 3), image, pad=1))
            if kind == 2:
                return _moved(c * image[0], int(rng.integers(9)))
            if kind == 3:
                return diagonal(rng.standard_normal(image[0]), (c, image[0]))
            return gaussian(c, c, image[0], int(rng.integers(9)))

        def some() -> LinearMap:
            return Product(tuple(one() for _ in range(int(rng.integers(1, 4)))))

        a: LinearMap = Product((some(), Sum((some(), some())), some()))
        for each in (a, a.adjoint):
            _holds(bracket(each, LOWERINGS, p), _truth(written(each), p))


@pytest.mark.parametrize("p", NORMS)
def test_maps_whose_products_do_not_fit(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_MEMORY", 1)
    for name in ("centred before", "3×3 after 1×1", "1×1 after strides", "nearly opposite"):
        a = CANCELLING[name]
        _is_tight(bracket(a, LOWERINGS, p), _truth(written(a), p))
    a = CANCELLING["signs and permutations around"]
    _holds(bracket(a, LOWERINGS, p), _truth(written(a), p))


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("off", [1e-3, -1e-3])
@pytest.mark.parametrize("name", CANCELLING)
def test_errors_of_merging_count(
    name: str, off: float, p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every map that merging gives may be off by what it says."""

    def careless(a: LinearMap, memory: int) -> tuple[Merged, ...]:
        return tuple(m if m.error == 0 else spoilt(m.linear) for m in neighbours(a, memory))

    def spoilt(a: LinearMap) -> Merged:
        b = a.of if isinstance(a, Transposed) else a
        if isinstance(b, Matrix):
            changed: LinearMap = replace(b, blocks=b.blocks * (1 + off))
        else:
            assert isinstance(b, Convolution)
            changed = replace(b, kernel=b.kernel * (1 + off))
        return Merged(changed.adjoint if b is not a else changed, abs(off) * b.cap())

    monkeypatch.setattr(induced, "neighbours", careless)
    a = CANCELLING[name]
    truth = _truth(written(a), p)
    lower, upper = induced_bounds(a, p, Workspace(LOWERINGS))
    assert lower.value <= truth * (1 + 1e-13)
    assert truth * (1 - 1e-13) <= upper.value
    if p == math.inf:
        maps = [a, gaussian(a.rows, 3, 1, 1)]
        each = [bracket(b, LOWERINGS, p) for b in maps]
        _holds(joint(maps, each, LOWERINGS, p), _truth(np.hstack([written(b) for b in maps]), p))


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("ulps", [1e6, 2.0**40])
def test_errors_of_coefficients_count(ulps: float, p: float) -> None:
    """The coefficients that make a row's sum largest, or smallest, within their ulps."""
    rng = np.random.default_rng(3)
    w, c = rng.standard_normal((6, 8)) + 3.0, np.eye(8) - 1.0 / 8
    a = Product((Matrix(w[None], relative=ulps), _centred(8)))
    towards = np.abs(w) * (np.sign(w @ c) @ c.T) / np.abs(np.sign(w @ c) @ c.T)
    growth = ulps * 2.0**-53
    for grown in (1, -1):
        dense = (w + grown * growth * towards) @ c
        _holds(bracket(a, LOWERINGS, p), _truth(dense, p))


def test_nothing_is_merged_where_moduli_tell_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> tuple[Merged, ...]:
        raise AssertionError

    monkeypatch.setattr(induced, "neighbours", never)
    rng = np.random.default_rng(4)
    a = Product(tuple(Matrix(rng.random((1, 5, 5)) + 0.1) for _ in range(2)))
    pool = Product((gaussian(5, 4, 1, 1), Matrix(np.full((1, 1, 6), 1 / 6), outer=4)))
    for each in (a, pool):
        for p in NORMS:
            _is_tight(bracket(each, LOWERINGS, p), _truth(written(each), p))
    maps = [a, gaussian(5, 3, 1, 2), identity(5)]
    found = joint(maps, [bracket(b, LOWERINGS, math.inf) for b in maps], LOWERINGS, math.inf)
    _is_tight(found, _truth(np.hstack([written(b) for b in maps]), math.inf))


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_several_maps(seed: int) -> None:
    """The largest sum of a row over all maps, which is at none of their own largest rows."""
    rng = np.random.default_rng([seed, 2])
    conv = gaussian_conv(small_conv((6, 5, 3, 3), (5, 4), pad=1))
    maps: list[LinearMap] = [
        Product((_centred(6, 20), conv)),
        diagonal(rng.standard_normal(120), (120,)),
        Transposed(gaussian_conv(small_conv((3, 6, 3, 3), (5, 4), pad=1, stride=2))),
        Transposed(selection(rng.integers(0, 120, 60), 120)),
        Product((_moved(120, seed), gaussian(6, 6, 20, seed), _centred(6, 20))),
        gaussian(6, 2, 20, 9, size=3.0),
        CANCELLING["1×1 after 3×3"],
    ]
    maps[-1] = Product((gaussian(6, 5, 20, seed), *CANCELLING["1×1 after 3×3"].factors))  # type: ignore[attr-defined]
    chosen = [maps[int(i)] for i in rng.permutation(len(maps))[: int(rng.integers(2, 8))]]
    for some in (chosen, maps):
        each = [bracket(a, LOWERINGS, math.inf) for a in some]
        truth = _truth(np.hstack([written(a) for a in some]), math.inf)
        found = joint(some, each, LOWERINGS, math.inf)
        _is_tight(found, truth)
    assert truth < 0.99 * sum(b.upper for b in each)


@pytest.mark.parametrize("ulps", [0.0, 2.0**40])
def test_ulps_of_maps_side_by_side_count(ulps: float) -> None:
    rng = np.random.default_rng(5)
    blocks = rng.random((2, 1, 5, 6)) + 0.1
    maps = [Matrix(b, relative=ulps) for b in blocks]
    each = [bracket(a, LOWERINGS, math.inf) for a in maps]
    found, truth = joint(maps, each, LOWERINGS, math.inf), _truth(np.hstack(blocks[:, 0]), math.inf)
    growth = ulps * 2.0**-53
    assert found.upper >= truth * (1 + growth) * (1 - 1e-14)
    assert found.lower <= truth * (1 - growth) * (1 + 1e-14)
    assert found.upper <= truth * (1 + 2 * growth + 1e-12)
    assert found.lower >= truth * (1 - 2 * growth - 1e-12)


def test_maps_side_by_side_of_which_one_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose rows then are at most its norm."""
    large = gaussian(4, 50, 1, 0)
    maps = [*(Monomial(4, None, np.array(w)) for w in ([1.0, 2, 3, 4], [4.0, 3, 2, 1])), large]
    monkeypatch.setattr(workspace, "_MEMORY", 20)
    found = joint(maps, [bracket(a, LOWERINGS, math.inf) for a in maps], LOWERINGS, math.inf)
    _holds(found, _truth(np.hstack([written(a) for a in maps]), math.inf))
    assert found.upper <= (5 + _truth(written(large), math.inf)) * (1 + 1e-12)


def test_empty_maps_side_by_side() -> None:
    none = Matrix(np.ones((1, 0, 3)))
    assert joint([none, none], [Bracket(0.0, 0.0, "", "")] * 2, LOWERINGS, math.inf).upper == 0
    through = Product((Matrix(np.ones((1, 3, 0))), Matrix(np.ones((1, 0, 2)))))
    maps = [through, gaussian(3, 4, 1, 0)]
    each = [bracket(a, LOWERINGS, math.inf) for a in maps]
    _is_tight(joint(maps, each, LOWERINGS, math.inf), each[1].upper)


@pytest.mark.parametrize("short", [0, 1024])
def test_roundings_of_sums_side_by_side_show_in_a_coarse_unit(
    short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = 1e-6
    rng = np.random.default_rng(7)
    v, w, m = (Matrix(rng.random((1, 5, 5)) + 0.1) for _ in range(3))
    monkeypatch.setattr(workspace, "_SHORT", short)
    monkeypatch.setattr(induced, "_simpler", lambda a, memory: Merged(a))
    for maps, terms in (([v, w], 6), ([Product((v, m)), Product((w, m))], 12 if not short else 5)):
        truth = _truth(np.hstack([written(a) for a in maps]), math.inf)
        with monkeypatch.context() as coarse:
            coarse.setattr(induced, "gamma", lambda k: k * unit)
            low, high = induced.stacked_rows(maps, [math.inf] * 2, Workspace(LOWERINGS))
        assert low.value <= truth * (1 - terms * unit) * (1 + 1e-12)
        assert high.value >= truth * (1 + terms * unit) * (1 - 1e-12)


def test_what_overflows_says_nothing() -> None:
    values = np.array([math.inf, math.nan, 1.0])
    np.testing.assert_array_equal(induced._outward(values, 1.0, 0.0, -math.inf)[:2], 0.0)
    np.testing.assert_array_equal(induced._outward(values, 1.0, 0.0, math.inf)[:2], math.inf)
