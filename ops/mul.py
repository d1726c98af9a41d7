"""Mul by a constant: y = c ∘ x, a diagonal map after a repetition where c enlarges x.

The product of two variables is not affine: see `products`.

Source: ONNX operator specification, Mul.
"""

from collections.abc import Sequence

from onnxlip.linear import LinearMap
from onnxlip.ops.families.broadcast import scaled
from onnxlip.ops.families.coefficients import coefficients
from onnxlip.rules import Affine, Node, Rule, constant, example, variable
from onnxlip.univariate import MAX_TERMS, Expression


def _linear(node: Node, i: int, o: int) -> LinearMap:
    return scaled(node, i, coefficients(node, 1 - i))


def _product(node: Node, operands: Sequence[Expression | None]) -> Expression | None:
    first, second = operands
    if first is None or second is None:
        return None
    product = first * second
    return product if len(product.terms) <= MAX_TERMS else None


RULES = (
    Rule(
        "Mul",
        Affine(_linear),
        source="ONNX Mul",
        since=7,
        examples=(
            example(variable(2, 3), constant(shape=(3,))),
            example(variable(2, 3), constant(-0.7)),
            example(constant(shape=(2, 1, 1)), variable(3, 1)),
            example(variable(3), constant(shape=(2, 3))),
            example(variable(2, 2), constant([[0.0, 1.0], [-1.0, 0.0]])),
        ),
        applies=lambda node: len(node.variables) == 1,
        algebra=_product,
    ),
)
