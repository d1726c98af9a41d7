"""Monomial: every output entry is one weighted input entry, or zero.

    y_i = w_i x_{π(i)},   π(i) = −1 meaning zero

Reshapes, transposes, slices, gathers, pads, tiles, splits, broadcasts, scalings and
normalisations with fixed statistics are all of this kind, and so is any composition of them.
AᵀA is diagonal with entries c_k = Σ_{π(i)=k} w_i², so the norms are exact:

    ‖A‖₂ = max_k √c_k,   ‖A‖_∞ = max_i |w_i|,   ‖A‖₁ = max_k Σ_{π(i)=k} |w_i|.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.linear.base import LinearMap, Transposed, chained_ulps
from onnxlip.linear.scaling import scaled
from onnxlip.rounding import TINY, gamma, sqrt_up, up

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

__all__ = ["Monomial", "diagonal", "identity", "selection"]


@dataclass(frozen=True, eq=False)
class Monomial(LinearMap):
    """y_i = weight_i · x_{index_i}; `index` None is the identity map, `weight` None is ones.

    index : int64 array of shape (m,) with entries in [−1, n), or None (then m = n)
    weight: float64 array of shape (m,), or of shape () for one common factor, or None
    """

    n: int
    index: Ints | None = None
    weight: Floats | None = None
    relative: float = 0.0

    @property
    def rows(self) -> int:
        return self.n if self.index is None else self.index.size

    @property
    def columns(self) -> int:
        return self.n

    @property
    def ulps(self) -> float:
        return self.relative

    @property
    def terms(self) -> int:
        return 1 + (0 if self.index is None or self.injective else self.rows)

    @cached_property
    def injective(self) -> bool:
        """No input entry is read twice."""
        if self.index is None:
            return True
        read = self.index[self.index >= 0]
        return bool(np.bincount(read, minlength=1).max(initial=0) <= 1)

    @property
    def adjoint(self) -> LinearMap:
        if self.index is None:
            return self
        # Neither is kept: a map that holds itself would wait for the garbage collector.
        return self._mirror if self.injective else Transposed(self)

    @cached_property
    def _mirror(self) -> Monomial:
        """The adjoint of an injective map: y_{π(i)} = w_i x_i."""
        assert self.index is not None
        where = np.full(self.n, -1, np.int64)
        kept = np.flatnonzero(self.index >= 0)
        where[self.index[kept]] = kept
        weight = self.weight
        if weight is not None and weight.ndim:
            weight = np.where(where >= 0, weight[where], 0.0)
        return Monomial(self.rows, where, weight, self.relative)

    def dense_weight(self) -> Floats:
        """|w| with zeros where nothing is read, shape (m,)."""
        ones = np.ones(self.rows) if self.weight is None else self.weight
        w = np.abs(np.broadcast_to(ones, (self.rows,)))
        return w if self.index is None else np.where(self.index >= 0, w, 0.0)

    def column_sums(self, powers: int) -> tuple[Floats, int]:
        """Σ_{π(i)=k} |w_i|^powers for every k, computed in float64, and the longest sum."""
        w = self.dense_weight() ** powers
        if self.index is None:
            return w, 1
        kept = self.index >= 0
        counts = np.bincount(self.index[kept], minlength=max(self.n, 1))
        sums: Any = np.bincount(self.index[kept], weights=w[kept], minlength=max(self.n, 1))
        return sums, int(counts.max(initial=0))

    def norm(self, p: float) -> float:
        """‖A‖_p rounded up, the coefficients' own error included; p ∈ {1, 2, ∞}."""
        if self.rows == 0 or self.n == 0:
            return 0.0
        slack = 1.0 if not self.relative else up(1.0 + up(1.01 * self.relative * 2.0**-53))
        w = self.dense_weight()
        top = float(w.max())
        if not math.isfinite(top):  # also for NaN
            return math.inf
        if p == math.inf or top == 0 or self.injective:
            return top if slack == 1.0 else up(top * slack)
        # A power of two keeps squares in range, exactly; it leaves weights of ±1 as they are.
        scale = 2.0 ** (math.frexp(top)[1] - 1)
        unit = Monomial(self.n, self.index, w / scale)
        sums, longest = unit.column_sums(1 if p == 1 else 2)
        total = float(sums.max())
        if total != round(total) or np.any(w / scale != np.round(w / scale)):
            # one rounding per square and per addition; sums of integers are exact
            total = up(total * up(1.0 + gamma(longest + 1)) + longest * TINY)
        root = total if p == 1 else sqrt_up(total)
        exact = slack == 1.0 and root == round(root) and scale > 2.0**-1000
        return root * scale if exact else up(up(root * scale) * slack)

    def cap(self) -> float:
        return max(self.norm(1), self.norm(math.inf))

    def after(self, inner: LinearMap) -> LinearMap | None:
        if self.is_identity:
            return inner
        if not isinstance(inner, Monomial):
            return None
        if self.index is None:
            index, weight = inner.index, inner.weight
        else:
            outer = self.index
            index = outer if inner.index is None else np.where(outer >= 0, inner.index[outer], -1)
            weight = inner.weight
            if weight is not None and weight.ndim:
                weight = np.where(outer >= 0, weight[outer], 0.0)
        rounded = 0.0
        if self.weight is not None and weight is not None:
            product = scaled(weight, self.weight)
            if product is None:
                return None
            weight, rounded = product
        elif weight is None:
            weight = self.weight
        ulps = chained_ulps(self.relative, inner.relative, rounded)
        return Monomial(inner.n, index, weight, ulps)

    def before(self, outer: LinearMap) -> LinearMap | None:
        return outer if self.is_identity else None

    @property
    def is_identity(self) -> bool:
        return self.index is None and self.weight is None

    def constant_along(self, groups: int) -> Floats | None:
        """The `groups` factors of a pure scaling that is constant on each of `groups` equal runs
        of the vector (channels of one image), or None if it is not such a scaling."""
        if self.index is not None or not self.n or self.n % groups:
            return None
        if self.weight is None or self.weight.ndim == 0:
            return np.full(groups, 1.0 if self.weight is None else float(self.weight))
        runs = self.weight.reshape(groups, -1)
        first = runs[:, :1]
        same = np.array_equal(runs, np.broadcast_to(first, runs.shape))
        return first[:, 0].copy() if same else None


def identity(n: int) -> Monomial:
    """The identity of ℝⁿ: what a reshape is between flat vectors."""
    return Monomial(n)


def selection(index: npt.NDArray[Any], n: int) -> Monomial:
    """y_i = x_{index_i}, zero where index_i < 0. The array may have any shape; it is flattened."""
    flat = np.ascontiguousarray(index, dtype=np.int64).reshape(-1)
    if flat.size and (int(flat.max()) >= n or int(flat.min()) < -1):
        from onnxlip.errors import RuleError

        raise RuleError(f"an index map reads entry {flat.max()} of a vector with {n} entries")
    if flat.size == n and np.array_equal(flat, np.arange(n)):
        return Monomial(n)
    return Monomial(n, flat)


def diagonal(weight: npt.NDArray[Any], shape: tuple[int, ...], ulps: float = 0.0) -> Monomial:
    """y = weight · x, the weight broadcast to `shape`, the tensor's own shape."""
    full = np.asarray(weight, dtype=np.float64)
    n = math.prod(shape)
    if full.size == 1:
        return Monomial(n, None, full.reshape(()), ulps)
    return Monomial(n, None, np.ascontiguousarray(np.broadcast_to(full, shape)).reshape(-1), ulps)
