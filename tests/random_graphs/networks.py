"""Random small networks: layers with activations, in a row, residual, concatenated, convolutional.

Unlike `random_graph` every one is what people train: what bounds of whole networks are for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tests.random_graphs.maker import MOST_ENTRIES, Maker, SkipError, clip
from tests.random_graphs.runner import CannotRunError

Layer = Callable[[Maker, str], str]

_GAINED = 0.3  # of networks may hold blocks that have a gain only


def random_network(seed: int) -> Maker:
    """A network with one to three inputs and one or two outputs; weights are exact in float16."""
    b = Maker(seed)
    b.dtype, b.opset = "float32", b.pick([17, 20, 21, 21])
    ways = [_entrance(b) for _ in range(b.pick([1, 1, 1, 1, 2, 3]))]
    layers = _layers(b)
    for _ in range(b.number(2, 5)):
        k = b.number(0, len(ways) - 1)
        ways[k] = _tried(b, b.pick(layers), ways[k])
    last = _tried(b, _met, ways[0]) if len(ways) == 1 else _together(b, ways)
    b.outputs = [_tried(b, _linear, last)]
    if b.chance(0.15):
        aside = b.pick([v for v in b.variables if v not in b.inputs])
        b.outputs = list(dict.fromkeys([*b.outputs, aside]))
    return b


def _layers(b: Maker) -> Sequence[Layer]:
    usual = [_dense, _dense, _residual, _residual, _concatenated]
    images = [_conv, _conv, _pooled, _pooled, _averaged]
    return [*usual, *images, *([_gained] * 3 if b.chance(_GAINED) else [])]


def _tried(b: Maker, layer: Layer, x: str) -> str:
    """What the layer makes of x, or x where it does not fit."""
    nodes, runners, variables = len(b.nodes), len(b.runners), len(b.variables)
    try:
        return layer(b, x)
    except (SkipError, CannotRunError):
        del b.nodes[nodes:], b.runners[runners:], b.variables[variables:]
        return x


def _entrance(b: Maker) -> str:
    if b.chance(0.4):
        return b.input(1, b.number(2, 7))
    return b.input(1, b.number(1, 2), b.number(2, 4), b.number(2, 4))


# ── affine parts ──────────────────────────────────────────────────────────────────────────────


def _flat(b: Maker, x: str) -> str:
    return x if len(b.shape(x)) == 2 else str(b.emit("Flatten", x))


def _linear(b: Maker, x: str) -> str:
    x = _flat(b, x)
    n, m = b.shape(x)[1], b.number(1, 8)
    return str(b.emit("Gemm", x, b.weight(n, m), b.weight(m)))


def _spread(b: Maker, x: str, channels: int) -> str:
    """A convolution that keeps height and width."""
    taps = b.pick([1, 3])
    w = b.weight(channels, b.shape(x)[1], taps, taps)
    return str(b.emit("Conv", x, w, b.weight(channels), pads=[taps // 2] * 4))


def _same(b: Maker, x: str, like: str) -> str:
    """Affine, to the shape of another tensor of as many axes."""
    if len(b.shape(x)) == 4:
        return _spread(b, x, b.shape(like)[1])
    n, m = b.shape(x)[1], b.shape(like)[1]
    return str(b.emit("Gemm", x, b.weight(n, m), b.weight(m)))


# ── activations ───────────────────────────────────────────────────────────────────────────────


def _bent(b: Maker, x: str) -> str:
    kind = b.pick(["Relu"] * 6 + ["LeakyRelu", "PRelu", "Clip", "SiLU", "QuickGELU"] + _NAMED)
    if kind == "LeakyRelu":
        slope = b.pick([-1.5, -0.5, 0.1, 0.25, 1.75])
        return str(b.emit(kind, x, alpha=slope))
    if kind == "PRelu":
        shape = b.shape(x)
        return str(b.emit(kind, x, b.weight(*shape[1:2], *(1,) * (len(shape) - 2))))
    if kind == "Clip":
        return clip(b, x, -1.0, 1.0)
    if kind in ("SiLU", "QuickGELU"):
        inner = x if kind == "SiLU" else b.emit("Mul", x, b.constant(np.float64(1.702)))
        return str(b.emit("Mul", x, b.emit("Sigmoid", inner)))
    b.since({"Gelu": 20, "Mish": 18, "HardSwish": 14}.get(kind, 9))
    return str(b.emit(kind, x))


_NAMED = ["Elu", "Selu", "Tanh", "Softplus", "Abs", "Sin", "Gelu", "Mish", "HardSwish"]


# ── layers ────────────────────────────────────────────────────────────────────────────────────


def _dense(b: Maker, x: str) -> str:
    return _bent(b, _linear(b, x))


def _conv(b: Maker, x: str) -> str:
    shape = b.shape(x)
    b.need(len(shape) == 4)
    h, w = (b.number(1, min(3, d)) for d in shape[2:])
    out = b.number(1, 3)
    pads = [b.number(0, 1) for _ in range(4)]
    stride = [b.number(1, 2) for _ in range(2)]
    y = b.emit("Conv", x, b.weight(out, shape[1], h, w), b.weight(out), pads=pads, strides=stride)
    b.need(0 < b.values[y].size <= MOST_ENTRIES)
    return _bent(b, y)


def _residual(b: Maker, x: str) -> str:
    """x + A φ(B x + b), or φ of that."""
    shape = b.shape(x)
    middle = _spread(b, x, b.number(1, 3)) if len(shape) == 4 else _linear(b, x)
    b.need(b.values[middle].size <= MOST_ENTRIES)
    y = str(b.emit("Add", x, _same(b, _bent(b, middle), x)))
    return _bent(b, y) if b.chance(0.4) else y


def _concatenated(b: Maker, x: str) -> str:
    y = _spread(b, x, b.number(1, 2)) if len(b.shape(x)) == 4 else _linear(b, x)
    both = str(b.emit("Concat", x, _bent(b, y), axis=1))
    b.need(b.values[both].size <= MOST_ENTRIES)
    return both


def _pooled(b: Maker, x: str) -> str:
    """Windows that overlap, or do not, or leave entries out."""
    shape = b.shape(x)
    b.need(len(shape) == 4 and min(shape[2:]) > 1)
    pads = [b.number(0, 1) for _ in range(4)]
    stride = b.number(1, 3)
    return str(b.emit("MaxPool", x, kernel_shape=[2, 2], pads=pads, strides=[stride, stride]))


def _averaged(b: Maker, x: str) -> str:
    b.need(len(b.shape(x)) == 4 and min(b.shape(x)[2:]) > 1)
    return str(b.emit("AveragePool", x, kernel_shape=[2, 2], strides=[1, 2]))


def _gained(b: Maker, x: str) -> str:
    x = _flat(b, x)
    n = b.shape(x)[1]
    if b.chance(0.5):
        return str(b.emit("Softmax", x, axis=1))
    scale, bias = b.weight(n), b.weight(n)
    return str(b.emit("LayerNormalization", x, scale, bias, axis=1, epsilon=b.pick([0.1, 1.0])))


def _met(b: Maker, x: str) -> str:
    return _dense(b, x)


def _together(b: Maker, ways: Sequence[str]) -> str:
    """Several ways summed or concatenated, then one more layer."""
    flats = [_flat(b, x) for x in ways]
    if b.chance(0.5):
        both = str(b.emit("Concat", *flats, axis=1))
    else:
        both = flats[0]
        for other in flats[1:]:
            both = str(b.emit("Add", both, _same(b, other, both)))
    return _tried(b, _dense, both)
