"""ThresholdedRelu: f(x) = x for x > a, else 0. It jumps from 0 to a at x = a.

Only a = 0 (that is Relu) is Lipschitz; otherwise slopes are finite on boxes on one side of a:
0 below, 1 above. Source: ONNX operator specification, ThresholdedRelu.
"""

import numpy as np

from onnxlip.ops.families.attributes import single
from onnxlip.ops.families.jumps import with_jumps
from onnxlip.rules import Node, Rule, example, variable


def _alpha(node: Node) -> float:
    return single(node, "alpha", 1.0)


RULES = (
    Rule(
        "ThresholdedRelu",
        with_jumps(
            breakpoints=lambda node: [_alpha(node)],
            slopes=lambda node: [0.0, 1.0],
            function=lambda node, x: np.where(x > _alpha(node), x, 0.0),
            jumps=lambda node: [(_alpha(node), _alpha(node), True)],
            reason=(
                "it jumps from 0 to alpha at x = alpha, so it is not Lipschitz; set alpha to 0 "
                "(then it is Relu), use Relu(x − alpha), or keep its input away from alpha"
            ),
        ),
        source="ONNX ThresholdedRelu",
        examples=(
            example(variable(2, 5)),
            example(variable(2, 5), alpha=-0.5),
            example(variable(2, 5), alpha=0.0),
            example(variable(2, 5, low=1.5, high=4.0), alpha=1.25),
            example(variable(2, 5, low=-3.0, high=1.25), alpha=1.25),
        ),
    ),
)
