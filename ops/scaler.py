"""Scaler (ai.onnx.ml): y = (x − offset) · scale, per feature: a diagonal map.

Features are the last axis; one number of each serves all features.

Source: ONNX-ML operator specification, Scaler.
"""

import numpy as np

from onnxlip.linear import LinearMap, diagonal
from onnxlip.rules import Affine, Node, Rule, example, variable


def _linear(node: Node, i: int, o: int) -> LinearMap:
    scale = np.asarray(node.attribute("scale", [1.0]), np.float32)  # as the model stores it
    return diagonal(scale.reshape(-1), node.x.shape)


RULES = (
    Rule(
        "Scaler",
        Affine(_linear),
        source="ONNX-ML Scaler",
        examples=(
            example(variable(2, 3), offset=[1.0, -2.0, 0.5], scale=[2.0, -0.25, 3.0]),
            example(variable(2, 3), offset=[0.5], scale=[0.125]),
            example(variable(3), offset=[0.0, 1.0, 2.0], scale=[2.0, 0.5, 3.0]),
        ),
        domain="ai.onnx.ml",
    ),
)
