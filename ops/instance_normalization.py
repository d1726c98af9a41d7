"""InstanceNormalization: each channel of each image centred and scaled by its own statistics.

A group is one channel's pixels and has one γ, so for p = 2 the gain is max_c |γ_c|/√(v_min + ε),
globally max|γ|/√ε, which is attained; p = 1 and ∞ in `families/normalization.py`, with the proofs.

Source: ONNX operator specification, InstanceNormalization; Ulyanov et al. 2016; derived.
"""

import numpy as np
import numpy.typing as npt

from onnxlip.ops.families.attributes import single
from onnxlip.ops.families.axis_groups import along
from onnxlip.ops.families.normalization import AFFINE_REMEDY, Normalization, normalization
from onnxlip.rules import Node, Refusal, Rule, constant, example, only_variable, variable


def _describe(node: Node) -> Normalization:
    rank = len(node.x.shape)

    def per_channel(position: int) -> npt.NDArray[np.float64]:
        return node.floats(position).reshape(-1, *(1,) * (rank - 2))

    return Normalization(
        along(node.x.shape, *range(2, rank)),
        scale=per_channel(1),
        bias=per_channel(2),
        epsilon=single(node, "epsilon", 1e-5),
    )


RULES = (
    Rule("InstanceNormalization", Refusal(AFFINE_REMEDY), source="ONNX InstanceNormalization"),
    Rule(
        "InstanceNormalization",
        normalization(_describe),
        source="ONNX InstanceNormalization; Ulyanov et al. 2016; derived",
        examples=(
            example(variable(2, 3, 4), constant(shape=(3,)), constant(shape=(3,))),
            example(variable(1, 2, 3, 2), constant([1.0, -3.0]), constant([0.0, 1.0]), epsilon=0.1),
            example(variable(2, 1, 2), constant([2.0]), constant([0.0]), epsilon=1.0),
            example(variable(1, 2, 5, low=0, high=2), constant([1.0, 0.0]), constant([0.5, 1.0])),
        ),
        applies=only_variable(0),
    ),
)
