"""Convolution: a strided, dilated, grouped cross-correlation with zeros beyond the border.

    y[n, o, p] = Σ_{c, t} K[o, c, t] x[n, c, s·p + d·t − begin]

with x = 0 outside its spatial box, p over `out_spatial`, t over the kernel's taps, c over the
channels of o's group. What an exporter calls end padding, auto_pad or ceil_mode is all in
`out_spatial`. The adjoint (a transposed convolution) is `Transposed(Convolution)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from onnxlip.linear.base import LinearMap, Transposed
from onnxlip.linear.matrix import Matrix
from onnxlip.linear.monomial import Monomial, selection
from onnxlip.rounding import gamma, up

__all__ = ["Convolution", "convolution"]


@dataclass(frozen=True, eq=False)
class Convolution(LinearMap):
    """kernel: (c_out, c_in / groups, *taps), float64 or exactly convertible; lengths d of
    `in_spatial`, `out_spatial`, `strides`, `dilations` and `begin` (each begin ≥ 0)."""

    kernel: npt.NDArray[np.floating]
    in_spatial: tuple[int, ...]
    out_spatial: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    groups: int = 1
    batch: int = 1
    relative: float = 0.0

    @property
    def taps(self) -> tuple[int, ...]:
        return self.kernel.shape[2:]

    @property
    def c_out(self) -> int:
        return self.kernel.shape[0]

    @property
    def c_in(self) -> int:
        return self.kernel.shape[1] * self.groups

    @property
    def rows(self) -> int:
        return self.batch * self.c_out * math.prod(self.out_spatial)

    @property
    def columns(self) -> int:
        return self.batch * self.c_in * math.prod(self.in_spatial)

    @property
    def ulps(self) -> float:
        return self.relative

    @property
    def terms(self) -> int:
        channels = max(self.c_in, self.c_out) // self.groups
        return channels * math.prod(self.taps) + 1

    @property
    def adjoint(self) -> LinearMap:
        return Transposed(self)

    @cached_property
    def grouped(self) -> npt.NDArray[np.floating]:
        """The kernel as (groups, c_out / groups, c_in / groups, *taps)."""
        g = self.groups
        return self.kernel.reshape(g, self.c_out // g, *self.kernel.shape[1:])

    @cached_property
    def bound(self) -> float:
        size = np.abs(self.grouped.astype(np.float64))
        if size.size == 0:
            return 0.0
        axes = tuple(range(3, size.ndim))
        per_output = size.sum(axis=(2, *axes)).max()  # ‖|A|‖_∞ away from borders
        # Each (output channel, tap) reads an input pixel for at most one output pixel.
        per_input = size.sum(axis=(1, *axes)).max()  # ‖|A|‖₁ at stride 1
        return up(up(float(max(per_output, per_input)) * up(1.0 + gamma(self.terms))) * 1.000001)

    def cap(self) -> float:
        return self.bound

    def after(self, inner: LinearMap) -> LinearMap | None:
        if not isinstance(inner, Monomial):
            return None
        scale = inner.constant_along(self.batch * self.c_in)
        if scale is None:
            return None
        scale = scale.reshape(self.batch, self.c_in)
        if not np.array_equal(scale, np.broadcast_to(scale[:1], scale.shape)):
            return None
        per_group = scale[0].reshape(self.groups, 1, self.c_in // self.groups)
        factor = np.expand_dims(per_group, tuple(range(3, 3 + len(self.taps))))
        kernel = (self.grouped * factor).reshape(self.kernel.shape)
        return replace(self, kernel=kernel, relative=self.relative + inner.relative + 1.0)

    def before(self, outer: LinearMap) -> LinearMap | None:
        if not isinstance(outer, Monomial):
            return None
        scale = outer.constant_along(self.batch * self.c_out)
        if scale is None:
            return None
        scale = scale.reshape(self.batch, self.c_out)
        if not np.array_equal(scale, np.broadcast_to(scale[:1], scale.shape)):
            return None
        factor = scale[0].reshape(self.c_out, *(1,) * (self.kernel.ndim - 1))
        ulps = self.relative + outer.relative + 1.0
        return replace(self, kernel=self.kernel * factor, relative=ulps)


def convolution(conv: Convolution) -> LinearMap:
    """The same map, as a matrix where it is one: a 1×1 kernel (a strided one after a slice),
    or a kernel as large as the image."""
    g, pixels = conv.groups, math.prod(conv.out_spatial)
    flush = all(b == 0 for b in conv.begin)
    span = tuple(d * (k - 1) + 1 for d, k in zip(conv.dilations, conv.taps, strict=True))
    if flush and span == conv.in_spatial and pixels == 1 and all(d == 1 for d in conv.dilations):
        blocks = conv.grouped.reshape(g, conv.c_out // g, -1)
        return Matrix(blocks, outer=conv.batch, relative=conv.relative)
    reach = zip(conv.out_spatial, conv.strides, conv.in_spatial, strict=True)
    if flush and math.prod(conv.taps) == 1 and all((o - 1) * s < i for o, s, i in reach):
        blocks = conv.grouped.reshape(g, conv.c_out // g, -1)
        matrix = Matrix(blocks, outer=conv.batch, inner=pixels, relative=conv.relative)
        grid = np.arange(conv.columns).reshape(conv.batch, conv.c_in, *conv.in_spatial)
        steps = tuple(slice(0, (o - 1) * s + 1, s) for o, s in zip(conv.out_spatial, conv.strides, strict=True))
        return matrix @ selection(grid[(slice(None), slice(None), *steps)], conv.columns)
    return conv
