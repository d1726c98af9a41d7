"""LeakyRelu: f(x) = x for x ≥ 0 and a·x for x < 0, slopes between a and 1.

f is made of two straight pieces that meet at 0, so a difference quotient is a mean of their
slopes. Source: ONNX operator specification, LeakyRelu.
"""

import numpy as np

from onnxlip.ops.families.attributes import single
from onnxlip.ops.families.piecewise_linear import Floats, piecewise_linear
from onnxlip.rules import Node, Rule, example, variable


def _alpha(node: Node) -> float:
    return single(node, "alpha", 0.01)


def _function(node: Node, x: Floats) -> Floats:
    a = _alpha(node)
    with np.errstate(over="ignore"):
        return np.where(x < 0, a * np.where(x < 0, x, -1.0) if a else 0.0, x)


RULES = (
    Rule(
        "LeakyRelu",
        piecewise_linear(
            breakpoints=lambda node: [0.0],
            slopes=lambda node: [_alpha(node), 1.0],
            function=_function,
        ),
        source="ONNX LeakyRelu",
        examples=(
            example(variable(2, 5)),
            example(variable(3, 4), alpha=0.1),
            example(variable(6), alpha=1.5),
            example(variable(6), alpha=-0.3),
            example(variable(6), alpha=0.0),
            example(variable(3, 4, low=-0.5, high=2.0), alpha=0.2),
        ),
    ),
)
