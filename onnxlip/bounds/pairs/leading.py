"""The two sides of a pair made small, and leading singular triplets of outer diag(d) inner.

Where outer has more rows than columns, outer = QR with Q isometric and R of n rows, and R takes
its place: ‖Q R diag(d) inner‖ = ‖R diag(d) inner‖. So do the columns of inner. Entries far from 1
are scaled by powers of two, since squares of them are formed.

Triplets come from the Gram of the lesser side where that is small or many are asked for, and else
by block Krylov steps from the triplets of a matrix near by: with G = MᵀM and V the block that
there is, the best that the span of [V, GV, G²V] has (Rayleigh and Ritz; Musco & Musco 2015). All
of them are estimates, and every value is attained by its vectors, but for rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.pairs.problem import Pair

__all__ = ["FEW", "Place", "Sides", "Triplets", "leading", "reduced"]

Floats = npt.NDArray[np.float64]

FEW = 6  # triplets that a search goes on with
_DIRECT = 48  # up to this lesser side the Gram's eigenvectors are cheaper than Krylov steps
_ROUNDS = 20
_DEPTH = 2  # Krylov blocks beside the one that there is
_RESIDUAL = 1e-3  # relative; the value's error is of the order of its square
_ENTRIES = 1 << 21  # float64 entries of one side scaled at a time (16 MiB)
_PLAIN = 32  # binary exponents up to this leave room for fourth powers of products


@dataclass(frozen=True, eq=False)
class Triplets:
    """left: (p, k), values: (k,) falling, right: (q, k); rest: the mean square of the others."""

    left: Floats
    values: Floats
    right: Floats
    rest: float


@dataclass(frozen=True, eq=False)
class Sides:
    """left: (n, p) for outerᵀ, right: (n, q) for inner, one row per neuron; p, q ≤ n.

    ‖outer diag(d) inner‖ = 2^exponent ‖Σ_j d_j left_jᵀ right_j‖.
    """

    left: Floats
    right: Floats
    alpha: Floats
    beta: Floats
    exponent: int

    @property
    def lesser(self) -> int:
        """min(p, q)."""
        return int(min(self.left.shape[1], self.right.shape[1]))

    @cached_property
    def squares(self) -> tuple[Floats, Floats]:
        """Squared lengths of all rows of left and of right."""
        return _squares(self.left), _squares(self.right)

    def matrix(self, d: Floats, among: npt.NDArray[np.int64] | None = None) -> Floats:
        """Σ_j d_j left_jᵀ right_j over all neurons or some, a chunk of them at a time."""
        n, p = self.left.shape
        total: Floats | None = None
        step = max(1, _ENTRIES // max(1, p))
        for i in range(0, n if among is None else len(among), step):
            part = slice(i, i + step) if among is None else among[i : i + step]
            term = (self.left[part] * d[part, None]).T @ self.right[part]
            total = term if total is None else np.add(total, term, out=total)
        return np.zeros((p, self.right.shape[1])) if total is None else total

    def best(self, u: Floats, v: Floats) -> Floats:
        """The vertex d that maximises uᵀ outer diag(d) inner v = Σ_j d_j (left u)_j (right v)_j."""
        positive = (self.left @ u) * (self.right @ v) > 0
        return np.where(positive, self.beta, self.alpha)

    def scaled(self, value: float) -> float:
        """Back from the scale of these sides."""
        try:
            return math.ldexp(value, self.exponent)
        except OverflowError:
            return math.inf


@dataclass(frozen=True, eq=False)
class Place:
    """Where a search is: d, outer diag(d) inner, and what is largest in it."""

    sides: Sides
    d: Floats
    matrix: Floats
    top: Triplets

    @classmethod
    def at(cls, sides: Sides, d: Floats) -> Place:
        """From nothing."""
        matrix = sides.matrix(d)
        return cls(sides, d, matrix, leading(matrix))

    @property
    def value(self) -> float:
        """The norm, as a lower estimate, on the scale of the sides."""
        return float(self.top.values[0]) if len(self.top.values) else 0.0

    def moved(self, d: Floats) -> Place:
        """At another d; only the neurons that differ are gone through where they are few."""
        changed = np.flatnonzero(d != self.d)
        if 2 * len(changed) > len(d):
            matrix = self.sides.matrix(d)
        else:
            matrix = self.sides.matrix(d - self.d, changed)
            matrix += self.matrix
        return Place(self.sides, d, matrix, leading(matrix, start=self.top.right))


def reduced(pair: Pair) -> Sides:
    """The pair with n rows and columns at most on its sides."""
    outer, inner = pair.outer, pair.inner
    e, f = _exponent(outer), _exponent(inner)
    outer = np.ldexp(outer, -e) if e else outer
    inner = np.ldexp(inner, -f) if f else inner
    if outer.shape[0] > pair.size:
        outer = np.asarray(np.linalg.qr(outer, mode="r"))
    if inner.shape[1] > pair.size:
        inner = np.asarray(np.linalg.qr(inner.T, mode="r")).T
    return Sides(outer.T, inner, pair.alpha, pair.beta, e + f)


def leading(matrix: Floats, count: int = FEW, start: Floats | None = None) -> Triplets:
    """The `count` largest singular triplets of (p, q), or all where there are fewer.

    start: (q, k), right vectors of a matrix near by. Only the largest one is waited for.
    """
    lesser = min(matrix.shape)
    count = min(count, lesser)
    total = float(np.einsum("ij,ij->", matrix, matrix))
    if not total > 0:  # any unit vectors are leading ones
        left, right = (np.linalg.qr(_cold(size, count))[0] for size in matrix.shape)
        return Triplets(left, np.zeros(count), right, 0.0)
    if lesser <= _DIRECT or 3 * count > lesser:
        found = _direct(matrix, count)
    else:
        found = _iterated(matrix, _cold(matrix.shape[1], count) if start is None else start)
    others = max(0.0, total - float(np.square(found.values).sum()))
    return replace(found, rest=others / (lesser - count) if lesser > count else 0.0)


def _direct(matrix: Floats, count: int) -> Triplets:
    """From the Gram of the lesser side; the other vectors are images, 0 where the value is."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    vectors = np.linalg.eigh(wide @ wide.T)[1][:, ::-1][:, :count]
    images = wide.T @ vectors
    values = np.sqrt(_squares(images.T))
    images /= np.where(values > 1e-9 * values[0], values, math.inf)
    left, right = (vectors, images) if wide is matrix else (images, vectors)
    return Triplets(left, values, right, 0.0)


def _iterated(matrix: Floats, right: Floats) -> Triplets:
    """Lengths of images are divided by lengths of vectors: values are attained even where rounding
    has cost the basis its orthogonality."""
    count = right.shape[1]
    right = np.linalg.qr(right)[0]
    left, values = matrix @ right, np.zeros(count)  # none known yet
    for _ in range(_ROUNDS):
        block = matrix.T @ left
        residual = block[:, 0] - values[0] ** 2 * right[:, 0]
        if float(np.linalg.norm(residual)) < _RESIDUAL * values[0] ** 2:
            break
        basis, images = right, left
        for depth in range(_DEPTH):
            block = matrix.T @ images[:, -count:] if depth else block
            for _ in range(2):
                block = np.linalg.qr(block - basis @ (basis.T @ block))[0]
            basis, images = np.hstack([basis, block]), np.hstack([images, matrix @ block])
        turn = np.linalg.eigh(images.T @ images)[1][:, ::-1][:, :count]
        right, left = basis @ turn, images @ turn
        lengths = np.sqrt(_squares(right.T))
        right, left = right / lengths, left / lengths
        values = np.sqrt(_squares(left.T))
    return Triplets(left / np.where(values > 0, values, 1.0), values, right, 0.0)


def _cold(size: int, count: int) -> Floats:
    return np.random.default_rng(size).standard_normal((size, count))


def _squares(rows: Floats) -> Floats:
    return np.asarray(np.einsum("ij,ij->i", rows, rows))


def _exponent(matrix: Floats) -> int:
    """The binary exponent of the largest entry where that is far from 1, else 0."""
    top = max(float(matrix.max()), -float(matrix.min())) if matrix.size else 0.0
    exponent = math.frexp(top)[1]
    return exponent if abs(exponent) > _PLAIN else 0
