"""Sliding windows: where each one begins, whatever the exporter used to say so.

pads, auto_pad, ceil_mode, strides, dilations and kernel_shape are settled here, once, for
convolutions and pools.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.ops.families.coefficients import require
from onnxlip.rules import Node

__all__ = ["Windows", "require_one_reading", "window_counts", "window_picks", "windows"]


@dataclass(frozen=True)
class Windows:
    """Per spatial axis: input and output length, window length, stride, dilation, pads."""

    in_spatial: tuple[int, ...]
    out_spatial: tuple[int, ...]
    taps: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]


def windows(node: Node, taps: tuple[int, ...] | None = None) -> Windows:
    """The windows of a convolution or a pool (output lengths are those of the node's output)."""
    in_spatial, out_spatial = node.x.shape[2:], node.y.shape[2:]
    d = len(in_spatial)
    taps = taps or tuple(node.attribute("kernel_shape"))
    strides = tuple(node.attribute("strides") or (1,) * d)
    dilations = tuple(node.attribute("dilations") or (1,) * d)
    pads = tuple(node.attribute("pads") or (0,) * (2 * d))
    begin, end = pads[:d], pads[d:]
    auto: Any = node.attribute("auto_pad", "NOTSET")
    if auto == "VALID":
        begin = end = (0,) * d
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max(0, (o - 1) * s + dil * (k - 1) + 1 - i)
            for i, o, k, s, dil in zip(
                in_spatial, out_spatial, taps, strides, dilations, strict=True
            )
        ]
        less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        begin, end = (less, more) if auto == "SAME_UPPER" else (more, less)
    return Windows(in_spatial, out_spatial, taps, strides, dilations, begin, end)


def require_one_reading(node: Node, w: Windows) -> None:
    """Raises ModelError where runtimes disagree on where auto_pad = SAME_* puts the windows:
    a stride so large that padding would be below −1, and pools with dilations."""
    if not str(node.attribute("auto_pad", "NOTSET")).startswith("SAME"):
        return
    least = min(
        (o - 1) * s + d * (k - 1) + 1 - i
        for i, o, k, s, d in zip(
            w.in_spatial, w.out_spatial, w.taps, w.strides, w.dilations, strict=True
        )
    )
    plain = least >= -1 and (node.op_type == "Conv" or max(w.dilations) == 1)
    require(plain, node, "runtimes disagree on auto_pad with these strides; export explicit pads")


def window_counts(node: Node) -> list[npt.NDArray[np.int64]]:
    """Per axis, in how many windows each input position lies."""
    w = windows(node)
    require_one_reading(node, w)
    counts = []
    for i, o, k, s, dil, b in zip(
        w.in_spatial, w.out_spatial, w.taps, w.strides, w.dilations, w.begin, strict=True
    ):
        read = s * np.arange(o)[:, None] + dil * np.arange(k)[None] - b
        inside = read[(read >= 0) & (read < i)]
        counts.append(np.bincount(inside, minlength=i).astype(np.int64))
    return counts


def window_picks(node: Node) -> npt.NDArray[np.int64]:
    """(outputs, taps): the flat positions of the input entries in each window, −1 for padding."""
    w = windows(node)
    require_one_reading(node, w)
    flat = np.zeros((1, 1), np.int64)
    inside = np.ones((1, 1), bool)
    for i, o, k, s, dil, b in zip(
        w.in_spatial, w.out_spatial, w.taps, w.strides, w.dilations, w.begin, strict=True
    ):
        read = s * np.arange(o)[:, None] + dil * np.arange(k)[None] - b
        shape = (len(flat) * o, flat.shape[1] * k)
        flat = (flat[:, None, :, None] * i + read[None, :, None, :]).reshape(shape)
        held = ((read >= 0) & (read < i))[None, :, None, :]
        inside = (inside[:, None, :, None] & held).reshape(shape)
    planes = int(np.prod(node.x.shape[:2]))
    size = int(np.prod(w.in_spatial))
    each = np.arange(planes)[:, None, None] * size + flat[None]
    return np.where(inside[None], each, -1).reshape(planes * len(flat), -1)
