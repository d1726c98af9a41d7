"""B = s²I − CCᴴ + VVᴴ at every frequency, in single precision and units of `Symbol.unit`.

Large orders are factored (Cholesky) and solved with, small ones inverted, many at a time. What
fits into memory is kept from one sweep over the frequencies to the next, the rest is made anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnxlip.norms.frame import Frame
from onnxlip.norms.modes import Modes
from onnxlip.norms.triangles import Triangles
from onnxlip.parallel import give_back, shared

__all__ = ["Sites"]

Single = npt.NDArray[np.float32]
Complex = npt.NDArray[np.complex64]
Prepared = Complex | Triangles

_FACTORED = 96  # from this order on a factorisation pays
_SAMPLES = 4  # sites that the mean of the inverses is taken of
_CHUNK = 1 << 18  # complex entries of matrices held at a time
_COLUMNS = 2 << 16  # … and of columns at these sites, at most: long columns are read once for all
_BATCHES = 4  # … but not more than so many batches: chunks are what threads share


@dataclass(eq=False)
class Sites:
    """entries: float64 numbers that may be kept.

    chunks: sites whose columns are handled together; `batches` of them, their matrices.
    """

    frame: Frame
    modes: Modes
    square: float
    entries: int
    _kept: dict[int, Prepared] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        f = self.frame
        n, r, count = f.symbol.order, f.parts.shape[2], len(f.sites)
        self.unit = f.symbol.unit
        self._factored = n >= _FACTORED
        self._batch = max(1, _CHUNK // (n * max(n, r)))
        columns = _COLUMNS // (max(n, r) * max(1, self.modes.count))
        step = max(self._batch, min(columns, _BATCHES * self._batch))
        step += step % 2  # factors are kept in pairs
        self.chunks = [slice(i, min(i + step, count)) for i in range(0, count, step)]
        # A complex64 takes as much as a float64. What is kept must not depend on who is first.
        sizes = np.cumsum([self._size(c.stop - c.start) for c in self.chunks])
        room = self.entries
        if len(sizes) and sizes[-1] > room:  # then the Gram's single precision is kept as well
            room -= 2 * f.symbol.even.size
        self._keeps = {c.start for c, size in zip(self.chunks, sizes, strict=True) if size <= room}

    def _size(self, count: int) -> int:
        n = self.frame.symbol.order
        return Triangles.size(count, n) if self._factored else count * n * n

    def batches(self, chunk: slice) -> list[slice]:
        """Parts of a chunk whose symbols may be held together."""
        begins = range(chunk.start, chunk.stop, self._batch)
        return [slice(i, min(i + self._batch, chunk.stop)) for i in begins]

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

    def prepare(self) -> None:
        """Make all that is kept. Raises LinAlgError where some B is not positive definite."""
        for chunk, found in shared(lambda c: (c, self.prepared(c)), self.chunks):
            if chunk.start in self._keeps:
                self._kept[chunk.start] = found
        if len(self._kept) == len(self.chunks):
            self.frame.symbol.let_go()
            give_back(8 * self.frame.symbol.even.size)

    def prepared(self, chunk: slice) -> Prepared:
        """Factors or inverses. Raises LinAlgError where B is not positive definite."""
        found = self._kept.get(chunk.start)
        if found is not None:
            return found
        b = self._matrices(chunk)
        if self._factored:
            return Triangles(b)
        np.linalg.cholesky(b)
        inverse: Complex = np.linalg.inv(b)
        return inverse

    @staticmethod
    def solve(prepared: Prepared, where: slice, y: Complex) -> Complex:
        """B⁻¹y for y (sites, n, k), which is overwritten, at these of the sites of a chunk."""
        if not isinstance(prepared, Triangles):
            z: Complex = prepared[where] @ y
            return z
        for j, columns in enumerate(y, where.start):
            prepared.solve(j, columns)
        return y

    def solve_at(self, site: int, y: Complex) -> Complex:
        """The same at one site, y (n, k), which is left as it is."""
        chunk = next(c for c in self.chunks if c.start <= site < c.stop)
        where = slice(site - chunk.start, site - chunk.start + 1)
        own: Complex = np.array(y[None], np.complex64, order="C")
        z: Complex = self.solve(self.prepared(chunk), where, own)[0]
        return z

    def means(self, with_outer: bool) -> tuple[Single, Single]:
        """Mean Re B⁻¹ and Re K̂ᴴB⁻¹K̂ over some of the sites: for preconditioners."""
        f = self.frame
        n, r = f.symbol.order, f.parts.shape[2] if with_outer else 0
        inner, outer = np.zeros((n, n), np.float32), np.zeros((r, r), np.float32)
        spread = np.linspace(0, len(f.sites) - 1, min(_SAMPLES, len(f.sites))).astype(int)
        places: list[int] = list(dict.fromkeys(spread.tolist()))

        def at(j: int) -> tuple[Single, Single | None]:
            seen = self.solve_at(j, np.eye(n, dtype=np.complex64)).real
            if not with_outer:
                return seen, None
            symbol = f.estimates(slice(j, j + 1))[0]
            return seen, (symbol.conj().T @ self.solve_at(j, symbol)).real

        for j, (seen, across) in zip(places, shared(at, places), strict=True):
            inner += np.float32(f.weights[j]) * seen
            if across is not None:
                outer += np.float32(f.weights[j]) * across
        mass = np.float32(f.weights[places].sum())
        return inner / mass, outer / mass
