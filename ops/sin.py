"""Sin and Cos: slopes in [−1, 1]; on a box, the range of the other one (its negative for Cos).

Source: ONNX operator specification, Sin and Cos.
"""

from onnxlip.ops.families.smooth import Floats
from onnxlip.ops.families.trigonometric import cos_range, sin_range
from onnxlip.rules import Box, Elementwise, Node, Rule, example, variable


def _cos_slopes(node: Node, box: Box) -> tuple[Floats, Floats]:
    low, high = sin_range(box.low, box.high)
    return -high, -low


_EXAMPLES = (
    example(variable(2, 5)),
    example(variable(3, 4, low=-0.5, high=2.0)),
    example(variable(3, 4, low=3.5, high=4.0)),
)

RULES = (
    Rule(
        "Sin",
        Elementwise(
            slopes=lambda node, box: cos_range(box.low, box.high),
            image=lambda node, box: Box.of(*sin_range(box.low, box.high)),
        ),
        source="ONNX Sin",
        examples=_EXAMPLES,
    ),
    Rule(
        "Cos",
        Elementwise(
            slopes=_cos_slopes,
            image=lambda node, box: Box.of(*cos_range(box.low, box.high)),
        ),
        source="ONNX Cos",
        examples=_EXAMPLES,
    ),
)
