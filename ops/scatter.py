"""ScatterElements and ScatterND: data with entries overwritten, or added to, at constant indices.

With T the selection of the data entries that the updates u go to, y is

    reduction none       y = x off the targets, u on them: a mask of x plus Tᵀu (no repeats)
    reduction add        y = x + Tᵀu
    reduction max, min   each entry of y is the maximum of disjoint sets of entries of x and u

The mask and Tᵀ without repeats have norm 1 for every p. The last kind obeys |δy_k| ≤ max over
its set of |δx|, |δu|; since the sets are disjoint, ‖δy‖_p ≤ ‖(δx, δu)‖_p: gain 1 for every p, each
alone and both together.

Source: ONNX operator specification, ScatterElements and ScatterND.
"""

from collections.abc import Sequence

import numpy as np

from onnxlip.linear import LinearMap, selection
from onnxlip.ops.families.index_map import Ints
from onnxlip.rules import (
    Affine,
    Box,
    Example,
    Gain,
    Node,
    Refusal,
    Rule,
    constant,
    example,
    variable,
)


def _targets(node: Node) -> Ints:
    """The positions in the data that the updates go to, shaped like the updates."""
    data = node.value(0)
    places = np.arange(data.size).reshape(data.shape)
    indices = node.constant(1).astype(np.int64)
    if node.op_type == "ScatterND":
        return np.asarray(places[tuple(indices[..., k] for k in range(indices.shape[-1]))])
    grid: list[Ints] = [*np.indices(indices.shape)]
    grid[int(node.attribute("axis", 0))] = indices
    return np.asarray(places[tuple(grid)])


def _linear(node: Node, i: int, o: int) -> LinearMap:
    n = node.value(0).size
    targets = _targets(node).reshape(-1)
    if i == 2:
        return selection(targets, n).adjoint
    places = np.arange(n)
    if _reduction(node) == "none":
        places[targets] = -1
    return selection(places, n)


def _reduction(node: Node) -> str:
    return str(node.attribute("reduction", "none"))


def _adds(node: Node) -> bool:
    if 1 in node.variables:
        return False
    if _reduction(node) == "add":
        return True
    # Where two updates share a target, which of them wins is left open by the specification.
    return _reduction(node) == "none" and np.unique(_targets(node)).size == _targets(node).size


def _gain(node: Node, i: int, p: float, boxes: Sequence[Box | None]) -> float:
    return 1.0


def _joint(node: Node, p: float, boxes: Sequence[Box | None]) -> float:
    return 1.0


def _image(node: Node, boxes: Sequence[Box | None], o: int) -> Box:
    given = [box for box in (boxes[0], boxes[2]) if box is not None]
    if any(box.low.size == 0 for box in given):
        return Box.whole()
    return Box.of(min(box.low.min() for box in given), max(box.high.max() for box in given))


_REFUSAL = Refusal(
    "its indices depend on the input: they are integers, so it is piecewise constant in them: "
    "not continuous, so no finite Lipschitz constant; cut the network before it (--output)"
)


def _rules(op_type: str, affine: Sequence[Example], gain: Sequence[Example]) -> tuple[Rule, ...]:
    source = f"ONNX {op_type}; derived: disjoint groups"
    return (
        Rule(op_type, _REFUSAL, source, applies=lambda node: 1 in node.variables),
        Rule(op_type, Affine(_linear), source, tuple(affine), applies=_adds),
        Rule(
            op_type,
            Gain(_gain, _image, _joint),
            source,
            tuple(gain),
            applies=lambda node: 1 not in node.variables and _reduction(node) in ("max", "min"),
        ),
    )


_ELEMENTS = constant([[0, -1, 0], [1, 0, 2]])
_REPEATED = constant([[0, -1, 0], [2, 0, 2]])
_ND = constant([[0, -1], [2, 1]])

RULES = (
    *_rules(
        "ScatterElements",
        [
            example(variable(3, 3), _ELEMENTS, variable(2, 3)),
            example(variable(3, 3), _REPEATED, variable(2, 3), reduction="add"),
            example(constant(shape=(3, 3)), _ELEMENTS, variable(2, 3)),
            example(variable(2, 4), constant([[1], [-1]]), constant(shape=(2, 1)), axis=1),
        ],
        [
            example(variable(3, 3), _REPEATED, variable(2, 3), reduction="max"),
            example(variable(3, 3), _REPEATED, constant(shape=(2, 3)), reduction="min"),
        ],
    ),
    *_rules(
        "ScatterND",
        [
            example(variable(3, 4), _ND, variable(2)),
            example(variable(3, 4, 2), _ND, variable(2, 2), reduction="none"),
            example(variable(3, 4), constant([[1], [1]]), variable(2, 4), reduction="add"),
            example(constant(shape=(4,)), constant([[3], [-4]]), variable(2)),
        ],
        [
            example(variable(3, 4), constant([[1], [1]]), variable(2, 4), reduction="max"),
            example(constant(shape=(3, 4)), _ND, variable(2), reduction="min"),
        ],
    ),
)
