"""Where: from one branch where the condition holds, from the other elsewhere.

With a constant condition each variable branch is a masked broadcast: an entry that is read m
times has norm m^(1/p). With a condition that depends on the input the output jumps where the
condition flips, unless the branches agree there, which only recognition of the whole function
can tell: Softplus written with a threshold is one (families/stable_softplus.py).

Source: ONNX operator specification, Where.
"""

import numpy as np

from onnxlip.linear import LinearMap, selection
from onnxlip.ops.families import stable_softplus
from onnxlip.rules import Affine, Node, Refusal, Rule, constant, example, only_variable, variable


def _linear(node: Node, i: int, o: int) -> LinearMap:
    value = node.value(i)
    condition = node.constant(0).astype(bool)
    shape = np.broadcast_shapes(*(node.value(k).shape for k in range(3)))
    places = np.broadcast_to(np.arange(value.size).reshape(value.shape), shape)
    return selection(np.where(condition if i == 1 else ~condition, places, -1), value.size)


_MASK = constant([[True, False, True], [False, False, True]], dtype="bool")

RULES = (
    Rule(
        "Where",
        Refusal(
            "its condition depends on the input, so its output jumps where the condition flips; "
            "write the function with Max, Min, Clip or Abs, or cut the network before it (--output)"
        ),
        source="ONNX Where",
        algebra=stable_softplus.where,
    ),
    Rule(
        "Where",
        Affine(_linear),
        source="ONNX Where",
        examples=(
            example(_MASK, variable(2, 3), constant(-1.5)),
            example(_MASK, variable(3), variable(4, 1, 1)),
            example(constant(True, dtype="bool"), variable(2, 1), variable(3)),
            example(_MASK, constant(shape=(2, 3)), variable()),
        ),
        applies=only_variable(1, 2),
        algebra=stable_softplus.where,
    ),
)
