"""Where branches meet or part: sums, products, concatenations, and one tensor in several roles."""

from __future__ import annotations

import math

import numpy as np

from tests.random_graphs.maker import MOST_ENTRIES, Maker, clip, with_axes


def with_constant(b: Maker) -> None:
    x = b.variable()
    shape = b.shape(x)
    other = b.pick([(), shape, shape[-1:], (1,) * len(shape), (2, *shape) if b.chance(0.3) else ()])
    op = b.pick(["Add", "Sub", "Mul", "Mul", "Div", "Max", "Min"])
    c = b.weight(*other, positive=op == "Div")
    b.emit(op, *((x, c) if op == "Div" or b.chance(0.6) else (c, x)))


def joined(b: Maker) -> None:
    """Sums and extremes of variables, broadcast or not; often of one tensor with itself."""
    x = b.variable()
    shape = b.shape(x)

    def fits(v: str) -> bool:
        try:
            return math.prod(np.broadcast_shapes(shape, b.shape(v))) <= 2 * MOST_ENTRIES
        except ValueError:
            return False

    others = [x, b.like(x), *(v for v in b.variables if fits(v))]
    op = b.pick(["Add", "Add", "Sub", "Sum", "Mean", "Max", "Min"])
    y = b.pick(others)
    if shape and min(shape) and b.chance(0.25):  # one that is broadcast along an axis
        y = b.emit("Gather", b.like(x), b.ints([0]), axis=b.number(0, len(shape) - 1))
    if op in ("Sum", "Mean", "Max", "Min") and b.chance(0.4):
        b.emit(op, x, y, b.pick([x, y, b.weight(*shape), b.like(x)]))
    else:
        b.emit(op, *((x, y) if b.chance(0.5) else (y, x)))


def concat(b: Maker) -> None:
    x = b.variable(least=1)
    shape = b.shape(x)
    axis = b.number(0, len(shape) - 1)
    rest = (shape[:axis], shape[axis + 1 :])
    fitting = [
        v
        for v in b.variables
        if len(b.shape(v)) == len(shape) and (b.shape(v)[:axis], b.shape(v)[axis + 1 :]) == rest
    ]
    parts = [x, b.pick([x, *fitting]), *([b.weight(*shape)] if b.chance(0.2) else [])]
    b.emit("Concat", *map(str, b.rng.permutation(parts)), axis=axis - b.pick([0, len(shape)]))


def split(b: Maker) -> None:
    x = b.variable(least=1)
    shape = b.shape(x)
    axis = b.number(0, len(shape) - 1)
    b.need(shape[axis] > 1)
    first = b.number(0 if b.chance(0.1) else 1, shape[axis] - 1)
    sizes = [first, shape[axis] - first]
    outputs = b.pick([(1, 1), (1, 1), (1, 0), (0, 1)])
    if b.opset >= 13:
        b.emit("Split", x, b.ints(sizes), outputs=outputs, axis=axis)
    else:
        b.emit("Split", x, outputs=outputs, axis=axis, split=sizes)


def bounded(b: Maker, x: str, *ops: str) -> str:
    """One of the ops on x. Clip has its steepest slope where it has its largest values, so that
    bounds of products are attained."""
    op = b.pick([*ops, "Clip"])
    return clip(b, x, -1.0, 1.0) if op == "Clip" else str(b.emit(op, x))


def gated(b: Maker) -> None:
    """Products of two tensors that are bounded, of one shape or broadcast."""
    x = b.variable()
    shape = b.shape(x)

    def fits(v: str) -> bool:
        try:
            return math.prod(np.broadcast_shapes(shape, b.shape(v))) <= MOST_ENTRIES
        except ValueError:
            return False

    y = b.pick([v for v in b.variables if fits(v)])
    s = bounded(b, x, "Sigmoid", "Tanh", "Softmax" if shape else "Cos", "Sin")
    t = bounded(b, y, "Sigmoid", "Tanh", "Cos")
    op = b.pick(["Mul", "Mul", "MatMul", "Div"])
    if op == "MatMul":
        b.need(len(shape) > 1)
        turned = list(range(len(shape)))
        turned[-2:] = turned[:-3:-1]
        t = bounded(b, b.emit("Transpose", b.like(x), perm=turned), "Tanh")
        if shape[-2] == shape[-1] and b.chance(0.5):
            t = s  # its square
    if op == "Div":
        t = b.emit("Exp", t)
    b.emit(op, s, t)


def odd(b: Maker) -> None:
    """Variables where most networks have constants, one tensor in several roles."""
    x = b.variable()
    shape = b.shape(x)
    y = b.like(x)
    kind = b.number(0, 11)
    if kind == 0:  # the addend of a Gemm
        b.need(len(shape) == 2 and min(shape))
        k = b.number(1, 3)
        beta = {"beta": b.pick([2.0, -0.5])} if b.chance(0.5) else {}
        b.emit("Gemm", b.weight(shape[0], k), b.weight(k, shape[1]), x, **beta)
    elif kind == 1:  # one tensor as factor and as addend
        b.need(len(shape) == 2 and min(shape))
        b.emit("Gemm", x, b.weight(shape[1], shape[1]), y, alpha=0.5, beta=3.0)
    elif kind == 2:  # the bias of a convolution
        b.need(len(shape) == 1 and shape[0])
        b.emit("Conv", b.weight(1, 2, 4), b.weight(shape[0], 2, 2), x)
    elif kind == 3:
        b.emit("PRelu", x, y)
    elif kind == 4:
        mask = b.constant(b.rng.random(shape) < 0.5, plain=True)
        b.emit("Where", mask, x, y)
    elif kind == 5:
        b.since(12)
        letters = "abc"[: len(shape)]
        b.need(0 < len(shape) < 4)
        s = bounded(b, x, "Tanh")
        t = s if b.chance(0.3) else bounded(b, y, "Sin")
        b.emit("Einsum", s, t, equation=f"{letters},{letters}->")
    elif kind == 6:  # the mean of a tensor taken from it
        b.need(len(shape) > 0 and min(shape))
        b.emit("Sub", x, with_axes(b, "ReduceMean", x, [len(shape) - 1], keepdims=1))
    elif kind == 7:
        n = b.values[x].size
        b.need(len(shape) and n)
        b.emit("Sub", x, with_axes(b, "ReduceMax", x, [len(shape) - 1], keepdims=1))
    elif kind == 8:
        b.emit(b.pick(["Max", "Min", "Sum", "Mean"]), x)
    elif kind == 9:
        b.need(len(shape))
        b.emit("Concat", x, axis=0)
    elif kind == 10:
        b.since(12)
        b.need(len(shape) == 2 and shape[0] == shape[1])
        b.emit("Einsum", x, equation=b.pick(["ii->i", "ii->", "ij->ji", "ij->j"]))
    else:
        b.since(16)
        b.need(len(shape) and min(shape))
        indices = b.ints(np.zeros(shape, np.int64))
        b.emit("ScatterElements", x, indices, y, axis=0, reduction="add")
