"""The torus of a convolution as a matrix, written out from its symbol."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.linear import Convolution
from onnxlip.norms.frame import Frame, frame
from onnxlip.norms.symbol import Grid, autocorrelation, shifts
from onnxlip.norms.torus import torus_shape

Array = npt.NDArray[Any]


def framed(conv: Convolution, twist: int = 1, group: int = 0) -> Frame:
    """The frame of a group on the least torus; twist: of all axes of more than one site."""
    shifted = shifts(conv.grouped.astype(np.float64), conv.strides, conv.dilations)
    shape = tuple(
        -(-m // g) if degree else 1
        for m, g, degree in zip(torus_shape(conv), shifted.steps, shifted.degrees, strict=True)
    )
    outputs = tuple(
        min(o, (h - 1 + b) // s + 1)
        for o, h, b, s in zip(
            conv.out_spatial, conv.in_spatial, conv.begin, conv.strides, strict=True
        )
    )
    symbol = autocorrelation(shifted.places, shifted.parts[:, group])
    grid = Grid(shape, tuple(twist if m > 1 else 0 for m in shape))
    return frame(conv, outputs, shifted, group, symbol, grid)


@dataclass(frozen=True)
class Torus:
    """matrix: C, rows (site, n), columns (site, r); inner, outer: which of them are of the images;
    waves: (site, ω), symbols: K̂(ω), over all frequencies in the order of np.ndindex."""

    matrix: Array
    inner: Array
    outer: Array
    waves: Array
    symbols: Array

    @property
    def cut(self) -> Array:
        """P C F without its rows and columns of zeros."""
        return self.matrix[np.ix_(self.inner, self.outer)]


def written_out(f: Frame) -> Torus:
    shape, (_, n, r) = f.grid.shape, f.parts.shape
    sites = np.array(list(np.ndindex(*shape)))
    omega = 2 * np.pi * (sites + np.array(f.grid.twist) / 2) / np.array(shape)
    waves = np.exp(1j * sites @ omega.T) / np.sqrt(len(sites))
    symbols = np.einsum("wp,pnr->wnr", np.exp(1j * omega @ f.places.T), f.parts)
    matrix = np.einsum("xw,wnr,yw->xnyr", waves, symbols, waves.conj(), optimize=True)
    assert np.abs(matrix.imag).max() <= 1e-12 * np.abs(matrix).max()

    def image(beyond: Array, mask: Array, channels: int) -> Array:
        inside = np.ones((len(sites), channels), bool)
        index = np.ravel_multi_index(tuple(beyond.T), shape) if len(beyond) else []
        inside[index] = ~mask
        return inside.reshape(-1)

    return Torus(
        matrix.real.reshape(len(sites) * n, len(sites) * r),
        image(f.beyond_inner, f.inner_mask, n),
        image(f.beyond_outer, f.outer_mask, r),
        waves,
        symbols,
    )
