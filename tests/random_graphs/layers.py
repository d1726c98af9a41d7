"""Layers with weights or windows: products, convolutions, pools, normalisations."""

from __future__ import annotations

from typing import Any

from tests.random_graphs.maker import Maker, image, with_axes


def gemm(b: Maker) -> None:
    x = b.variable(rank=2)
    transposed, turned = b.number(0, 1), b.number(0, 1)
    m, k = b.shape(x)[:: -1 if transposed else 1]
    n = b.number(1, 6)
    attributes: dict[str, Any] = {"transA": transposed, "transB": turned}
    if b.chance(0.3):
        attributes |= {"alpha": 0.5, "beta": b.pick([0.0, 2.0])}
    left = b.chance(0.2)
    if left:  # the variable on the right
        rows, columns = b.shape(x)[:: -1 if turned else 1]
        w = b.weight(*(b.number(1, 4), rows)[:: -1 if transposed else 1])
        b.emit("Gemm", w, x, b.weight(columns), **attributes)
        return
    w = b.weight(*(k, n)[:: -1 if turned else 1])
    bias = [b.weight(*b.pick([(n,), (1, n), (m, n), (1,), ()]))] if b.chance(0.7) else [b.weight(1)]
    b.emit("Gemm", x, w, *bias, **attributes)


def matmul(b: Maker) -> None:
    x = b.variable(least=1)
    shape = b.shape(x)
    n, batch = b.number(1, 6), b.pick([(), (), (), (2,), (1,)])
    if b.chance(0.7):
        b.emit("MatMul", x, b.weight(*batch, shape[-1], n))
    elif len(shape) > 1:
        b.emit("MatMul", b.weight(*batch, n, shape[-2]), x)
    else:
        b.emit("MatMul", x, b.weight(shape[-1]))


def einsum(b: Maker) -> None:
    b.since(12)
    x = b.variable(least=1)
    letters = "abcd"[: len(b.shape(x))]
    k = b.number(0, len(letters) - 1)
    kept = letters.replace(letters[k], "")
    equation = f"{letters},{letters[k]}z->{kept}z"
    b.emit("Einsum", x, b.weight(b.shape(x)[k], b.number(1, 4)), equation=equation)


def conv(b: Maker) -> None:
    d = b.pick([1, 2, 2, 2, 3])
    x = image(b, d)
    channels = b.shape(x)[1]
    groups = b.pick([g for g in (1, 1, 1, 2, 3, channels) if channels % g == 0])
    out = groups * b.number(1, 2)
    taps = [b.number(1, 3) for _ in range(d)]
    attributes: dict[str, Any] = {"group": groups}
    if b.chance(0.5):
        attributes["kernel_shape"] = taps
    if b.chance(0.4):
        attributes["strides"] = [b.number(1, 3) for _ in range(d)]
    if b.chance(0.3):
        attributes["dilations"] = [b.number(1, 2) for _ in range(d)]
    if b.chance(0.5):
        attributes["pads"] = [b.number(0, 2) for _ in range(2 * d)]
    elif b.chance(0.3) and "dilations" not in attributes:
        attributes["auto_pad"] = b.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
    w = b.weight(out, channels // groups, *taps)
    y = b.emit("Conv", x, w, *([b.weight(out)] if b.chance(0.5) else []), **attributes)
    b.need(b.values[y].size)  # of a kernel beyond the image, inference and runtimes disagree


def conv_transpose(b: Maker) -> None:
    d = b.pick([1, 2])
    x = image(b, d)
    channels = b.shape(x)[1]
    groups = b.pick([g for g in (1, 1, 2, channels) if channels % g == 0])
    taps = [b.number(1, 3) for _ in range(d)]
    strides = [b.number(1, 3) for _ in range(d)]
    attributes: dict[str, Any] = {"group": groups, "strides": strides}
    if b.chance(0.4):
        attributes["pads"] = [b.number(0, 1) for _ in range(2 * d)]
    if b.chance(0.4):
        attributes["output_padding"] = [b.number(0, s - 1) for s in strides]
    if b.chance(0.2):
        attributes["dilations"] = [b.number(1, 2) for _ in range(d)]
    b.emit("ConvTranspose", x, b.weight(channels, b.number(1, 2), *taps), **attributes)


def batch_norm(b: Maker) -> None:
    x = b.variable(least=2)
    c = b.shape(x)[1]
    parts = [b.weight(c), b.weight(c), b.weight(c), b.weight(c, positive=True)]
    b.emit("BatchNormalization", x, *parts, epsilon=b.pick([1e-5, 0.1]))


def pool(b: Maker) -> None:
    d = b.pick([1, 2, 2, 3])
    x = image(b, d)
    op = b.pick(["MaxPool", "MaxPool", "AveragePool", "LpPool", "Global"])
    if op == "Global":
        b.emit(b.pick(["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"]), x)
        return
    taps = [b.number(1, min(3, s)) for s in b.shape(x)[2:]]
    attributes: dict[str, Any] = {"kernel_shape": taps}
    if b.chance(0.6):
        attributes["strides"] = [b.number(1, 3) for _ in range(d)]
    if b.chance(0.4):
        attributes["pads"] = [b.number(0, t - 1) for t in (*taps, *taps)]
    elif b.chance(0.2):
        attributes["auto_pad"] = b.pick(["SAME_UPPER", "SAME_LOWER"])
    gaps = any(s > t for s, t in zip(attributes.get("strides", []), taps, strict=False))
    if b.chance(0.3) and not gaps and b.opset >= (18 if op == "LpPool" else 10):
        attributes["ceil_mode"] = 1
    if b.chance(0.4) and op == "AveragePool":
        attributes["count_include_pad"] = 1
    if b.chance(0.2) and b.opset >= {"MaxPool": 10, "AveragePool": 19, "LpPool": 18}[op]:
        attributes["dilations"] = [b.number(1, 2) for _ in range(d)]
    if op == "LpPool":
        attributes["p"] = b.pick([1, 2, 3])
    outputs = b.pick([1, (1, 0), (1, 1)]) if op == "MaxPool" and b.opset >= 8 else 1
    b.emit(op, x, outputs=outputs, **attributes)


def reduction(b: Maker) -> None:
    x = b.variable(least=1)
    rank = len(b.shape(x))
    ops = ["Sum", "Mean", "Max", "Min", "L1", "L2", "LogSumExp", "Sum", "Mean"]
    axes = [int(a) for a in b.rng.permutation(rank)[: b.number(1, rank)]]
    axes = [a - rank if b.opset >= 11 and b.chance(0.3) else a for a in axes]
    keep = {"keepdims": b.number(0, 1)} if b.chance(0.7) else {}
    with_axes(b, f"Reduce{b.pick(ops)}", x, b.pick([axes, axes, axes, None]), **keep)


def normalized(b: Maker) -> None:
    op = b.pick(["Softmax", "Softmax", "LogSoftmax", "Layer", "Instance", "Group", "RMS", "LRN"])
    x = b.variable(least=2) if op != "LRN" else image(b, 2)
    shape = b.shape(x)
    b.need(min(shape))
    epsilon = b.pick([1e-5, 0.01, 1.0])
    if op in ("Softmax", "LogSoftmax"):
        axis = b.number(-len(shape) if b.opset >= 11 else 0, len(shape) - 1)
        b.emit(op, x, **({"axis": axis} if b.chance(0.8) else {}))
    elif op == "Layer":
        b.since(17)
        axis = b.number(1, len(shape) - 1)
        scale = [b.weight(*shape[axis:]), *([b.weight(*shape[axis:])] if b.chance(0.5) else [])]
        outputs = b.pick([1, (1, 0, 0), (1, 1, 0)]) if b.dtype == "float32" else 1
        b.emit("LayerNormalization", x, *scale, outputs=outputs, axis=axis, epsilon=epsilon)
    elif op == "Instance":
        b.need(len(shape) > 2)
        b.emit("InstanceNormalization", x, b.weight(shape[1]), b.weight(shape[1]), epsilon=epsilon)
    elif op == "Group":
        b.since(21)  # the checker refuses that of 18, which was withdrawn
        b.need(len(shape) > 2)
        groups = b.pick([g for g in (1, 2, 3, shape[1]) if shape[1] % g == 0])
        attributes = {"num_groups": groups, "epsilon": epsilon}
        scale, bias = b.weight(shape[1]), b.weight(shape[1])
        b.emit("GroupNormalization", x, scale, bias, **attributes)
    elif op == "RMS":
        b.since(23)
        axis = b.number(1, len(shape) - 1)
        b.emit("RMSNormalization", x, b.weight(*shape[axis:]), axis=axis, epsilon=epsilon)
    else:
        b.emit("LRN", x, size=b.pick([1, 3]), alpha=b.pick([1e-4, 0.5]), bias=b.pick([1.0, 2.0]))
