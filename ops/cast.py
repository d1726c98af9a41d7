"""Cast and CastLike between floating types: the identity on real numbers, norm 1 for every p.

Bounds speak of the real function that the network stands for; the rounding of its own
arithmetic (float16 included) is no part of it. A cast to integers, booleans or 8-bit floats is
piecewise constant. So is one from them: what depends on the input and is an integer is a step
function of it (the index that TopK gives, a comparison).

Source: ONNX operator specification, Cast and CastLike.
"""

from collections.abc import Sequence

import numpy as np

from onnxlip.linear import LinearMap, identity, selection
from onnxlip.rules import Affine, Fixed, Node, Refusal, Rule, constant, example, variable
from onnxlip.univariate import Expression

FLOAT, DOUBLE = 1, 11  # of TensorProto.DataType
TYPES = (FLOAT, 10, DOUBLE, 16)  # float16 and bfloat16 as well
NAMES = ("float16", "bfloat16", "float32", "float64")

_STEPS = Refusal(
    "it casts to or from integers, booleans or 8-bit floats, so it is piecewise constant: not "
    "continuous, so no finite Lipschitz constant; cut the network before it (--output)"
)


def _floating(node: Node, position: int) -> bool:
    return node.value(position).dtype.name in NAMES


def _linear(node: Node, i: int, o: int) -> LinearMap:
    value = node.value(i)
    if i == 0:
        return identity(value.size)
    return selection(np.full(node.y.size, -1), value.size)  # CastLike reads but the type of it


def _between_floats(node: Node) -> bool:
    return _floating(node, 0) and node.attribute("to") in TYPES


def _itself(node: Node, operands: Sequence[Expression | None]) -> Expression | None:
    return operands[0] if _between_floats(node) else None


def _only_type(node: Node) -> list[np.ndarray]:
    return [node.constant(0).astype(node.value(1).dtype)]


RULES = (
    Rule("Cast", _STEPS, source="ONNX Cast"),
    Rule(
        "Cast",
        Affine(_linear),
        source="ONNX Cast",
        examples=(
            example(variable(2, 3), to=DOUBLE),
            example(variable(2, 3), to=FLOAT),
            example(variable(), to=DOUBLE),
        ),
        applies=_between_floats,
        algebra=_itself,
    ),
    Rule("CastLike", _STEPS, source="ONNX CastLike"),
    Rule(
        "CastLike",
        Affine(_linear),
        source="ONNX CastLike",
        examples=(
            example(variable(2, 3), constant(0.5, dtype="float64")),
            example(variable(2, 3), variable(2)),
        ),
        applies=lambda node: _floating(node, 0) and _floating(node, 1),
    ),
    Rule(
        "CastLike",
        Fixed(_only_type),
        source="ONNX CastLike: of its second input only the type counts",
        examples=(
            example(constant(shape=(2, 3)), variable(2)),
            example(constant([1, 2]), variable(2)),
        ),
        applies=lambda node: node.variables == (1,),
    ),
)
