"""RMSNormalization: x/√(mean x² + ε) over the axes from `axis` on, times γ; nothing is centred.

Gain max|γ|/√(q_min + ε) for p = 2, q the mean square, globally max|γ|/√ε, which is attained at
x = 0; p = 1 and ∞ in `families/normalization.py`, with the proofs.

Source: ONNX operator specification, RMSNormalization; Zhang & Sennrich 2019; derived.
"""

import numpy as np

from onnxlip.ops.families.attributes import single
from onnxlip.ops.families.axis_groups import along
from onnxlip.ops.families.normalization import AFFINE_REMEDY, Normalization, normalization
from onnxlip.rules import Node, Refusal, Rule, constant, example, only_variable, variable


def _describe(node: Node) -> Normalization:
    rank = len(node.x.shape)
    axis = int(node.attribute("axis", -1)) % rank
    return Normalization(
        along(node.x.shape, *range(axis, rank)),
        scale=node.floats(1),
        bias=np.zeros(()),
        epsilon=single(node, "epsilon", 1e-5),
        centred=False,
    )


RULES = (
    Rule("RMSNormalization", Refusal(AFFINE_REMEDY), source="ONNX RMSNormalization", since=23),
    Rule(
        "RMSNormalization",
        normalization(_describe),
        source="ONNX RMSNormalization; Zhang & Sennrich 2019; derived",
        examples=(
            example(variable(2, 6), constant(shape=(6,))),
            example(variable(2, 3, 4), constant(shape=(3, 4)), axis=1, epsilon=0.1),
            example(variable(2, 3), constant([-2.0]), epsilon=1.0),
            example(variable(3, 1), constant([2.0]), axis=-1),
            example(variable(2, 4, low=1, high=3), constant(shape=(4,)), epsilon=0.0),
        ),
        since=23,
        applies=only_variable(0),
    ),
)
