"""Good U and T for `border`: block conjugate gradients in single precision. Estimates only.

With D = U − V (zero on the image), K(D, T) = TᴴT + YᴴB⁻¹Y with Y = V + D − CT is quadratic in the
columns (D, T), and H(D, T) = (QB⁻¹(D − CT), T − F̄CᴴB⁻¹(D − CT)) is positive definite: the minimum,
in Loewner's order, solves H(D, T) = −(QB⁻¹V, −F̄CᴴB⁻¹V). From directions P with PᵀHP = I the step
α = PᵀR, R the residual, is the best for all columns together and leaves K − αᵀα: so K is known
without another product (block conjugate gradients, O'Leary 1980). After the first steps few
columns are in the way of K ⪯ I; directions are made for those alone, as seen in eigenvectors of
K, and serve all. H is preconditioned by the mean over ω of B⁻¹ and of I + K̂ᴴB⁻¹K̂, which is what it
would be if places beyond the image did not see each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.norms.border_sites import Sites
from onnxlip.norms.frame import Frame
from onnxlip.norms.modes import Modes
from onnxlip.parallel import give_back, shared

__all__ = ["Release", "released"]

Floats = npt.NDArray[np.float32]
Complex = npt.NDArray[np.complex64]

_STEPS = 10
_DONE = 0.998  # κ below this is clear of what single precision can not tell
_ACTIVE = 0.8  # columns of K with less than this are in nobody's way


@dataclass(frozen=True, eq=False)
class Release:
    """D (places, n, k) in units of `unit`, T (places, r, k), and κ as far as known, at s²."""

    inner: Floats
    outer: Floats
    unit: float
    square: float
    top: float
    slope: float

    def raised(self) -> Release | None:
        """The same columns at a larger s², where κ should be below 1; None without hope."""
        if not math.isfinite(self.top):
            return None
        step = max(0.0, self.top - _DONE) / self.slope if self.slope > 0 else 0.0
        square = self.square + max(1.5 * step, 2e-4 * self.square)
        return Release(self.inner, self.outer, self.unit, square, 0.0, self.slope)


def released(frame: Frame, modes: Modes, square: float, entries: int) -> Release | None:
    """Columns that make κ as small as a few steps can, or None where B is not definite."""
    try:
        return _Search(frame, modes, square, entries).run()
    except np.linalg.LinAlgError:
        return None


class _Search:
    def __init__(self, frame: Frame, modes: Modes, square: float, entries: int) -> None:
        self.frame, self.modes, self.square = frame, modes, square
        # Residual, directions and their images are float32, as is one of two copies of the parts;
        # the Gram's single precision is let go where all factors fit.
        held = 3 * modes.count * (frame.inner_mask.size + frame.outer_mask.size) // 2
        held += 2 * frame.symbol.even.size + 3 * frame.parts.size // 2
        self.sites = Sites(frame, modes, square, max(0, entries - held))
        size = 1.0 / math.sqrt(math.prod(frame.grid.shape))
        self._waves = [
            [(x * size).astype(np.float32) for x in frame.grid.phases(frame.sites, places)]
            for places in (frame.beyond_inner, frame.beyond_outer)
        ]

    def _spread(self, side: int, chunk: slice, at: Floats) -> Complex:
        """Fourier coefficients of columns (places, c, k) of one side."""
        cos, sin = (x[chunk] for x in self._waves[side])
        flat = at.reshape(len(at), math.prod(at.shape[1:]))
        value = np.empty((len(cos), *at.shape[1:]), np.complex64)
        value.real = (cos @ flat).reshape(value.shape)
        value.imag = -(sin @ flat).reshape(value.shape)
        return value

    def _gather(self, side: int, chunk: slice, z: Complex) -> Floats:
        """The adjoint of `_spread`, over ±ω."""
        weights = self.frame.weights[chunk, None].astype(np.float32)
        cos, sin = (x[chunk] * weights for x in self._waves[side])
        waves = np.concatenate((cos, -sin))
        parts = np.concatenate((z.real, z.imag)).reshape(len(waves), -1)
        found: Floats = (waves.T @ parts).reshape(waves.shape[1], *z.shape[1:])
        return found

    # ── over all sites ────────────────────────────────────────────────────────────────────

    def _product(self, inner: Floats, outer: Floats) -> tuple[Floats, Floats]:
        """H (D, T)."""
        f = self.frame
        down, across = np.zeros(inner.shape, inner.dtype), outer.copy()

        def at(chunk: slice) -> tuple[slice, Complex, Complex | None]:
            prepared = self.sites.prepared(chunk)
            y = self._spread(0, chunk, inner)
            seen = self._spread(1, chunk, outer) if outer.size else None
            for part in self.sites.batches(chunk):
                here = slice(part.start - chunk.start, part.stop - chunk.start)
                if seen is None:
                    y[here] = self.sites.solve(prepared, here, y[here])
                    continue
                symbols = f.estimates(part)
                y[here] -= symbols @ seen[here]
                y[here] = self.sites.solve(prepared, here, y[here])
                seen[here] = _adjoint(symbols, y[here])
            return chunk, y, seen

        for chunk, z, seen in shared(at, self.sites.chunks):
            down += self._gather(0, chunk, z)
            if seen is not None:
                across -= self._gather(1, chunk, seen)
        down *= f.inner_mask[:, :, None]
        across *= f.outer_mask[:, :, None]
        return down, across

    def _beginning(self) -> tuple[Floats, Floats, npt.NDArray[np.float64]]:
        """(the residual's two parts, K) at D = T = 0."""
        f, k = self.frame, self.modes.count
        n, r = f.symbol.order, f.parts.shape[2]
        inner = np.zeros((len(f.beyond_inner), n, k), np.float32)
        outer = np.zeros((len(f.beyond_outer), r, k), np.float32)
        products = np.zeros((k, k))

        def at(j: int) -> None:  # every site has columns of its own
            w, where, one = self.sites.coefficients(j), self.modes.where(j), slice(j, j + 1)
            z = self.sites.solve_at(j, w)
            if not f.own[j]:
                z, w = np.hstack((z, -1j * z)), np.hstack((w, -1j * w))
            inner[:, :, where] = -self._gather(0, one, z[None])
            products[where, where] = f.weights[j] * (w.conj().T @ z).real
            if outer.size:
                outer[:, :, where] = self._gather(1, one, _adjoint(f.estimates(one), z[None]))

        for _ in shared(at, [j for j in range(len(f.sites)) if self.modes.columns(j).shape[1]]):
            pass
        inner *= f.inner_mask[:, :, None]
        outer *= f.outer_mask[:, :, None]
        return inner, outer, products

    def run(self) -> Release:
        """Steps until κ is clearly below 1, or for long."""
        self.sites.prepare()
        if len(self.frame.beyond_outer):
            self.frame.hold()
        rest, rest_outer, products = self._beginning()
        # np.zeros takes no memory before it is written to, zeros_like would.
        inner, outer = np.zeros(rest.shape, rest.dtype), np.zeros(rest_outer.shape, rest.dtype)
        seen, across = self.sites.means(bool(outer.size))
        across[np.diag_indices(len(across))] += 1.0
        give_back(4 * rest.size)
        solves = [np.linalg.inv(x.astype(np.float64)).astype(np.float32) for x in (seen, across)]
        before: tuple[Floats, ...] | None = None
        values, vectors = np.linalg.eigh(products)
        for _ in range(_STEPS):
            if not values.size or not len(rest) + len(rest_outer) or values[-1] < _DONE:
                break
            active = vectors[:, values > min(_ACTIVE, 0.9 * values[-1])].astype(np.float32)
            p: Floats = solves[0] @ (rest @ active)
            p *= self.frame.inner_mask[:, :, None]
            q: Floats = rest_outer @ active
            if q.size:
                q = solves[1] @ q
                q *= self.frame.outer_mask[:, :, None]
            if before is not None:
                beta = _dot(before[2], p) + _dot(before[3], q)
                p -= before[0] @ beta
                q -= before[1] @ beta
                before = None  # memory, during the product
            hp, hq = self._product(p, q)
            half = _rooted(_dot(p, hp) + _dot(q, hq))
            p = p @ half  # one after another: each of them takes as much as the residual
            q = q @ half
            hp = hp @ half
            hq = hq @ half
            alpha = _dot(p, rest) + _dot(q, rest_outer)
            inner += p @ alpha
            outer += q @ alpha
            rest -= hp @ alpha
            rest_outer -= hq @ alpha
            products -= alpha.T.astype(np.float64) @ alpha
            values, vectors = np.linalg.eigh(products)
            before = p, q, hp, hq
        top = float(values[-1]) if values.size else 0.0
        slope = self._slope(inner, outer, vectors[:, -1:]) if top >= _DONE else 0.0
        return Release(inner, outer, self.sites.unit, self.square, top, slope)

    def _slope(self, inner: Floats, outer: Floats, direction: Any) -> float:
        """−dκ/ds² = ‖B⁻¹Yx‖² for the top eigenvector x of K."""
        f = self.frame
        x = direction.astype(np.float32)
        column, column_outer = inner @ x, outer @ x

        def at(chunk: slice) -> float:
            y = self._spread(0, chunk, column)
            if outer.size:
                seen = self._spread(1, chunk, column_outer)
                for part in self.sites.batches(chunk):
                    here = slice(part.start - chunk.start, part.stop - chunk.start)
                    y[here] -= f.estimates(part) @ seen[here]
            for j in range(chunk.start, chunk.stop):
                w = self.sites.coefficients(j)
                if w.shape[1]:
                    wide = w if f.own[j] else np.hstack((w, -1j * w))
                    y[j - chunk.start] += wide @ x[self.modes.where(j)]
            z = self.sites.solve(self.sites.prepared(chunk), slice(0, len(y)), y)
            return float(np.square(np.abs(z)).sum(axis=(1, 2)) @ f.weights[chunk])

        return sum(shared(at, self.sites.chunks)) / self.sites.unit**2


def _adjoint(symbols: Complex, z: Complex) -> Complex:
    """K̂ᴴz at every site."""
    found: Complex = symbols.transpose(0, 2, 1) @ z.conj()
    np.conjugate(found, out=found)
    return found


def _dot(a: Floats, b: Floats) -> Floats:
    """Σ over places and channels: (k, l)."""
    rows = math.prod(a.shape[:2])
    found: Floats = a.reshape(rows, a.shape[2]).T @ b.reshape(rows, b.shape[2])
    return found


def _rooted(gram: Floats) -> Floats:
    """W with WᵀGW = I on the part of the space where G is not small."""
    values, vectors = np.linalg.eigh(0.5 * (gram + gram.T).astype(np.float64))
    kept = values > 1e-6 * values[-1]
    return np.asarray(vectors[:, kept] / np.sqrt(values[kept]), np.float32)
