"""AlexNet, VGG16 and ResNet-50 at 224×224 as ONNX files with external weights.

Krizhevsky 2014 (the single tower), Simonyan & Zisserman 2015 (configuration D), He et al. 2016
(bottlenecks of 3, 4, 6, 3; the stride in the 3×3 convolution, as every framework has it now).
Dropout is left out, as at inference; adaptive pools are the identity at this resolution.

Weights are written to a file beside the model as they are made, so that no model need fit into a
protobuf message (2 GiB). All intermediate shapes are stored.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, save_model

from benchmarks.norms.weights import KINDS

__all__ = ["ARCHITECTURES", "build"]

_VERSION = 1  # of what is built: part of the file's name
_ALIGN = 64


class _Net:
    """Writes one network, node by node. Tensors are named by strings."""

    def __init__(self, kind: str, seed: int, file: BinaryIO) -> None:
        self.kind = kind
        self._seed = seed
        self._file = file
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.shapes: dict[str, tuple[int, ...]] = {"image": (1, 3, 224, 224)}

    def _weight(self, name: str, values: npt.NDArray[np.float32]) -> str:
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=values.shape)
        tensor.data_location = TensorProto.EXTERNAL
        self._file.write(bytes(-self._file.tell() % _ALIGN))
        where = {"location": Path(self._file.name).name, "offset": self._file.tell()}
        for key, value in {**where, "length": values.nbytes}.items():
            tensor.external_data.add(key=key, value=str(value))
        self._file.write(np.ascontiguousarray(values).data)
        self.tensors.append(tensor)
        return name

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32(name.encode())])

    def _node(self, op: str, inputs: list[str], shape: tuple[int, ...], name: str, **a: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"{name}.out"], name=name, **a))
        self.shapes[f"{name}.out"] = shape
        return f"{name}.out"

    def conv(
        self, x: str, name: str, c: int, k: int, stride: int = 1, pad: int = 0, bias: bool = True
    ) -> str:
        n, c_in, h, w = self.shapes[x]
        rng = self._rng(name)
        inputs = [x, self._weight(f"{name}.weight", KINDS[self.kind](rng, (c, c_in, k, k)))]
        if bias:
            inputs.append(self._weight(f"{name}.bias", _biases(rng, c)))
        size = tuple((i + 2 * pad - k) // stride + 1 for i in (h, w))
        return self._node(
            "Conv",
            inputs,
            (n, c, *size),
            name,
            kernel_shape=[k, k],
            strides=[stride] * 2,
            pads=[pad] * 4,
        )

    def norm(self, x: str, name: str) -> str:
        """BatchNormalization: as initialised, or with factors and variances that vary."""
        c, rng = self.shapes[x][1], self._rng(name)
        if self.kind == "random":
            scale, var = np.ones(c), np.ones(c)
        else:
            scale, var = rng.lognormal(-0.5, 0.4, c), rng.lognormal(0.0, 0.5, c)
        values = {"scale": scale, "bias": _biases(rng, c), "mean": _biases(rng, c), "var": var}
        names = [self._weight(f"{name}.{k}", v.astype(np.float32)) for k, v in values.items()]
        return self._node("BatchNormalization", [x, *names], self.shapes[x], name, epsilon=1e-5)

    def relu(self, x: str) -> str:
        return self._node("Relu", [x], self.shapes[x], f"{x.removesuffix('.out')}.relu")

    def pool(self, x: str, name: str, k: int, stride: int, pad: int = 0) -> str:
        n, c, h, w = self.shapes[x]
        size = tuple((i + 2 * pad - k) // stride + 1 for i in (h, w))
        return self._node(
            "MaxPool",
            [x],
            (n, c, *size),
            name,
            kernel_shape=[k, k],
            strides=[stride] * 2,
            pads=[pad] * 4,
        )

    def average(self, x: str) -> str:
        return self._node("GlobalAveragePool", [x], (*self.shapes[x][:2], 1, 1), "average")

    def flatten(self, x: str) -> str:
        return self._node("Flatten", [x], (1, math.prod(self.shapes[x])), "flatten")

    def add(self, x: str, y: str, name: str) -> str:
        return self._node("Add", [x, y], self.shapes[x], name)

    def linear(self, x: str, name: str, m: int) -> str:
        n, rng = self.shapes[x][1], self._rng(name)
        weight = self._weight(f"{name}.weight", KINDS[self.kind](rng, (m, n)))
        bias = self._weight(f"{name}.bias", _biases(rng, m))
        return self._node("Gemm", [x, weight, bias], (1, m), name, transB=1)


def _biases(rng: np.random.Generator, n: int) -> npt.NDArray[np.float32]:
    return 0.05 * rng.standard_normal(n, dtype=np.float32)


def _alexnet(net: _Net) -> str:
    x = net.relu(net.conv("image", "conv1", 64, 11, stride=4, pad=2))
    x = net.relu(net.conv(net.pool(x, "pool1", 3, 2), "conv2", 192, 5, pad=2))
    x = net.relu(net.conv(net.pool(x, "pool2", 3, 2), "conv3", 384, 3, pad=1))
    x = net.relu(net.conv(x, "conv4", 256, 3, pad=1))
    x = net.relu(net.conv(x, "conv5", 256, 3, pad=1))
    x = net.flatten(net.pool(x, "pool5", 3, 2))
    x = net.relu(net.linear(x, "fc6", 4096))
    x = net.relu(net.linear(x, "fc7", 4096))
    return net.linear(x, "fc8", 1000)


def _vgg16(net: _Net) -> str:
    x = "image"
    for stage, (c, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        for k in range(1, depth + 1):
            x = net.relu(net.conv(x, f"conv{stage}_{k}", c, 3, pad=1))
        x = net.pool(x, f"pool{stage}", 2, 2)
    x = net.relu(net.linear(net.flatten(x), "fc6", 4096))
    x = net.relu(net.linear(x, "fc7", 4096))
    return net.linear(x, "fc8", 1000)


def _resnet50(net: _Net) -> str:
    x = net.relu(net.norm(net.conv("image", "conv1", 64, 7, stride=2, pad=3, bias=False), "bn1"))
    x = net.pool(x, "pool1", 3, 2, pad=1)
    for stage, (c, depth) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for k in range(depth):
            x = _bottleneck(net, x, f"layer{stage}.{k}", c, 2 if stage > 1 and k == 0 else 1)
    return net.linear(net.flatten(net.average(x)), "fc", 1000)


def _bottleneck(net: _Net, x: str, name: str, c: int, stride: int) -> str:
    def unit(y: str, which: str, c: int, k: int, stride: int = 1) -> str:
        y = net.conv(y, f"{name}.conv{which}", c, k, stride, pad=k // 2, bias=False)
        return net.norm(y, f"{name}.bn{which}")

    y = net.relu(unit(x, "1", c, 1))
    y = net.relu(unit(y, "2", c, 3, stride))
    y = unit(y, "3", 4 * c, 1)
    skip = x if net.shapes[x] == net.shapes[y] else unit(x, "_skip", 4 * c, 1, stride)
    return net.relu(net.add(y, skip, f"{name}.add"))


ARCHITECTURES: dict[str, Callable[[_Net], str]] = {
    "alexnet": _alexnet,
    "resnet50": _resnet50,
    "vgg16": _vgg16,
}


def build(architecture: str, kind: str, seed: int, folder: Path) -> Path:
    """The model's file, made unless the folder has it. kind: a key of `weights.KINDS`."""
    name = f"{architecture}-{kind}-{seed}-v{_VERSION}"
    path = folder / f"{name}.onnx"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{name}.bin"
    with data.open("wb") as file:
        net = _Net(kind, seed, file)
        output = ARCHITECTURES[architecture](net)
    values = {
        k: helper.make_tensor_value_info(k, TensorProto.FLOAT, s) for k, s in net.shapes.items()
    }
    graph = helper.make_graph(
        net.nodes, name, [values.pop("image")], [values.pop(output)], net.tensors
    )
    graph.value_info.extend(values.values())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    unfinished = path.with_suffix(".part")
    save_model(model, unfinished, format="protobuf")
    os.replace(unfinished, path)  # the last step, so that a file that is there is complete
    return path
