"""Det: a polynomial of degree n in the entries of an n × n matrix.

Its gradient is the matrix of cofactors, which grows like ‖X‖^(n−1). For n = 1 it is the identity.

Source: ONNX operator specification, Det; Jacobi's formula.
"""

from onnxlip.ops.families.index_map import index_map
from onnxlip.rules import Refusal, Rule, example, variable

RULES = (
    Rule(
        "Det",
        Refusal(
            "a determinant multiplies n entries of the matrix, so its slope grows without bound; "
            "cut the network before it (--output)"
        ),
        source="ONNX Det",
    ),
    Rule(
        "Det",
        index_map(lambda node, x, o: x),
        source="ONNX Det",
        examples=(example(variable(2, 1, 1)),),
        applies=lambda node: node.x.shape[-1] == 1,
    ),
)
