"""Resize and Upsample: interpolation along each axis, see `families.interpolation`.

nearest        an index map: ‖A‖₂ = √(how often the most used entry is copied)
linear, cubic  a Kronecker product of one matrix per resized axis: norms multiply

Scales are inputs, or follow from the sizes as m/n; where nothing changes size, all is copied. On
axes where a dense matrix would be too large, the factor is a sum of one index map per tap.

Source: ONNX operator specification, Resize, Upsample.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from onnxlip.linear import LinearMap, Monomial, Sum, identity, selection
from onnxlip.ops.families.axis_sums import along
from onnxlip.ops.families.coefficients import require
from onnxlip.ops.families.interpolation import Axis, Stencil, nearest_entries, stencil
from onnxlip.rules import (
    Affine,
    Constant,
    Node,
    Rule,
    constant,
    example,
    only_variable,
    variable,
)

_LARGEST = 1 << 24  # entries of a factor that is written as a dense matrix


def _single(value: float) -> Fraction:
    """Attributes and scales are float32."""
    return Fraction(float(np.float32(value)))


def _geometry(node: Node) -> list[Axis]:
    """Lengths and scales of all axes of a Resize."""
    shape, rank = node.x.shape, len(node.x.shape)
    axes = [axis % rank for axis in node.attribute("axes") or range(rank)]
    scales = [Fraction(1)] * rank
    if node.has(2) and node.constant(2).size:
        for axis, scale in zip(axes, node.floats(2), strict=True):
            scales[axis] = _single(scale)
    else:
        for axis, size in zip(axes, node.ints(3), strict=True):
            scales[axis] = Fraction(size, shape[axis])
        policy = node.attribute("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            pick = min if policy == "not_larger" else max
            common = pick(scales[axis] for axis in axes)
            scales = [common if k in axes else Fraction(1) for k in range(rank)]
    return [Axis(n, m, s) for n, m, s in zip(shape, node.y.shape, scales, strict=True)]


def _resize(node: Node, i: int, o: int) -> LinearMap:
    mode = node.attribute("mode", "nearest")
    coordinates = node.attribute("coordinate_transformation_mode", "half_pixel")
    crops = coordinates == "tf_crop_and_resize"
    require(not crops, node, "tf_crop_and_resize is not supported: write it as Slice and Resize")
    sharp = not node.attribute("antialias", 0)
    require(sharp, node, "antialias is not supported: export without it, or give a rule of yours")
    if mode == "nearest":
        rounding = node.attribute("nearest_mode", "round_prefer_floor")
        return _nearest(node, _geometry(node), coordinates, rounding)
    cubic = None
    if mode == "cubic":
        cubic = float(np.float32(node.attribute("cubic_coeff_a", -0.75)))
    exclude = bool(node.attribute("exclude_outside", 0))
    return _separable(node, _geometry(node), coordinates, cubic, exclude)


def _upsample(node: Node, i: int, o: int) -> LinearMap:
    scales = node.floats(1) if node.has(1) else np.array(node.attribute("scales"))
    axes = [
        Axis(n, m, _single(s))
        for n, m, s in zip(node.x.shape, node.y.shape, scales.ravel(), strict=True)
    ]
    if node.attribute("mode", "nearest") == "nearest":
        return _nearest(node, axes, "asymmetric", "floor")
    return _separable(node, axes, "asymmetric", None, False)


def _nearest(node: Node, axes: Sequence[Axis], coordinates: str, rounding: str) -> LinearMap:
    shape = node.x.shape
    places = np.arange(math.prod(shape)).reshape(shape)
    if node.y.shape == shape:
        return identity(places.size)
    read = [nearest_entries(coordinates, axis, rounding) for axis in axes]
    return selection(places[np.ix_(*read)], places.size)


def _separable(
    node: Node, axes: Sequence[Axis], coordinates: str, cubic: float | None, exclude: bool
) -> LinearMap:
    shape = list(node.x.shape)
    linear: LinearMap = identity(math.prod(shape))
    if node.y.shape == node.x.shape:
        return linear
    for k, axis in enumerate(axes):
        if axis.is_copied:
            continue
        taps = stencil(coordinates, axis, cubic, exclude)
        if axis.n * axis.m <= _LARGEST:
            factor: LinearMap = along(taps.matrix(axis.n), shape, k, ulps=taps.ulps)
        else:
            factor = _by_taps(taps, shape, k)
        shape[k] = axis.m
        linear = factor @ linear
    return linear


def _by_taps(taps: Stencil, shape: Sequence[int], axis: int) -> LinearMap:
    size = math.prod(shape)
    places = np.arange(size).reshape(shape)
    aside = [1] * len(shape)
    aside[axis] = -1
    summands = []
    for index, weight in zip(taps.index.T, taps.weight.T, strict=True):
        read = np.where(weight.reshape(aside) != 0, np.take(places, index, axis=axis), -1)
        wide = np.broadcast_to(weight.reshape(aside), read.shape).reshape(-1)
        summands.append(Monomial(size, read.reshape(-1), wide, taps.ulps))
    return Sum(tuple(summands))


def _scales(*values: float) -> Constant:
    return constant(list(map(float, values)))


_ROI = None

RULES = (
    Rule(
        "Resize",
        Affine(_resize),
        source="ONNX Resize; Keys 1981",
        since=11,
        examples=(
            example(variable(1, 2, 2, 3), _ROI, _scales(1, 1, 2, 2)),
            example(
                variable(1, 1, 3, 3),
                _ROI,
                _scales(1, 1, 2, 3),
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            ),
            example(variable(1, 1, 5), _ROI, _scales(1, 1, 0.6), nearest_mode="ceil"),
            example(
                variable(1, 1, 4, 4),
                _ROI,
                None,
                constant([1, 1, 7, 3]),
                nearest_mode="round_prefer_ceil",
            ),
            example(variable(1, 2, 2, 3), _ROI, _scales(1, 1, 2, 2), mode="linear"),
            example(variable(2, 4, 4), _ROI, _scales(1, 0.6, 1.7), mode="linear"),
            example(
                variable(1, 1, 3, 3),
                _ROI,
                None,
                constant([1, 1, 6, 5]),
                mode="linear",
                coordinate_transformation_mode="align_corners",
            ),
            example(
                variable(1, 1, 4, 3),
                _ROI,
                None,
                constant([1, 7]),
                axes=[2, 3],
                mode="linear",
                coordinate_transformation_mode="pytorch_half_pixel",
            ),
            example(
                variable(1, 1, 4, 3),
                _ROI,
                _scales(1, 1, 1.3, 0.7),
                mode="linear",
                coordinate_transformation_mode="half_pixel_symmetric",
            ),
            example(
                variable(1, 4, 3, 1),
                _ROI,
                constant([2.0, 3.0]),
                axes=[1, -2],
                mode="linear",
                coordinate_transformation_mode="asymmetric",
            ),
            example(
                variable(4, 6),
                _ROI,
                None,
                constant([3, 9]),
                keep_aspect_ratio_policy="not_larger",
                mode="linear",
            ),
            # onnx's reference computes cubic weights in float32, which is exact for these scales
            example(variable(1, 1, 4, 3), _ROI, _scales(1, 1, 2, 0.5), mode="cubic"),
            example(
                variable(1, 1, 4, 4),
                _ROI,
                None,
                constant([1, 1, 8, 2]),
                mode="cubic",
                cubic_coeff_a=-0.5,
                coordinate_transformation_mode="asymmetric",
            ),
            example(variable(1, 2, 2, 2, 2), _ROI, _scales(1, 1, 2, 1, 3), mode="linear"),
        ),
        applies=only_variable(0),
    ),
    Rule(
        "Upsample",
        Affine(_upsample),
        source="ONNX Upsample",
        since=7,
        until=9,
        examples=(
            example(variable(1, 2, 2, 3), _scales(1, 1, 2, 3)),
            example(variable(1, 1, 3, 2), _scales(1, 1, 2, 1.5), mode="nearest"),
            example(variable(1, 2, 2, 3), _scales(1, 1, 2, 2), mode="linear"),
            example(variable(1, 1, 3, 3), _scales(1, 1, 1.5, 2), mode="linear"),
        ),
        applies=only_variable(0),
    ),
)
