"""Shrink: f(x) = x + bias for x < −λ, x − bias for x > λ, 0 between.

Soft shrinkage (bias = λ) is continuous with slopes in [0, 1]. Otherwise f jumps by λ − bias at
±λ (hard shrinkage: bias = 0) and is Lipschitz on boxes only that lie within one piece. The
operator asks x < −λ first, so for λ < 0 there is one jump, by −2 bias at −λ.

Source: ONNX operator specification, Shrink; Donoho 1995 (soft thresholding).
"""

from collections.abc import Sequence

import numpy as np

from onnxlip.ops.families.attributes import single
from onnxlip.ops.families.jumps import Jump, with_jumps
from onnxlip.ops.families.piecewise_linear import Floats
from onnxlip.rules import Node, Rule, example, variable


def _parameters(node: Node) -> tuple[float, float]:
    return single(node, "lambd", 0.5), single(node, "bias", 0.0)


def _breakpoints(node: Node) -> Sequence[float]:
    at, _ = _parameters(node)
    return [-at, at] if at > 0 else [-at]


def _slopes(node: Node) -> Sequence[float]:
    return [1.0, 0.0, 1.0] if _parameters(node)[0] > 0 else [1.0, 1.0]


def _function(node: Node, x: Floats) -> Floats:
    at, bias = _parameters(node)
    return np.where(x < -at, x + bias, np.where(x > at, x - bias, 0.0))


def _jumps(node: Node) -> Sequence[Jump]:
    at, bias = _parameters(node)
    if at < 0:
        return [(-at, -2 * bias, False)]
    return [(-at, at - bias, False), (at, at - bias, True)]


RULES = (
    Rule(
        "Shrink",
        with_jumps(
            _breakpoints,
            _slopes,
            _function,
            _jumps,
            reason=(
                "it jumps at ±lambd unless bias = lambd, so it is not Lipschitz; set bias to lambd "
                "(soft shrinkage), or keep its input within one of its pieces"
            ),
        ),
        source="ONNX Shrink; Donoho 1995",
        examples=(
            example(variable(2, 5)),
            example(variable(2, 5), lambd=0.5, bias=0.5),
            example(variable(2, 5), lambd=1.5, bias=2.0),
            example(variable(2, 5), lambd=-0.5, bias=0.25),
            example(variable(2, 5), lambd=0.0, bias=0.25),
            example(variable(2, 5, low=0.75, high=3.0), lambd=0.5),
        ),
    ),
)
