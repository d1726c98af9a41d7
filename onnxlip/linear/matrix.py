"""Matrix: I_outer ⊗ blockdiag(W_1 … W_b) ⊗ I_inner, a matrix along one axis of a tensor.

The flat vector is read as an array of shape (outer, b, k, inner); block j multiplies the k-axis:

    y[o, j, :, i] = W_j x[o, j, :, i]

A Gemm has outer = batch and b = inner = 1; a 1×1 convolution has inner = pixels and b = groups;
x @ W on tokens has outer = tokens; a mean over one axis has W = (1/k … 1/k). Since Kronecker
factors of identity change no norm, ‖A‖_p = max_j ‖W_j‖_p.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from onnxlip.linear.base import LinearMap
from onnxlip.linear.monomial import Monomial
from onnxlip.rounding import gamma, up

Floats = npt.NDArray[np.float64]

__all__ = ["Matrix"]


@dataclass(frozen=True, eq=False)
class Matrix(LinearMap):
    """blocks: float64 (or exactly convertible) array of shape (b, m, k), see the module."""

    blocks: npt.NDArray[np.floating]
    outer: int = 1
    inner: int = 1
    relative: float = 0.0

    @property
    def rows(self) -> int:
        return self.outer * self.blocks.shape[0] * self.blocks.shape[1] * self.inner

    @property
    def columns(self) -> int:
        return self.outer * self.blocks.shape[0] * self.blocks.shape[2] * self.inner

    @property
    def ulps(self) -> float:
        return self.relative

    @property
    def terms(self) -> int:
        return max(self.blocks.shape[1:]) + 1

    @property
    def adjoint(self) -> LinearMap:
        return replace(self, blocks=self.blocks.transpose(0, 2, 1))

    @cached_property
    def sums(self) -> tuple[float, float]:
        """(‖W‖₁, ‖W‖_∞) over all blocks, rounded up, the coefficients' error included."""
        b, m, k = self.blocks.shape
        if not (b and m and k):
            return 0.0, 0.0
        one = inf = 0.0
        step = max(1, (1 << 22) // max(1, k))  # bounded float64 copies of float32 weights
        for block in self.blocks:
            column = np.zeros(k)
            for i in range(0, m, step):
                part = np.abs(block[i : i + step].astype(np.float64))
                column += part.sum(axis=0)
                inf = max(inf, float(part.sum(axis=1).max()))
            one = max(one, float(column.max()))
        slack = up(1.0 + gamma(1.01 * self.relative))
        widen = [up(up(s * up(1.0 + gamma(max(m, k)))) * slack) if s else 0.0 for s in (one, inf)]
        return widen[0], widen[1]

    def cap(self) -> float:
        return max(self.sums)

    def after(self, inner: LinearMap) -> LinearMap | None:
        if not isinstance(inner, Monomial) or not inner.injective:
            return None
        b, m, k = self.blocks.shape
        rounded = 0.0 if inner.weight is None else 1.0
        ulps = self.relative + inner.relative + rounded
        if inner.index is None:
            weight = inner.weight
            if weight is None:
                return self
            if weight.ndim:
                view = weight.reshape(self.outer, b, k, self.inner)
                first = view[:1, :, :, :1]
                if not np.array_equal(view, np.broadcast_to(first, view.shape)):
                    return None
                weight = first[0, :, None, :, 0]
            return replace(self, blocks=self.blocks * weight, relative=ulps)
        # A dense block absorbs a permutation or a padding of its columns: a flattened image
        # in another layout. Not where that would make the matrix much larger.
        if self.outer * b * self.inner != 1 or inner.n > 2 * k:
            return None
        read = inner.index >= 0
        scaled = self.blocks if inner.weight is None else self.blocks * inner.weight
        wide = np.zeros((1, m, inner.n), scaled.dtype)
        wide[:, :, inner.index[read]] = scaled[:, :, read]
        return replace(self, blocks=wide, relative=ulps)

    def before(self, outer: LinearMap) -> LinearMap | None:
        if not isinstance(outer, Monomial) or not outer.injective:
            return None
        mirrored = self.adjoint.after(outer.adjoint)
        return mirrored.adjoint if mirrored else None
