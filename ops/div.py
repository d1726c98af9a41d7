"""Div by a constant: y = x / c, a diagonal map with 1/c after a repetition where c enlarges x.

1/c is rounded once. Divisors beyond 2^±1000, whose reciprocals may leave the normal range, are
refused with zeros: their quotients carry no figure. Division by a variable is not affine.

Source: ONNX operator specification, Div.
"""

from collections.abc import Sequence

import numpy as np

from onnxlip.linear import LinearMap
from onnxlip.ops.families.broadcast import scaled
from onnxlip.ops.families.coefficients import coefficients
from onnxlip.ops.families.logistic import reciprocal
from onnxlip.rules import Affine, Node, Refusal, Rule, constant, example, variable
from onnxlip.univariate import MAX_TERMS, Expression


def _divides(node: Node) -> bool:
    """Whether there are quotients by the constant at all."""
    size = np.abs(node.floats(1))
    return bool(np.all((size >= 2.0**-1000) & (size <= 2.0**1000)))


def _floors(node: Node) -> bool:
    """Quotients of integers are rounded, which is not affine."""
    return node.y.dtype.kind in "iu"


def _linear(node: Node, i: int, o: int) -> LinearMap:
    divisor = coefficients(node, 1).astype(np.float64)
    exact = bool(np.all(np.abs(np.frexp(divisor)[0]) == 0.5))
    return scaled(node, 0, 1.0 / divisor, 0.0 if exact else 1.0)


def _quotient(node: Node, operands: Sequence[Expression | None]) -> Expression | None:
    first, second = operands
    inverse = None if second is None else reciprocal(second)
    if first is None or inverse is None:
        return None
    quotient = first * inverse
    return quotient if len(quotient.terms) <= MAX_TERMS else None


RULES = (
    Rule(
        "Div",
        Refusal(
            "it divides by a constant that holds zeros, infinities or NaN, so its outputs are "
            "infinite or undefined there; correct that constant in the model"
        ),
        source="ONNX Div",
        since=7,
        applies=lambda node: node.variables == (0,) and not _divides(node),
    ),
    Rule(
        "Div",
        Affine(_linear),
        source="ONNX Div",
        since=7,
        examples=(
            example(variable(2, 3), constant(shape=(3,), positive=True)),
            example(variable(2, 3), constant(-3.0)),
            example(variable(2, 3), constant(4.0)),
            example(variable(3, 1), constant(shape=(2, 1, 1), positive=True)),
            example(variable(3), constant(shape=(2, 3), positive=True)),
        ),
        applies=lambda node: node.variables == (0,) and _divides(node) and not _floors(node),
        algebra=_quotient,
    ),
)
