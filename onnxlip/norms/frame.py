"""A convolution on its torus: symbol, grid, and which places of the torus its images fill.

Places are counted from the first window, so output p reads places p + q, and the image begins at
`begin`. Where the Gram is taken on the inputs' side the whole is turned round: with K_qᵀ for K_q,
input place x becomes −x and output place p becomes −p, and again p reads p + q.
Shifts with a common step g run on g circles, and an axis without shifts is all circles of one site:
a place counts as image if it is so on any of them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.linear import Convolution
from onnxlip.norms.symbol import Grid, Shifts, Symbol
from onnxlip.rounding import gamma, mul_up, up

__all__ = ["Frame", "frame"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Frame:
    """C of a group of channels, and the images on both sides of it. *Inner* is the Gram's side.

    symbol, grid: of CCᴴ, on the twisted torus; places (p, d), parts (p, n, r): the kernel by
    shifts, inner channels first; beyond_inner, beyond_outer (·, d): the places of the torus where
    some channel is not of the image; inner_mask, outer_mask: which are not, (·, n) and (·, r).
    """

    symbol: Symbol
    grid: Grid
    places: Ints
    parts: Floats
    beyond_inner: Ints
    inner_mask: Bools
    beyond_outer: Ints
    outer_mask: Bools

    @cached_property
    def sites(self) -> Ints:
        """One frequency of every pair ±ω."""
        return self.grid.half()

    @cached_property
    def own(self) -> Bools:
        """Which of the sites are their own mirror."""
        mirrored = (-self.sites - np.array(self.grid.twist)) % np.array(self.grid.shape)
        return np.asarray(np.all(mirrored == self.sites, axis=1))

    @cached_property
    def weights(self) -> Floats:
        """How many frequencies a site stands for: 1 or 2."""
        return np.where(self.own, 1.0, 2.0)

    @cached_property
    def modulus(self) -> float:
        """‖Σ_q |K_q|‖_F ≥ ‖K̂(ω)‖_F, rounded up."""
        size = np.zeros(self.parts.shape[1:])
        for part in self.parts:  # never a second copy of all
            size += np.abs(part)
        return mul_up(float(np.linalg.norm(size)), up(1.0 + gamma(len(self.parts) + size.size)))

    def one_sided(self) -> Frame:
        """The same with nothing to be released on the outer side."""
        return replace(self, beyond_outer=self.beyond_outer[:0], outer_mask=self.outer_mask[:0])

    def columns(self, entries: int) -> int:
        """How many columns over all places beyond the images fit into so many float64 numbers:
        the search holds some six float32 arrays of them."""
        return entries // (3 * (self.inner_mask.size + self.outer_mask.size) + 1)

    def symbols(self, chunk: slice) -> npt.NDArray[np.complex128]:
        """K̂(ω) at some of the sites, (sites, n, r)."""
        return self._symbols(chunk, self.parts, np.complex128)

    def estimates(self, chunk: slice) -> npt.NDArray[np.complex64]:
        """K̂(ω)/unit in single precision (`Symbol.unit`), for searches."""
        return self._symbols(chunk, self._single, np.complex64)

    def _symbols(self, chunk: slice, parts: Any, kind: Any) -> npt.NDArray[Any]:
        p, n, r = parts.shape
        waves = self.grid.phases(self.sites[chunk], self.places)
        cos, sin = (x.astype(parts.dtype) for x in waves)
        flat = parts.reshape(p, n * r)
        value = np.empty((len(cos), n, r), kind)
        value.real = (cos @ flat).reshape(-1, n, r)
        value.imag = (sin @ flat).reshape(-1, n, r)
        return value

    def hold(self) -> None:
        """Make what `estimates` needs: threads that ask for it at once would each make it."""
        self._single  # noqa: B018

    def let_go(self) -> None:
        """Drop what only estimates need; it is made again when asked for."""
        self.__dict__.pop("_single", None)
        self.symbol.let_go()

    @cached_property
    def _single(self) -> npt.NDArray[np.float32]:
        found = np.empty(self.parts.shape, np.float32)
        return np.divide(self.parts, self.symbol.unit, out=found, casting="same_kind")


def frame(
    conv: Convolution,
    outputs: tuple[int, ...],
    shifted: Shifts,
    group: int,
    symbol: Symbol,
    grid: Grid,
) -> Frame:
    """The frame of one group of channels; outputs: places per axis that are not all zero."""
    parts = shifted.parts[:, group]
    turned = parts.shape[1] > parts.shape[2]
    ins, outs = [], []
    for h, o, s, b, g, degree, m, phases in zip(
        conv.in_spatial,
        outputs,
        conv.strides,
        conv.begin,
        shifted.steps,
        shifted.degrees,
        grid.shape,
        shifted.phases,
        strict=True,
    ):
        circles = np.arange(g if degree else o)
        place = g * np.arange(m)[:, None] + circles
        reads = s * place[:, None, :] + np.array(phases)[None, :, None]
        ins.append(((reads >= b) & (reads < b + h)).any(axis=2))
        outs.append((place < o).any(axis=1))
    image = _product(ins).reshape(-1, len(list(itertools.product(*shifted.phases))))
    channels = parts.shape[2] // image.shape[1]
    read = np.tile(image, channels)  # channels in the order of `Shifts.parts`
    written = np.broadcast_to(
        _product([axis[:, None] for axis in outs]).reshape(-1, 1), (len(read), parts.shape[1])
    )
    inner, outer = (read, written) if turned else (written, read)
    if turned:
        parts = parts.transpose(0, 2, 1)
        inner, outer = _mirrored(inner, grid.shape), _mirrored(outer, grid.shape)
    sites = np.indices(grid.shape, dtype=np.int64).reshape(len(grid.shape), -1).T
    beyond = [~mask for mask in (inner, outer)]
    kept = [np.flatnonzero(mask.any(axis=1)) for mask in beyond]
    return Frame(
        symbol,
        grid,
        shifted.places,
        parts,
        np.ascontiguousarray(sites[kept[0]]),
        beyond[0][kept[0]],
        np.ascontiguousarray(sites[kept[1]]),
        beyond[1][kept[1]],
    )


def _product(axes: list[Bools]) -> Bools:
    """All of the axes at once: (m_1, …, m_d, phases of the first, …, of the last)."""
    d = len(axes)
    whole: Bools = np.ones((1,) * (2 * d), bool)
    for a, axis in enumerate(axes):
        shape = [1] * (2 * d)
        shape[a], shape[d + a] = axis.shape
        whole = whole & axis.reshape(shape)
    return whole


def _mirrored(mask: Bools, shape: tuple[int, ...]) -> Bools:
    """mask at −x."""
    folded = mask.reshape(*shape, -1)
    for axis, m in enumerate(shape):
        folded = np.take(folded, -np.arange(m) % m, axis=axis)
    return folded.reshape(mask.shape)
