"""The matrices of LipSDP's semidefinite program (`interior`): M(ρ, T), its inverse, its system.

Symmetric matrices of order n stand in C's order. Of M and its steps the lower triangle counts,
which LAPACK sees as the upper one of a matrix in Fortran's order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from onnxlip.bounds.sdp.atoms import Moments, Piece, tile
from onnxlip.bounds.sdp.blocks import Blocks, gram
from onnxlip.bounds.sdp.implicit import weighted
from onnxlip.bounds.sdp.system import Floats, is_sparse
from onnxlip.norms.lapack import potrf, potri, trsm

__all__ = ["Point", "Program", "complement", "factored", "inner", "least", "mirror"]

_TILE = 256


@dataclass(frozen=True, eq=False)
class Point:
    """(ρ, T) inside, T by ties; the matrix M there and its Cholesky factor."""

    rho: float
    t: Floats
    matrix: Floats
    factor: Floats


@dataclass(frozen=True, eq=False)
class Program:
    """width: of x, the first entries of v; order: of v; n, c: N and C; pieces: in order;
    ties: (multipliers, variables), 0/1, or None where every multiplier is a variable."""

    width: int
    order: int
    n: Blocks
    c: Blocks
    pieces: Sequence[Piece]
    ties: sp.csr_array | None

    @cached_property
    def multipliers(self) -> int:
        """How many there are, ties or not."""
        return self.pieces[-1].places.stop if self.pieces else 0

    @property
    def variables(self) -> int:
        """How many differ."""
        return self.multipliers if self.ties is None else self.ties.shape[1]

    def untied(self, t: Floats) -> Floats:
        """All multipliers from the variables."""
        return t if self.ties is None else np.asarray(self.ties @ t)

    def _tied(self, values: Floats) -> Floats:
        return values if self.ties is None else np.asarray(self.ties.T @ values)

    # ── M ─────────────────────────────────────────────────────────────────────────────────

    def linear(self, rho: float, t: Floats) -> Floats:
        """ρE + Σ T_j G_j, the lower triangle."""
        t = self.untied(t)
        m = np.zeros((self.order, self.order))
        diagonal = np.einsum("ii->i", m)
        diagonal[: self.width] = rho
        bands = iter(self.n.bands)
        band = next(bands, None)
        for piece in self.pieces:
            own = piece.squares(t)[0]
            diagonal[piece.own] = own
            rest = piece.own_square(t)
            while band is not None and band.rows.stop <= piece.z.stop:
                begin = band.rows.start - piece.z.start
                some = slice(begin, begin + band.rows.stop - band.rows.start)
                rows, cross = piece.own, own
                centre: Any = piece.centre
                if piece.diagonal:
                    rows = slice(piece.own.start + some.start, piece.own.start + some.stop)
                    cross, centre = own[some], centre[some]
                for columns, matrix in band.parts:
                    m[rows, columns] -= _dense(weighted(_product(centre, matrix), cross))
                part = rest[some] if piece.diagonal else rest
                _subtract(m, band.parts, part)
                band = next(bands, None)
        return m

    def matrix(self, rho: float, t: Floats) -> Floats:
        """M(ρ, T), the lower triangle."""
        m = self.linear(rho, t)
        for rows, columns, square in self._squares:
            m[rows, columns] -= square
        return m

    @cached_property
    def _squares(self) -> list[tuple[slice, slice, Floats]]:
        """CᵀC by blocks, those on and below the diagonal."""
        total: dict[tuple[int, int, int, int], Floats] = {}
        for band in self.c.bands:
            for rows, columns, square in _grams(band.parts, None):
                place = (rows.start, rows.stop, columns.start, columns.stop)
                total[place] = total[place] + square if place in total else square
        return [(slice(a, b), slice(c, d), square) for (a, b, c, d), square in total.items()]

    def point(self, rho: float, t: Floats, matrix: Floats) -> Point | None:
        """The point whose M this is, or None where that is not inside."""
        if not (np.all(t > 0) and np.all(np.isfinite(t)) and math.isfinite(rho)):
            return None
        factor = factored(matrix)
        return None if factor is None else Point(rho, t, matrix, factor)

    def inverse(self, point: Point) -> Floats:
        """K = M⁻¹. The point's factor is overwritten."""
        potri(point.factor.T)
        mirror(point.factor)
        return point.factor

    # ── moments ───────────────────────────────────────────────────────────────────────────

    def moments(self, x: Floats) -> Moments:
        """What the system's entries need of a symmetric matrix."""
        z = self.n.times(x)
        return Moments(x, z, self.n.square(z, [p.z.stop for p in self.pieces]))

    def traces(self, x: Moments) -> Floats:
        """tr G_jX by ties, and tr EX."""
        found = [piece.traces(x) for piece in self.pieces]
        return np.append(self._tied(np.concatenate(found)), self.trace(x.whole))

    def trace(self, x: Floats) -> float:
        """tr EX."""
        return float(np.diagonal(x)[: self.width].sum())

    def squares(self, x: Floats) -> float:
        """tr CᵀCX = E‖y‖²."""
        total = 0.0
        for rows, columns, square in self._squares:
            once = float(np.einsum("ij,ij->", square, x[rows, columns]))
            total += once if rows == columns else 2 * once
        return total

    def after(self, d: Floats, whole: Floats, z: Floats) -> Floats:
        """dM X for a step d = (dT, dρ), of a symmetric matrix X and its z."""
        t = self.untied(d[:-1])
        out = np.zeros_like(whole)
        np.multiply(whole[: self.width], d[-1], out=out[: self.width])
        pulled = np.empty_like(z)
        for piece in self.pieces:
            out[piece.own], pulled[piece.z] = piece.pulled(t, whole[piece.own], z[piece.z])
        self.n.pull(pulled, out)
        return out

    def mixed(self, product: Floats, k: Moments) -> Floats:
        """tr G_j productᵀK by ties, and tr E of it."""
        turned = np.ascontiguousarray(product.T)
        z = self.n.times(turned)
        found = []
        for piece in self.pieces:
            rows = zip(piece.atoms(turned[piece.own], z[piece.z]), piece.rows(k), strict=True)
            found.append(piece.gathered([np.einsum("ij,ij->i", a, b) for a, b in rows]))
        x = self.width
        last = float(np.einsum("ij,ij->", turned[:x], k.whole[:x]))
        return np.append(self._tied(np.concatenate(found)), last)

    def system(self, x: Moments, k: Moments) -> Floats:
        """tr G_jXG_kK, with ρ at the end; Fortran's order, the upper triangle."""
        j, width = self.multipliers, self.width
        system = np.zeros((j + 1, j + 1), order="F")
        for i, right in enumerate(self.pieces):
            for left in self.pieces[: i + 1]:
                system[left.places, right.places] = tile(left, right, x, k)
            rows = zip(right.rows(x, width), right.rows(k, width), strict=True)
            values = [np.einsum("ij,ij->i", a, b) for a, b in rows]
            system[right.places, j] = right.gathered(values)
        system[j, j] = np.einsum("ij,ij->", x.whole[:width, :width], k.whole[:width, :width])
        if self.ties is None:
            return system
        mirror(system.T)
        ties = sp.csr_array(sp.block_diag([self.ties, np.ones((1, 1))], format="csr"))
        return np.asfortranarray(ties.T @ (ties.T @ system).T)


def factored(matrix: Floats) -> Floats | None:
    """The Cholesky factor of a matrix of which the lower triangle counts, or None."""
    factor = matrix.copy()
    if not potrf(factor.T):
        return None
    pivots = np.diagonal(factor)
    return factor if np.all((pivots > 0) & (pivots < math.inf)) else None


def least(matrix: Floats, width: int) -> float:
    """The least ρ with matrix + ρE ⪰ 0, E that of the first `width`; ∞ where there is none."""
    rest = complement(matrix, width)
    return math.inf if rest is None else float(np.linalg.eigvalsh(rest)[-1])


def complement(matrix: Floats, width: int) -> Floats | None:
    """S with matrix + ρE ⪰ 0 where ρI ⪰ S; None where there is none."""
    corner = factored(matrix[width:, width:])
    if corner is None:
        return None
    pulled = np.array(matrix[width:, :width], order="F")
    if pulled.size:
        trsm(corner.T, pulled, "L", "T")
    x = np.tril(matrix[:width, :width])
    x = x + np.tril(x, -1).T
    rest: Floats = pulled.T @ pulled - x
    return rest if np.all(np.isfinite(rest)) else None


def inner(lower: Floats, x: Floats) -> float:
    """tr M X of the M whose lower triangle this is."""
    total = 0.0
    for i in range(0, len(x), _TILE):
        e = min(i + _TILE, len(x))
        total += 2 * float(np.einsum("ij,ij->", lower[i:e, :i], x[i:e, :i]))
        corner = np.tril(lower[i:e, i:e])
        total += 2 * float(np.einsum("ij,ij->", corner, x[i:e, i:e]))
        total -= float(np.diagonal(corner) @ np.diagonal(x)[i:e])
    return total


def mirror(matrix: Floats) -> None:
    """The lower triangle's entries above the diagonal too, in place."""
    n = len(matrix)
    for i in range(0, n, _TILE):
        e = min(i + _TILE, n)
        corner = np.tril(matrix[i:e, i:e], -1)
        np.copyto(matrix[i:e, i:e], np.tril(matrix[i:e, i:e]) + corner.T)
        for j in range(e, n, _TILE):
            matrix[i:e, j : j + _TILE] = matrix[j : j + _TILE, i:e].T


def _subtract(m: Floats, parts: Any, weight: Any) -> None:
    """m −= Nᵀ diag(weight) N of a band, the blocks on and below the diagonal."""
    if isinstance(weight, np.ndarray) and not np.any(weight):
        return
    for rows, columns, square in _grams(parts, weight):
        m[rows, columns] -= square


def _grams(parts: Any, weight: Any) -> Any:
    for columns, right in parts:
        scaled = right if weight is None else _product(weight, right)
        for rows, left in parts:
            if rows.start >= columns.start:
                yield rows, columns, gram(left, scaled)


def _product(weight: Any, matrix: Any) -> Any:
    return weighted(matrix, weight) if isinstance(weight, np.ndarray) else weight @ matrix


def _dense(matrix: Any) -> Floats:
    return np.asarray(matrix.toarray() if is_sparse(matrix) else matrix)
