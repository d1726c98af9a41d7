"""Attributes as the model stores them: an ONNX attribute of type float is a float32."""

from __future__ import annotations

import numpy as np

from onnxlip.rules import Node

__all__ = ["single"]


def single(node: Node, name: str, default: float) -> float:
    """A float attribute, exactly: 0.1 and the default 0.01 stand for their float32 neighbours."""
    return float(np.float32(node.attribute(name, default)))
