"""Slice: entries start, start + step, … up to but without `end`, along the given axes.

A selection without repeats: norm 1 for every p (0 where it is empty). Starts and ends count from
the back where negative, and are then clamped: to [0, n] for a positive step; for a negative one
starts to [0, n − 1] and ends to [−1, n − 1]. (Python's slices clamp such a start to −1, and are
empty where this op keeps entry 0.)

A negative step with the largest integer for an end is left to no rule: the specification makes
it empty, onnxruntime goes on to the front.

Source: ONNX operator specification, Slice.
"""

from onnxlip.ops.families.index_map import Ints, index_map
from onnxlip.rules import Node, Rule, constant, example, variable

LARGEST = (2**31 - 1, 2**63 - 1)


def _steps(node: Node) -> tuple[int, ...]:
    return node.ints(4, default=[1] * node.value(1).size)


def _unambiguous(node: Node) -> bool:
    if node.variables != (0,):
        return False
    pairs = zip(node.ints(2), _steps(node), strict=True)
    return not any(end in LARGEST and step < 0 for end, step in pairs)


def _move(node: Node, x: Ints, o: int) -> Ints:
    starts, ends = node.ints(1), node.ints(2)
    axes = node.ints(3, default=range(len(starts)))
    for axis, start, end, step in zip(axes, starts, ends, _steps(node), strict=True):
        n = x.shape[axis]
        start, end = (bound + n if bound < 0 else bound for bound in (start, end))
        if step > 0:
            kept = range(min(max(start, 0), n), min(max(end, 0), n), step)
        else:
            kept = range(min(max(start, 0), n - 1), min(max(end, -1), n - 1), step)
        x = x.take(kept, axis)
    return x


RULES = (
    Rule(
        "Slice",
        index_map(_move),
        source="ONNX Slice",
        examples=(
            example(variable(4, 5), constant([1, 0]), constant([3, 4])),
            example(variable(4, 5), constant([-3]), constant([2**63 - 1]), constant([-1])),
            example(
                variable(4, 5),
                constant([-1, 10]),
                constant([-(2**63) + 1, 0]),
                constant([0, 1]),
                constant([-1, -2]),
            ),
            example(variable(4, 5), constant([3]), constant([1]), constant([0])),
        ),
        since=10,
        applies=_unambiguous,
    ),
)
