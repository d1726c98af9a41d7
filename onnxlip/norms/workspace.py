"""What the bounds of one map share: how products are made, and what has been computed already."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from onnxlip.linear import Convolution, LinearMap, Matrix, Product, Sum, Transposed
from onnxlip.lowering import Lowerings
from onnxlip.norms.dense import dense_norm
from onnxlip.norms.enclosure import Enclosure
from onnxlip.norms.torus import Effort, TorusBound, torus_bound, torus_shape
from onnxlip.operators import Operator
from onnxlip.rounding import TINY, UNIT, add_up, gamma, mul_up

__all__ = [
    "LEAST_MEMORY",
    "Bound",
    "Materialised",
    "Workspace",
    "coefficient_error",
    "multiplications",
    "product_error",
]

T = TypeVar("T")

_SHORT = 1024  # a map with at most so many rows or columns may be written out as a matrix …
_ENTRIES = 4_000_000  # … of at most so many entries (32 MB)
_PLANE, _WIDE = 256, 16  # beyond these a convolution's torus is as good, and much cheaper
_BATCH = 1 << 21  # float64 entries of the largest intermediate of one batch of columns
LEAST_MEMORY = 3 << 24  # bytes without which nothing can be done
_CHUNKS = 5 << 22  # bytes that chunks of converted weights and of symbols take
_COLUMNS = 400  # modes of a torus whose border is released, at most
_MEMORY = 1 << 27  # float64 entries that one product may hold (1 GiB)


class Bound(NamedTuple):
    """One end of a bracket and how it was found."""

    value: float
    method: str


class Materialised(NamedTuple):
    """matrix, with ‖A − matrix‖_p ≤ error for p = 1, 2, ∞."""

    matrix: npt.NDArray[np.float64]
    error: float


def coefficient_error(a: LinearMap) -> float:
    """‖A − Â‖_p ≤ ulps · 2⁻⁵³ ‖|Â|‖_p for the stored coefficients Â, with room for cap's own."""
    return mul_up(UNIT, a.ulps, 1.0000001, a.cap()) if a.ulps else 0.0


def product_error(a: LinearMap) -> tuple[float, float]:
    """(c, t) with ‖fl(Âx) − Âx‖_p ≤ c‖x‖_p + t for float64 products, max|x| ≤ 1, p = 1, 2, ∞.

    c = γ_terms ‖|Â|‖. Underflow: each of at most `terms` roundings per entry errs by TINY, which
    later factors magnify by their row sums; p-norms of n such errors are at most n of them. As
    a matrix, Â applied to unit vectors errs by c + t.
    """
    growth = _growth(a)
    entry = mul_up(TINY, float(a.terms), growth)
    return mul_up(gamma(a.terms), a.cap()), mul_up(entry, float(max(a.rows, a.columns)))


def _growth(a: LinearMap) -> float:
    if isinstance(a, Product):
        return mul_up(*(_growth(f) for f in a.factors))
    if isinstance(a, Sum):
        return add_up(*(_growth(s) for s in a.summands))
    return max(1.0, a.cap())


def multiplications(a: LinearMap) -> float:
    """Of one product with a vector, roughly."""
    if isinstance(a, Product):
        return sum(multiplications(f) for f in a.factors)
    if isinstance(a, Sum):
        return sum(multiplications(s) for s in a.summands)
    if isinstance(a, Transposed):
        return multiplications(a.of)
    return float(a.rows) * a.terms if isinstance(a, (Matrix, Convolution)) else float(a.rows)


def _widest(a: LinearMap) -> int:
    """The largest number of entries that applying the map holds at a time, roughly."""
    if isinstance(a, Product):
        return max(_widest(f) for f in a.factors)
    if isinstance(a, Sum):
        return sum(_widest(s) for s in a.summands)
    if isinstance(a, Transposed):
        return _widest(a.of)
    if isinstance(a, Convolution):  # in float64: the padded image, a slice, products, a sum
        return 4 * (a.rows + a.columns)
    return a.rows + a.columns


@dataclass(eq=False)
class Workspace:
    """provider: for float32 iterations; what is proved runs on the CPU in float64. tolerance: the
    relative slack of an upper bound that is good enough; memory: bytes that one map's bounds may
    take besides its weights; sharp: whether tori are sharpened that are not within tolerance;
    closeness: relative error at which the search for a lower end stops (an estimate)."""

    lowerings: Lowerings
    provider: str = "cpu"
    seed: int = 0
    search: str = "lanczos"  # how lower ends are searched for; "power": the paper's method
    tolerance: float = 2e-3
    memory: int = 2 << 30
    sharp: bool = True
    closeness: float = 3e-4
    _known: dict[tuple[int, str], tuple[LinearMap, Any]] = field(default_factory=dict)

    def once(self, a: LinearMap, what: str, compute: Callable[[], T]) -> T:
        """compute(), or what it gave for the same map before."""
        key = (id(a), what)
        if key not in self._known:
            self._known[key] = (a, compute())  # holding the map keeps its id taken
        found: T = self._known[key][1]
        return found

    @property
    def devices(self) -> set[str]:
        """Where products ran."""
        return {value.device for _, value in self._known.values() if isinstance(value, Operator)}

    @property
    def fallbacks(self) -> set[str]:
        """What ran on the CPU though CUDA was chosen."""
        operators = [v for _, v in self._known.values() if isinstance(v, Operator)]
        return {told for operator in operators for told in operator.fallbacks}

    def let_go(self) -> None:
        """Drop all operators, with their sessions and copies of weights; they are made anew."""
        found = [key for key, (_, value) in self._known.items() if isinstance(value, Operator)]
        for key in found:
            del self._known[key]

    def forget(self) -> None:
        """Drop all that is known: who goes through large maps one by one keeps none."""
        self._known.clear()

    def keep(self, a: LinearMap, what: str, value: Any) -> None:
        """What `once` would compute, computed elsewhere."""
        self._known[id(a), what] = (a, value)

    def knows(self, a: LinearMap, what: str) -> bool:
        """Whether `once` has computed this already."""
        return (id(a), what) in self._known

    def single(self, a: LinearMap) -> Operator:
        """The map in float32, for estimates."""
        return self.once(
            a, "single", lambda: Operator(a, self.lowerings, np.float32, provider=self.provider)
        )

    def double(self, a: LinearMap) -> Operator:
        """The map in float64, for proofs (if `fits`)."""
        return self.once(a, "double", lambda: Operator(a, self.lowerings, np.float64))

    def fits(self, a: LinearMap) -> bool:
        """Whether a float64 product with one vector stays within memory."""
        return _widest(a) <= _MEMORY

    def modulus(self, a: LinearMap) -> Operator:
        """|A| in float64 (of a composed map: the product of moduli)."""
        return self.once(
            a, "modulus", lambda: Operator(a, self.lowerings, np.float64, modulus=True)
        )

    def matrix(self, a: Matrix) -> Enclosure:
        """‖A‖₂ of a matrix, its coefficients' error included."""
        return self.once(
            a, "norm", lambda: dense_norm(a.blocks, self.largest).widened(coefficient_error(a))
        )

    @property
    def largest(self) -> int:
        """The order up to which a float64 Gram, and what makes it, stays within memory."""
        return math.isqrt(max(0, self.memory - _CHUNKS) // 8)

    def torus(self, a: Convolution) -> TorusBound | None:
        """Upper bound of ‖Â‖₂ for the stored kernel."""
        return self.once(a, "torus", lambda: torus_bound(a, self.effort()))

    def sharpest_torus(self, a: Convolution, known: Callable[[], float]) -> TorusBound | None:
        """The same, if `sharp` until it is within tolerance of `known()` ≤ ‖A‖₂, or for long."""
        grid = self.once(a, "grid", lambda: None)
        effort = self.effort(known=known, columns=_COLUMNS if self.sharp else 0, grid=grid)
        return self.once(a, "sharpest torus", lambda: torus_bound(a, effort))

    def effort(self, **options: Any) -> Effort:
        """What a torus may take here."""
        effort = Effort(self.tolerance, entries=max(0, self.memory - _CHUNKS) // 8)
        return replace(effort, **options)

    def one_image(self, a: Convolution) -> Convolution:
        """A convolution without its batch, I ⊗ A: of the same norm."""
        return a if a.batch == 1 else self.once(a, "one image", lambda: replace(a, batch=1))

    def materialised(self, a: LinearMap) -> Materialised | None:
        """The map written out, or None where that is too large or overflows."""
        short = min(a.rows, a.columns)
        if short > min(_SHORT, self.largest) or a.rows * a.columns > _ENTRIES:
            return None
        if isinstance(a, Convolution) and short > _PLANE and min(torus_shape(a)) >= _WIDE:
            return None
        return self.written(a)

    def written(self, a: LinearMap) -> Materialised | None:
        """The map written out however large it is: who asks has seen to that."""
        return self.once(a, "materialised", lambda: self._materialise(a))

    def dense(self, a: LinearMap) -> Enclosure | None:
        """‖A‖₂ from the written-out map, or None where that is too large."""
        written = self.materialised(a)
        if written is None:
            return None
        return self.once(
            a, "dense", lambda: dense_norm(written.matrix[None]).widened(written.error)
        )

    def _materialise(self, a: LinearMap) -> Materialised | None:
        operator, tall = self.double(a), a.columns <= a.rows
        n = min(a.rows, a.columns)
        step = max(1, _BATCH // max(1, _widest(a)))
        parts = []
        for i in range(0, n, step):
            basis = np.eye(min(step, n - i), n, i)
            parts.append(operator.matvec(basis) if tall else operator.rmatvec(basis))
        matrix = np.concatenate(parts)
        relative, absolute = product_error(a)
        error = add_up(relative, absolute, coefficient_error(a))
        if not (np.all(np.isfinite(matrix)) and math.isfinite(error)):
            return None
        return Materialised(matrix.T if tall else matrix, error)
