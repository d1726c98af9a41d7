"""The matrices of the pair problem's semidefinite program (`interior`), by blocks.

Matrices of order m + q act on (w, x). For K = Z⁻¹, and to test whether Z ≻ 0, only matrices of
order p and q are factored: det Z = det T · det H, H = [[I − AT⁻¹Aᵀ, M], [Mᵀ, ρI − gᵀTg]] = RᵀR,
and with W = R⁻ᵀ[AT⁻¹; 0], R⁻ᵀ[0; I] = [0; S],

    K_ff = T⁻¹ + WᵀW,   K_fx = −WᵀR⁻ᵀ[0; I],   K_xx = SᵀS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxlip.bounds.pairs.problem import Floats
from onnxlip.norms.lapack import potrf, trsm

__all__ = ["Block", "Moments", "Point", "Program", "system"]


@dataclass(frozen=True, eq=False)
class Point:
    """(ρ, T) inside, with the factors of H there."""

    rho: float
    t: Floats
    first: Floats
    coupling: Floats
    last: Floats


@dataclass(frozen=True, eq=False)
class Moments:
    """Of a symmetric matrix of order m + q: whole; and with g: fg = f_jᵀ·g_k, gg = g_jᵀ·g_k,
    gx = g times the block of order q."""

    whole: Floats
    fg: Floats
    gg: Floats
    gx: Floats

    def traces(self) -> Floats:
        """tr G_j of it, and tr E of it."""
        m = len(self.gx)
        diagonal = np.diagonal(self.whole)
        return np.append(diagonal[:m] - np.diagonal(self.gg), diagonal[m:].sum())


@dataclass(frozen=True, eq=False)
class Block:
    """dZ: a diagonal of length m, and a block of order q."""

    diagonal: Floats
    block: Floats

    def after(self, x: Floats) -> Floats:
        """X dZ."""
        m = len(self.diagonal)
        return np.hstack([x[:, :m] * self.diagonal, x[:, m:] @ self.block])

    def trace(self, x: Floats) -> float:
        """tr X dZ."""
        m = len(self.diagonal)
        return float(self.diagonal @ np.diagonal(x)[:m]) + float(
            np.einsum("ij,ij->", x[m:, m:], self.block)
        )


@dataclass(frozen=True, eq=False)
class Program:
    """a: (p, m), outer of the free neurons; g: (m, q), r·inner of them; mixed: (p, q),
    outer diag(c) inner of all."""

    a: Floats
    g: Floats
    mixed: Floats

    @property
    def m(self) -> int:
        """How many multipliers there are."""
        return len(self.g)

    @property
    def order(self) -> int:
        """m + q."""
        return sum(self.g.shape)

    def factored(self, rho: float, t: Floats) -> Point | None:
        """The point (ρ, T), or None where it is not inside."""
        if not (np.all(t > 0) and np.all(np.isfinite(t)) and math.isfinite(rho)):
            return None
        scaled = self.a / np.sqrt(t)
        first = np.asfortranarray(-(scaled @ scaled.T))
        np.einsum("ii->i", first)[...] += 1.0
        if not potrf(first):
            return None
        coupling = np.array(self.mixed, order="F")
        trsm(first, coupling, "L", "T")
        scaled = self.g * np.sqrt(t)[:, None]
        last = np.asfortranarray(-(scaled.T @ scaled) - coupling.T @ coupling)
        np.einsum("ii->i", last)[...] += rho
        if not potrf(last):
            return None
        pivots = np.concatenate([np.diagonal(first), np.diagonal(last)])
        if not (np.all(pivots > 0) and np.all(np.isfinite(pivots))):
            return None
        return Point(rho, t, first, coupling, last)

    def inverse(self, point: Point) -> Floats:
        """K."""
        m, q, t = self.m, self.g.shape[1], point.t
        w_first = np.asfortranarray(self.a / t)
        trsm(point.first, w_first, "L", "T")
        w_last = np.asfortranarray(-(point.coupling.T @ w_first))
        inverse = np.asfortranarray(np.eye(q))
        for right in (w_last, inverse):
            trsm(point.last, right, "L", "T")
        k = np.empty((m + q, m + q))
        k[:m, :m] = w_first.T @ w_first
        k[:m, :m] += w_last.T @ w_last
        np.einsum("ii->i", k)[:m] += 1.0 / t
        k[m:, :m] = -(inverse.T @ w_last)
        k[:m, m:] = k[m:, :m].T
        k[m:, m:] = inverse.T @ inverse
        return k

    def along(self, point: Point, d: Floats, share: float) -> Point | None:
        """A share of the step d = (dT, dρ) further, or None where that is not inside."""
        return self.factored(point.rho + share * float(d[-1]), point.t + share * d[:-1])

    def moments(self, x: Floats) -> Moments:
        """What the system's entries need of a symmetric matrix (m + q, m + q)."""
        m, g = self.m, self.g
        gx = g @ x[m:, m:]
        return Moments(x, x[:m, m:] @ g.T, gx @ g.T, gx)

    def objective(self, x: Moments, point: Point) -> float:
        """E‖Aw + Mx‖², less what rounding of the constraints is worth."""
        m = self.m
        both = np.hstack([self.a, self.mixed])
        gap = x.traces()
        value = float(np.einsum("ij,ij->", both @ x.whole, both))
        return (value - float(np.abs(gap[:m]) @ point.t)) / max(1.0, float(gap[m]))

    def gap(self, x: Floats, point: Point) -> float:
        """tr XZ."""
        m = self.m
        both = np.hstack([self.a, self.mixed])
        z_block = -(self.g.T * point.t) @ self.g
        np.einsum("ii->i", z_block)[...] += point.rho
        value = float(point.t @ np.diagonal(x)[:m]) + float(
            np.einsum("ij,ij->", x[m:, m:], z_block)
        )
        return value - float(np.einsum("ij,ij->", both @ x, both))

    def block(self, d: Floats) -> Block:
        """dZ for a step d = (dT, dρ)."""
        block = -(self.g.T * d[:-1]) @ self.g
        np.einsum("ii->i", block)[...] += d[-1]
        return Block(d[:-1], block)


def system(x: Moments, k: Moments) -> Floats:
    """O, with ρ at the end."""
    m = len(x.gx)
    system = np.empty((m + 1, m + 1), order="F")
    mixed = x.fg * k.fg
    block = x.whole[:m, :m] * k.whole[:m, :m]
    block += x.gg * k.gg
    block -= mixed
    block -= mixed.T
    system[:m, :m] = block
    border = np.einsum("ij,ij->i", x.whole[:m, m:], k.whole[:m, m:])
    border -= np.einsum("ij,ij->i", x.gx, k.gx)
    system[:m, m] = system[m, :m] = border
    system[m, m] = np.einsum("ij,ij->", x.whole[m:, m:], k.whole[m:, m:])
    return system
