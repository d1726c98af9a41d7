"""The baseline: the power method of Virmaux & Scaman 2018, Algorithm 2, written anew in torch.

As their published code has it (github.com/avirmaux/lipEstimation, max_eigenvalue.py and
lipschitz_approximations.py, read at commit 08765ab): every convolution and every linear layer is
an affine module on one image of its own input size, float32; v starts Gaussian and is normalised;
a step is the gradient of ‖f(v) − f(0)‖² by autograd, normalised; it stops when ‖v − v_before‖ <
1e-8 or after `max_iter` = 500 (their counter lets 502 through); the value is ‖f(v) − f(0)‖.
BatchNorm counts as max|γ/√(σ² + ε)| apart, pools and additions as 1, and the result is the
product over all modules, residual branches multiplied too. It is an estimate from below of an
upper bound: neither.

The layers are read from the same ONNX file; only the norms are timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional

__all__ = ["estimate", "power_method"]

Affine = Callable[[torch.Tensor], torch.Tensor]
Layer = tuple[str, Affine, tuple[int, ...]]

MAX_ITER, TOLERANCE = 500, 1e-8


def power_method(
    affine: Affine, shape: tuple[int, ...], generator: torch.Generator
) -> tuple[float, list[tuple[float, float]]]:
    """(the estimate, (seconds, ‖f(v) − f(0)‖) at every step's beginning)."""
    start = time.perf_counter()
    offset = affine(torch.zeros(shape)).detach()
    v = torch.randn(shape, generator=generator)
    v = functional.normalize(v.flatten(), dim=0).view(shape)
    steps = []
    it = 0
    while True:
        before = v
        x = v.clone().requires_grad_()
        loss = torch.linalg.vector_norm(affine(x) - offset) ** 2
        loss.backward()
        assert x.grad is not None
        v = functional.normalize(x.grad.flatten(), dim=0).view(shape)
        steps.append((time.perf_counter() - start, float(loss.detach()) ** 0.5))
        if float(torch.linalg.vector_norm(v - before)) < TOLERANCE or it > MAX_ITER:
            break
        it += 1
    with torch.no_grad():
        value = float(torch.linalg.vector_norm(affine(v) - offset))
    return value, [*steps, (time.perf_counter() - start, value)]


def estimate(path: Path, seed: int = 0, threads: int = 2) -> dict[str, Any]:
    """All layers of a model: their norms, seconds, steps, and seconds until within 1e-3 of the
    last value; BatchNormalization by its closed form."""
    torch.set_num_threads(threads)
    layers, norms = _layers(path)
    generator = torch.Generator().manual_seed(seed)
    told: dict[str, Any] = {}
    start = time.perf_counter()
    for name, affine, shape in layers:
        value, steps = power_method(affine, shape, generator)
        close = next(t for t, x in steps if x >= value * (1 - 1e-3))
        told[name] = {
            "value": value,
            "seconds": steps[-1][0],
            "steps": len(steps) - 1,
            "seconds_to_1e-3": close,
        }
    product = 1.0
    for entry in told.values():
        product *= entry["value"]
    for factor in norms:
        product *= float(factor().abs().max())
    return {
        "seconds": time.perf_counter() - start,
        "seconds_to_1e-3": sum(entry["seconds_to_1e-3"] for entry in told.values()),
        "product": product,
        "layers": told,
    }


def _layers(path: Path) -> tuple[list[Layer], list[Callable[[], torch.Tensor]]]:
    """Modules in the order of the nodes, and the BatchNormalizations' factors."""
    model = onnx.load(path, load_external_data=False)
    stored = {t.name: t for t in model.graph.initializer}
    shapes = {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
        for v in (*model.graph.input, *model.graph.value_info)
    }

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(numpy_helper.to_array(stored[name], str(path.parent)).copy())

    layers: list[Layer] = []
    norms: list[Callable[[], torch.Tensor]] = []
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Conv":
            parts = [tensor(name) for name in node.input[1:]]
            layers.append((node.name, _conv(parts, attributes), shapes[node.input[0]]))
        elif node.op_type == "Gemm":
            weight, bias = (tensor(name) for name in node.input[1:])
            layers.append((node.name, _linear(weight, bias), shapes[node.input[0]]))
        elif node.op_type == "BatchNormalization":
            scale, var = tensor(node.input[1]), tensor(node.input[4])
            norms.append(_batch_norm(scale, var, attributes["epsilon"]))
    return layers, norms


def _conv(parts: list[torch.Tensor], attributes: dict[str, Any]) -> Affine:
    weight, bias = parts[0], parts[1] if len(parts) > 1 else None
    stride, pad = tuple(attributes["strides"]), tuple(attributes["pads"][:2])
    return lambda x: functional.conv2d(x, weight, bias, stride, pad)


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> Affine:
    return lambda x: functional.linear(x, weight, bias)


def _batch_norm(
    scale: torch.Tensor, var: torch.Tensor, epsilon: float
) -> Callable[[], torch.Tensor]:
    return lambda: scale / torch.sqrt(var + epsilon)
