"""B = s²I − CCᴴ + VVᴴ at every frequency, in single precision and units of `Symbol.unit`.

Large orders are factored (Cholesky) and solved with, small ones inverted, many at a time. What
fits into memory is kept from one sweep over the frequencies to the next, the rest is made anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnxlip.norms.definite import factored
from onnxlip.norms.frame import Frame
from onnxlip.norms.lapack import trsm
from onnxlip.norms.modes import Modes

__all__ = ["Sites"]

Single = npt.NDArray[np.float32]
Complex = npt.NDArray[np.complex64]

_FACTORED = 96  # from this order on a factorisation pays
_SAMPLES = 4  # sites that the mean of the inverses is taken of
_CHUNK = 1 << 18  # complex entries held at a time


@dataclass(eq=False)
class Sites:
    """entries: float64 numbers that may be kept."""

    frame: Frame
    modes: Modes
    square: float
    entries: int
    _kept: dict[int, Complex] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        f = self.frame
        n = f.symbol.order
        self.unit = f.symbol.unit
        self._factored = n >= _FACTORED
        self._room = self.entries
        widest = max(n, f.parts.shape[2], self.modes.count)
        step = max(1, _CHUNK // (n * widest))
        self.chunks = [slice(i, min(i + step, len(f.sites))) for i in range(0, len(f.sites), step)]

    def coefficients(self, site: int) -> Complex:
        """w of V."""
        return (self.modes.columns(site) / self.unit).astype(np.complex64)

    def _matrices(self, chunk: slice) -> Complex:
        """B, (sites, n, n)."""
        b = self.frame.symbol.estimates(self.frame.grid, self.frame.sites[chunk])
        np.negative(b, out=b)
        np.einsum("bii->bi", b)[...] += np.float32(self.square / self.unit**2)
        for j in range(chunk.start, chunk.stop):
            w = self.coefficients(j)
            if w.shape[1]:
                b[j - chunk.start] += np.float32(self.frame.weights[j]) * (w @ w.conj().T)
        return b

    def _prepared(self, chunk: slice) -> Complex:
        """Factors or inverses. Raises LinAlgError where B is not positive definite."""
        found = self._kept.get(chunk.start)
        if found is None:
            b = self._matrices(chunk)
            if self._factored:
                if not all(map(factored, b)):
                    raise np.linalg.LinAlgError("not positive definite")
                found = b
            else:
                np.linalg.cholesky(b)
                found = np.linalg.inv(b)
            if found.size <= self._room:  # a complex64 takes as much as a float64
                self._room -= found.size
                self._kept[chunk.start] = found
        return found

    def solve(self, chunk: slice, y: Complex) -> Complex:
        """B⁻¹y for y (sites, n, k), which is overwritten."""
        prepared = self._prepared(chunk)
        if not self._factored:
            z: Complex = prepared @ y
            return z
        for matrix, columns in zip(prepared, y, strict=True):
            _solve(matrix, columns)
        return y

    def solve_at(self, site: int, y: Complex) -> Complex:
        """The same at one site, y (n, k)."""
        chunk = next(c for c in self.chunks if c.start <= site < c.stop)
        matrix = self._prepared(chunk)[site - chunk.start]
        if not self._factored:
            return np.asarray(matrix @ y)
        z = np.array(y, np.complex64, order="C")  # a copy: it is overwritten
        _solve(matrix, z)
        return z

    def means(self, with_outer: bool) -> tuple[Single, Single]:
        """Mean Re B⁻¹ and Re K̂ᴴB⁻¹K̂ over some of the sites: for preconditioners."""
        f = self.frame
        n, r = f.symbol.order, f.parts.shape[2] if with_outer else 0
        inner, outer = np.zeros((n, n), np.float32), np.zeros((r, r), np.float32)
        places = np.linspace(0, len(f.sites) - 1, min(_SAMPLES, len(f.sites))).astype(int)
        mass = 0.0
        for j in dict.fromkeys(places.tolist()):
            weight = np.float32(f.weights[j])
            mass += float(weight)
            inner += weight * self.solve_at(j, np.eye(n, dtype=np.complex64)).real
            if with_outer:
                symbol = f.estimates(slice(j, j + 1))[0]
                outer += weight * (symbol.conj().T @ self.solve_at(j, symbol)).real
        return inner / np.float32(mass), outer / np.float32(mass)


def _solve(factor: Complex, y: Complex) -> None:
    """y ← B⁻¹y in place: yᵀ ← yᵀU⁻¹U⁻ᴴ with conj(B) = UᴴU, U = Lᵀ what Fortran's order sees."""
    trsm(factor.T, y.T, "R")
    trsm(factor.T, y.T, "R", "C")
