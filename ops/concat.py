"""Concat: inputs one after another along an axis.

Each variable input is embedded at its offset, zeros elsewhere: norm 1 for every p. All of them
moved together give a permutation, of norm 1 again: ‖δy‖_p is the p-norm of all ‖δxᵢ‖_p. Constant
inputs are an offset.

Source: ONNX operator specification, Concat.
"""

import numpy as np

from onnxlip.linear import LinearMap, selection
from onnxlip.rules import Affine, Node, Rule, constant, example, variable


def _linear(node: Node, i: int, o: int) -> LinearMap:
    size = node.value(i).size
    parts = []
    for k in range(len(node.inputs)):
        value = node.value(k)
        place = np.arange(size) if k == i else np.full(value.size, -1)
        parts.append(place.reshape(value.shape))
    return selection(np.concatenate(parts, int(node.attribute("axis"))), size)


RULES = (
    Rule(
        "Concat",
        Affine(_linear),
        source="ONNX Concat",
        examples=(
            example(variable(2, 3), variable(2, 1), axis=1),
            example(variable(2, 3), constant(shape=(1, 3)), variable(3, 3), axis=-2),
            example(variable(3), axis=0),
            example(variable(2, 0), variable(2, 2), axis=1),
        ),
    ),
)
