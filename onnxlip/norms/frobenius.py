"""Upper bounds of the Frobenius norm ‖A‖_F of the true operator, rounded up.

The product of the layers' Frobenius norms is the crudest bound of Virmaux & Scaman 2018's tables.
It is that of the operator and not of the kernel: an entry of a convolution's kernel stands in the
matrix once for every output that reads a pixel through it.

Matrix        ‖I_a ⊗ diag(W_1 … W_b) ⊗ I_c‖_F² = a c Σ_j ‖W_j‖_F²
Monomial      Σ_i w_i² over the outputs that read something
Convolution   batch · Σ_t n_t ‖K_t‖_F², n_t = the places whose tap t lies within the image
Transposed    that of the map
Product       min_k ‖A_k‖_F Π_{j≠k} ‖A_j‖₂, or from the matrix itself where it can be written out
Sum           Σ, or (Σ ‖·‖_F²)^½ where no two maps write to one output; or from the matrix

All but the last two are exact except for rounding.
"""

from __future__ import annotations

import itertools
import math
from functools import singledispatch

import numpy as np

from onnxlip.linear import Convolution, LinearMap, Matrix, Monomial, Product, Sum, Transposed
from onnxlip.norms.enclosure import euclid
from onnxlip.norms.structure import is_empty, overlap
from onnxlip.norms.upper import spectral_upper
from onnxlip.norms.workspace import Workspace
from onnxlip.rounding import UNIT, add_up, mul_up, norm_up, sqrt_up, up

__all__ = ["frobenius"]


def frobenius(a: LinearMap, work: Workspace | None = None) -> float:
    """≥ ‖A‖_F. work: where composed maps may be written out, and norms of factors looked up."""
    return 0.0 if is_empty(a) else _frobenius(a, work)


@singledispatch
def _frobenius(a: LinearMap, work: Workspace | None) -> float:
    """A kind of map that this module does not know (a user's): ‖A‖_F ≤ √rank ‖A‖₂."""
    return min(_written(a, work), mul_up(sqrt_up(float(min(a.rows, a.columns))), _norm(a, work)))


@_frobenius.register
def _(a: Matrix, work: Workspace | None) -> float:
    copies = sqrt_up(float(a.outer * a.inner))
    return mul_up(copies, euclid(a.blocks).upper, _coefficients(a))


@_frobenius.register
def _(a: Monomial, work: Workspace | None) -> float:
    if a.weight is not None and a.weight.ndim:
        return mul_up(euclid(a.dense_weight()).upper, _coefficients(a))
    count = a.rows if a.index is None else int(np.count_nonzero(a.index >= 0))
    weight = 1.0 if a.weight is None else abs(float(a.weight))
    return mul_up(sqrt_up(float(count)), weight, _coefficients(a))


@_frobenius.register
def _(a: Convolution, work: Workspace | None) -> float:
    counts = [_places(a, axis) for axis in range(len(a.taps))]
    kernel = a.kernel.reshape(a.c_out, -1, math.prod(a.taps))
    sizes = []
    for tap in itertools.product(*(range(k) for k in a.taps)):
        count = a.batch * math.prod(counts[axis][t] for axis, t in enumerate(tap))
        if count:
            column = np.ravel_multi_index(tap, a.taps)
            sizes.append(mul_up(sqrt_up(float(count)), euclid(kernel[..., column]).upper))
    return mul_up(norm_up(sizes, 2), _coefficients(a))


def _places(a: Convolution, axis: int) -> list[int]:
    """For each tap of an axis: through how many outputs it reads a pixel within the image."""
    places = a.strides[axis] * np.arange(a.out_spatial[axis]) - a.begin[axis]
    found = []
    for t in range(a.taps[axis]):
        read = places + a.dilations[axis] * t
        found.append(int(np.count_nonzero((read >= 0) & (read < a.in_spatial[axis]))))
    return found


@_frobenius.register
def _(a: Transposed, work: Workspace | None) -> float:
    return frobenius(a.of, work)


@_frobenius.register
def _(a: Product, work: Workspace | None) -> float:
    norms = [_norm(f, work) for f in a.factors]
    whole = [
        mul_up(frobenius(f, work), *norms[:k], *norms[k + 1 :]) for k, f in enumerate(a.factors)
    ]
    return min(_written(a, work), *whole)


@_frobenius.register
def _(a: Sum, work: Workspace | None) -> float:
    parts = [frobenius(s, work) for s in a.summands]
    apart = 1 in (overlap(a.summands), overlap(tuple(s.adjoint for s in a.summands)))
    return min(_written(a, work), norm_up(parts, 2) if apart else add_up(*parts))


def _norm(a: LinearMap, work: Workspace | None) -> float:
    """≥ ‖A‖₂."""
    return a.cap() if work is None else min(a.cap(), spectral_upper(a, work).value)


def _written(a: LinearMap, work: Workspace | None) -> float:
    """From the map's matrix; ∞ where that is too large. ‖E‖_F ≤ √rank ‖E‖₂ for its error."""
    written = None if work is None else work.materialised(a)
    if written is None:
        return math.inf
    error = mul_up(sqrt_up(float(min(a.rows, a.columns))), written.error)
    return add_up(euclid(written.matrix).upper, error)


def _coefficients(a: LinearMap) -> float:
    """What the coefficients' own error may add."""
    return up(1.0 + up(1.01 * a.ulps * UNIT)) if a.ulps else 1.0
