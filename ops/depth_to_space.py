"""DepthToSpace and SpaceToDepth: blocks of pixels to channels and back.

Permutations: norm 1 for every p. With block size b, DepthToSpace reads its channels as (b, b, c)
in mode DCR and as (c, b, b) in mode CRD; SpaceToDepth inverts the former.

Source: ONNX operator specification, DepthToSpace and SpaceToDepth.
"""

from onnxlip.ops.families.index_map import Ints, index_map
from onnxlip.rules import Node, Rule, example, variable


def _to_space(node: Node, x: Ints, o: int) -> Ints:
    b = int(node.attribute("blocksize"))
    n, c, h, w = x.shape
    if node.attribute("mode", "DCR") == "CRD":
        return x.reshape(n, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(n, b, b, c // b**2, h, w).transpose(0, 3, 4, 1, 5, 2)


def _to_depth(node: Node, x: Ints, o: int) -> Ints:
    b = int(node.attribute("blocksize"))
    n, c, h, w = x.shape
    return x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)


RULES = (
    Rule(
        "DepthToSpace",
        index_map(_to_space),
        source="ONNX DepthToSpace",
        examples=(
            example(variable(1, 8, 2, 3), blocksize=2),
            example(variable(2, 8, 2, 3), blocksize=2, mode="DCR"),
            example(variable(2, 18, 1, 2), blocksize=3, mode="CRD"),
        ),
    ),
    Rule(
        "SpaceToDepth",
        index_map(_to_depth),
        source="ONNX SpaceToDepth",
        examples=(example(variable(2, 2, 4, 6), blocksize=2),),
    ),
)
