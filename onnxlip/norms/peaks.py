"""Where a symbol is largest: a coarse grid, then uphill; or all sites. Nothing here is a bound."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.norms.definite import factored
from onnxlip.norms.krylov import ritz, ritz_values
from onnxlip.norms.symbol import Grid, Symbol

__all__ = ["Search", "largest", "swept"]

Site = tuple[int, ...]

_CHUNK = 1 << 19  # complex entries of the Grams held at a time


def swept(symbol: Symbol, grid: Grid, floor: float) -> float:
    """The largest eigenvalue at all sites, at least `floor`, as single precision sees it."""
    square, unit = floor, symbol.unit**2
    sites, step = grid.half(), max(1, _CHUNK // symbol.order**2)
    for i in range(0, len(sites), step):
        stack = symbol.estimates(grid, sites[i : i + step])
        shifted = -stack
        np.einsum("bii->bi", shifted)[...] += np.float32(square / unit)
        for gram, matrix in zip(stack, shifted, strict=True):
            if not factored(matrix):
                square = max(square, unit * largest(gram))
    return square


def largest(gram: npt.NDArray[Any]) -> float:
    """The largest eigenvalue of a Hermitian matrix, roughly."""
    n = len(gram)
    if n <= 256:
        return float(np.linalg.eigvalsh(gram)[-1])
    rng = np.random.default_rng(n)
    start = rng.standard_normal(n) + 1j * rng.standard_normal(n)
    return ritz(lambda x: gram @ x, start, steps=200, tolerance=1e-10)[0]


class Search:
    """Where the symbol is largest: a coarse grid, then uphill. Nothing here is a bound."""

    def __init__(self, symbol: Symbol) -> None:
        self._symbol = symbol
        self._rng = np.random.default_rng(0)
        self._degrees = symbol.lags.max(axis=0)

    def best_grid(self, grids: list[Grid]) -> tuple[Grid, float]:
        """The grid with the least maximum found, and that maximum."""
        first = grids[0]
        axes = [
            range(0, m, max(1, m // (2 * int(degree) + 2)))
            for m, degree in zip(first.shape, self._degrees, strict=True)
        ]
        steps = tuple(max(1, axis.step // 2) for axis in axes)
        value, peak = self._climb(first, list(itertools.product(*axes)), steps)
        found = [(value, 0, peak)]
        for k, grid in enumerate(grids[1:], 1):  # the same peak, seen from other sites
            near = [
                tuple(
                    math.floor(j + (a - b) / 2) + step
                    for j, a, b, step in zip(peak, first.twist, grid.twist, move, strict=True)
                )
                for move in itertools.product((0, 1), repeat=len(grid.shape))
            ]
            value, site = self._climb(grid, near, (1,) * len(grid.shape))
            found.append((value, k, site))
        _, k, site = min(found)
        gram = self._symbol.grams(grids[k], np.array([site]))[0]
        return grids[k], max(0.0, largest(gram))

    def _climb(self, grid: Grid, sites: list[Site], steps: tuple[int, ...]) -> tuple[float, Site]:
        """From the best of these sites uphill, in steps that are halved to 1."""
        seen: dict[Site, float] = {}
        self._evaluate(grid, sites, seen)
        moves = list(itertools.product((-1, 0, 1), repeat=len(grid.shape)))
        while True:
            best = max(seen, key=seen.__getitem__)
            around = [
                tuple(j + s * o for j, s, o in zip(best, steps, move, strict=True))
                for move in moves
            ]
            self._evaluate(grid, around, seen)
            if max(seen, key=seen.__getitem__) != best:
                continue
            if max(steps) == 1:
                return seen[best], best
            steps = tuple(max(1, s // 2) for s in steps)

    def _evaluate(self, grid: Grid, sites: list[Site], seen: dict[Site, float]) -> None:
        new = list(dict.fromkeys(s for s in map(grid.canonical, sites) if s not in seen))
        step = max(1, _CHUNK // self._symbol.order**2)
        for i in range(0, len(new), step):
            part = new[i : i + step]
            grams = self._symbol.estimates(grid, np.array(part, dtype=np.int64))
            values = ritz_values(grams, 12, self._rng) * self._symbol.unit**2
            seen.update(zip(part, values.tolist(), strict=True))
