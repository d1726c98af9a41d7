"""Boxes through the graph: where each tensor's values can lie, by the rules' images.

On the global domain most boxes are all of ℝⁿ; what a Sigmoid or a Softmax bounds stays bounded,
so that a product of two gates has a gain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from onnxlip.fusion import Fused
from onnxlip.graph import Graph
from onnxlip.rules import Box, Elementwise, Gain, Node

__all__ = ["propagate"]


def propagate(
    graph: Graph,
    nodes: Sequence[Node],
    fused: Mapping[str, Fused],
    domain: Mapping[str, Box] | None = None,
) -> dict[str, Box]:
    """A box for every tensor that the nodes read or write.

    domain: boxes of the inputs, all of ℝⁿ where none is given.
    """
    boxes: dict[str, Box] = {v.name: Box.whole() for v in (*graph.inputs, *graph.held)}
    boxes |= domain or {}
    for f in fused.values():
        if all(map(math.isfinite, f.image)):
            boxes[f.output] = Box.of(*f.image)
    for node in nodes:
        form = graph.rules[node.name].rule.form
        for o, y in enumerate(node.outputs):
            if isinstance(form, Elementwise):
                boxes[y.name] = form.image(node, boxes.get(node.x.name, Box.whole()))
            elif isinstance(form, Gain):
                boxes[y.name] = form.image(node, _inputs(node, boxes), o)
    return _Default(boxes)


def _inputs(node: Node, boxes: Mapping[str, Box]) -> list[Box | None]:
    found: list[Box | None] = []
    for value in node.inputs:
        if value is None:
            found.append(None)
        elif value.constant is not None:
            data = np.asarray(value.constant).astype(np.float64)
            found.append(Box(data, data))
        else:
            found.append(boxes.get(value.name, Box.whole()))
    return found


class _Default(dict[str, Box]):
    """Boxes by tensor; a tensor of which nothing is known may be anywhere."""

    def __missing__(self, key: str) -> Box:
        return Box.whole()
