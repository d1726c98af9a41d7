"""Tan: f′ = 1 + tan²(x) ≥ 1, finite on boxes between two neighbouring poles π/2 + kπ.

f′ grows with the distance from the multiple of π between them.
Source: ONNX operator specification, Tan.
"""

import math

import numpy as np

from onnxlip.ops.families.smooth import Booleans, Floats, widen
from onnxlip.ops.families.trigonometric import contains_multiple
from onnxlip.rules import Box, Elementwise, Node, Rule, example, variable


def _ends(box: Box) -> tuple[Floats, Floats]:
    ends = [np.where(np.isfinite(end), end, 0.0) for end in (box.low, box.high)]
    return np.tan(ends[0]), np.tan(ends[1])


def _pole(box: Box) -> Booleans:
    return contains_multiple(box.low, box.high, math.pi, 0.5)


def _slopes(node: Node, box: Box) -> tuple[Floats, Floats]:
    low, high = (1.0 + t**2 for t in _ends(box))
    pole = _pole(box)
    flat = pole | contains_multiple(box.low, box.high, math.pi, 0.0)
    alpha, beta = widen(np.minimum(low, high), np.maximum(low, high), (1.0, np.inf))
    return np.where(flat, 1.0, alpha), np.where(pole, np.inf, beta)


def _image(node: Node, box: Box) -> Box:
    low, high = _ends(box)
    pole = _pole(box)
    return Box.of(*widen(np.where(pole, -np.inf, low), np.where(pole, np.inf, high)))


RULES = (
    Rule(
        "Tan",
        Elementwise(
            _slopes,
            _image,
            reason="it has poles at π/2 + kπ; keep its input between two of them, for instance by "
            "Clip",
        ),
        source="ONNX Tan",
        examples=(
            example(variable(3, 4, low=-1.25, high=1.0)),
            example(variable(3, 4, low=2.0, high=4.0)),
        ),
    ),
)
