"""Maps that act alike in all pixels, written as convolutions of one geometry.

A matrix along the channels, I_batch ⊗ W ⊗ I_pixels, is a convolution with one tap; so are scalings
per channel, channels that are chosen or put among others, strided slices and pads with zeros
(a tap that reads beyond the border). Written so, what they do one after the other is one kernel
convolved with another, and what they do side by side is taps of one kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxlip.linear import Convolution, LinearMap, Matrix, Monomial, Transposed

__all__ = ["Grid", "as_matrix", "flipped", "on_grid", "padded"]

Kernel = npt.NDArray[np.floating]
Sizes = tuple[int, ...]

_ENTRIES = 1 << 23  # of a matrix that chooses channels


@dataclass(frozen=True)
class Grid:
    """Where a convolution reads and writes: output p of an axis sees s·p and what is near it."""

    batch: int
    in_spatial: Sizes
    out_spatial: Sizes
    strides: Sizes

    @staticmethod
    def of(a: Convolution | Matrix) -> Grid:
        """Of a matrix: its rows of pixels, one axis of which suffices."""
        if isinstance(a, Convolution):
            return Grid(a.batch, a.in_spatial, a.out_spatial, a.strides)
        return Grid.still(a.outer, (a.inner,))

    @staticmethod
    def still(batch: int, spatial: Sizes) -> Grid:
        """From these pixels to the same ones."""
        return Grid(batch, spatial, spatial, (1,) * len(spatial))

    def convolution(
        self, kernel: Kernel, groups: int = 1, begin: Sizes | None = None
    ) -> Convolution:
        """The convolution with this kernel (undilated) on the grid."""
        d = len(self.strides)
        return Convolution(
            kernel,
            self.in_spatial,
            self.out_spatial,
            self.strides,
            (1,) * d,
            (0,) * d if begin is None else begin,
            groups,
            self.batch,
        )


def on_grid(a: LinearMap, grid: Grid) -> Convolution | None:
    """The same map as a convolution on this grid, its coefficients' errors left aside."""
    ones = (1,) * len(grid.strides)
    if isinstance(a, Transposed):
        turned = flipped(a)
        return None if turned is None else on_grid(turned, grid)
    if isinstance(a, Convolution):
        return replace(a, relative=0.0) if Grid.of(a) == grid else None
    if isinstance(a, Matrix):
        b, m, k = a.blocks.shape
        still = grid == Grid.still(a.outer, grid.out_spatial)
        if not still or a.inner != math.prod(grid.out_spatial):
            return None
        return grid.convolution(a.blocks.reshape(b * m, k, *ones), b)
    return _pointwise(a, grid, (0,) * len(ones)) if isinstance(a, Monomial) else None


def as_matrix(a: Convolution) -> Convolution | Matrix:
    """A matrix along the channels where the convolution has one tap, at the pixel itself."""
    if math.prod(a.taps) != 1 or any(a.begin) or Grid.of(a) != Grid.still(a.batch, a.in_spatial):
        return a
    blocks = a.grouped.reshape(a.groups, a.c_out // a.groups, -1)
    return Matrix(blocks, a.batch, math.prod(a.out_spatial), a.relative)


def flipped(a: Transposed) -> Convolution | None:
    """The adjoint of a convolution with strides 1: one with the kernel turned round, which begins
    d(k − 1) − b before the image, if that is not inside it."""
    conv = a.of
    if not isinstance(conv, Convolution) or any(s != 1 for s in conv.strides):
        return None
    begin = tuple(
        d * (k - 1) - b for d, k, b in zip(conv.dilations, conv.taps, conv.begin, strict=True)
    )
    if min(begin) < 0:
        return None
    kernel = np.flip(conv.grouped, axis=tuple(range(3, 3 + len(begin)))).swapaxes(1, 2)
    return replace(
        conv,
        kernel=kernel.reshape(conv.c_in, -1, *conv.taps),
        in_spatial=conv.out_spatial,
        out_spatial=conv.in_spatial,
        begin=begin,
    )


def padded(a: Monomial, batch: int, spatial: Sizes) -> Convolution | None:
    """The map that puts images, their channels perhaps chosen or scaled, into zeros all around:
    the result's size is `spatial`."""
    pixels = batch * math.prod(spatial)
    if not pixels or not a.n or a.rows % pixels:
        return None
    if a.index is None:
        return _pointwise(a, Grid.still(batch, spatial), (0,) * len(spatial))
    images = a.index.reshape(batch, -1, *spatial)
    some = np.argwhere(images[0].max(axis=0) >= 0)
    if not len(some):
        return None
    low, high = some.min(axis=0), some.max(axis=0)
    size = tuple(int(n) for n in high - low + 1)
    grid = Grid(batch, size, spatial, (1,) * len(spatial))
    return _pointwise(a, grid, tuple(int(n) for n in low))


def _pointwise(a: Monomial, grid: Grid, begin: Sizes) -> Convolution | None:
    """A convolution with one tap, reading s·p − begin, that is this index map."""
    read, write = math.prod(grid.in_spatial), math.prod(grid.out_spatial)
    if not (a.n and a.rows) or a.n % (grid.batch * read) or a.rows % (grid.batch * write):
        return None
    c_in, c_out = a.n // (grid.batch * read), a.rows // (grid.batch * write)
    source = _sources(grid, begin)
    seen = np.flatnonzero(source >= 0)
    if not seen.size:
        return None
    first = int(seen[0])
    index = np.arange(a.n) if a.index is None else a.index
    index = index.reshape(grid.batch, c_out, write)
    start = index[0, :, first]
    channel = np.where(start >= 0, (start - source[first]) // read, -1)
    image = np.where(channel[:, None] >= 0, channel[:, None] * read + source, -1)
    image[:, source < 0] = -1
    for n in range(grid.batch):
        if not np.array_equal(index[n], np.where(image >= 0, image + n * c_in * read, -1)):
            return None
    weight = np.ones(c_out, np.float32)
    if a.weight is not None:
        whole = np.broadcast_to(a.weight, (a.rows,)).reshape(grid.batch, c_out, write)
        weight = np.where(channel >= 0, whole[0, :, first], 0.0)
        if not np.all((whole == weight[:, None]) | (image < 0)):
            return None
    point = (1,) * len(begin)
    known = channel >= 0
    if c_in == c_out and np.array_equal(channel[known], np.flatnonzero(known)):
        kernel = np.where(known, weight, 0).reshape(c_out, 1, *point)
        return grid.convolution(kernel, c_out, begin)
    if c_in * c_out > _ENTRIES:
        return None
    kernel = np.zeros((c_out, c_in), weight.dtype)
    kernel[known, channel[known]] = weight[known]
    return grid.convolution(kernel.reshape(c_out, c_in, *point), 1, begin)


def _sources(grid: Grid, begin: Sizes) -> npt.NDArray[np.int64]:
    """For every output pixel the input pixel s·p − begin, or −1 where that is outside."""
    flat, inside = np.zeros((), np.int64), np.ones((), bool)
    for h, o, s, b in zip(grid.in_spatial, grid.out_spatial, grid.strides, begin, strict=True):
        read = s * np.arange(o) - b
        flat = flat[..., None] * h + read
        inside = inside[..., None] & (read >= 0) & (read < h)
    return np.where(inside, flat, -1).reshape(-1)
