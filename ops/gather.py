"""Gather, GatherElements, GatherND: entries at constant indices, which may repeat.

With an entry read at most m times the norms are 1 for p = ∞, √m for p = 2 and m for p = 1.
Negative indices count from the back. Indices that depend on the input are integers, hence step
functions of it.

Source: ONNX operator specification, Gather, GatherElements and GatherND.
"""

import numpy as np

from onnxlip.ops.families.index_map import Ints, index_map
from onnxlip.rules import (
    Affine,
    Example,
    Node,
    Refusal,
    Rule,
    constant,
    example,
    only_variable,
    variable,
)


def _gather(node: Node, x: Ints, o: int) -> Ints:
    axis = int(node.attribute("axis", 0))
    return np.take(x, node.constant(1).astype(np.int64), axis)  # counts from the back, too


def _gather_elements(node: Node, x: Ints, o: int) -> Ints:
    axis = int(node.attribute("axis", 0))
    indices = node.constant(1).astype(np.int64)
    places: list[Ints] = [*np.indices(indices.shape)]  # shorter than the data's, perhaps
    places[axis] = indices
    return np.asarray(x[tuple(places)])


def _gather_nd(node: Node, x: Ints, o: int) -> Ints:
    batch = int(node.attribute("batch_dims", 0))
    indices = node.constant(1).astype(np.int64)
    depth = indices.shape[-1]
    lead = np.indices(indices.shape[:-1])[:batch]
    return np.asarray(x[(*lead, *(indices[..., k] for k in range(depth)))])


_REFUSAL = Refusal(
    "its indices depend on the input: they are integers, so it is piecewise constant in them: "
    "not continuous, so no finite Lipschitz constant; analyse the network from the tensor behind "
    "it on (--input), as is usual for embeddings"
)


def _rules(op_type: str, form: Affine, *examples: Example) -> tuple[Rule, Rule]:
    source = f"ONNX {op_type}"
    return (
        Rule(op_type, _REFUSAL, source, applies=lambda node: 1 in node.variables),
        Rule(op_type, form, source, examples, applies=only_variable(0)),
    )


RULES = (
    *_rules(
        "Gather",
        index_map(_gather),
        example(variable(4, 3), constant([0, -1, 0])),
        example(variable(2, 4, 3), constant([[1, 3], [-4, 2]]), axis=1),
        example(variable(2, 4), constant(2), axis=-1),
        example(variable(5), constant([4, 0], dtype="int32")),
    ),
    *_rules(
        "GatherElements",
        index_map(_gather_elements),
        example(variable(2, 3), constant([[0, -1, 0]])),
        example(variable(3, 4), constant([[0, -1], [2, 2]]), axis=1),
        example(variable(2, 3, 2), constant(np.ones((2, 2, 1), np.int64)), axis=-2),
    ),
    *_rules(
        "GatherND",
        index_map(_gather_nd),
        example(variable(3, 4), constant([[0, -1], [2, 1], [0, -1]])),
        example(variable(3, 4, 2), constant([[[1], [-1]]])),
        example(variable(2, 3, 4), constant([[1], [-2]]), batch_dims=1),
        example(variable(2, 3, 4), constant([[[[1], [0]]] * 3] * 2), batch_dims=2),
    ),
)
