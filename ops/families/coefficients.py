"""Constant inputs as coefficients of a linear map, without copies of large weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.rules import Node

__all__ = ["coefficients", "reciprocal", "require"]


def coefficients(node: Node, position: int) -> npt.NDArray[np.floating]:
    """The data of a constant input: float32 and float64 as it is, float16 and bfloat16 as
    float32 and integers as float64, which are exact.

    Raises ModelError if it is not constant, or holds a NaN or an infinity.
    """
    data = node.constant(position)
    if data.dtype not in (np.float32, np.float64):
        narrow = data.dtype.itemsize <= 2 and data.dtype.kind in "fV"  # bfloat16 is of kind V
        data = data.astype(np.float32 if narrow else np.float64)
    # Extremes tell of NaN and infinity without an array of flags as large as the weights.
    finite = not data.size or bool(np.isfinite(data.min()) and np.isfinite(data.max()))
    require(finite, node, f"its input {position} holds NaN or infinite numbers")
    return data


def reciprocal(k: int) -> tuple[float, float]:
    """1/k in float64 and its relative error in units of 2⁻⁵³."""
    return 1.0 / k, 0.0 if math.frexp(k)[0] == 0.5 else 1.0


def require(condition: Any, node: Node, problem: str) -> None:
    """Raises ModelError, which names the node, unless the condition holds."""
    if not condition:
        from onnxlip.errors import ModelError

        raise ModelError(f"{node.op_type} '{node.name}': {problem}")
