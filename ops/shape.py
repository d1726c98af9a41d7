"""Shape and Size: they depend on the shape of their input only, so they are constants.

Source: ONNX operator specification, Shape (with start and end since 15), Size.
"""

import numpy as np

from onnxlip.rules import Fixed, Node, Rule, example, variable


def _shape(node: Node) -> list[np.ndarray]:
    dims = node.x.shape
    return [np.array(dims[node.attribute("start", 0) : node.attribute("end")], np.int64)]


RULES = (
    Rule(
        "Shape",
        Fixed(_shape),
        source="ONNX Shape",
        examples=(
            example(variable(2, 3, 4)),
            example(variable(2, 3, 4), start=1),
            example(variable(2, 3, 4, 5), start=-3, end=-1),
        ),
    ),
    Rule(
        "Size",
        Fixed(lambda node: [np.array(node.x.size, np.int64)]),
        source="ONNX Size",
        examples=(example(variable(2, 3)),),
    ),
)
