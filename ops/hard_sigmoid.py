"""HardSigmoid: f(x) = clip(a·x + b, 0, 1), slopes between 0 and a.

Three straight pieces that meet at −b/a and (1 − b)/a. x·HardSigmoid(x): families/gates.py.
Source: ONNX operator specification, HardSigmoid.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from onnxlip.ops.families.attributes import single
from onnxlip.ops.families.gates import clip_gate
from onnxlip.ops.families.piecewise_linear import Floats, piecewise_linear
from onnxlip.ops.families.smooth import widen
from onnxlip.rounding import UNIT
from onnxlip.rules import Box, Elementwise, Node, Rule, example, variable
from onnxlip.univariate import Expression


def _line(node: Node) -> tuple[float, float]:
    return single(node, "alpha", 0.2), single(node, "beta", 0.5)


def _breakpoints(node: Node) -> Sequence[float]:
    a, b = _line(node)
    if a == 0:
        return [0.0, 0.0]
    return sorted(float(-Fraction(b) / Fraction(a) + Fraction(i) / Fraction(a)) for i in (0, 1))


def _function(node: Node, x: Floats) -> Floats:
    a, b = _line(node)
    with np.errstate(over="ignore"):
        return np.clip(a * (x if a else np.zeros_like(x)) + b, 0.0, 1.0)


_PIECES = piecewise_linear(_breakpoints, lambda node: [0.0, _line(node)[0], 0.0], _function)


def _slopes(node: Node, box: Box) -> tuple[Floats, Floats]:
    # Breakpoints are rounded; a box that ends within one neighbour of them meets both pieces.
    return _PIECES.slopes(node, box.widened())


def _image(node: Node, box: Box) -> Box:
    inside = _PIECES.image(node, box)
    return Box.of(*widen(inside.low, inside.high, (0.0, 1.0), absolute=4 * UNIT * _spread(node)))


def _spread(node: Node) -> float:
    """Where a·x + b is not clipped, both summands are at most this large."""
    return 1.0 + abs(_line(node)[1])


def _gate(node: Node, inner: Expression) -> tuple[float, float] | None:
    a, b = _line(node)
    line = inner * Expression.number(a) + Expression.number(b)
    return clip_gate(line, Fraction(0), Fraction(1))


RULES = (
    Rule(
        "HardSigmoid",
        Elementwise(_slopes, _image, _gate),
        source="ONNX HardSigmoid; Courbariaux et al. 2015",
        examples=(
            example(variable(2, 5)),
            example(variable(2, 5), alpha=1 / 6, beta=0.5),
            example(variable(2, 5), alpha=-0.75, beta=0.3),
            example(variable(2, 5), alpha=0.0, beta=0.3),
            example(variable(2, 5, low=-1.0, high=3.5), alpha=0.3),
        ),
    ),
)
