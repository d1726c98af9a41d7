"""Reciprocal: f′ = −1/x², finite on boxes that stay away from 0 on one side of it.

(1/a − 1/b)/(a − b) = −1/(ab), which on [l, h] with l·h > 0 lies between −1/l² and −1/h².
Reciprocal(1 + Exp(e)) is Sigmoid(−e), which has finite slopes everywhere.
Source: ONNX operator specification, Reciprocal.
"""

from collections.abc import Sequence

import numpy as np

from onnxlip.ops.families.logistic import reciprocal
from onnxlip.ops.families.smooth import Floats, widen
from onnxlip.rules import Box, Elementwise, Node, Rule, example, variable
from onnxlip.univariate import Expression


def _slopes(node: Node, box: Box) -> tuple[Floats, Floats]:
    with np.errstate(over="ignore", divide="ignore"):
        ends = -1.0 / box.low**2, -1.0 / box.high**2
    alpha, beta = widen(np.minimum(*ends), np.maximum(*ends), (-np.inf, 0.0))
    pole = (box.low <= 0) & (box.high >= 0)
    return np.where(pole, -np.inf, alpha), np.where(pole, np.inf, beta)


def _image(node: Node, box: Box) -> Box:
    low, high = box.low, box.high
    with np.errstate(over="ignore", divide="ignore"):
        at_low, at_high = 1.0 / np.where(low == 0, 1.0, low), 1.0 / np.where(high == 0, 1.0, high)
    # Away from 0 the function falls; up to 0 from one side it is unbounded on that side.
    lower = np.where((low < 0) & (high >= 0) | (high == 0), -np.inf, at_high)
    upper = np.where((low <= 0) & (high > 0) | (low == 0), np.inf, at_low)
    return Box.of(*widen(lower, upper))


def _algebra(node: Node, operands: Sequence[Expression | None]) -> Expression | None:
    return reciprocal(operands[0]) if operands[0] is not None else None


RULES = (
    Rule(
        "Reciprocal",
        Elementwise(
            _slopes,
            _image,
            reason="its slope −1/x² is infinite at 0; keep its input on one side of 0 and away "
            "from it, for instance by Clip, or by adding ε to something nonnegative",
        ),
        source="ONNX Reciprocal",
        examples=(
            example(variable(3, 4, low=0.25, high=2.0)),
            example(variable(3, 4, low=1.5)),
            example(variable(3, 4, low=-4.0, high=-0.5)),
        ),
        algebra=_algebra,
    ),
)
