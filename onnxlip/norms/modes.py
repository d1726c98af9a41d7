"""The top eigenvectors of a convolution's Gram symbol at every frequency: estimates.

Whether a frequency has any above the cut is asked of a Cholesky factorisation in single precision;
where it has, a block Krylov space finds them (for small orders an eigenvalue solver does).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.norms.definite import factored
from onnxlip.norms.frame import Frame
from onnxlip.parallel import shared
from onnxlip.rounding import gamma, mul_up, up

__all__ = ["Modes", "modes_above"]

Floats = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]
Single = npt.NDArray[np.complex64]

_SMALL = 96  # up to this order an eigenvalue solver is as fast
_BLOCK = 8
_CLOSE = 0.2  # residuals of Ritz vectors, in parts of the distance between s² and the cut
_CHUNK = 1 << 19  # complex entries held at a time


@dataclass(frozen=True, eq=False)
class Modes:
    """The columns V: at site j the coefficients w (n, q) of q or, for a pair ±ω, 2q real columns.

    widths: real columns per site; begins: where they stand among all.
    """

    coefficients: dict[int, Complex]
    begins: npt.NDArray[np.int64]
    order: int

    @property
    def count(self) -> int:
        """All real columns."""
        return int(self.begins[-1])

    def columns(self, site: int) -> Complex:
        """w of one site, perhaps of no columns."""
        found = self.coefficients.get(site)
        return np.zeros((self.order, 0), np.complex128) if found is None else found

    def where(self, site: int) -> slice:
        """Which of the real columns are this site's."""
        return slice(int(self.begins[site]), int(self.begins[site + 1]))

    @property
    def size(self) -> float:
        """An upper bound of ‖V‖_F: every coefficient stands at ±ω, for up to two columns."""
        total = sum(float(np.square(np.abs(w)).sum()) for w in self.coefficients.values())
        return mul_up(2.0, math.sqrt(total), up(1.0 + gamma(self.count * self.order + 8)))


def modes_above(frame: Frame, cut: float, most: int) -> Modes | None:
    """V with VVᴴ ≈ Σ (λ − cut) over the eigenvalues λ > cut; None if that takes more columns."""
    symbol = frame.symbol
    step = max(1, _CHUNK // symbol.order**2)
    found: dict[int, Complex] = {}
    widths = np.zeros(len(frame.sites) + 1, np.int64)
    level = cut / symbol.unit**2

    def at(begin: int) -> list[tuple[int, Floats, Complex]]:
        grams = symbol.estimates(frame.grid, frame.sites[begin : begin + step])
        pairs = []
        for j, gram in enumerate(grams, begin):
            pairs.append((j, *_leading(gram.real if frame.own[j] else gram, level)))
        return pairs

    symbol.hold()
    for pairs in shared(at, range(0, len(frame.sites), step)):
        for j, values, vectors in pairs:
            if not values.size:
                continue
            own = bool(frame.own[j])
            # Single precision may see one above the cut that is not.
            sizes = np.maximum(values * symbol.unit**2 - cut, 0.0)
            found[j] = vectors * np.sqrt(sizes * (1.0 if own else 0.5))
            widths[j + 1] = len(values) * (1 if own else 2)
        if widths.sum() > most:
            return None
    return Modes(found, np.cumsum(widths), symbol.order)


def _leading(gram: npt.NDArray[Any], level: float) -> tuple[Floats, Complex]:
    """Eigenvalues above `level`, as far as single precision tells, and unit vectors (n, q)."""
    n = len(gram)
    shifted = -gram
    np.einsum("ii->i", shifted)[...] += np.float32(level)
    if factored(shifted):
        return np.zeros(0), np.zeros((n, 0), np.complex128)
    pairs = None if n <= _SMALL else _krylov(gram, level)
    if pairs is None:
        pairs = np.linalg.eigh(gram)
    values, vectors = pairs
    above = values > level
    return values[above].astype(np.float64), vectors[:, above].astype(np.complex128)


def _krylov(gram: Single, level: float) -> tuple[Floats, Single] | None:
    """Ritz pairs from a block Krylov space that grows until those above `level` have settled;
    None where it would grow large."""
    n = len(gram)
    basis = np.empty((n, 0), gram.dtype)
    image = np.empty((n, 0), gram.dtype)
    start = np.random.default_rng(n).standard_normal((n, _BLOCK)).astype(np.float32)
    block = np.linalg.qr(start.astype(gram.dtype))[0]
    enough = _CLOSE * 0.01 * level
    while basis.shape[1] + _BLOCK <= n // 2:
        basis = np.hstack((basis, block))
        following = gram @ block
        image = np.hstack((image, following))
        size = basis.shape[1]
        if size % 32 == 0:
            values, vectors = np.linalg.eigh(basis.conj().T @ image)
            chosen = vectors[:, values > level]
            if chosen.shape[1] and values[0] < level:
                ritz = basis @ chosen
                residual = image @ chosen - ritz * values[values > level]
                if np.linalg.norm(residual, axis=0).max() <= enough:
                    return values[values > level], ritz
        for _ in range(2):
            following = following - basis @ (basis.conj().T @ following)
        block = np.linalg.qr(following)[0]
    return None
