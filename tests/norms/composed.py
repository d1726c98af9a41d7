"""Small maps in a row and added, with integer entries: cases that merge into one, and others."""

import math
from dataclasses import replace

import numpy as np

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
from onnxlip.operators import Operator
from onnxlip.registry import built_in

LOWERINGS = built_in().lowerings


def written(a: LinearMap) -> np.ndarray:
    return Operator(a, LOWERINGS, np.float64).matvec(np.eye(a.columns)).T


def integers(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def small_conv(
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
        integers(kernel, seed),
        image,
        out,
        (stride,) * d,
        (dilation,) * d,
        (pad,) * d,
        groups,
        batch,
    )


def point(c_out: int, c_in: int, pixels: int, *, blocks: int = 1, batch: int = 1) -> Matrix:
    """c_out, c_in per block."""
    return Matrix(integers((blocks, c_out, c_in), seed=7), outer=batch, inner=pixels)


def strided(channels: int, image: tuple[int, ...], stride: int, batch: int = 1) -> Monomial:
    grid = np.arange(batch * channels * math.prod(image)).reshape(batch, channels, *image)
    return selection(grid[(..., *(slice(None, None, stride),) * len(image))], grid.size)


def pad_with_zeros(channels: int, image: tuple[int, ...], before: int, after: int) -> Monomial:
    n = channels * math.prod(image)
    grid = np.arange(n).reshape(channels, *image)
    wide = np.pad(grid, [(0, 0), *[(before, after)] * len(image)], constant_values=-1)
    return selection(wide, n)


def chosen_channels(chosen: list[int], channels: int, pixels: int, batch: int = 1) -> Monomial:
    """These channels, −1 for zeros."""
    grid = np.arange(batch * channels * pixels).reshape(batch, channels, pixels)
    index = np.where(np.array(chosen)[None, :, None] >= 0, grid[:, chosen], -1)
    return selection(index, grid.size)


def per_channel(weights: list[float], pixels: int) -> Monomial:
    return diagonal(np.array(weights)[:, None], (len(weights), pixels))


MERGE = {
    "matrices": Product((point(2, 3, 5, batch=2), point(3, 4, 5, batch=2))),
    "matrices in blocks": Product((point(2, 3, 2, blocks=2), point(3, 2, 2, blocks=2))),
    "blocks after a matrix": Product((point(2, 2, 3, blocks=3), point(6, 4, 3))),
    "a matrix after blocks": Product((point(4, 6, 3), point(2, 3, 3, blocks=3))),
    "matrices around a scaling": Product(
        (point(2, 3, 5), per_channel([1, -2, 0], 5), point(3, 2, 5))
    ),
    "a matrix of chosen channels": Product((point(2, 4, 5), chosen_channels([2, -1, 0, 2], 3, 5))),
    "a matrix among other channels": Product((chosen_channels([-1, 1, 0], 2, 4), point(2, 3, 4))),
    "1×1 after 3×3": Product((point(3, 2, 20), small_conv((2, 2, 3, 3), (4, 5), pad=1))),
    "3×3 after 1×1": Product((small_conv((2, 3, 3, 3), (4, 5), pad=1), point(3, 2, 20))),
    "1×1 after strides": Product(
        (point(3, 2, 6, batch=2), small_conv((2, 1, 3, 3), (4, 6), pad=1, stride=2, batch=2))
    ),
    "strides after 1×1": Product(
        (small_conv((2, 3, 2, 3), (4, 6), pad=1, stride=2, batch=2), point(3, 2, 24, batch=2))
    ),
    "dilated after 1×1": Product((small_conv((2, 3, 3), (9,), pad=2, dilation=2), point(3, 2, 9))),
    "1×1 after depthwise": Product((point(2, 4, 9), small_conv((4, 1, 3), (9,), pad=1, groups=4))),
    "depthwise after 1×1": Product((small_conv((4, 1, 3), (9,), pad=1, groups=4), point(4, 3, 9))),
    "1×1 in groups after depthwise": Product(
        (point(3, 2, 9, blocks=2), small_conv((4, 1, 3), (9,), pad=1, groups=4))
    ),
    "depthwise twice as wide after groups": Product(
        (small_conv((8, 1, 3), (9,), pad=1, groups=4), small_conv((4, 2, 1), (9,), groups=2))
    ),
    "groups after a shuffle": Product(
        (small_conv((4, 2, 3), (6,), pad=1, groups=2), chosen_channels([2, 0, 3, 1], 4, 6))
    ),
    "within the image": Product(
        (small_conv((2, 2, 3), (6,)), small_conv((2, 3, 3), (6,), pad=1, dilation=1, seed=1))
    ),
    "within the image, strides and dilations": Product(
        (
            small_conv((2, 2, 2), (10,), stride=3, dilation=2),
            small_conv((2, 3, 2), (21,), pad=1, stride=2, dilation=4, seed=1),
        )
    ),
    "after all that is not zero": Product(
        (
            small_conv((2, 2, 3), (8,), pad=1),
            Convolution(integers((2, 3, 3), 1), (6,), (8,), (1,), (1,), (2,)),
        )
    ),
    "after the adjoint of a small one": Product(
        (
            small_conv((2, 3, 2, 2), (5, 5), pad=1, stride=2),
            Transposed(small_conv((2, 3, 3, 3), (5, 5))),
        )
    ),
    "1×1 after an adjoint with strides": Product(
        (point(3, 2, 9), Transposed(small_conv((3, 2, 3), (9,), stride=2, pad=1)))
    ),
    "an adjoint with strides after 1×1": Product(
        (Transposed(small_conv((3, 2, 3), (9,), stride=2, pad=1)), point(3, 4, 5))
    ),
    "after a pad": Product((small_conv((2, 3, 3, 3), (7, 8)), pad_with_zeros(3, (4, 5), 1, 2))),
    "after a pad for strides": Product(
        (small_conv((2, 3, 3), (9,), stride=2), pad_with_zeros(3, (7,), 0, 2))
    ),
    "three in a row": Product(
        (
            point(4, 3, 8),
            small_conv((3, 3, 3), (8,), pad=1),
            per_channel([2, 0, 1], 8),
            point(3, 2, 8),
        )
    ),
    "products within": Product(
        (point(4, 3, 8), Product((small_conv((3, 3, 3), (8,), pad=1), point(3, 2, 8))))
    ),
    "sum of matrices": Sum((point(3, 3, 4), identity(12), per_channel([1, 2, -3], 4))),
    "sum of blocks": Sum((point(3, 2, 4, blocks=2), point(6, 4, 4))),
    "RepVGG": Sum(
        (small_conv((3, 3, 3, 3), (4, 5), pad=1), point(3, 3, 20), per_channel([1, 0.5, -3], 20))
    ),
    "RepVGG, strides": Sum(
        (
            small_conv((4, 3, 3, 3), (5, 6), pad=1, stride=2),
            Product((point(4, 3, 9), strided(3, (5, 6), 2))),
        )
    ),
    "RepVGG, groups": Sum((small_conv((4, 2, 3), (6,), pad=1, groups=2), identity(24))),
    "groups of two sizes": Sum(
        (
            small_conv((8, 4, 3), (6,), pad=1, groups=2),
            small_conv((8, 2, 3), (6,), pad=1, groups=4, seed=1),
            identity(48),
        )
    ),
    "kernels of all sizes": Sum(
        (
            small_conv((2, 2, 3), (9,), pad=1),
            small_conv((2, 2, 5), (9,), pad=2, seed=1),
            small_conv((2, 2, 3), (9,), pad=3, dilation=3, seed=2),
            Convolution(integers((2, 2, 2), 3), (9,), (9,), (1,), (1,), (0,)),
        )
    ),
    "the same taps, dilated": Sum(
        (
            small_conv((2, 2, 3), (9,), pad=2, dilation=2),
            small_conv((2, 2, 5), (9,), pad=4, dilation=2, seed=1),
        )
    ),
    "branches into one output": Sum(
        (
            Product((chosen_channels([0, 1, -1, -1], 2, 6), small_conv((2, 3, 3), (6,), pad=1))),
            Product((chosen_channels([-1, -1, 0, 1], 2, 6), point(2, 3, 6))),
        )
    ),
    "adjoint of a sum of strides": Product(
        (point(3, 2, 9), Transposed(small_conv((3, 2, 3), (9,), stride=2, pad=1)), point(3, 2, 5))
    ),
}


REFUSE = {
    "matrices along different axes": Product((point(2, 3, 4), point(4, 5, 1, batch=3))),
    "zeros between two windows": Product(
        (small_conv((2, 2, 3), (6,), pad=1), small_conv((2, 2, 3), (6,), pad=1))
    ),
    "zeros before, not after": Product(
        (
            Convolution(integers((2, 2, 3)), (6,), (4,), (1,), (1,), (1,)),
            small_conv((2, 2, 3), (6,), pad=1),
        )
    ),
    "zeros after, not before": Product(
        (
            Convolution(integers((2, 2, 3)), (6,), (6,), (1,), (1,), (0,)),
            small_conv((2, 2, 3), (6,), pad=1),
        )
    ),
    "cut off within the image": Product(
        (
            Convolution(integers((2, 2, 3)), (4,), (4,), (1,), (1,), (1,)),
            Convolution(integers((2, 2, 1)), (6,), (4,), (1,), (1,), (0,)),
        )
    ),
    "groups that cross": Product(
        (small_conv((6, 3, 3), (6,), pad=1, groups=2), small_conv((6, 2, 1), (6,), groups=3))
    ),
    "strides up and down": Product(
        (
            small_conv((2, 3, 2), (10,), stride=2),
            Transposed(small_conv((2, 3, 2), (10,), stride=2)),
        )
    ),
    "pixels in another order": Product(
        (point(2, 3, 4), selection(np.random.default_rng(0).permutation(12), 12), point(3, 3, 4))
    ),
    "a pad around some images only": Product(
        (
            small_conv((2, 2, 3), (6,)),
            selection(np.array([-1, 0, 1, 2, 3, -1, -1, 4, 5, 6, 7, 7]), 8),
        )
    ),
    "another image": Product((small_conv((2, 2, 3), (6,), pad=1, batch=2), point(4, 4, 6))),
    "sum on different pixels": Sum(
        (small_conv((2, 2, 3), (8,), stride=2, pad=1), small_conv((2, 4, 3), (4,), pad=1))
    ),
    "sum with a scaling per pixel": Sum((point(2, 2, 3), Monomial(6, None, np.arange(1.0, 7.0)))),
    "sum with a slice elsewhere": Sum(
        (
            small_conv((2, 2, 3), (8,), stride=2, pad=1),
            selection(np.arange(16).reshape(2, 8)[:, 1::2], 16),
        )
    ),
    "sum of index maps": Sum((identity(3), selection(np.array([2, 0, 1]), 3))),
    "index map": identity(3),
    "empty": Product((Matrix(np.ones((1, 3, 0))), Matrix(np.ones((1, 0, 2))))),
    "not finite": Product((Matrix(np.full((1, 2, 2), 1e200)), Matrix(np.full((1, 2, 2), 1e200)))),
}


def neighbour(
    rng: np.random.Generator, c: int, batch: int, image: tuple[int, ...], last: bool
) -> LinearMap:
    """A map from (last: to) c channels of these pixels."""
    pixels, other = math.prod(image), int(rng.integers(1, 4))
    kind = int(rng.integers(0, 4))
    m, k = (c, other) if last else (other, c)
    if kind == 0:
        return Matrix(np.round(rng.standard_normal((1, m, k)) * 3), outer=batch, inner=pixels)
    if kind == 1:
        return chosen_channels([int(j) for j in rng.integers(-1, k, m)], k, pixels, batch)
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


def gaussian_conv(a: Convolution) -> Convolution:
    kernel = np.random.default_rng(3).standard_normal(a.kernel.shape).astype(np.float32)
    return replace(a, kernel=kernel)


def gaussian(m: int, k: int, pixels: int, seed: int, size: float = 1.0) -> Matrix:
    block = size * np.random.default_rng(seed).standard_normal((1, m, k))
    return Matrix(block.astype(np.float32), inner=pixels)
