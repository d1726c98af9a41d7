"""MatMul with one constant factor: a matrix along one axis, one per index of the constant's batch.

y[…, i, k] = Σ_j a[…, i, j] b[…, j, k], batch axes broadcast. Factors of the identity (the rows of
a, all batch axes that the constant lacks) leave norms as they are: ‖A‖_p is the largest ‖W‖_p
over the constant's batch. The product of two variables is not affine: see `products`.

Source: ONNX operator specification, MatMul (numpy.matmul).
"""

from onnxlip.linear import LinearMap
from onnxlip.ops.families.coefficients import coefficients
from onnxlip.ops.families.contraction import Label, contraction
from onnxlip.rules import Affine, Node, Rule, constant, example, variable


def _labels(rank: int, position: int) -> list[Label]:
    """Batch axes are counted from the right; a vector has the summed axis only."""
    last = "j" if rank == 1 else ("ij", "jk")[position]
    return [*range(max(0, rank - 2), 0, -1), *last]


def _linear(node: Node, i: int, o: int) -> LinearMap:
    weights = coefficients(node, 1 - i)
    shape = node.value(i).shape
    mine, other = _labels(len(shape), i), _labels(weights.ndim, 1 - i)
    batch = sorted({label for label in (*mine, *other) if isinstance(label, int)}, reverse=True)
    rows = [label for label in ("i", "k") if label in (*mine, *other)]
    return contraction(shape, mine, [(weights, other)], [*batch, *rows])


RULES = (
    Rule(
        "MatMul",
        Affine(_linear),
        source="ONNX MatMul",
        examples=(
            example(variable(2, 3), constant(shape=(3, 4))),
            example(constant(shape=(4, 2)), variable(2, 3)),
            example(variable(2, 3, 4), constant(shape=(4, 5))),
            example(constant(shape=(5, 3)), variable(2, 3, 4)),
            example(variable(3), constant(shape=(3, 4))),
            example(variable(2, 3), constant(shape=(3,))),
            example(variable(3), constant(shape=(3,))),
            example(constant(shape=(3,)), variable(2, 3, 4)),
            example(variable(3), constant(shape=(2, 3, 4))),
            example(variable(2, 2, 3, 4), constant(shape=(2, 4, 2))),
            example(variable(3, 4), constant(shape=(2, 1, 4, 2))),
            example(variable(2, 1, 3, 4), constant(shape=(3, 4, 2))),
            example(constant(shape=(2, 3, 2, 4)), variable(3, 4, 2)),
            example(variable(2, 3, 4), constant(shape=(1, 4, 5))),
            example(variable(2, 3, 1), constant(shape=(1, 2))),
        ),
        applies=lambda node: len(node.variables) == 1,
    ),
)
