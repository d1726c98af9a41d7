"""GlobalAveragePool: the mean of each channel, norm 1/√k over k pixels.

Source: ONNX operator specification, GlobalAveragePool.
"""

from onnxlip.linear import LinearMap
from onnxlip.ops.families.axis_sums import summed
from onnxlip.ops.families.coefficients import reciprocal
from onnxlip.rules import Affine, Node, Rule, example, variable


def _linear(node: Node, i: int, o: int) -> LinearMap:
    return summed(node.x.shape, range(2, len(node.x.shape)), reciprocal)


RULES = (
    Rule(
        "GlobalAveragePool",
        Affine(_linear),
        source="ONNX GlobalAveragePool",
        examples=(
            example(variable(2, 3, 4, 5)),
            example(variable(1, 2, 7)),
            example(variable(1, 2, 2, 3, 2)),
        ),
    ),
)
