"""Reshape, Flatten, Squeeze, Unsqueeze, Identity: the flat vector stays as it is.

A tensor is read in row-major order before and after, so the map is the identity: norm 1 for
every p. What shape or axes the op is given does not matter (they must be constant).

Source: ONNX operator specification.
"""

from collections.abc import Callable, Sequence

from onnxlip.ops.families.index_map import index_map
from onnxlip.rules import Example, Node, Rule, constant, example, only_variable, variable
from onnxlip.univariate import Expression

Algebra = Callable[[Node, Sequence[Expression | None]], Expression | None]


def _identity(op_type: str, *examples: Example, algebra: Algebra | None = None) -> Rule:
    form = index_map(lambda node, x, o: x)
    return Rule(
        op_type, form, f"ONNX {op_type}", examples, applies=only_variable(0), algebra=algebra
    )


def _itself(node: Node, operands: Sequence[Expression | None]) -> Expression | None:
    return operands[0]


RULES = (
    _identity(
        "Reshape",
        example(variable(2, 3, 4), constant([4, -1])),
        example(variable(2, 3, 4), constant([0, 12])),
        example(variable(2, 0, 4), constant([0, 8, 0]), allowzero=1),
        example(variable(1), constant([], dtype="int64")),
    ),
    _identity("Flatten", example(variable(2, 3, 4)), example(variable(2, 3, 4), axis=-1)),
    _identity(
        "Squeeze",
        example(variable(1, 3, 1, 2), constant([0, -2])),
        example(variable(1, 3, 1)),
    ),
    _identity("Unsqueeze", example(variable(3, 2), constant([0, -1]))),
    _identity("Identity", example(variable(2, 3)), example(variable()), algebra=_itself),
)
