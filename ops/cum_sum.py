"""CumSum along a constant axis: a triangular matrix of ones.

Its spectral norm over n entries is 1/(2 sin(π/(4n + 2))), about 2n/π, since A⁻¹ takes differences
and A⁻ᵀA⁻¹ is tridiagonal with eigenvalues 4 sin²((2k − 1)π/(4n + 2)); with `exclusive` that of
n − 1 entries.

Source: ONNX operator specification, CumSum; derived.
"""

import numpy as np

from onnxlip.linear import LinearMap
from onnxlip.ops.families.axis_sums import along
from onnxlip.ops.families.coefficients import require
from onnxlip.rules import Affine, Node, Rule, constant, example, only_variable, variable

_LONGEST = 1 << 13


def _linear(node: Node, i: int, o: int) -> LinearMap:
    shape = node.x.shape
    (axis,) = node.ints(1)
    n = shape[axis % len(shape)]
    require(n <= _LONGEST, node, f"sums over more than {_LONGEST} entries are not supported")
    block = np.tri(n, k=-1 if node.attribute("exclusive", 0) else 0, dtype=np.float32)
    if node.attribute("reverse", 0):
        block = block.T
    return along(block, shape, axis % len(shape))


RULES = (
    Rule(
        "CumSum",
        Affine(_linear),
        source="ONNX CumSum",
        since=11,
        examples=(
            example(variable(2, 4), constant(1)),
            example(variable(4, 2), constant(0), reverse=1),
            example(variable(2, 3, 2), constant(-2), exclusive=1),
            example(variable(5), constant(0), exclusive=1, reverse=1),
            example(variable(1, 2), constant(0), exclusive=1),
        ),
        applies=only_variable(0),
    ),
)
