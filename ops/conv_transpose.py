"""ConvTranspose: the adjoint of the convolution with the same kernel, pads, strides, dilations.

    y[n, o, q] = b[o] + Σ_{c, t, p: s·p + d·t − begin = q} K[c, o, t] x[n, c, p]

That convolution maps images of y's size to images of x's; output_padding only enlarges y. Where
output_shape or auto_pad fix the size of y, the pads follow from it.

Source: ONNX operator specification, ConvTranspose.
"""

import numpy as np

from onnxlip.linear import Convolution, LinearMap, convolution, selection
from onnxlip.ops.families.coefficients import coefficients, require
from onnxlip.rules import Affine, Node, Refusal, Rule, constant, example, variable


def _linear(node: Node, i: int, o: int) -> LinearMap:
    if i == 2:
        channels = node.value(2).size
        places = np.arange(channels).reshape(-1, *(1,) * (len(node.y.shape) - 2))
        return selection(np.broadcast_to(places, node.y.shape), channels)
    kernel, groups = coefficients(node, 1), int(node.attribute("group", 1))
    fits = groups > 0 and kernel.shape[0] % groups == 0 and kernel.shape[0] == node.x.shape[1]
    fits = fits and kernel.shape[1] * groups == node.y.shape[1]
    require(fits, node, "its kernel does not fit the channels of its input")
    d = kernel.ndim - 2
    strides = tuple(node.attribute("strides") or (1,) * d)
    dilations = tuple(node.attribute("dilations") or (1,) * d)
    begin = _begin(node, kernel.shape[2:], strides, dilations)
    require(min(begin) >= 0, node, "negative pads are not supported: use Pad after it")
    return convolution(
        Convolution(
            kernel,
            node.y.shape[2:],
            node.x.shape[2:],
            strides,
            dilations,
            begin,
            groups=groups,
            batch=node.y.shape[0],
        )
    ).adjoint


def _begin(
    node: Node, taps: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[int, ...]:
    """How many entries are cut off in front, per axis."""
    d = len(taps)
    auto = node.attribute("auto_pad", "NOTSET")
    if auto == "VALID" and not node.attribute("output_shape"):
        return (0,) * d
    if auto in ("NOTSET", "") and not node.attribute("output_shape"):
        return tuple((node.attribute("pads") or (0,) * (2 * d))[:d])
    extra = node.attribute("output_padding") or (0,) * d
    total = [
        max(0, s * (n - 1) + e + dil * (k - 1) + 1 - size)
        for s, n, e, dil, k, size in zip(
            strides, node.x.shape[2:], extra, dilations, taps, node.y.shape[2:], strict=True
        )
    ]
    return tuple(t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total)


RULES = (
    Rule(
        "ConvTranspose",
        Refusal(
            "its kernel depends on the network's input, so its gain grows with that input; "
            "freeze the kernel to a constant"
        ),
        source="ONNX ConvTranspose",
    ),
    Rule(
        "ConvTranspose",
        Affine(_linear),
        source="ONNX ConvTranspose",
        examples=(
            example(variable(1, 2, 3, 3), constant(shape=(2, 3, 3, 3))),
            example(variable(2, 2, 4), constant(shape=(2, 3, 2)), constant(shape=(3,))),
            example(
                variable(1, 2, 3, 4),
                constant(shape=(2, 2, 3, 2)),
                strides=[2, 3],
                pads=[1, 0, 2, 1],
            ),
            example(
                variable(1, 2, 3, 3),
                constant(shape=(2, 1, 3, 3)),
                strides=[2, 2],
                pads=[1, 1, 1, 1],
                output_padding=[1, 1],
            ),
            example(variable(1, 4, 3), constant(shape=(4, 1, 3)), group=2, dilations=[2]),
            example(
                variable(1, 2, 3, 3),
                constant(shape=(2, 1, 3, 3)),
                strides=[2, 2],
                auto_pad="SAME_UPPER",
            ),
            example(variable(1, 2, 3), constant(shape=(2, 2, 2)), auto_pad="VALID"),
            example(variable(1, 2, 3), constant(shape=(2, 3, 4)), auto_pad="SAME_LOWER"),
            example(variable(1, 1, 2, 2, 2), constant(shape=(1, 2, 2, 1, 2)), strides=[2, 1, 2]),
            example(variable(2, 3, 2, 2), constant(shape=(3, 2, 1, 1))),
            example(variable(1, 3, 1, 1), constant(shape=(3, 2, 2, 2))),
            example(variable(1, 2, 3), constant(shape=(2, 2, 2)), variable(2)),
        ),
        applies=lambda node: 1 not in node.variables,
    ),
)
