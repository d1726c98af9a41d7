"""Dropout: the identity at inference, which is what an exported network does.

The optional mask (output 1) is then constant. In training mode the output is random, not a
function of the input, and no bound is claimed.

Source: ONNX operator specification, Dropout.
"""

from collections.abc import Sequence

import numpy as np

from onnxlip.ops.families.index_map import index_map
from onnxlip.rules import Node, Refusal, Rule, constant, example, variable
from onnxlip.univariate import Expression


def _inference(node: Node) -> bool:
    if not set(node.variables) <= {0, 1}:  # the ratio plays no part at inference
        return False
    return not (node.has(2) and bool(np.any(node.constant(2))))


def _itself(node: Node, operands: Sequence[Expression | None]) -> Expression | None:
    return operands[0] if _inference(node) else None


RULES = (
    Rule(
        "Dropout",
        Refusal(
            "it is in training mode, where its output is random and no function of the input; "
            "export the network for inference (training_mode = false)"
        ),
        source="ONNX Dropout",
    ),
    Rule(
        "Dropout",
        index_map(lambda node, x, o: x if o == 0 else np.full_like(x, -1)),
        source="ONNX Dropout",
        examples=(
            example(variable(2, 3)),
            example(variable(2, 3), constant(0.5, dtype="float32"), outputs=2),
            example(
                variable(4),
                constant(0.9, dtype="float32"),
                constant(False, dtype="bool"),
                seed=3,
            ),
        ),
        applies=_inference,
        algebra=_itself,
    ),
)
