"""Conv: a cross-correlation with zeros beyond the border, 1-D to 3-D.

    y[n, o, p] = b[o] + Σ_{c, t} K[o, c, t] x[n, c, s·p + d·t − begin]

As a map of a variable bias: a repetition over batch and pixels.

Source: ONNX operator specification, Conv.
"""

import numpy as np

from onnxlip.linear import Convolution, LinearMap, convolution, selection
from onnxlip.ops.families.coefficients import coefficients, require
from onnxlip.ops.families.windows import require_one_reading, windows
from onnxlip.rules import Affine, Node, Refusal, Rule, constant, example, variable


def _linear(node: Node, i: int, o: int) -> LinearMap:
    if i == 2:
        channels = node.value(2).size
        places = np.arange(channels).reshape(-1, *(1,) * (len(node.y.shape) - 2))
        return selection(np.broadcast_to(places, node.y.shape), channels)
    kernel, groups = coefficients(node, 1), int(node.attribute("group", 1))
    # Shape inference does not compare these, and a damaged file may hold anything.
    fits = groups > 0 and kernel.shape[0] % groups == 0
    fits = fits and kernel.shape[1] * groups == node.x.shape[1]
    require(fits, node, "its kernel does not fit the channels of its input")
    w = windows(node, kernel.shape[2:])
    require_one_reading(node, w)
    require(min(w.begin) >= 0, node, "negative pads are not supported: use Slice before it")
    return convolution(
        Convolution(
            kernel,
            w.in_spatial,
            w.out_spatial,
            w.strides,
            w.dilations,
            w.begin,
            groups=groups,
            batch=node.y.shape[0],
        )
    )


RULES = (
    Rule(
        "Conv",
        Refusal(
            "its kernel depends on the network's input, so its gain grows with that input; "
            "freeze the kernel to a constant"
        ),
        source="ONNX Conv",
    ),
    Rule(
        "Conv",
        Affine(_linear),
        source="ONNX Conv",
        examples=(
            example(variable(1, 2, 5, 5), constant(shape=(3, 2, 3, 3)), pads=[1, 1, 1, 1]),
            example(variable(2, 2, 6), constant(shape=(3, 2, 2)), constant(shape=(3,))),
            example(
                variable(1, 2, 6, 5),
                constant(shape=(2, 2, 3, 2)),
                strides=[2, 1],
                dilations=[1, 2],
                pads=[1, 0, 2, 1],
            ),
            example(variable(1, 4, 4, 4), constant(shape=(4, 2, 2, 2)), group=2, strides=[2, 2]),
            example(variable(1, 3, 4, 4), constant(shape=(3, 1, 3, 3)), group=3, pads=[1] * 4),
            example(variable(1, 1, 3, 4, 3), constant(shape=(2, 1, 2, 2, 3)), pads=[0, 1, 0] * 2),
            example(variable(1, 2, 5, 4), constant(shape=(2, 2, 2, 3)), auto_pad="SAME_UPPER"),
            example(
                variable(1, 2, 5, 4),
                constant(shape=(2, 2, 2, 3)),
                auto_pad="SAME_LOWER",
                strides=[2, 2],
            ),
            example(variable(1, 2, 5), constant(shape=(2, 2, 2)), auto_pad="VALID"),
            example(variable(2, 3, 2, 2), constant(shape=(2, 3, 1, 1))),
            example(variable(1, 2, 5, 5), constant(shape=(2, 2, 1, 1)), strides=[2, 2]),
            example(variable(2, 2, 3, 3), constant(shape=(4, 2, 3, 3))),
            example(variable(1, 2, 3), constant(shape=(2, 2, 2)), variable(2)),
        ),
        applies=lambda node: 1 not in node.variables,
    ),
)
