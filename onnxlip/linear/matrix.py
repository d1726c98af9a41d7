"""Matrix: I_outer ⊗ blockdiag(W_1 … W_b) ⊗ I_inner, a matrix along one axis of a tensor.

The flat vector is read as an array of shape (outer, b, k, inner); block j multiplies the k-axis:

    y[o, j, :, i] = W_j x[o, j, :, i]

A Gemm has outer = batch and b = inner = 1; a 1×1 convolution has inner = pixels and b = groups;
x @ W on tokens has outer = tokens; a mean over one axis has W = (1/k … 1/k). Since Kronecker
factors of identity change no norm, ‖A‖_p = max_j ‖W_j‖_p.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from onnxlip.linear.base import LinearMap, chained_ulps
from onnxlip.linear.monomial import Monomial
from onnxlip.linear.scaling import scaled
from onnxlip.rounding import gamma, mul_up, up

Floats = npt.NDArray[np.float64]

_ENTRIES = 1 << 18  # entries looked at together: 1 MiB, which caches hold

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
        b, m, _ = self.blocks.shape
        return int(self.outer * b * m * self.inner)

    @property
    def columns(self) -> int:
        b, _, k = self.blocks.shape
        return int(self.outer * b * k * self.inner)

    @property
    def ulps(self) -> float:
        return self.relative

    @property
    def terms(self) -> int:
        return int(max(self.blocks.shape[1:])) + 1

    @property
    def adjoint(self) -> LinearMap:
        return replace(self, blocks=self.blocks.transpose(0, 2, 1))

    @cached_property
    def sums(self) -> tuple[float, float]:
        """(‖W‖₁, ‖W‖_∞) over all blocks, rounded up, the coefficients' error included."""
        b, m, k = self.blocks.shape
        if not (b and m and k):
            return 0.0, 0.0
        one = inf = np.float64(0.0)
        step = max(1, (1 << 22) // max(1, k))  # bounded float64 copies of float32 weights
        for block in self.blocks:
            column = np.zeros(k)
            for i in range(0, m, step):
                part = np.abs(block[i : i + step].astype(np.float64))
                column += part.sum(axis=0)
                inf = np.maximum(inf, part.sum(axis=1).max())  # keeps NaN, where max() may not
            one = np.maximum(one, column.max())
        return self._widened(float(one), m), self._widened(float(inf), k)

    def _widened(self, total: float, summands: int) -> float:
        if not math.isfinite(total):
            return math.inf
        slack = up(1.0 + gamma(1.01 * self.relative)) if self.relative else 1.0
        return mul_up(total, up(1.0 + gamma(summands - 1)) if summands > 1 else 1.0, slack)

    @cached_property
    def _rough(self) -> float:
        """max(‖W‖₁, ‖W‖_∞) of float32 blocks from sums in float32: several times faster, and at
        most γ_k too large in its unit roundoff."""
        b, m, k = self.blocks.shape
        error = float(max(m, k) + 2) * 2.0**-24
        if self.blocks.dtype != np.float32 or not (b and m and k) or error > 0.01:
            return math.nan
        top = np.float32(0.0)
        step = max(1, _ENTRIES // k)
        ones = np.ones(k, np.float32)
        for block in self.blocks:
            column = np.zeros(k, np.float32)
            for i in range(0, m, step):
                part = np.abs(block[i : i + step])
                column += ones[: len(part)] @ part if len(part) <= k else part.sum(axis=0)
                top = np.maximum(top, (part @ ones).max())
            top = np.maximum(top, column.max())
        # A sum that overflows or whose terms underflow says nothing here.
        return float(top) * (1.0 + 4 * error) if 1e-20 < top < 1e30 else math.nan

    def cap(self) -> float:
        rough = self._rough
        if math.isfinite(rough):
            return mul_up(rough, up(1.0 + gamma(1.01 * self.relative)))
        return max(self.sums)

    def after(self, inner: LinearMap) -> LinearMap | None:
        if not isinstance(inner, Monomial) or not inner.injective:
            return None
        if inner.is_identity:
            return self
        b, m, k = self.blocks.shape
        weight, index = inner.weight, inner.index
        # A dense block absorbs a permutation or a padding of its columns: a flattened image
        # in another layout. Not where that would make the matrix much larger.
        if index is not None and (self.outer * b * self.inner != 1 or inner.n > 2 * k):
            return None
        blocks, rounded = self.blocks, 0.0
        if weight is not None:
            if weight.ndim:
                view = weight.reshape(self.outer, b, k, self.inner)
                first = view[:1, :, :, :1]
                if not np.array_equal(view, np.broadcast_to(first, view.shape)):
                    return None
                weight = first[0, :, None, :, 0]
            product = scaled(blocks, weight)
            if product is None:
                return None
            blocks, rounded = product
        if index is not None:
            read = index >= 0
            wide = np.zeros((1, m, inner.n), blocks.dtype)
            wide[:, :, index[read]] = blocks[:, :, read]
            blocks = wide
        ulps = chained_ulps(self.relative, inner.relative, rounded)
        return replace(self, blocks=blocks, relative=ulps)

    def before(self, outer: LinearMap) -> LinearMap | None:
        if not isinstance(outer, Monomial) or not outer.injective:
            return None
        mirrored = self.adjoint.after(outer.adjoint)
        return mirrored.adjoint if mirrored else None
