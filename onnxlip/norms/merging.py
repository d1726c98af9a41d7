"""Several maps as one: what is composed, added or put side by side becomes one kernel or matrix.

‖A B‖ may be far below ‖A‖‖B‖, and ‖A + B‖ below ‖A‖ + ‖B‖, as leading singular vectors seldom
meet; one map has a norm that is known. Cases (`grid`, `kernels` say when they hold):

- Matrix after Matrix along one axis: (I ⊗ V ⊗ I)(I ⊗ W ⊗ I) = I ⊗ VW ⊗ I.
- Convolution after convolution, of which a matrix along the channels, a scaling, a choice of
  channels or a pad is one with one tap: shifts compose, so kernels convolve.
- The adjoint of a convolution with strides 1 is one; with others, (AB)ᵀ = BᵀAᵀ is merged.
- Sums of such maps that read and write the same pixels: a map is linear in its coefficients.
- Side by side: ‖[A_1 … A_m]‖₂² = ‖ΣA_jA_jᵀ‖₂, so A_j may be replaced by any map with that A_jA_jᵀ
  (without a slice R in A R, since RRᵀ = I; with one where that makes it a convolution), and
  all of them by A_j with UA_j = A_j', UᵀU = I. Convolutions of one geometry have inputs in common
  channels.

Norms that factor on their own are left alone: W along the channels and a pool along the pixels are
W ⊗ P, whose norm is exactly ‖W‖‖P‖.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from onnxlip.linear import (
    Convolution,
    LinearMap,
    Matrix,
    Monomial,
    Product,
    Sum,
    Transposed,
    compose,
    identity,
)
from onnxlip.norms.grid import Grid, as_matrix, flipped, on_grid, padded
from onnxlip.norms.kernels import beside, chained, summed
from onnxlip.norms.structure import is_empty, isometry
from onnxlip.norms.workspace import coefficient_error
from onnxlip.rounding import add_up, mul_up, norm_up

__all__ = ["MEMORY", "Merged", "merged", "neighbours", "side_by_side"]

MEMORY = 1 << 26  # float64 numbers that a merged map and its parts may have (512 MiB)


class Merged(NamedTuple):
    """A map known by another: ‖A − linear‖_p ≤ error for p = 1, 2, ∞, what `linear` says of its
    own coefficients' errors not counted."""

    linear: LinearMap
    error: float = 0.0

    @property
    def bound(self) -> float:
        """‖A − B‖_p ≤ bound, B with the coefficients that `linear` stores."""
        return add_up(self.error, coefficient_error(self.linear))

    @property
    def adjoint(self) -> Merged:
        """‖Eᵀ‖_p is ‖E‖_q with 1/p + 1/q = 1."""
        return Merged(self.linear.adjoint, self.error)


def merged(a: LinearMap, memory: int = MEMORY) -> Merged | None:
    """One convolution (or the adjoint of one) or matrix B with ‖A − B‖_p ≤ error for p = 1, 2, ∞,
    its coefficients exact as they stand; None where no single one is known."""
    found = neighbours(a, memory)
    one = found[0].linear
    if len(found) > 1 or is_empty(a):
        return None
    if isinstance(one, Transposed) and isinstance(one.of, Convolution):
        return Merged(Transposed(replace(one.of, relative=0.0)), found[0].bound)
    if not isinstance(one, (Convolution, Matrix)):
        return None
    return Merged(replace(one, relative=0.0), found[0].bound)


def neighbours(a: LinearMap, memory: int = MEMORY) -> tuple[Merged, ...]:
    """The factors of a map with those merged that stand side by side and can be; a map that is no
    product is one factor, itself if nothing is known of it."""
    if isinstance(a, Sum):
        found = _sum(a, memory)
        if found is None and any(
            isinstance(f, Transposed) for s in a.summands for f in _factors(s)
        ):
            mirrored = _sum(a.adjoint, memory)
            found = None if mirrored is None else mirrored.adjoint
        return (found or Merged(a),)
    if not isinstance(a, Product) or is_empty(a):
        return (Merged(a),)
    parts: list[Merged] = []
    for factor in _factors(a):
        (new,) = neighbours(factor, memory)
        while parts and (pair := _pair(parts[-1], new, memory)) is not None:
            parts.pop()
            new = pair
        parts.append(new)
    return tuple(parts)


def _pair(outer: Merged, inner: Merged, memory: int) -> Merged | None:
    """outer ∘ inner as one map; by its adjoint if that is where strides go down."""
    made = _chained(outer, inner, memory)
    if made is not None or not any(isinstance(m.linear, Transposed) for m in (outer, inner)):
        return made
    made = _chained(inner.adjoint, outer.adjoint, memory)
    return None if made is None else made.adjoint


def _turned(a: LinearMap) -> LinearMap:
    return (flipped(a) or a) if isinstance(a, Transposed) else a


def _chained(outer: Merged, inner: Merged, memory: int) -> Merged | None:
    """The same on the pixels between them."""
    a, b = _turned(outer.linear), _turned(inner.linear)
    second: Convolution | None
    if isinstance(a, Convolution):
        first = on_grid(a, Grid.of(a))
        if isinstance(b, Convolution):
            second = on_grid(b, Grid.of(b))
        elif isinstance(b, Monomial):
            second = padded(b, a.batch, a.in_spatial)
        else:
            second = on_grid(b, Grid.still(a.batch, a.in_spatial))
    elif isinstance(b, Convolution):
        first = on_grid(a, Grid.still(b.batch, b.out_spatial))
        second = on_grid(b, Grid.of(b))
    else:
        grid = _grid((a, b))
        first = None if grid is None else on_grid(a, grid)
        second = None if grid is None else on_grid(b, grid)
    if first is None or second is None:
        return None
    return _after((first, outer), (second, inner), memory)


def _after(
    outer: tuple[Convolution, Merged], inner: tuple[Convolution, Merged], memory: int
) -> Merged | None:
    """(A + E)(B + F) = AB + E(B + F) + AF for the stored convolutions A and B."""
    found = chained(outer[0], inner[0], memory)
    if found is None:
        return None
    conv, rounding = found
    e, f = outer[1].bound, inner[1].bound
    caps = outer[0].cap(), inner[0].cap()
    error = add_up(rounding, mul_up(e, add_up(caps[1], f)), mul_up(caps[0], f))
    return Merged(as_matrix(conv), error)


def _sum(a: LinearMap, memory: int) -> Merged | None:
    assert isinstance(a, Sum)
    branches = [neighbours(s, memory) for s in a.summands]
    grid = _grid([parts[0].linear for parts in branches if len(parts) == 1])
    if grid is None or is_empty(a):
        return None
    convs, errors = [], []
    for parts in branches:
        placed = _placed(parts, grid, memory)
        if placed is None:
            return None
        convs.append(placed[0])
        errors.append(placed[1])
    found = summed(convs, memory)
    return None if found is None else Merged(as_matrix(found[0]), add_up(found[1], *errors))


def _grid(maps: Sequence[LinearMap]) -> Grid | None:
    """That of the first convolution among these maps, or else of the first matrix."""
    turned = [_turned(a) for a in maps]
    for kind in (Convolution, Matrix):
        for a in turned:
            if isinstance(a, kind):
                return Grid.of(a)
    return None


def _placed(parts: Sequence[Merged], grid: Grid, memory: int) -> tuple[Convolution, float] | None:
    """A product as a convolution on a grid: its last factor may be a strided slice."""
    inner = on_grid(parts[-1].linear, grid)
    if inner is None:
        return None
    made = Merged(inner, parts[-1].bound)
    for part in reversed(parts[:-1]):
        outer = on_grid(part.linear, Grid.still(grid.batch, grid.out_spatial))
        found = None if outer is None else _after((outer, part), (inner, made), memory)
        if outer is None or found is None:
            return None
        inner = on_grid(found.linear, grid)
        if inner is None:
            return None
        made = Merged(inner, found.error)
    return inner, made.error


def side_by_side(maps: Sequence[LinearMap], memory: int = MEMORY) -> Merged | None:
    """One convolution or matrix B with |‖[A_1 … A_m]‖₂ − ‖B‖₂| ≤ error, or None."""
    if any(map(is_empty, maps)):
        return None
    alike = [_alike(a) for a in _without_isometry(maps)]
    branches = [neighbours(a, memory) for a in alike]
    if any(len(parts) > 1 for parts in branches):
        return None
    parts = [parts[0] for parts in branches]
    grid = _grid([part.linear for part in parts])
    if grid is None:
        return None
    convs = []
    for part in parts:
        conv = on_grid(part.linear, grid) or _lifted(part.linear, grid)
        if conv is None:
            return None
        convs.append(conv)
    made = beside(convs, memory)
    if made is None:
        return None
    return Merged(as_matrix(made), norm_up((part.bound for part in parts), 2))


def _lifted(a: LinearMap, grid: Grid) -> Convolution | None:
    """A map of the output's pixels, after the slice that picks pixel s·p for each p."""
    conv = on_grid(a, Grid.still(grid.batch, grid.out_spatial))
    if conv is None or not isinstance(as_matrix(conv), Matrix):
        return None
    reach = zip(grid.out_spatial, grid.strides, grid.in_spatial, strict=True)
    if any((o - 1) * s >= h for o, s, h in reach):
        return None
    return replace(conv, in_spatial=grid.in_spatial, strides=grid.strides)


def _factors(a: LinearMap) -> tuple[LinearMap, ...]:
    return sum(map(_factors, a.factors), ()) if isinstance(a, Product) else (a,)


def _without_isometry(maps: Sequence[LinearMap]) -> list[LinearMap]:
    """The maps without the isometry that comes last in all of them: the same permutation, say."""
    heads = [_factors(a)[0] for a in maps]
    first = heads[0]
    if not isinstance(first, Monomial) or first.is_identity or isometry(first) != (1.0, 1.0):
        return list(maps)
    if not all(isinstance(a, Monomial) and _equal(a, first) for a in heads):
        return list(maps)
    rest = [_factors(a)[1:] for a in maps]
    return [Product(r) if len(r) > 1 else r[0] if r else identity(first.columns) for r in rest]


def _equal(a: Monomial, b: Monomial) -> bool:
    if a.relative or b.relative or a.n != b.n or (a.index is None) != (b.index is None):
        return False
    if a.index is not None and b.index is not None and not np.array_equal(a.index, b.index):
        return False
    w = [np.ones(()) if m.weight is None else m.weight for m in (a, b)]
    return a.rows == b.rows and bool(np.all(w[0] == w[1]))


def _alike(a: LinearMap) -> LinearMap:
    """A map with the same AAᵀ: an index map that reads no entry twice has JJᵀ = diag(w²)."""
    factors = _factors(a)
    last = factors[-1]
    if not isinstance(last, Monomial) or last.index is None or not last.injective:
        return a
    weight = last.dense_weight()
    square = (
        identity(last.rows)
        if np.all(weight == 1) and not last.relative
        else Monomial(last.rows, None, weight, last.relative)
    )
    return compose(Product(factors[:-1]), square) if len(factors) > 1 else square
