"""LayerNormalization: (x − μ)/√(v + ε) over the axes from `axis` on, times γ plus β.

Gain max|γ|/√(v_min + ε) for p = 2, globally max|γ|/√ε; p = 1 and ∞ in
`families/normalization.py`, with the proofs. The optional outputs Mean and InvStdDev have gains of
their own, which count where they are outputs of the node: 2/(3√3 n^½ ε) for InvStdDev and p = 2.
`stash_type` says in which precision a runtime computes, and changes no mathematics.

Source: ONNX operator specification, LayerNormalization; Ba et al. 2016; derived.
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
        bias=node.floats(2, np.zeros(())),
        epsilon=single(node, "epsilon", 1e-5),
    )


RULES = (
    Rule("LayerNormalization", Refusal(AFFINE_REMEDY), source="ONNX LayerNormalization", since=17),
    Rule(
        "LayerNormalization",
        normalization(_describe),
        source="ONNX LayerNormalization; Ba et al. 2016; derived",
        examples=(
            example(variable(2, 6), constant(shape=(6,)), constant(shape=(6,))),
            example(variable(3, 2), constant([1.0, -2.0]), epsilon=0.1),
            example(variable(2, 3, 4), constant(shape=(3, 4)), axis=1, epsilon=1.0),
            example(variable(2, 3, 4), constant(shape=(1, 3, 1)), axis=-2, epsilon=0.01),
            example(variable(2, 3, 5), constant(shape=(2, 1, 5)), constant(shape=(1,))),
            example(variable(3, 8), constant([1.0] * 8), None, outputs=3, epsilon=0.5),
            example(variable(2, 4), constant([1.0] * 4), outputs=2),
            example(variable(3, 1), constant([2.0]), constant([1.0])),
            example(variable(2, 7, low=-1, high=3), constant(shape=(7,)), epsilon=1e-3),
            example(variable(2, 5, low=2, high=3), constant(shape=(5,)), outputs=3, epsilon=0.5),
        ),
        since=17,
        applies=only_variable(0),
    ),
)
