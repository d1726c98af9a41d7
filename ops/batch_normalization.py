"""BatchNormalization with fixed statistics: y = γ (x − μ)/√(v + ε) + β, a scaling per channel.

The weight γ/√(v + ε) is an addition, a root (which halves the relative error of its operand) and
a division: (1 + u)^{½ + 1 + 1} − 1 < 3u for u = 2⁻⁵³, so it errs by less than 3 ulps.
With the statistics of the batch itself the op depends on the other samples: refused.

Source: Ioffe & Szegedy 2015; ONNX operator specification, BatchNormalization.
"""

import numpy as np

from onnxlip.linear import LinearMap, diagonal
from onnxlip.ops.families.coefficients import coefficients, require
from onnxlip.rules import Affine, Constant, Node, Refusal, Rule, constant, example, variable


def _fixed(node: Node) -> bool:
    training = node.attribute("training_mode", 0) or len(node.outputs) > 1
    return not training and bool(node.attribute("spatial", 1)) and node.variables == (0,)


def _linear(node: Node, i: int, o: int) -> LinearMap:
    epsilon = float(node.attribute("epsilon", 1e-5))
    total = coefficients(node, 4).astype(np.float64) + epsilon
    require(np.all(total > 0), node, "a variance plus epsilon is not positive")
    weight = coefficients(node, 1).astype(np.float64) / np.sqrt(total)
    after = len(node.x.shape) - 2  # a vector is a batch of one channel
    return diagonal(weight.reshape(-1, *(1,) * max(0, after)), node.y.shape, 3.0)


def _statistics(channels: int, seed: int = 0) -> tuple[Constant, ...]:
    shape = (channels,)
    return (
        constant(shape=shape, seed=seed),
        constant(shape=shape, seed=seed + 1),
        constant(shape=shape, seed=seed + 2),
        constant(shape=shape, seed=seed + 3, positive=True),
    )


RULES = (
    Rule(
        "BatchNormalization",
        Refusal(
            "its scale or its statistics depend on the network's input (training mode takes "
            "them from the batch); export the model in evaluation mode"
        ),
        source="ONNX BatchNormalization",
        since=7,
    ),
    Rule(
        "BatchNormalization",
        Affine(_linear),
        source="Ioffe & Szegedy 2015; ONNX BatchNormalization",
        since=7,
        examples=(
            example(variable(2, 3, 2, 2), *_statistics(3)),
            example(variable(2, 4), *_statistics(4), epsilon=0.125),
            example(variable(1, 2, 5), *_statistics(2, 7), epsilon=0.001, momentum=0.5),
            example(variable(1, 2, 2, 1, 2), *_statistics(2), training_mode=0),
        ),
        applies=_fixed,
    ),
)
