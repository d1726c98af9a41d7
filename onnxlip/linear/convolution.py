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

from onnxlip.linear.base import LinearMap, Transposed, chained_ulps
from onnxlip.linear.matrix import Matrix
from onnxlip.linear.monomial import Monomial, selection
from onnxlip.linear.scaling import scaled
from onnxlip.rounding import gamma, mul_up, up

__all__ = ["Convolution", "convolution"]

_ENTRIES = 1 << 18  # float64 entries that are looked at together


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
        return int(self.kernel.shape[0])

    @property
    def c_in(self) -> int:
        return int(self.kernel.shape[1]) * self.groups

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
        if self.kernel.size == 0:
            return 0.0
        per_output = per_input = np.float64(0.0)
        axes = tuple(range(2, 2 + len(self.taps)))
        for group in self.grouped:
            inputs = np.zeros(group.shape[1])
            step = max(1, _ENTRIES * len(group) // group.size)
            for i in range(0, len(group), step):  # never a float64 copy of all
                size = np.abs(group[i : i + step], dtype=np.float64)
                # ‖|A|‖_∞ away from borders; np.maximum keeps NaN, where max() may not
                per_output = np.maximum(per_output, size.sum(axis=(1, *axes)).max())
                inputs += size.sum(axis=(0, *axes))
            # ‖|A|‖₁ at stride 1: each (output channel, tap) reads a pixel for one output pixel.
            per_input = np.maximum(per_input, inputs.max())
        total = float(np.maximum(per_output, per_input))
        if not math.isfinite(total):
            return math.inf
        return mul_up(total, up(1.0 + gamma(self.terms)), up(1.0 + gamma(1.01 * self.relative)))

    def cap(self) -> float:
        return self.bound

    def after(self, inner: LinearMap) -> LinearMap | None:
        if not isinstance(inner, Monomial):
            return None
        if inner.is_identity:
            return self
        scale = self._per_channel(inner, self.c_in)
        if scale is None:
            return None
        per_group = scale.reshape(self.groups, 1, self.c_in // self.groups)
        factor = np.expand_dims(per_group, tuple(range(3, 3 + len(self.taps))))
        return self._scaled(factor, inner.relative)

    def before(self, outer: LinearMap) -> LinearMap | None:
        if not isinstance(outer, Monomial):
            return None
        if outer.is_identity:
            return self
        scale = self._per_channel(outer, self.c_out)
        if scale is None:
            return None
        factor = scale.reshape(self.groups, -1, *(1,) * (self.kernel.ndim - 1))
        return self._scaled(factor, outer.relative)

    def _per_channel(self, map_: Monomial, channels: int) -> npt.NDArray[np.float64] | None:
        """The factors of a scaling that is the same in all pixels and in all of the batch."""
        scale = map_.constant_along(self.batch * channels)
        if scale is None:
            return None
        scale = scale.reshape(self.batch, channels)
        return scale[0] if np.array_equal(scale, np.broadcast_to(scale[:1], scale.shape)) else None

    def _scaled(self, factor: npt.NDArray[np.float64], ulps: float) -> LinearMap | None:
        product = scaled(self.grouped, factor)
        if product is None:
            return None
        kernel, rounded = product
        ulps = chained_ulps(self.relative, ulps, rounded)
        return replace(self, kernel=kernel.reshape(self.kernel.shape), relative=ulps)


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
        spatial = zip(conv.out_spatial, conv.strides, strict=True)
        steps = tuple(slice(0, (o - 1) * s + 1, s) for o, s in spatial)
        return matrix @ selection(grid[(slice(None), slice(None), *steps)], conv.columns)
    return conv
