"""AveragePool: the mean of each window, a matrix along each spatial axis.

Windows are products of intervals and so are their sizes, whether padding counts or not: the op is
the Kronecker product of one matrix per axis, with entries 1/count, and the product of the factors'
norms is its norm. A window's divisor counts its entries inside the input, with count_include_pad
those inside the padded input; what ceil_mode makes it reach beyond never counts (as in onnxruntime
and PyTorch). On long axes, where a dense matrix would be too large, the factor is written as a sum
over each window, scaled by 1/count.

Source: ONNX operator specification, AveragePool.
"""

import math

import numpy as np
import numpy.typing as npt

from onnxlip.linear import Convolution, LinearMap, diagonal, identity
from onnxlip.ops.families.axis_sums import along
from onnxlip.ops.families.windows import Windows, require_one_reading, windows
from onnxlip.rules import Affine, Node, Rule, example, variable

_LARGEST = 1 << 22  # entries of a factor that is written as a dense matrix


def _linear(node: Node, i: int, o: int) -> LinearMap:
    w = windows(node)
    require_one_reading(node, w)
    shape = list(node.x.shape)
    linear: LinearMap = identity(math.prod(shape))
    for axis in reversed(range(len(w.taps))):
        factor = _factor(node, w, axis, shape)
        shape[axis + 2] = w.out_spatial[axis]
        linear = factor @ linear
    return linear


def _factor(node: Node, w: Windows, axis: int, shape: list[int]) -> LinearMap:
    """The window means along one spatial axis of a tensor of this shape."""
    size, n, taps = w.in_spatial[axis], w.out_spatial[axis], w.taps[axis]
    if taps == w.strides[axis] == 1 and n == size and w.begin[axis] == 0:
        return identity(math.prod(shape))
    starts = w.strides[axis] * np.arange(n) - w.begin[axis]
    weight, ulps = _weights(node, w, axis, starts)
    if n * size > _LARGEST:
        return _by_sums(w, axis, shape, weight, ulps)
    read = starts[:, None] + w.dilations[axis] * np.arange(taps)
    inside = (read >= 0) & (read < size)
    rows, _ = np.nonzero(inside)
    block = np.zeros((n, size))
    block[rows, read[inside]] = weight[rows]
    return along(block, shape, axis + 2, ulps=ulps)


def _weights(
    node: Node, w: Windows, axis: int, starts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], float]:
    """1 / (number of entries) of each window, 0 for one that reads nothing, and its ulps."""
    size, taps, step = w.in_spatial[axis], w.taps[axis], w.dilations[axis]
    ends = [np.zeros_like(starts), np.full_like(starts, size)]
    if node.attribute("count_include_pad", 0):
        ends = [ends[0] - w.begin[axis], ends[1] + w.end[axis]]
    # Positions start + step·t, 0 ≤ t < taps, that are in [low, high).
    low, high = (np.clip(-((starts - end) // step), 0, taps) for end in ends)
    count = high - low
    exact = np.frexp(count)[0] == 0.5
    weight = np.where(count > 0, 1.0 / np.maximum(count, 1), 0.0)
    return weight, 0.0 if bool(np.all(exact | (count == 0))) else 1.0


def _by_sums(
    w: Windows, axis: int, shape: list[int], weight: npt.NDArray[np.float64], ulps: float
) -> LinearMap:
    n, inner = w.out_spatial[axis], math.prod(shape[axis + 3 :])
    outer = math.prod(shape[: axis + 2])
    sums = Convolution(
        np.ones((1, 1, w.taps[axis], 1)),
        (w.in_spatial[axis], inner),
        (n, inner),
        (w.strides[axis], 1),
        (w.dilations[axis], 1),
        (w.begin[axis], 0),
        batch=outer,
    )
    if np.all(weight == weight[0]):
        weight = weight[:1]
    return diagonal(weight[:, None], (outer, n, inner), ulps) @ sums


RULES = (
    Rule(
        "AveragePool",
        Affine(_linear),
        source="ONNX AveragePool",
        examples=(
            example(variable(1, 2, 6, 6), kernel_shape=[2, 2], strides=[2, 2]),
            example(variable(2, 1, 7, 5), kernel_shape=[3, 2], strides=[2, 1]),
            example(variable(1, 1, 5, 5), kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            example(
                variable(1, 1, 5, 5), kernel_shape=[3, 3], pads=[1, 0, 1, 1], count_include_pad=1
            ),
            example(variable(1, 2, 9), kernel_shape=[3], dilations=[2]),
            example(variable(1, 2, 9), kernel_shape=[3], dilations=[2], pads=[2, 1]),
            example(variable(1, 1, 6, 5), kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1),
            example(
                variable(1, 1, 6),
                kernel_shape=[3],
                strides=[2],
                pads=[1, 0],
                ceil_mode=1,
                count_include_pad=1,
            ),
            example(variable(1, 1, 5, 4), kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
            example(variable(1, 1, 5, 4), kernel_shape=[2, 3], auto_pad="SAME_LOWER"),
            example(variable(1, 1, 5), kernel_shape=[2], auto_pad="VALID", strides=[2]),
            example(variable(1, 1, 3, 4, 3), kernel_shape=[2, 1, 2], strides=[1, 2, 1]),
            example(variable(1, 2, 3, 3), kernel_shape=[1, 1]),
        ),
    ),
)
