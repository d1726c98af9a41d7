"""Add, Sub, Sum, Mean: sums of inputs that are broadcast to one shape.

As a map of one input: ± a repetition, times 1/n for the mean of n. Constants are biases.

Source: ONNX operator specification, Add, Sub, Sum, Mean.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import reduce
from operator import add

import numpy as np

from onnxlip.linear import LinearMap
from onnxlip.ops.families.broadcast import repeated, scaled
from onnxlip.ops.families.coefficients import reciprocal
from onnxlip.rules import Affine, Node, Rule, constant, example, variable
from onnxlip.univariate import MAX_TERMS, Expression


def _difference(node: Node, i: int, o: int) -> LinearMap:
    return repeated(node, i) if i == 0 else scaled(node, i, np.array(-1.0))


def _mean(node: Node, i: int, o: int) -> LinearMap:
    weight, ulps = reciprocal(len(node.inputs))
    return scaled(node, i, np.array(weight), ulps)


def _sum(node: Node, operands: Sequence[Expression | None]) -> Expression | None:
    known = [e for e in operands if e is not None]
    if len(known) < len(operands):
        return None
    total = reduce(add, known)
    return total if len(total.terms) <= MAX_TERMS else None


def _negated_second(node: Node, operands: Sequence[Expression | None]) -> Expression | None:
    first, second = operands
    return None if second is None else _sum(node, (first, -second))


def _average(node: Node, operands: Sequence[Expression | None]) -> Expression | None:
    total = _sum(node, operands)
    return total and total * Expression.number(Fraction(1, len(operands)))


RULES = (
    Rule(
        "Add",
        Affine(lambda node, i, o: repeated(node, i)),
        source="ONNX Add",
        since=7,
        examples=(
            example(variable(2, 3), constant(shape=(3,))),
            example(variable(3), constant(shape=(2, 3))),
            example(constant(shape=(2, 1, 1)), variable(3, 1)),
            example(variable(2, 3), variable(2, 3)),
            example(variable(2, 1, 3), variable(4, 1)),
            example(variable(), variable(2, 2)),
        ),
        algebra=_sum,
    ),
    Rule(
        "Sub",
        Affine(_difference),
        source="ONNX Sub",
        since=7,
        examples=(
            example(variable(2, 3), constant(shape=(3,))),
            example(constant(1.0), variable(2, 3)),
            example(constant(shape=(2, 1, 1)), variable(3, 1)),
            example(variable(2, 3), variable(2, 3)),
            example(variable(2, 1, 3), variable(4, 1)),
        ),
        algebra=_negated_second,
    ),
    Rule(
        "Sum",
        Affine(lambda node, i, o: repeated(node, i)),
        source="ONNX Sum",
        since=8,
        examples=(
            example(variable(2, 3)),
            example(variable(2, 3), constant(shape=(3,)), variable(2, 1)),
        ),
        algebra=_sum,
    ),
    Rule(
        "Mean",
        Affine(_mean),
        source="ONNX Mean",
        since=8,
        examples=(
            example(variable(2, 3)),
            example(variable(2, 3), variable(2, 3)),
            example(variable(2, 3), constant(shape=(3,)), variable(2, 1)),
        ),
        algebra=_average,
    ),
)
