"""A linear map between flat vectors, as a value.

Everything that follows from a layer's linearity (its adjoint, its norms, its products on a GPU,
its matrix) is derived from one such value, so a rule states the map once and can not get the
adjoint wrong. A map knows nothing of ONNX: how it is written in ONNX nodes is a `Lowering`.

Coefficients are float64. `ulps` says how far they may be from the true ones: each true
coefficient is the stored one times (1 + δ), |δ| ≤ ulps · 2⁻⁵³. float32 weights are exact: 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from onnxlip.errors import RuleError

__all__ = ["LinearMap", "Product", "Sum", "Transposed", "chained_ulps", "compose"]


def chained_ulps(*errors: float) -> float:
    """`ulps` of a product of coefficients, from the factors' own.

    Π(1 + δ_i) − 1 ≤ e^s − 1 with s = Σ|δ_i|; 1 ppm covers all beyond the first order while
    Σ ulps < 2³².
    """
    total = sum(errors)
    return total if max(errors, default=0.0) == total else total * 1.000001


@dataclass(frozen=True, eq=False)
class LinearMap(ABC):
    """A: ℝ^columns → ℝ^rows."""

    @property
    @abstractmethod
    def rows(self) -> int: ...

    @property
    @abstractmethod
    def columns(self) -> int: ...

    @property
    def ulps(self) -> float:
        """Componentwise relative error of the coefficients, in units of 2⁻⁵³."""
        return 0.0

    @property
    @abstractmethod
    def adjoint(self) -> LinearMap:
        """Aᵀ."""

    @property
    @abstractmethod
    def terms(self) -> int:
        """An upper bound of k in |fl(Ax) − Ax| ≤ γ_k |A||x| for the lowered map and its adjoint:
        the longest chain of roundings that any product or sum goes through."""

    @abstractmethod
    def cap(self) -> float:
        """A cheap upper bound of both ‖|A|‖₁ and ‖|A|‖_∞, hence of ‖A‖_p for every p."""

    def after(self, inner: LinearMap) -> LinearMap | None:
        """One map equal to self ∘ inner, or None where no single one is known."""
        return None

    def before(self, outer: LinearMap) -> LinearMap | None:
        """One map equal to outer ∘ self, or None; asked when `outer.after(self)` knew none."""
        return None

    def __matmul__(self, inner: LinearMap) -> LinearMap:
        return compose(self, inner)

    def __add__(self, other: LinearMap) -> LinearMap:
        mine = self.summands if isinstance(self, Sum) else (self,)
        theirs = other.summands if isinstance(other, Sum) else (other,)
        return Sum(mine + theirs)


@dataclass(frozen=True, eq=False)
class Transposed(LinearMap):
    """The adjoint of a map that has no closed form of its own for it."""

    of: LinearMap

    @property
    def rows(self) -> int:
        return self.of.columns

    @property
    def columns(self) -> int:
        return self.of.rows

    @property
    def ulps(self) -> float:
        return self.of.ulps

    @property
    def adjoint(self) -> LinearMap:
        return self.of

    @property
    def terms(self) -> int:
        return self.of.terms

    def cap(self) -> float:
        return self.of.cap()

    def after(self, inner: LinearMap) -> LinearMap | None:
        # Aᵀ B = (Bᵀ A)ᵀ: whatever can be folded on one side can on the other. An adjoint that
        # is itself Transposed would ask back for the same product.
        mirror = inner.adjoint
        folded = None if isinstance(mirror, Transposed) else mirror.after(self.of)
        folded = folded or self.of.before(mirror)
        return folded.adjoint if folded else None

    def before(self, outer: LinearMap) -> LinearMap | None:
        mirror = outer.adjoint
        folded = self.of.after(mirror)
        if folded is None and not isinstance(mirror, Transposed):
            folded = mirror.before(self.of)
        return folded.adjoint if folded else None


@dataclass(frozen=True, eq=False)
class Product(LinearMap):
    """factors[0] ∘ factors[1] ∘ … (the last one is applied first)."""

    factors: tuple[LinearMap, ...]

    @property
    def rows(self) -> int:
        return self.factors[0].rows

    @property
    def columns(self) -> int:
        return self.factors[-1].columns

    @property
    def ulps(self) -> float:
        return chained_ulps(*(f.ulps for f in self.factors))

    @property
    def adjoint(self) -> LinearMap:
        return Product(tuple(f.adjoint for f in reversed(self.factors)))

    @property
    def terms(self) -> int:
        return sum(f.terms for f in self.factors)

    def cap(self) -> float:
        from onnxlip.rounding import mul_up

        return mul_up(*(f.cap() for f in self.factors))


@dataclass(frozen=True, eq=False)
class Sum(LinearMap):
    """Σ of maps of one shape: branches that meet."""

    summands: tuple[LinearMap, ...]

    def __post_init__(self) -> None:
        if len({(s.rows, s.columns) for s in self.summands}) != 1:
            shapes = [(s.rows, s.columns) for s in self.summands]
            raise RuleError(f"a sum of maps of different shapes: {shapes}")

    @property
    def rows(self) -> int:
        return self.summands[0].rows

    @property
    def columns(self) -> int:
        return self.summands[0].columns

    @property
    def ulps(self) -> float:
        return max(s.ulps for s in self.summands)

    @property
    def adjoint(self) -> LinearMap:
        return Sum(tuple(s.adjoint for s in self.summands))

    @property
    def terms(self) -> int:
        return max(s.terms for s in self.summands) + len(self.summands)

    def cap(self) -> float:
        from onnxlip.rounding import add_up

        return add_up(*(s.cap() for s in self.summands))


def compose(outer: LinearMap, inner: LinearMap) -> LinearMap:
    """outer ∘ inner with neighbours folded into one map wherever they can be.

    Raises RuleError if the inner map's rows are not the outer map's columns.
    """
    if outer.columns != inner.rows:
        raise RuleError(
            f"cannot compose a {outer.rows}×{outer.columns} map with a "
            f"{inner.rows}×{inner.columns} one: a rule gave a map of the wrong shape"
        )
    factors = outer.factors if isinstance(outer, Product) else (outer,)
    for factor in inner.factors if isinstance(inner, Product) else (inner,):
        folded = factors[-1].after(factor) or factor.before(factors[-1])
        if folded is None:
            factors = (*factors, factor)
        else:  # the folded map may now fold with what stands before it
            rest = factors[:-1]
            product = compose(Product(rest), folded) if rest else folded
            factors = product.factors if isinstance(product, Product) else (product,)
    return factors[0] if len(factors) == 1 else Product(factors)
