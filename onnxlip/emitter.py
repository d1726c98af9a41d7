"""Emitter: writes ONNX nodes as if calling functions.

    y = e.MatMul(x, e.weight(w))
    a, b = e.Split(x, outputs=2, axis=1)

Tensors are named by strings. Vectors are (batch of right-hand sides, n). Weights become graph
inputs that the caller feeds: `Weights` holds them for all graphs of one operator, so that the
forward, the adjoint and the fused graph share one copy of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["OPSET", "Emitter", "Weights"]

OPSET = 18  # every op that lowerings use exists since then, and ScatterElements adds

Array = npt.NDArray[np.floating[Any]]


class Weights:
    """Coefficients by tensor name, each array object once, in `dtype`; with `modulus` as |w|,
    which turns any emitted map A into |A|. What is contiguous and of that type is not copied."""

    def __init__(self, dtype: npt.DTypeLike = np.float32, modulus: bool = False) -> None:
        self.dtype = np.dtype(dtype)
        self.modulus = modulus
        self.arrays: dict[str, Array] = {}
        self._known: dict[int, tuple[Any, str]] = {}

    def name(self, values: Array) -> str:
        """The name of the tensor that holds these values."""
        known = self._known.get(id(values))
        if known is not None:
            return known[1]
        key = f"w{len(self.arrays)}"
        array = np.asarray(np.abs(values) if self.modulus else values)
        self.arrays[key] = np.ascontiguousarray(array, dtype=self.dtype)
        self._known[id(values)] = (values, key)  # holding the array keeps its id taken
        return key


class Emitter:
    """Collects nodes, constants and the names of the weights of one graph.

    weights: float32 (fast, for iterations) or float64 (for what is proved).
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.used: dict[str, Array] = {}
        self._count = 0

    @property
    def double(self) -> bool:
        """Whether products must be exact to float64 rounding."""
        return self.weights.dtype == np.float64

    @property
    def modulus(self) -> bool:
        """Whether |A| is being emitted."""
        return self.weights.modulus

    def name(self) -> str:
        """A new tensor name."""
        self._count += 1
        return f"t{self._count}"

    def constant(self, values: Any) -> str:
        """An int64 constant: indices, shapes, axes, pads."""
        from onnx import numpy_helper

        key = self.name()
        array = np.ascontiguousarray(values, dtype=np.int64)
        self.initializers.append(numpy_helper.from_array(array, key))
        return key

    def weight(self, values: Array) -> str:
        """Coefficients of the map; the same array object is fed once only."""
        key = self.weights.name(values)
        self.used[key] = self.weights.arrays[key]
        return key

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if not op_type[:1].isupper():
            raise AttributeError(op_type)

        def emit(*inputs: str, outputs: int = 1, **attributes: Any) -> Any:
            from onnx import helper

            results = [self.name() for _ in range(outputs)]
            self.nodes.append(helper.make_node(op_type, list(inputs), results, **attributes))
            return results[0] if outputs == 1 else tuple(results)

        return emit
