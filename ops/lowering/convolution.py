"""Convolution as Conv, its adjoint as ConvTranspose with pads 0, then Pad, then Slice.

ConvTranspose with pads 0 is the exact adjoint of Conv on a padded input; cutting the padding off
afterwards keeps asymmetric pads away from it, which CUDA's kernel does not take.

onnxruntime has no float64 kernel of either op on CPU, and float64 is what proofs are made in, so
there the map is written as its definition: for each tap t a strided slice of the padded input
times the matrix K[:, :, t], summed over the taps; the adjoint is the same sum over the output
with s − 1 zeros between its entries.
"""

import functools
import itertools
import math

import numpy as np

from onnxlip.emitter import Emitter
from onnxlip.linear import Convolution
from onnxlip.lowering import Lowering


def _ends(a: Convolution) -> list[int]:
    """How far the last window reaches beyond the input, per axis (negative: it falls short)."""
    return [
        s * (o - 1) + d * (k - 1) + 1 - b - i
        for s, o, d, k, b, i in zip(
            a.strides, a.out_spatial, a.dilations, a.taps, a.begin, a.in_spatial, strict=True
        )
    ]


def _pad(e: Emitter, x: str, begin: list[int], end: list[int], lead: int = 2) -> str:
    if not any(begin) and not any(end):
        return x
    return str(e.Pad(x, e.constant([0] * lead + begin + [0] * lead + end)))


def _crop(
    e: Emitter, x: str, starts: list[int], sizes: list[int], lead: int, steps: list[int]
) -> str:
    stops = [a + s * (n - 1) + 1 for a, n, s in zip(starts, sizes, steps, strict=True)]
    axes = list(range(lead, lead + len(starts)))
    return str(
        e.Slice(x, e.constant(starts), e.constant(stops), e.constant(axes), e.constant(steps))
    )


def forward(e: Emitter, a: Convolution, x: str) -> str:
    d = len(a.taps)
    ends = _ends(a)
    image = e.Reshape(x, e.constant([-1, a.c_in, *a.in_spatial]))
    if e.double:
        padded = _pad(e, image, list(a.begin), [max(0, n) for n in ends])
        y = _sum_over_taps(e, a, padded, transpose=False)
    else:
        y = e.Conv(
            image,
            e.weight(a.kernel),
            strides=list(a.strides),
            dilations=list(a.dilations),
            group=a.groups,
            pads=[*a.begin, *(max(0, n) for n in ends)],
        )
        if min(ends) < 0:  # the op may fit more windows in than the map has
            y = _crop(e, y, [0] * d, list(a.out_spatial), 2, [1] * d)
    return str(e.Reshape(y, e.constant([-1, a.rows])))


def adjoint(e: Emitter, a: Convolution, y: str) -> str:
    d = len(a.taps)
    image = e.Reshape(y, e.constant([-1, a.c_out, *a.out_spatial]))
    full = [
        s * (o - 1) + dil * (k - 1) + 1
        for s, o, dil, k in zip(a.strides, a.out_spatial, a.dilations, a.taps, strict=True)
    ]
    need = [b + i for b, i in zip(a.begin, a.in_spatial, strict=True)]
    if e.double:
        x = _sum_over_taps(e, a, _spread(e, a, image), transpose=True)
    else:
        x = e.ConvTranspose(
            image,
            e.weight(a.kernel),
            strides=list(a.strides),
            dilations=list(a.dilations),
            group=a.groups,
        )
        x = _pad(e, x, [0] * d, [max(0, n - f) for n, f in zip(need, full, strict=True)])
    if list(a.begin) != [0] * d or full != need:
        x = _crop(e, x, list(a.begin), list(a.in_spatial), 2, [1] * d)
    return str(e.Reshape(x, e.constant([-1, a.columns])))


def _spread(e: Emitter, a: Convolution, image: str) -> str:
    """The output with s − 1 zeros between entries, padded so that every tap is one slice."""
    d = len(a.taps)
    split = [n for o in a.out_spatial for n in (o, 1)]
    zeros = [n for s in a.strides for n in (0, s - 1)]
    grid = e.Reshape(image, e.constant([-1, a.c_out, *split]))
    grid = _pad(e, grid, [0] * (2 * d), zeros)
    wide = [o * s for o, s in zip(a.out_spatial, a.strides, strict=True)]
    grid = e.Reshape(grid, e.constant([-1, a.c_out, *wide]))
    reach = [dil * (k - 1) for dil, k in zip(a.dilations, a.taps, strict=True)]
    need = [b + i for b, i in zip(a.begin, a.in_spatial, strict=True)]
    return _pad(e, grid, reach, [max(0, n - w) for n, w in zip(need, wide, strict=True)])


def _sum_over_taps(e: Emitter, a: Convolution, padded: str, transpose: bool) -> str:
    """Σ_t K_t (forward) or K_tᵀ (adjoint) times the slice that tap t reads."""
    d, g = len(a.taps), a.groups
    kernel = a.grouped
    c = kernel.shape[2] if not transpose else kernel.shape[1]
    if transpose:
        # Entry q of the padded frame is Σ_t K_tᵀ spread[q − d·t]; `spread` starts d·(k−1) early.
        sizes = [b + i for b, i in zip(a.begin, a.in_spatial, strict=True)]
        steps = [1] * d
    else:
        sizes, steps = list(a.out_spatial), list(a.strides)
    parts = []
    by_tap = kernel.reshape(*kernel.shape[:3], -1)
    for number, tap in enumerate(itertools.product(*(range(k) for k in a.taps))):
        w = by_tap[..., number]
        if not np.any(w):
            continue
        starts = [
            dil * (k - 1 - t) if transpose else dil * t
            for dil, k, t in zip(a.dilations, a.taps, tap, strict=True)
        ]
        piece = _crop(e, padded, starts, sizes, 2, steps)
        piece = e.Reshape(piece, e.constant([-1, g, c, math.prod(sizes)]))
        block = w.transpose(0, 2, 1) if transpose else w
        parts.append(e.MatMul(e.weight(np.ascontiguousarray(block)), piece))
    if not parts:
        piece = _crop(e, padded, [0] * d, sizes, 2, steps)
        piece = e.Reshape(piece, e.constant([-1, g, c, math.prod(sizes)]))
        out = kernel.shape[1] if not transpose else kernel.shape[2]
        return _image(e, e.MatMul(e.weight(np.zeros((g, out, c))), piece), a, transpose, sizes)
    # One after another: a sum of all would hold every tap's product at the same time.
    total = functools.reduce(e.Add, parts)
    return _image(e, total, a, transpose, sizes)


def _image(e: Emitter, y: str, a: Convolution, transpose: bool, sizes: list[int]) -> str:
    return str(e.Reshape(y, e.constant([-1, a.c_in if transpose else a.c_out, *sizes])))


LOWERING = Lowering(Convolution, forward, adjoint)
