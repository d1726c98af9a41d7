"""Monomial y_i = w_i x_{π(i)} as Mul and Gather; its adjoint as Mul and a scatter that adds.

An index of −1 reads nothing: entry 0 is gathered there and multiplied by 0.
"""

import numpy as np

from onnxlip.emitter import Emitter
from onnxlip.linear import Monomial
from onnxlip.lowering import Lowering


def _weight(e: Emitter, a: Monomial) -> str | None:
    if a.index is not None and (a.index < 0).any():
        ones = np.ones(a.rows) if a.weight is None else np.broadcast_to(a.weight, (a.rows,))
        return e.weight(np.where(a.index >= 0, ones, 0.0))
    return None if a.weight is None else e.weight(a.weight)


def forward(e: Emitter, a: Monomial, x: str) -> str:
    weight = _weight(e, a)
    y = x
    if a.index is not None:
        y = e.Gather(x, e.constant(np.maximum(a.index, 0)), axis=1)
    return y if weight is None else str(e.Mul(y, weight))


def adjoint(e: Emitter, a: Monomial, y: str) -> str:
    weight = _weight(e, a)
    if weight is not None:
        y = e.Mul(y, weight)
    if a.index is None:
        return y
    batch = e.Slice(e.Shape(y), e.constant([0]), e.constant([1]))
    zero = e.Mul(
        e.Slice(y, e.constant([0]), e.constant([1]), e.constant([1])), e.weight(np.zeros(1))
    )
    zeros = e.Expand(zero, e.Concat(batch, e.constant([a.n]), axis=0))
    where = e.constant(np.maximum(a.index, 0)[None])
    where = e.Expand(where, e.Concat(batch, e.constant([a.rows]), axis=0))
    return str(e.ScatterElements(zeros, where, y, axis=1, reduction="add"))


LOWERING = Lowering(Monomial, forward, adjoint)
