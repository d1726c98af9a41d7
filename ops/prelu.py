"""PRelu: f(x) = x for x ≥ 0 and s·x for x < 0, with a constant s per entry, mostly per channel.

Slopes of an entry lie between its s and 1 (two straight pieces that meet at 0).
Source: ONNX operator specification, PRelu.
"""

import numpy as np

from onnxlip.ops.families.piecewise_linear import Floats, piecewise_linear
from onnxlip.rules import Node, Refusal, Rule, constant, example, only_variable, variable


def _slope(node: Node) -> Floats:
    return node.floats(1)


def _function(node: Node, x: Floats) -> Floats:
    s = _slope(node)
    with np.errstate(over="ignore"):
        below = np.where(s == 0, 0.0, s) * np.where((x < 0) & (s != 0), x, 0.0)
        return np.where(x < 0, below, x)


RULES = (
    Rule(
        "PRelu",
        Refusal(
            "its slopes depend on the input, so it multiplies two tensors that both do and its "
            "gain grows without bound; freeze the slopes"
        ),
        source="ONNX PRelu",
    ),
    Rule(
        "PRelu",
        piecewise_linear(
            breakpoints=lambda node: [0.0],
            slopes=lambda node: [_slope(node), 1.0],
            function=_function,
        ),
        source="ONNX PRelu",
        examples=(
            example(variable(1, 3, 4, 4), constant(shape=(3, 1, 1))),
            example(variable(2, 4), constant([0.25])),
            example(variable(2, 4), constant([0.0, 0.5, -0.5, 2.0])),
            example(variable(2, 4, low=-1.0, high=0.5), constant(0.25)),
        ),
        applies=only_variable(0),
    ),
)
