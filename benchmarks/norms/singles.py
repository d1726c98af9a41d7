"""Single layers: what others offer for a spectral norm, against a certified bracket.

numpy.linalg.norm(·, 2), torch.linalg.svdvals: all singular values of the matrix, written out.
scipy.sparse.linalg.svds: one singular value by Lanczos (ARPACK), from products.
power iterations, 10 and 50 steps: what layers that are constrained to be 1-Lipschitz run on
the operator (Miyato et al. 2018; deel-torchlip runs 3 to 10, on the kernel as a c_out × rest
matrix, times a factor for its overlapping windows: "flattened kernel").
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.norms.weights import KINDS

__all__ = ["LAYERS", "METHODS", "Layer", "measure"]

Floats = npt.NDArray[np.float32]

_ENTRIES = 20_000_000  # of a matrix that is written out (160 MB in float64)


class _SizeError(Exception):
    pass


@dataclass(frozen=True)
class Layer:
    """shape: (out, in) or (out, in, k, k); size: the image's side."""

    kind: str
    shape: tuple[int, ...]
    size: int = 1
    stride: int = 1
    pad: int = 0

    def weight(self) -> Floats:
        return KINDS[self.kind](np.random.default_rng(0), self.shape)


LAYERS = {
    "dense 1000×4096": Layer("random", (1000, 4096)),
    "dense 1000×4096, power law": Layer("power-law", (1000, 4096)),
    "dense 4096×4096": Layer("random", (4096, 4096)),
    "conv 32→32 3×3 @ 8×8": Layer("random", (32, 32, 3, 3), 8, 1, 1),
    "conv 64→192 5×5 @ 27×27": Layer("random", (192, 64, 5, 5), 27, 1, 2),
    "conv 64→192 5×5 @ 27×27, power law": Layer("power-law", (192, 64, 5, 5), 27, 1, 2),
    "conv 128→128 3×3/2 @ 56×56": Layer("random", (128, 128, 3, 3), 56, 2, 1),
    "conv 512→512 3×3 @ 14×14": Layer("random", (512, 512, 3, 3), 14, 1, 1),
}


def measure(method: str, layer: str) -> dict[str, Any]:
    """{"lower", "upper"} or {"value"}, with "seconds"; {"skipped": why} where it cannot be run."""
    chosen = LAYERS[layer]
    weight = chosen.weight()
    try:
        return METHODS[method](chosen, weight)
    except _SizeError as error:
        return {"skipped": str(error)}


def _onnxlip(layer: Layer, weight: Floats) -> dict[str, Any]:
    from onnxlip.linear import Convolution, Matrix
    from onnxlip.norms import bracket
    from onnxlip.registry import rule_set

    lowerings = rule_set().lowerings
    start = time.perf_counter()
    if weight.ndim == 2:
        found = bracket(Matrix(weight[None]), lowerings, 2)
    else:
        size = (layer.size + 2 * layer.pad - layer.shape[2]) // layer.stride + 1
        strides, begin = (layer.stride,) * 2, (layer.pad,) * 2
        conv = Convolution(weight, (layer.size,) * 2, (size,) * 2, strides, (1, 1), begin)
        found = bracket(conv, lowerings, 2)
    return {
        "seconds": time.perf_counter() - start,
        "lower": found.lower,
        "upper": found.upper,
    }


class _Products:
    """A x and Aᵀ y by torch, float32, for vectors as (batch, n)."""

    def __init__(self, layer: Layer, weight: Floats) -> None:
        import torch
        from torch.nn import functional

        w = torch.from_numpy(weight)
        self.image: tuple[int, ...]
        if w.ndim == 2:
            self.image, self.forward = (w.shape[1],), lambda x: functional.linear(x, w)
            self.adjoint: Callable[[Any], Any] = lambda y: functional.linear(y, w.T)
            return
        self.image = (w.shape[1], layer.size, layer.size)
        out = (layer.size + 2 * layer.pad - w.shape[2]) // layer.stride + 1
        left = layer.size - ((out - 1) * layer.stride + w.shape[2] - 2 * layer.pad)
        step = {"stride": layer.stride, "padding": layer.pad}
        self.forward = lambda x: functional.conv2d(x, w, **step)
        self.adjoint = lambda y: functional.conv_transpose2d(y, w, **step, output_padding=left)

    @property
    def columns(self) -> int:
        return math.prod(self.image)

    def matrix(self) -> Any:
        """Aᵀ written out as a tensor."""
        import torch

        rows = self.forward(torch.zeros(1, *self.image)).numel()
        if rows * self.columns > _ENTRIES:
            raise _SizeError(f"a {rows}×{self.columns} matrix")
        return self.forward(torch.eye(self.columns).view(-1, *self.image)).flatten(1)


def _timed(compute: Callable[[], float]) -> dict[str, Any]:
    start = time.perf_counter()
    value = compute()
    return {"seconds": time.perf_counter() - start, "value": value}


def _numpy(layer: Layer, weight: Floats) -> dict[str, Any]:
    if weight.ndim == 2:
        return _timed(lambda: float(np.linalg.norm(weight, 2)))
    products = _Products(layer, weight)
    return _timed(lambda: float(np.linalg.norm(products.matrix().numpy(), 2)))


def _svdvals(layer: Layer, weight: Floats) -> dict[str, Any]:
    import torch

    if weight.ndim == 2:
        return _timed(lambda: float(torch.linalg.svdvals(torch.from_numpy(weight))[0]))
    products = _Products(layer, weight)
    return _timed(lambda: float(torch.linalg.svdvals(products.matrix())[0]))


def _svds(layer: Layer, weight: Floats) -> dict[str, Any]:
    import torch
    from scipy.sparse.linalg import LinearOperator, svds

    start = np.random.default_rng(0)
    if weight.ndim == 2:
        v0 = start.standard_normal(min(weight.shape)).astype(np.float32)
        return _timed(lambda: float(svds(weight, k=1, v0=v0, return_singular_vectors=False)[0]))
    products = _Products(layer, weight)
    image = products.forward(torch.zeros(1, *products.image)).shape[1:]

    def apply(product: Callable[[Any], Any], shape: tuple[int, ...]) -> Callable[[Any], Any]:
        def call(x: Any) -> Any:
            tensor = torch.from_numpy(np.ascontiguousarray(x, np.float32)).view(1, *shape)
            return product(tensor).numpy().ravel()

        return call

    operator = LinearOperator(
        (math.prod(image), products.columns),
        matvec=apply(products.forward, products.image),
        rmatvec=apply(products.adjoint, image),
        dtype=np.float32,
    )
    v0 = start.standard_normal(min(operator.shape)).astype(np.float32)
    return _timed(lambda: float(svds(operator, k=1, v0=v0, return_singular_vectors=False)[0]))


def _power(steps: int) -> Callable[[Layer, Floats], dict[str, Any]]:
    def run(layer: Layer, weight: Floats) -> dict[str, Any]:
        import torch
        from torch.nn import functional

        products = _Products(layer, weight)

        def iterate() -> float:
            v = torch.randn(1, *products.image, generator=torch.Generator().manual_seed(0))
            for _ in range(steps):
                u = products.forward(v)
                v = functional.normalize(products.adjoint(u).flatten(), dim=0).view(v.shape)
            return float(torch.linalg.vector_norm(products.forward(v)))

        return _timed(iterate)

    return run


def _flattened(steps: int) -> Callable[[Layer, Floats], dict[str, Any]]:
    def run(layer: Layer, weight: Floats) -> dict[str, Any]:
        flat = np.ascontiguousarray(weight.reshape(len(weight), -1))
        windows = math.prod(math.ceil(k / layer.stride) for k in weight.shape[2:])
        found = _power(steps)(Layer(layer.kind, flat.shape), flat)
        return found | {"value": found["value"] * math.sqrt(windows)}

    return run


METHODS: dict[str, Callable[[Layer, Floats], dict[str, Any]]] = {
    "onnxlip": _onnxlip,
    "numpy.linalg.norm": _numpy,
    "torch.linalg.svdvals": _svdvals,
    "scipy svds": _svds,
    "power iteration, 10 steps": _power(10),
    "power iteration, 50 steps": _power(50),
    "flattened kernel, 10 steps": _flattened(10),
    "flattened kernel, 50 steps": _flattened(50),
}
