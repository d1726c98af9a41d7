"""Clip: f(x) = min(max(x, l), h), slopes in [0, 1]; exactly 1 on a box inside [l, h].

A projection onto an interval does not expand. Bounds that are left out are infinite; where l > h
the operator is the constant h. Slope interval of x·Clip(bx + c, l, h): see families/gates.py
(for x·Clip(x + 3, 0, 6) it is [−3, 9], whose sixth is HardSwish's [−½, 3/2]).

Source: ONNX operator specification, Clip.
"""

from fractions import Fraction

import numpy as np

from onnxlip.ops.families.gates import clip_gate
from onnxlip.ops.families.piecewise_linear import Floats, piecewise_linear
from onnxlip.rules import Node, Refusal, Rule, constant, example, only_variable, variable
from onnxlip.univariate import Expression


def _bounds(node: Node) -> tuple[Floats, Floats]:
    low = node.floats(1) if node.has(1) else np.asarray(-np.inf)
    high = node.floats(2) if node.has(2) else np.asarray(np.inf)
    return np.minimum(low, high), high


def _slopes(node: Node) -> list[Floats]:
    low, high = _bounds(node)
    return [np.asarray(0.0), np.where(low < high, 1.0, 0.0), np.asarray(0.0)]


def _gate(node: Node, inner: Expression) -> tuple[float, float] | None:
    low, high = _bounds(node)
    if low.size > 1 or high.size > 1 or not np.isfinite(low) or not np.isfinite(high):
        return None
    return clip_gate(inner, Fraction(float(low)), Fraction(float(high)))


RULES = (
    Rule(
        "Clip",
        Refusal("its bounds depend on the input; replace it by Min and Max, or freeze the bounds"),
        source="ONNX Clip",
    ),
    Rule(
        "Clip",
        piecewise_linear(
            breakpoints=_bounds,
            slopes=_slopes,
            function=lambda node, x: np.minimum(np.maximum(x, _bounds(node)[0]), _bounds(node)[1]),
            gate=_gate,
        ),
        source="ONNX Clip",
        examples=(
            example(variable(2, 5), constant(0.0), constant(6.0)),
            example(variable(2, 5), constant(-1.5), constant(1.25)),
            example(variable(2, 5), constant(2.0), constant(2.0)),
            example(variable(3, 4, low=-0.5, high=2.0), constant(0.0), constant(6.0)),
        ),
        applies=only_variable(0),
    ),
)
