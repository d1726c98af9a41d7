"""Independent truths: convolutions by their definition, norms by SVD and by exact rationals."""

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.linear import Convolution

Floats = npt.NDArray[np.float64]


def dense_convolution(conv: Convolution) -> Floats:
    """The matrix of a convolution (batch 1), entry by entry from its definition."""
    g, d = conv.groups, len(conv.taps)
    o, c = conv.c_out // g, conv.c_in // g
    matrix = np.zeros((g, o, *conv.out_spatial, g, c, *conv.in_spatial))
    kernel = conv.kernel.astype(np.float64).reshape(g, o, c, *conv.taps)
    for place in itertools.product(*(range(n) for n in conv.out_spatial)):
        for tap in itertools.product(*(range(n) for n in conv.taps)):
            read = tuple(
                conv.strides[a] * place[a] + conv.dilations[a] * tap[a] - conv.begin[a]
                for a in range(d)
            )
            if all(0 <= read[a] < conv.in_spatial[a] for a in range(d)):
                for j in range(g):
                    matrix[(j, slice(None), *place, j, slice(None), *read)] += kernel[
                        (j, slice(None), slice(None), *tap)
                    ]
    rows, columns = conv.rows // conv.batch, conv.columns // conv.batch
    return matrix.reshape(rows, columns)


def svd_norm(matrix: npt.NDArray[Any]) -> float:
    """‖·‖₂ in float64: good to about 1e-15 times the size."""
    if not matrix.size:
        return 0.0
    return float(np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[0])


def exactly_bounds(upper: float, matrix: npt.NDArray[Any]) -> bool:
    """Whether upper ≥ ‖W‖₂, decided in exact rationals: upper²I − WWᵀ ⪰ 0 by LDLᵀ."""
    return math.isinf(upper) or _pivots(upper, matrix) >= 0


def exactly_exceeds(lower: float, matrix: npt.NDArray[Any]) -> bool:
    """Whether lower > ‖W‖₂, in exact rationals: lower²I − WWᵀ is positive definite."""
    return _pivots(lower, matrix) > 0


def _pivots(value: float, matrix: npt.NDArray[Any]) -> int:
    """1, 0, −1 if value²I − WWᵀ is positive definite, only semidefinite, or indefinite."""
    w = [[Fraction(float(x)) for x in row] for row in matrix]
    if len(w) > len(w[0]):
        w = [list(column) for column in zip(*w, strict=True)]
    square = Fraction(value) ** 2
    a = [[-sum(x * y for x, y in zip(u, v, strict=True)) for v in w] for u in w]
    for k in range(len(w)):
        a[k][k] += square
    return definiteness(a)


def definiteness(a: list[list[Any]]) -> int:
    """1, 0, −1 for a symmetric matrix of Fractions, by LDLᵀ; it is overwritten."""
    sign, n = 1, len(a)
    for k in range(n):
        pivot = a[k][k]
        if pivot < 0:
            return -1
        if pivot == 0:
            if any(a[i][k] for i in range(k + 1, n)):
                return -1
            sign = 0
            continue
        for i in range(k + 1, n):
            factor = a[i][k] / pivot
            for j in range(k + 1, n):
                a[i][j] -= factor * a[k][j]
    return sign


def random_convolution(
    rng: np.random.Generator, d: int, largest: int, channels: int = 4
) -> Convolution:
    """Any geometry: strides, dilations, groups, pads of any size, windows beyond both ends."""
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    c_out, c_in = (int(n) for n in rng.integers(1, channels + 1, 2))
    image = tuple(int(n) for n in rng.integers(1, largest + 1, d))
    taps = tuple(int(n) for n in rng.integers(1, 5 if d < 3 else 4, d))
    strides = tuple(int(n) for n in rng.choice([1, 1, 2, 3], d))
    dilations = tuple(int(n) for n in rng.choice([1, 1, 2, 3], d))
    begin = tuple(int(n) for n in rng.integers(0, 4, d))
    out = tuple(
        max(1, (h + b + int(rng.integers(0, 4)) - dil * (k - 1) - 1) // s + int(rng.integers(0, 3)))
        for h, b, dil, k, s in zip(image, begin, dilations, taps, strides, strict=True)
    )
    kernel = rng.standard_normal((groups * c_out, c_in, *taps)) + rng.choice([0.0, 1.0, -1.0])
    return Convolution(kernel.astype(np.float32), image, out, strides, dilations, begin, groups)
