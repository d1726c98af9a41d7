"""Convolutions as sparse matrices, straight from their kernels."""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp

from onnxlip.linear import Convolution, LinearMap, Transposed

__all__ = ["sparse"]


def sparse(a: LinearMap, most: int) -> sp.csr_array | None:
    """A convolution, or the adjoint of one, as it stands in its kernel: nothing is rounded. None
    for other maps, and for more than `most` entries."""
    if isinstance(a, Transposed):
        turned = sparse(a.of, most)
        return None if turned is None else sp.csr_array(turned.T)
    if not isinstance(a, Convolution) or a.rows * a.kernel[0].size > most:
        return None
    # Entry (o, y; i, x) is kernel[o, i, t] for the tap t with x = stride·y + dilation·t − begin.
    inside, places = np.ones((1, 1, 1), bool), np.zeros((1, 1, 1), np.int64)
    axes = zip(a.in_spatial, a.out_spatial, a.strides, a.dilations, a.begin, a.taps, strict=True)
    for size, out, stride, dilation, begin, taps in axes:
        x = stride * np.arange(out)[:, None] + dilation * np.arange(taps) - begin  # (out, taps)
        n_out, n_taps = places.shape[1] * out, places.shape[2] * taps
        fits = (x >= 0) & (x < size)
        places = (places[:, :, None, :, None] * size + x[:, None, :]).reshape(1, n_out, n_taps)
        inside = (inside[:, :, None, :, None] & fits[:, None, :]).reshape(1, n_out, n_taps)
    area = math.prod(a.in_spatial)
    per_group = a.kernel.shape[1]
    first = np.arange(a.c_out) // (a.c_out // a.groups) * per_group
    channels = first[:, None] + np.arange(per_group)  # (c_out, c_in / groups)
    columns = channels[:, None, :, None] * area + places[:, :, None, :]
    kernel = a.kernel.reshape(a.c_out, 1, per_group, -1).astype(np.float64)
    values = np.broadcast_to(kernel, columns.shape)
    kept = np.broadcast_to(inside[:, :, None, :], columns.shape)
    rows = np.broadcast_to(
        np.arange(a.c_out * places.shape[1]).reshape(a.c_out, -1, 1, 1), columns.shape
    )
    shape = (a.c_out * places.shape[1], a.c_in * area)
    one = sp.csr_array((values[kept], (rows[kept], columns[kept])), shape)
    return one if a.batch == 1 else sp.csr_array(sp.block_diag([one] * a.batch, format="csr"))
