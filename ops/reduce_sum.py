"""ReduceSum and ReduceMean: sums over axes, times 1/k for means of k entries.

Norms of a sum of k entries: √k (p = 2), k (∞), 1 (1); of a mean: 1/√k, 1, 1/k.

Source: ONNX operator specification, ReduceSum, ReduceMean.
"""

from onnxlip.ops.families.axis_sums import reduced_axes, summed
from onnxlip.ops.families.coefficients import reciprocal
from onnxlip.rules import Affine, Example, Rule, constant, example, only_variable, variable


def _examples() -> tuple[Example, ...]:
    return (
        example(variable(2, 3, 4), constant([1]), keepdims=0),
        example(variable(2, 3, 4), constant([-1, 0])),
        example(variable(2, 3, 2, 2), constant([2, 3]), keepdims=1),
        example(variable(2, 3, 1, 2), constant([1, 3]), keepdims=0),
        example(variable(2, 3)),
        example(variable(2, 3), noop_with_empty_axes=1),
        example(variable(2, 3), constant([], dtype="int64"), noop_with_empty_axes=1),
        example(variable(2, 1, 3), constant([1]), keepdims=0),
    )


RULES = (
    Rule(
        "ReduceSum",
        Affine(lambda node, i, o: summed(node.x.shape, reduced_axes(node))),
        source="ONNX ReduceSum",
        examples=_examples(),
        applies=only_variable(0),
    ),
    Rule(
        "ReduceMean",
        Affine(lambda node, i, o: summed(node.x.shape, reduced_axes(node), reciprocal)),
        source="ONNX ReduceMean",
        examples=_examples(),
        applies=only_variable(0),
    ),
)
