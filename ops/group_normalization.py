"""GroupNormalization: channels in `num_groups` groups, each centred and scaled over its pixels.

Gain max|γ|/√(v_min + ε) for p = 2, globally max|γ|/√ε; p = 1 and ∞ in
`families/normalization.py`, with the proofs. γ and β have an entry per channel (version 21); the
withdrawn version 18 had one per group, which is read too.

Source: ONNX operator specification, GroupNormalization; Wu & He 2018; derived.
"""

import math

import numpy as np
import numpy.typing as npt

from onnxlip.ops.families.attributes import single
from onnxlip.ops.families.axis_groups import Groups
from onnxlip.ops.families.normalization import AFFINE_REMEDY, Normalization, normalization
from onnxlip.rules import Node, Refusal, Rule, constant, example, only_variable, variable


def _describe(node: Node) -> Normalization:
    images, channels, *spatial = node.x.shape
    count = int(node.attribute("num_groups"))
    view = (images, count, channels // count, math.prod(spatial))

    def per_channel(position: int) -> npt.NDArray[np.float64]:
        values = node.floats(position)
        return values.reshape(count, values.size // count, 1)

    return Normalization(
        Groups(node.x.shape, view, axes=(2, 3)),
        scale=per_channel(1),
        bias=per_channel(2),
        epsilon=single(node, "epsilon", 1e-5),
    )


RULES = (
    Rule("GroupNormalization", Refusal(AFFINE_REMEDY), source="ONNX GroupNormalization", since=18),
    Rule(
        "GroupNormalization",
        normalization(_describe),
        source="ONNX GroupNormalization; Wu & He 2018; derived",
        examples=(
            example(variable(2, 4, 3), constant(shape=(4,)), constant(shape=(4,)), num_groups=2),
            example(
                variable(1, 6, 2, 2),
                constant(shape=(6,), seed=1),
                constant(shape=(6,)),
                num_groups=3,
                epsilon=0.1,
            ),
            example(variable(2, 3, 2), constant(shape=(3,)), constant(shape=(3,)), num_groups=1),
            example(variable(1, 2, 4), constant([1.0, 5.0]), constant([0.0, 0.0]), num_groups=2),
            example(
                variable(1, 4, 2, low=-1, high=1),
                constant([1.0, -1.0, 2.0, 0.0]),
                constant(shape=(4,)),
                num_groups=2,
            ),
        ),
        since=18,
        applies=only_variable(0),
    ),
)
