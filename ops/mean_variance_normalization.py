"""MeanVarianceNormalization: (x − μ)/(√v + 10⁻⁹) over `axes`.

The standard deviation gets the epsilon of the specification's function body, 10⁻⁹ in float32,
added *outside* the root. So the gain for p = 2 is 1/(√v_min + 10⁻⁹), 10⁹ where constant groups
are in the domain: finite, attained, and of use only on a box that keeps away from them. p = 1
and ∞ in `families/normalization.py`, with the proofs.

Source: ONNX operator specification, MeanVarianceNormalization (function body); derived.
"""

import numpy as np

from onnxlip.ops.families.axis_groups import along
from onnxlip.ops.families.normalization import Normalization, normalization
from onnxlip.rules import Node, Rule, example, variable


def _describe(node: Node) -> Normalization:
    axes = node.attribute("axes") or (0, 2, 3)
    return Normalization(
        along(node.x.shape, *axes),
        scale=np.ones(()),
        bias=np.zeros(()),
        epsilon=float(np.float32(1e-9)),
        root=False,
    )


RULES = (
    Rule(
        "MeanVarianceNormalization",
        normalization(_describe),
        source="ONNX MeanVarianceNormalization, function body; derived",
        examples=(
            example(variable(2, 3, 2, 2)),
            example(variable(3, 5), axes=[1]),
            example(variable(2, 3, 4, low=-1, high=1), axes=[-1, 0]),
        ),
    ),
)
