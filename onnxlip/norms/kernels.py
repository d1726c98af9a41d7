"""Kernels of convolutions one after the other, added, and side by side: one kernel each.

(B, e) stands for ‖A − B‖_p ≤ e for p = 1, 2, ∞, A the true composition of the stored maps; kernels
are float64. An error |E| ≤ c|A'||A''| of coefficients has norm c cap(A') cap(A'') at most, cap
bounding row and column sums of moduli, and one of ε in every tap at most ε times the taps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onnxlip.linear import Convolution
from onnxlip.rounding import TINY, add_up, gamma, mul_up

__all__ = ["beside", "chained", "summed"]

_ENTRIES = 1 << 23  # a kernel up to this size is made even where the parts are much smaller …
_GROWTH = 2  # … and one that is so many times as large as these together

Made = tuple[Convolution, float]
Places = tuple[Any, ...]  # an index of the last axes of a kernel


def chained(outer: Convolution, inner: Convolution, memory: int) -> Made | None:
    """outer ∘ inner, or None where that is no convolution, or one much larger than its factors.

    The outer map reads the inner one's outputs p = s'q + d't' − b', and those read sp + dt − b:
    in all ss'q + (sd't' + dt) − (sb' + b). Where it reads beyond the outputs it reads zeros, and
    so must what the inner kernel would give there be zero: its window must lie beyond the image at
    p = −1 (−s + d(k − 1) − b < 0), hence at all p before, and so at the first p beyond the end.

    A coefficient is a sum of M products (channels between) for each of the pairs of taps that
    meet, at most as many as either kernel has taps: γ_{M + pairs}|outer||inner|, and TINY for
    each operation that underflows.
    """
    if outer.batch != inner.batch or outer.in_spatial != inner.out_spatial:
        return None
    if not _reads_what_is_there(outer, inner):
        return None
    g, h = outer.groups, inner.groups
    if g % h and h % g:
        return None
    dilations = tuple(d * s for d, s in zip(outer.dilations, inner.strides, strict=True))
    spans, steps, taps = [], [], []
    for j, d in enumerate(inner.dilations):
        steps.append(_step((outer.taps[j], dilations[j]), (inner.taps[j], d)))
        spans.append(dilations[j] * (outer.taps[j] - 1) + d * (inner.taps[j] - 1))
        taps.append(spans[j] // steps[j] + 1)
    groups, q = min(g, h), max(g, h) // min(g, h)
    size = outer.c_out * (inner.c_in // groups) * math.prod(taps)
    if not _worth(size, (outer, inner), memory):
        return None
    between = inner.c_out // max(g, h)
    left, right = outer.kernel.astype(np.float64), inner.kernel.astype(np.float64)
    if h >= g:  # each group of the outer map reads q groups of the inner one
        left = left.reshape(groups, -1, q, between, *outer.taps).swapaxes(1, 2)
    else:  # q groups of the outer map read the same of the inner one
        left = left.reshape(groups, q, -1, between, *outer.taps)
    right = right.reshape(groups, q, between, -1)
    kernel = np.zeros((groups, q, left.shape[2], inner.c_in // h, *taps))
    within = tuple(max(1, d // n) for d, n in zip(inner.dilations, steps, strict=True))
    for tap in np.ndindex(*outer.taps):
        first = [d * t // n for d, t, n in zip(dilations, tap, steps, strict=True)]
        where = _places(first, within, inner.taps)
        part = left[:, :, :, :, *tap] @ right
        kernel[where] += part.reshape(*kernel.shape[:4], *inner.taps)
    if h >= g:
        kernel = kernel.swapaxes(1, 2)
    if not np.all(np.isfinite(kernel)):
        return None
    pairs = min(math.prod(outer.taps), math.prod(inner.taps))
    error = add_up(
        mul_up(gamma(between + pairs), outer.cap(), inner.cap()),
        mul_up(TINY, 2.0 * between * pairs, float(size)),
    )
    made = replace(
        inner,
        kernel=kernel.reshape(outer.c_out, inner.c_in // groups, *taps),
        out_spatial=outer.out_spatial,
        strides=tuple(s * t for s, t in zip(inner.strides, outer.strides, strict=True)),
        dilations=tuple(steps),
        begin=tuple(
            s * b + a for s, b, a in zip(inner.strides, outer.begin, inner.begin, strict=True)
        ),
        groups=groups,
    )
    return made, error


def _reads_what_is_there(outer: Convolution, inner: Convolution) -> bool:
    """Whether the inner map, not cut off, would be zero where `outer` reads beyond its outputs."""
    for j, between in enumerate(outer.in_spatial):
        s, b = inner.strides[j], inner.begin[j]
        last = outer.strides[j] * (outer.out_spatial[j] - 1) - outer.begin[j]
        last += outer.dilations[j] * (outer.taps[j] - 1)
        if outer.begin[j] and inner.dilations[j] * (inner.taps[j] - 1) - b >= s:
            return False
        if last >= between and s * between - b < inner.in_spatial[j]:
            return False
    return True


def summed(parts: Sequence[Convolution], memory: int) -> Made | None:
    """Σ of convolutions on one grid with as many channels: what meets in a tap is added."""
    frame = _framed(parts)
    if len({(a.c_out, a.c_in) for a in parts}) != 1:
        return None
    c_out, c_in = parts[0].c_out // frame.groups, parts[0].c_in // frame.groups
    shape = (frame.groups, c_out, c_in, *frame.taps)
    if not _worth(math.prod(shape), parts, memory):
        return None
    kernel = np.zeros(shape)
    for part, where in zip(parts, frame.places, strict=True):
        kernel[where] += _regrouped(part, frame.groups)
    if not np.all(np.isfinite(kernel)):
        return None
    error = mul_up(gamma(len(parts)), add_up(*(a.cap() for a in parts)))
    return frame.convolution(parts[0], kernel), error


def beside(parts: Sequence[Convolution], memory: int) -> Convolution | None:
    """[A_1 … A_m] of convolutions on one grid with as many outputs, the channels of all inputs
    sorted by group: exactly."""
    frame = _framed(parts)
    if len({a.c_out for a in parts}) != 1:
        return None
    channels = [a.c_in // frame.groups for a in parts]
    shape = (frame.groups, parts[0].c_out // frame.groups, sum(channels), *frame.taps)
    if not _worth(math.prod(shape), parts, memory):
        return None
    kernel = np.zeros(shape, np.result_type(*(a.kernel for a in parts)))
    end = 0
    for part, where, n in zip(parts, frame.places, channels, strict=True):
        begin, end = end, end + n
        kernel[:, :, begin:end][where] = _regrouped(part, frame.groups)
    return frame.convolution(parts[0], kernel)


class _Frame(NamedTuple):
    """The kernel that holds several: groups of channels, taps, where each part's taps are."""

    groups: int
    taps: tuple[int, ...]
    steps: tuple[int, ...]
    begin: tuple[int, ...]
    places: tuple[Places, ...]

    def convolution(self, like: Convolution, kernel: npt.NDArray[np.floating]) -> Convolution:
        """The convolution with this kernel (groups, c_out, c_in, *taps) where `like` is."""
        return replace(
            like,
            kernel=kernel.reshape(-1, *kernel.shape[2:]),
            dilations=self.steps,
            begin=self.begin,
            groups=self.groups,
        )


def _framed(parts: Sequence[Convolution]) -> _Frame:
    """Tap t of a part reads dt − b: a multiple of the step after the first tap of all."""
    taps, steps, begin = [], [], []
    for j in range(len(parts[0].taps)):
        first = max(a.begin[j] for a in parts)
        shifts = [first - a.begin[j] for a in parts]
        step = _step(*((a.taps[j], a.dilations[j]) for a in parts), *((2, n) for n in shifts))
        ends = [n + a.dilations[j] * (a.taps[j] - 1) for n, a in zip(shifts, parts, strict=True)]
        taps.append(max(ends) // step + 1)
        steps.append(step)
        begin.append(first)
    places = []
    for a in parts:
        start = [(n - b) // s for n, b, s in zip(begin, a.begin, steps, strict=True)]
        within = tuple(max(1, d // s) for d, s in zip(a.dilations, steps, strict=True))
        places.append(_places(start, within, a.taps))
    groups = math.gcd(*(a.groups for a in parts))
    return _Frame(groups, tuple(taps), tuple(steps), tuple(begin), tuple(places))


def _regrouped(a: Convolution, groups: int) -> npt.NDArray[Any]:
    """The kernel as (groups, c_out, c_in, *taps) of fewer, larger groups: zeros between those."""
    q = a.groups // groups
    if q == 1:
        return a.grouped
    _, m, k, *taps = a.grouped.shape
    wide = np.zeros((groups, q, m, q, k, *taps), a.kernel.dtype)
    for i in range(q):
        wide[:, i, :, i] = a.grouped[i::q]
    return wide.reshape(groups, q * m, q * k, *taps)


def _step(*axes: tuple[int, int]) -> int:
    """The greatest step that the places of all taps are multiples of: (taps, dilation) each."""
    return math.gcd(*(d for k, d in axes if k > 1)) or 1


def _places(first: Sequence[int], step: Sequence[int], taps: Sequence[int]) -> Places:
    """One slice per axis: as many places as taps."""
    ends = (f + s * (k - 1) + 1 for f, s, k in zip(first, step, taps, strict=True))
    return (..., *(slice(f, end, s) for f, end, s in zip(first, ends, step, strict=True)))


def _worth(size: int, parts: Sequence[Convolution], memory: int) -> bool:
    """memory: float64 numbers that may be held."""
    whole = sum(a.kernel.size for a in parts)
    return size + whole <= memory and size <= max(_ENTRIES, _GROWTH * whole)
