"""Merged maps against what they merge: matrices with integer entries must be equal."""

import math
from dataclasses import replace
from fractions import Fraction
from functools import reduce

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
    convolution,
    diagonal,
    identity,
    selection,
)
from onnxlip.norms import bracket, joint, upper, workspace
from onnxlip.norms.merging import merged, neighbours, side_by_side
from onnxlip.norms.upper import meeting, spectral_upper
from onnxlip.norms.workspace import Bound, Workspace
from onnxlip.operators import Operator
from onnxlip.registry import built_in

from .oracle import exactly_bounds, random_convolution, svd_norm

LOWERINGS = built_in().lowerings


def _dense(a: LinearMap) -> np.ndarray:
    return Operator(a, LOWERINGS, np.float64).matvec(np.eye(a.columns)).T


def _integers(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def _conv(
    kernel: tuple[int, ...],
    image: tuple[int, ...],
    *,
    stride: int = 1,
    dilation: int = 1,
    pad: int = 0,
    groups: int = 1,
    batch: int = 1,
    seed: int = 0,
) -> Convolution:
    """c_out, c_in per group and the taps; the same pad on both sides of each axis."""
    d = len(image)
    out = tuple(
        (h + 2 * pad - dilation * (k - 1) - 1) // stride + 1
        for h, k in zip(image, kernel[2:], strict=True)
    )
    return Convolution(
        _integers(kernel, seed),
        image,
        out,
        (stride,) * d,
        (dilation,) * d,
        (pad,) * d,
        groups,
        batch,
    )


def _point(c_out: int, c_in: int, pixels: int, *, blocks: int = 1, batch: int = 1) -> Matrix:
    """c_out, c_in per block."""
    return Matrix(_integers((blocks, c_out, c_in), seed=7), outer=batch, inner=pixels)


def _slice(channels: int, image: tuple[int, ...], stride: int, batch: int = 1) -> Monomial:
    grid = np.arange(batch * channels * math.prod(image)).reshape(batch, channels, *image)
    return selection(grid[(..., *(slice(None, None, stride),) * len(image))], grid.size)


def _pad(channels: int, image: tuple[int, ...], before: int, after: int) -> Monomial:
    n = channels * math.prod(image)
    grid = np.arange(n).reshape(channels, *image)
    wide = np.pad(grid, [(0, 0), *[(before, after)] * len(image)], constant_values=-1)
    return selection(wide, n)


def _channels(chosen: list[int], channels: int, pixels: int, batch: int = 1) -> Monomial:
    """These channels, −1 for zeros."""
    grid = np.arange(batch * channels * pixels).reshape(batch, channels, pixels)
    index = np.where(np.array(chosen)[None, :, None] >= 0, grid[:, chosen], -1)
    return selection(index, grid.size)


def _per_channel(weights: list[float], pixels: int) -> Monomial:
    return diagonal(np.array(weights)[:, None], (len(weights), pixels))


MERGE = {
    "matrices": Product((_point(2, 3, 5, batch=2), _point(3, 4, 5, batch=2))),
    "matrices in blocks": Product((_point(2, 3, 2, blocks=2), _point(3, 2, 2, blocks=2))),
    "blocks after a matrix": Product((_point(2, 2, 3, blocks=3), _point(6, 4, 3))),
    "a matrix after blocks": Product((_point(4, 6, 3), _point(2, 3, 3, blocks=3))),
    "matrices around a scaling": Product(
        (_point(2, 3, 5), _per_channel([1, -2, 0], 5), _point(3, 2, 5))
    ),
    "a matrix of chosen channels": Product((_point(2, 4, 5), _channels([2, -1, 0, 2], 3, 5))),
    "a matrix among other channels": Product((_channels([-1, 1, 0], 2, 4), _point(2, 3, 4))),
    "1×1 after 3×3": Product((_point(3, 2, 20), _conv((2, 2, 3, 3), (4, 5), pad=1))),
    "3×3 after 1×1": Product((_conv((2, 3, 3, 3), (4, 5), pad=1), _point(3, 2, 20))),
    "1×1 after strides": Product(
        (_point(3, 2, 6, batch=2), _conv((2, 1, 3, 3), (4, 6), pad=1, stride=2, batch=2))
    ),
    "strides after 1×1": Product(
        (_conv((2, 3, 2, 3), (4, 6), pad=1, stride=2, batch=2), _point(3, 2, 24, batch=2))
    ),
    "dilated after 1×1": Product((_conv((2, 3, 3), (9,), pad=2, dilation=2), _point(3, 2, 9))),
    "1×1 after depthwise": Product((_point(2, 4, 9), _conv((4, 1, 3), (9,), pad=1, groups=4))),
    "depthwise after 1×1": Product((_conv((4, 1, 3), (9,), pad=1, groups=4), _point(4, 3, 9))),
    "1×1 in groups after depthwise": Product(
        (_point(3, 2, 9, blocks=2), _conv((4, 1, 3), (9,), pad=1, groups=4))
    ),
    "depthwise twice as wide after groups": Product(
        (_conv((8, 1, 3), (9,), pad=1, groups=4), _conv((4, 2, 1), (9,), groups=2))
    ),
    "groups after a shuffle": Product(
        (_conv((4, 2, 3), (6,), pad=1, groups=2), _channels([2, 0, 3, 1], 4, 6))
    ),
    "within the image": Product(
        (_conv((2, 2, 3), (6,)), _conv((2, 3, 3), (6,), pad=1, dilation=1, seed=1))
    ),
    "within the image, strides and dilations": Product(
        (
            _conv((2, 2, 2), (10,), stride=3, dilation=2),
            _conv((2, 3, 2), (21,), pad=1, stride=2, dilation=4, seed=1),
        )
    ),
    "after all that is not zero": Product(
        (
            _conv((2, 2, 3), (8,), pad=1),
            Convolution(_integers((2, 3, 3), 1), (6,), (8,), (1,), (1,), (2,)),
        )
    ),
    "after the adjoint of a small one": Product(
        (_conv((2, 3, 2, 2), (5, 5), pad=1, stride=2), Transposed(_conv((2, 3, 3, 3), (5, 5))))
    ),
    "1×1 after an adjoint with strides": Product(
        (_point(3, 2, 9), Transposed(_conv((3, 2, 3), (9,), stride=2, pad=1)))
    ),
    "an adjoint with strides after 1×1": Product(
        (Transposed(_conv((3, 2, 3), (9,), stride=2, pad=1)), _point(3, 4, 5))
    ),
    "after a pad": Product((_conv((2, 3, 3, 3), (7, 8)), _pad(3, (4, 5), 1, 2))),
    "after a pad for strides": Product((_conv((2, 3, 3), (9,), stride=2), _pad(3, (7,), 0, 2))),
    "three in a row": Product(
        (
            _point(4, 3, 8),
            _conv((3, 3, 3), (8,), pad=1),
            _per_channel([2, 0, 1], 8),
            _point(3, 2, 8),
        )
    ),
    "products within": Product(
        (_point(4, 3, 8), Product((_conv((3, 3, 3), (8,), pad=1), _point(3, 2, 8))))
    ),
    "sum of matrices": Sum((_point(3, 3, 4), identity(12), _per_channel([1, 2, -3], 4))),
    "sum of blocks": Sum((_point(3, 2, 4, blocks=2), _point(6, 4, 4))),
    "RepVGG": Sum(
        (_conv((3, 3, 3, 3), (4, 5), pad=1), _point(3, 3, 20), _per_channel([1, 0.5, -3], 20))
    ),
    "RepVGG, strides": Sum(
        (
            _conv((4, 3, 3, 3), (5, 6), pad=1, stride=2),
            Product((_point(4, 3, 9), _slice(3, (5, 6), 2))),
        )
    ),
    "RepVGG, groups": Sum((_conv((4, 2, 3), (6,), pad=1, groups=2), identity(24))),
    "groups of two sizes": Sum(
        (
            _conv((8, 4, 3), (6,), pad=1, groups=2),
            _conv((8, 2, 3), (6,), pad=1, groups=4, seed=1),
            identity(48),
        )
    ),
    "kernels of all sizes": Sum(
        (
            _conv((2, 2, 3), (9,), pad=1),
            _conv((2, 2, 5), (9,), pad=2, seed=1),
            _conv((2, 2, 3), (9,), pad=3, dilation=3, seed=2),
            Convolution(_integers((2, 2, 2), 3), (9,), (9,), (1,), (1,), (0,)),
        )
    ),
    "the same taps, dilated": Sum(
        (
            _conv((2, 2, 3), (9,), pad=2, dilation=2),
            _conv((2, 2, 5), (9,), pad=4, dilation=2, seed=1),
        )
    ),
    "branches into one output": Sum(
        (
            Product((_channels([0, 1, -1, -1], 2, 6), _conv((2, 3, 3), (6,), pad=1))),
            Product((_channels([-1, -1, 0, 1], 2, 6), _point(2, 3, 6))),
        )
    ),
    "adjoint of a sum of strides": Product(
        (_point(3, 2, 9), Transposed(_conv((3, 2, 3), (9,), stride=2, pad=1)), _point(3, 2, 5))
    ),
}


@pytest.mark.parametrize("name", MERGE)
def test_a_merged_map_is_the_same_map(name: str) -> None:
    a = MERGE[name]
    for each in (a, a.adjoint):
        found = merged(each)
        assert found is not None
        assert isinstance(found.linear, (Convolution, Matrix, Transposed))
        assert found.linear.ulps == 0
        np.testing.assert_array_equal(_dense(found.linear), _dense(each))
        assert found.error <= 1e-12 * each.cap()


REFUSE = {
    "matrices along different axes": Product((_point(2, 3, 4), _point(4, 5, 1, batch=3))),
    "zeros between two windows": Product(
        (_conv((2, 2, 3), (6,), pad=1), _conv((2, 2, 3), (6,), pad=1))
    ),
    "zeros before, not after": Product(
        (
            Convolution(_integers((2, 2, 3)), (6,), (4,), (1,), (1,), (1,)),
            _conv((2, 2, 3), (6,), pad=1),
        )
    ),
    "zeros after, not before": Product(
        (
            Convolution(_integers((2, 2, 3)), (6,), (6,), (1,), (1,), (0,)),
            _conv((2, 2, 3), (6,), pad=1),
        )
    ),
    "cut off within the image": Product(
        (
            Convolution(_integers((2, 2, 3)), (4,), (4,), (1,), (1,), (1,)),
            Convolution(_integers((2, 2, 1)), (6,), (4,), (1,), (1,), (0,)),
        )
    ),
    "groups that cross": Product(
        (_conv((6, 3, 3), (6,), pad=1, groups=2), _conv((6, 2, 1), (6,), groups=3))
    ),
    "strides up and down": Product(
        (
            _conv((2, 3, 2), (10,), stride=2),
            Transposed(_conv((2, 3, 2), (10,), stride=2)),
        )
    ),
    "pixels in another order": Product(
        (_point(2, 3, 4), selection(np.random.default_rng(0).permutation(12), 12), _point(3, 3, 4))
    ),
    "a pad around some images only": Product(
        (
            _conv((2, 2, 3), (6,)),
            selection(np.array([-1, 0, 1, 2, 3, -1, -1, 4, 5, 6, 7, 7]), 8),
        )
    ),
    "another image": Product((_conv((2, 2, 3), (6,), pad=1, batch=2), _point(4, 4, 6))),
    "sum on different pixels": Sum(
        (_conv((2, 2, 3), (8,), stride=2, pad=1), _conv((2, 4, 3), (4,), pad=1))
    ),
    "sum with a scaling per pixel": Sum((_point(2, 2, 3), Monomial(6, None, np.arange(1.0, 7.0)))),
    "sum with a slice elsewhere": Sum(
        (
            _conv((2, 2, 3), (8,), stride=2, pad=1),
            selection(np.arange(16).reshape(2, 8)[:, 1::2], 16),
        )
    ),
    "sum of index maps": Sum((identity(3), selection(np.array([2, 0, 1]), 3))),
    "index map": identity(3),
    "empty": Product((Matrix(np.ones((1, 3, 0))), Matrix(np.ones((1, 0, 2))))),
    "not finite": Product((Matrix(np.full((1, 2, 2), 1e200)), Matrix(np.full((1, 2, 2), 1e200)))),
}


@pytest.mark.parametrize("name", REFUSE)
def test_what_is_no_single_map_is_left_alone(name: str) -> None:
    a = REFUSE[name]
    with np.errstate(all="ignore"):
        found = merged(a)
        assert found is None or np.array_equal(_dense(found.linear), _dense(a))
        assert found is None


def test_a_map_that_is_one_already_loses_its_ulps() -> None:
    a = Matrix(_integers((1, 3, 4)), relative=3.0)
    for one in (
        a,
        _conv((2, 2, 3), (6,)),
        Transposed(replace(_conv((2, 2, 3), (6,)), relative=2.0)),
    ):
        found = merged(one)
        assert found is not None
        assert found.linear.ulps == 0
        assert (found.error > 0) == (one.ulps > 0)
        np.testing.assert_array_equal(_dense(found.linear), _dense(one))


def _random_pair(rng: np.random.Generator) -> LinearMap:
    """A convolution of any geometry before or after a map that fits it, and sometimes both."""
    conv = random_convolution(rng, int(rng.integers(1, 3)), 5, channels=2)
    conv = replace(conv, kernel=np.round(3 * conv.kernel), batch=int(rng.integers(1, 3)))
    factors: list[LinearMap] = [conv]
    if rng.random() < 0.6:
        factors.insert(0, _neighbour(rng, conv.c_out, conv.batch, conv.out_spatial, last=False))
    if rng.random() < 0.6 or len(factors) == 1:
        factors.append(_neighbour(rng, conv.c_in, conv.batch, conv.in_spatial, last=True))
    return Product(tuple(factors))


def _neighbour(
    rng: np.random.Generator, c: int, batch: int, image: tuple[int, ...], last: bool
) -> LinearMap:
    """A map from (last: to) c channels of these pixels."""
    pixels, other = math.prod(image), int(rng.integers(1, 4))
    kind = int(rng.integers(0, 4))
    m, k = (c, other) if last else (other, c)
    if kind == 0:
        return Matrix(np.round(rng.standard_normal((1, m, k)) * 3), outer=batch, inner=pixels)
    if kind == 1:
        return _channels([int(j) for j in rng.integers(-1, k, m)], k, pixels, batch)
    if kind == 2:  # a window that reads what it likes
        taps = tuple(int(n) for n in rng.integers(1, 4, len(image)))
        begin = tuple(int(n) for n in rng.integers(0, 3, len(image)))
        kernel = np.round(rng.standard_normal((m, k, *taps)) * 3)
        more = tuple(int(n) for n in rng.integers(0, 3, len(image)))
        wide = tuple(h + n for h, n in zip(image, more, strict=True))
        ones = (1,) * len(image)
        sizes = (wide, image) if last else (image, wide)
        return Convolution(kernel, *sizes, ones, ones, begin, batch=batch)
    return diagonal(np.round(rng.standard_normal(c) * 3).reshape(c, 1), (batch, c, pixels))


@pytest.mark.parametrize("seed", range(8))
def test_random_neighbours_are_refused_or_right(seed: int) -> None:
    rng = np.random.default_rng([seed, 5])
    count = 0
    for _ in range(60):
        a = _random_pair(rng)
        product = reduce(np.matmul, [_dense(part.linear) for part in neighbours(a)])
        np.testing.assert_array_equal(product, _dense(a))
        count += merged(a) is not None
    assert count > 10


def _exact_difference(a: LinearMap, b: LinearMap, growth: Fraction) -> np.ndarray:
    """A − B in rational numbers, all coefficients of A larger by `growth`."""

    def rational(m: LinearMap) -> np.ndarray:
        if isinstance(m, Product):
            return reduce(np.matmul, [rational(f) for f in m.factors])
        if isinstance(m, Sum):
            return reduce(np.add, [rational(s) for s in m.summands])
        whole = np.vectorize(lambda x: Fraction(float(x)), otypes=[object])(_dense(m))
        return whole * (1 + growth * Fraction(m.ulps)) if m.ulps else whole

    return np.asarray(rational(a) - rational(b), dtype=np.float64)


@pytest.mark.parametrize("ulps", [0.0, 1.0, 2.0**20])
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_errors_hold_in_exact_arithmetic(ulps: float, shift: float) -> None:
    """Real coefficients, which may all be larger by their ulps."""
    rng = np.random.default_rng(11)

    def real(a: Convolution) -> Convolution:
        kernel = rng.standard_normal(a.kernel.shape) + shift
        return replace(a, kernel=kernel, relative=ulps)

    def dense(m: int, k: int, inner: int) -> Matrix:
        return Matrix(rng.standard_normal((1, m, k)) + shift, inner=inner, relative=ulps)

    conv = real(_conv((2, 2, 3), (4,), pad=1))
    wide = Matrix(rng.standard_normal((1, 3, 40)) + shift, relative=ulps)
    for a in (
        Product((dense(3, 2, 4), conv)),
        Product((conv, dense(2, 2, 4))),
        Product((wide, replace(wide, blocks=wide.blocks.transpose(0, 2, 1)))),
        Product((real(_conv((2, 2, 3), (4,))), real(_conv((2, 2, 3), (4,), pad=1)))),
        Product((dense(2, 2, 5), Transposed(real(_conv((2, 2, 3), (5,), pad=1, stride=2))))),
        Product((real(_conv((1, 2, 3), (8,))), Transposed(real(_conv((2, 2, 3), (8,)))))),
        Sum((conv, dense(2, 2, 4), Monomial(8, None, np.asarray(0.1), relative=ulps))),
        Sum((conv, Product((dense(2, 2, 4), dense(2, 2, 4))))),
    ):
        found = merged(a)
        assert found is not None
        for growth in (Fraction(1, 2**53), -Fraction(1, 2**53)):
            difference = _exact_difference(a, found.linear, growth)
            assert exactly_bounds(found.error, difference)
            for axis in (0, 1):  # ‖·‖₁ and ‖·‖_∞
                assert np.abs(difference).sum(axis=axis).max() <= found.error * (1 + 1e-12)
        if ulps > 1 and shift:  # positive coefficients: what is claimed may happen, or nearly so
            assert found.error <= 20 * svd_norm(difference)


def test_large_kernels_are_not_made() -> None:
    narrow = Product((Matrix(np.ones((1, 4000, 2))), Matrix(np.ones((1, 2, 4000)))))
    assert merged(narrow) is None
    small = Product((_point(3, 2, 20), _conv((2, 2, 3, 3), (4, 5), pad=1)))
    assert merged(small, memory=20) is None


# ── side by side ──────────────────────────────────────────────────────────────────────────


def _permuted(a: LinearMap) -> LinearMap:
    return Product((selection(np.random.default_rng(1).permutation(a.rows), a.rows), a))


BESIDE: dict[str, list[LinearMap]] = {
    "matrices": [_point(3, 2, 4), _point(3, 5, 4)],
    "matrices in a batch": [_point(3, 2, 4, batch=2), _point(3, 5, 4, batch=2)],
    "blocks": [_point(2, 2, 4, blocks=3), _point(2, 1, 4, blocks=3), _point(6, 4, 4)],
    "ResNet-50": [_point(3, 2, 6), Product((_point(3, 4, 6), _slice(4, (4, 6), 2)))],
    "ResNet-18": [
        _conv((3, 3, 3, 3), (2, 3), pad=1),
        Product((_point(3, 2, 6), _slice(2, (4, 6), 2))),
    ],
    "in the other order": [_point(3, 2, 6), _conv((3, 3, 3, 3), (2, 3), pad=1)],
    "beside strides": [_conv((3, 3, 3, 3), (4, 6), pad=1, stride=2), _point(3, 2, 6)],
    "beside strides without a pad": [_conv((3, 3, 2), (9,), stride=2), _point(3, 2, 4)],
    "two windows": [_conv((3, 2, 3), (9,), pad=1), _conv((3, 1, 5), (9,), pad=2)],
    "dilations": [
        *(Product((_point(4, 2, 9), _conv((2, 3, 3), (9,), pad=d, dilation=d))) for d in (1, 2, 3)),
        _point(4, 5, 9),
    ],
    "groups": [_conv((4, 2, 3), (9,), pad=1, groups=2), _conv((4, 1, 3), (9,), pad=1, groups=4)],
    "skips": [_conv((3, 2, 3), (5,), pad=1), identity(15), _per_channel([1, -2, 3], 5)],
    "rearranged": [
        _permuted(_conv((3, 2, 3), (5,), pad=1)),
        _permuted(_point(3, 4, 5)),
        _permuted(identity(15)).factors[0],  # type: ignore[attr-defined]
    ],
    "branches put in channels": [
        Product((_channels([-1, 0, 1], 2, 5), _conv((2, 2, 3), (5,), pad=1))),
        Product((_channels([1, -1, 0], 2, 5), _point(2, 4, 5))),
    ],
    "after a permutation": [
        _point(3, 2, 6),
        Product((_point(3, 2, 6), selection(np.random.default_rng(2).permutation(12), 12))),
    ],
    "after zeros": [
        _point(3, 2, 6),
        Product((_point(3, 2, 6), _channels([-1, 0], 1, 6))),
    ],
    "adjoint": [Transposed(_conv((2, 3, 3), (7,), pad=1)), _point(3, 2, 7)],
}


@pytest.mark.parametrize("name", BESIDE)
def test_side_by_side_has_the_norm_of_the_stack(name: str) -> None:
    maps = BESIDE[name]
    found = side_by_side(maps)
    assert found is not None
    truth = svd_norm(np.hstack([_dense(a) for a in maps]))
    assert svd_norm(_dense(found.linear)) == pytest.approx(truth, rel=1e-13)
    assert found.error <= 1e-11 * truth


BESIDE_NOT: dict[str, list[LinearMap]] = {
    "other pixels": [_point(3, 2, 4), _point(4, 2, 3)],
    "other strides": [
        _conv((3, 2, 3), (8,), stride=2, pad=1),
        _conv((3, 2, 3), (4,), pad=1),
    ],
    "a scaling per pixel": [_point(3, 2, 4), Monomial(12, None, np.arange(1.0, 13.0))],
    "an entry read twice": [
        _point(3, 2, 4),
        Product((_point(3, 2, 4), selection(np.array([0, 1, 1, 2, 3, 4, 5, 6]), 7))),
    ],
    "rearranged in two ways": [_permuted(_point(3, 2, 4)), _point(3, 2, 4)],
    "rearranged and doubled": [
        Product((Monomial(12, np.arange(12)[::-1].copy(), np.asarray(2.0)), _point(3, k, 4)))
        for k in (2, 3)
    ],
    "skips alone": [identity(3), identity(3)],
    "beside strides that overrun": [
        Convolution(_integers((3, 2, 3)), (5,), (4,), (2,), (1,), (1,)),
        _point(3, 2, 4),
    ],
    "empty": [_point(3, 2, 4), Matrix(np.ones((1, 12, 0)))],
}


@pytest.mark.parametrize("name", BESIDE_NOT)
def test_side_by_side_is_refused(name: str) -> None:
    maps = BESIDE_NOT[name]
    found = side_by_side(maps)
    if found is not None:
        truth = svd_norm(np.hstack([_dense(a) for a in maps]))
        assert svd_norm(_dense(found.linear)) == pytest.approx(truth, rel=1e-13)
    assert found is None


@pytest.mark.parametrize("seed", range(4))
def test_random_maps_side_by_side_are_refused_or_right(seed: int) -> None:
    rng = np.random.default_rng([seed, 6])
    count = 0
    for _ in range(40):
        pixels = (int(rng.integers(2, 6)),)
        maps = [_neighbour(rng, 3, 1, pixels, last=True) for _ in range(2)]
        if rng.random() < 0.5:
            maps = [Product((_point(2, 3, *pixels), a)) if rng.random() < 0.5 else a for a in maps]
            maps = maps if len({a.rows for a in maps}) == 1 else [maps[0]] * 2
        truth = svd_norm(np.hstack([_dense(a) for a in maps]))
        found = side_by_side(maps)
        if found is not None:
            count += 1
            assert svd_norm(_dense(found.linear)) == pytest.approx(truth, rel=1e-12, abs=1e-12)
    assert count > 10


# ── what they are for ─────────────────────────────────────────────────────────────────────


def _random(a: Convolution) -> Convolution:
    kernel = np.random.default_rng(3).standard_normal(a.kernel.shape).astype(np.float32)
    return replace(a, kernel=kernel)


def _gaussian(m: int, k: int, pixels: int, seed: int, size: float = 1.0) -> Matrix:
    block = size * np.random.default_rng(seed).standard_normal((1, m, k))
    return Matrix(block.astype(np.float32), inner=pixels)


def test_composed_blocks_are_tighter_than_their_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    conv = _random(_conv((6, 6, 3, 3), (9, 8), pad=1))
    before, after = _gaussian(6, 4, 72, 1), _gaussian(5, 6, 72, 2)
    moved = selection(np.random.default_rng(4).permutation(after.rows), after.rows)
    branches = Sum((conv, _gaussian(6, 6, 72, 5), identity(conv.rows)))
    for a in (
        Product((conv, before)),
        Product((after, conv)),
        Product((moved, after, conv, before)),
        Product((after, before.adjoint.adjoint, _gaussian(4, 6, 72, 6))),
        branches,
    ):
        found, truth = bracket(a, LOWERINGS, 2.0), svd_norm(_dense(a))
        assert found.lower <= truth * (1 + 1e-12)
        assert truth * (1 - 1e-12) <= found.upper
        assert found.upper <= found.lower * (1 + 1e-2)
        assert found.upper_method.startswith("merged, ")
        parts = a.factors if isinstance(a, Product) else a.summands
        norms = [bracket(f, LOWERINGS, 2.0).upper for f in parts]
        plain = math.prod(norms) if isinstance(a, Product) else sum(norms)
        assert found.upper < 0.95 * plain


@pytest.mark.parametrize("name", ["ResNet-50", "ResNet-18"])
def test_skips_of_resnets_are_tighter_than_meeting(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where two branches with the same gain meet, the meeting bound loses up to √2."""
    monkeypatch.setattr(workspace, "_SHORT", 0)
    skip = Product((_gaussian(12, 10, 42, 2), _slice(10, (12, 14), 2)))
    branch: LinearMap = _gaussian(12, 10, 42, 3)
    if name == "ResNet-18":
        branch = _random(_conv((12, 10, 3, 3), (6, 7), pad=1))
        skip = Product((_gaussian(12, 10, 42, 2, 3.0), _slice(10, (12, 14), 2)))
    maps = [branch, skip]
    truth = svd_norm(np.hstack([_dense(a) for a in maps]))
    each = [bracket(a, LOWERINGS, 2.0) for a in maps]
    found = joint(maps, each, LOWERINGS, 2.0)
    assert found.lower <= truth * (1 + 1e-12)
    assert truth * (1 - 1e-12) <= found.upper <= found.lower * (1 + 5e-3)
    assert found.upper < 0.97 * meeting([b.upper for b in each], 2, 1)


@pytest.mark.parametrize("name", MERGE)
def test_brackets_of_composed_maps_hold(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    found, truth = bracket(MERGE[name], LOWERINGS, 2.0), svd_norm(_dense(MERGE[name]))
    assert found.lower <= truth * (1 + 1e-12)
    assert truth * (1 - 1e-12) <= found.upper


@pytest.mark.parametrize("name", [*BESIDE, *BESIDE_NOT])
def test_joint_brackets_hold(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    maps = {**BESIDE, **BESIDE_NOT}[name]
    truth = svd_norm(np.hstack([_dense(a) for a in maps]))
    found = joint(maps, [bracket(a, LOWERINGS, 2.0) for a in maps], LOWERINGS, 2.0)
    assert found.lower <= truth * (1 + 1e-12)
    assert truth * (1 - 1e-12) <= found.upper


@pytest.mark.parametrize("pool_first", [True, False])
def test_kronecker_products_need_no_merging(pool_first: bool) -> None:
    """W along 1280 channels and means along both axes of the pixels: ‖W‖‖P‖‖Q‖, exactly."""
    w = _gaussian(1000, 1280, 1, 8)
    rows = Matrix(np.full((1, 1, 7), 1 / 7), outer=1280 if pool_first else 1000)
    columns = replace(rows, outer=7 * rows.outer)
    if pool_first:
        a = Product((w, rows, columns))
    else:
        a = Product((rows, columns, Matrix(w.blocks, inner=49)))
    assert [part.linear for part in neighbours(a)] == list(a.factors)
    found = spectral_upper(a, Workspace(LOWERINGS))
    assert found.method == "product of factors"
    assert found.value == pytest.approx(svd_norm(w.blocks[0]) / 7, rel=1e-6)


def test_a_strided_1x1_convolution_is_its_matrix() -> None:
    """What exporters write as a strided 1×1 convolution is a matrix after a slice: not lost."""
    conv = _conv((3, 2, 1, 1), (5, 5), stride=2)
    maps = [_point(3, 2, 9), convolution(conv)]
    assert isinstance(maps[1], Product)
    found = side_by_side(maps)
    assert found is not None
    assert isinstance(found.linear, Matrix)
    assert found.linear.blocks.shape == (1, 3, 4)


def test_multiples_of_isometries_around_what_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    v, w = _gaussian(4, 5, 1, 1), _gaussian(5, 6, 1, 2)
    outer = Monomial(4, np.array([3, 1, 0, 2]), np.asarray(3.0))
    inner = Monomial(8, np.array([7, 1, 2, 3, 5, 6]), np.asarray(-0.5))
    mean = Matrix(np.full((1, 1, 9), 1 / 9), outer=6)
    for rest, truth in (((inner,), 1.5), ((mean, Monomial(54, None, np.asarray(-0.5))), 0.5)):
        a = Product((outer, v, w, *rest))
        found = bracket(a, LOWERINGS, 2.0)
        assert found.upper_method in ("merged, dense Cholesky", "product of factors, merged")
        exact = truth * svd_norm(v.blocks[0].astype(np.float64) @ w.blocks[0])
        assert exact * (1 - 1e-12) <= found.upper <= exact * (1 + 1e-9)
        assert found.lower <= exact * (1 + 1e-12)


@pytest.mark.parametrize("ulps", [1e6, 2.0**40])
def test_ulps_of_what_is_merged_count(ulps: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """True coefficients may all be larger, or smaller, by ulps · 2⁻⁵³."""
    monkeypatch.setattr(workspace, "_SHORT", 0)
    grown, shrunk = 1 + ulps * 2.0**-53, 1 - ulps * 2.0**-53
    rng = np.random.default_rng(12)
    v, w = (Matrix(rng.random((1, 5, 5)) + 0.1, relative=ulps) for _ in range(2))
    mean = Matrix(np.full((1, 1, 9), 1 / 9), outer=5)
    truth = svd_norm(v.blocks[0] @ w.blocks[0]) / 3
    assert bracket(Product((v, w, mean)), LOWERINGS, 2.0).upper >= truth * grown**2 * (1 - 1e-13)
    found = joint([v, w], [bracket(a, LOWERINGS, 2.0) for a in (v, w)], LOWERINGS, 2.0)
    truth = svd_norm(np.hstack([v.blocks[0], w.blocks[0]]))
    assert found.upper_method == "merged, dense Cholesky"
    assert found.upper >= truth * grown * (1 - 1e-13)
    assert found.lower <= truth * shrunk * (1 + 1e-13)


def test_factors_that_are_sharper_than_what_they_merge_into(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where all leading vectors meet nothing is lost: the merged map may have the looser torus."""
    monkeypatch.setattr(workspace, "_SHORT", 0)
    ones = replace(_conv((3, 3, 3), (7,), pad=1), kernel=np.ones((3, 3, 3)))
    a = Product(
        (Matrix(np.ones((1, 3, 3)), inner=7), replace(ones, groups=3, kernel=ones.kernel[:, :1]))
    )
    work = Workspace(LOWERINGS, tolerance=0.0)
    product = math.prod(spectral_upper(f, work).value for f in a.factors)
    assert spectral_upper(a, work).value <= product * (1 + 1e-15)
    assert spectral_upper(a, Workspace(LOWERINGS)).method == "product of factors"
    monkeypatch.setattr(upper, "_of_merged", lambda *args: Bound(math.inf, "loose"))
    unlucky = spectral_upper(a, Workspace(LOWERINGS, tolerance=0.0))
    assert unlucky.value <= product * (1 + 1e-15)
