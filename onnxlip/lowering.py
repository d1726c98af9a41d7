"""How a linear map is written as ONNX nodes: the return way of the rules.

A rule turns an op of a network into a `LinearMap`; a `Lowering` turns a kind of linear map into
ops of onnxruntime. Both live in `onnxlip.ops`, the only place that speaks ONNX; the engine
between them knows only maps. Vectors are tensors of shape (batch, n), float32 or float64.

    forward(emitter, map, x) → name of A x       x: (batch, columns)
    adjoint(emitter, map, y) → name of Aᵀ y      y: (batch, rows)

With `emitter.modulus` the weights are |w|, and forward must give |A| x (a lowering passes every
signed number through `emitter.weight`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from onnxlip.emitter import Emitter
from onnxlip.errors import RuleError
from onnxlip.linear import LinearMap, Product, Sum, Transposed

__all__ = ["Lowering", "Lowerings"]


@dataclass(frozen=True)
class Lowering:
    """One kind of map and the nodes that apply it."""

    kind: type[LinearMap]
    forward: Callable[[Emitter, Any, str], str]
    adjoint: Callable[[Emitter, Any, str], str]


class Lowerings:
    """All known lowerings; `forward` and `adjoint` walk a composed map.

    add: emits the sum of several vectors.
    """

    def __init__(
        self, lowerings: tuple[Lowering, ...], add: Callable[[Emitter, list[str]], str]
    ) -> None:
        self._by_kind = {low.kind: low for low in lowerings}
        self._add = add

    def extended(self, more: tuple[Lowering, ...]) -> Lowerings:
        """These and more; later ones win."""
        return Lowerings((*self._by_kind.values(), *more), self._add)

    def _of(self, kind: type[LinearMap]) -> Lowering:
        for ancestor in kind.__mro__:
            if ancestor in self._by_kind:
                return self._by_kind[ancestor]
        raise RuleError(f"no lowering is known for the linear map {kind.__name__}")

    def forward(self, e: Emitter, a: LinearMap, x: str) -> str:
        """Emit A x."""
        if isinstance(a, Product):
            for factor in reversed(a.factors):
                x = self.forward(e, factor, x)
            return x
        if isinstance(a, Transposed):
            return self.adjoint(e, a.of, x)
        if isinstance(a, Sum):
            return self._add(e, [self.forward(e, s, x) for s in a.summands])
        return self._of(type(a)).forward(e, a, x)

    def adjoint(self, e: Emitter, a: LinearMap, y: str) -> str:
        """Emit Aᵀ y."""
        if isinstance(a, Product):
            for factor in a.factors:
                y = self.adjoint(e, factor, y)
            return y
        if isinstance(a, Transposed):
            return self.forward(e, a.of, y)
        if isinstance(a, Sum):
            return self._add(e, [self.adjoint(e, s, y) for s in a.summands])
        return self._of(type(a)).adjoint(e, a, y)
