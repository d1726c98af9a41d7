"""Greater, GreaterOrEqual, Less, LessOrEqual: steps, not continuous.

By themselves they have no bound. Their algebra says which predicate they make, so that a Where
that pieces one smooth function together from two formulas (families/stable_softplus.py) is
recognised.

Source: ONNX operator specification.
"""

from collections.abc import Callable, Sequence

from onnxlip.ops.families.stable_softplus import positive
from onnxlip.rules import Node, Refusal, Rule
from onnxlip.univariate import Expression

_STEP = Refusal(
    "it jumps between false and true, so it is not Lipschitz; write the function with Max, Min, "
    "Clip or Abs, or cut the network before it (--output)"
)

Algebra = Callable[[Node, Sequence[Expression | None]], Expression | None]


def _predicate(sign: int) -> Algebra:
    def algebra(node: Node, operands: Sequence[Expression | None]) -> Expression | None:
        a, b = operands
        if a is None or b is None:
            return None
        return positive(a - b if sign > 0 else b - a)

    return algebra


RULES = tuple(
    Rule(op_type, _STEP, source=f"ONNX {op_type}", algebra=_predicate(sign))
    for op_type, sign in (
        ("Greater", 1),
        ("GreaterOrEqual", 1),
        ("Less", -1),
        ("LessOrEqual", -1),
    )
)
