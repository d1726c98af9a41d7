"""Functions of one tensor, entry by entry; also as exporters spell them, in several ops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.random_graphs.maker import Maker, clip


def unary(b: Maker) -> None:
    x = b.variable()

    def r(low: float, high: float) -> float:
        return float(np.float16(b.rng.uniform(low, high)))

    simple: list[tuple[str, int, dict[str, Any]]] = [
        ("Relu", 6, {}),
        ("LeakyRelu", 6, {"alpha": r(-0.5, 2)}),
        ("LeakyRelu", 6, {}),
        ("Elu", 6, {"alpha": r(-1, 3)}),
        ("Selu", 6, {}),
        ("Selu", 6, {"alpha": r(-1, 2), "gamma": r(-1, 2)}),
        ("Celu", 12, {"alpha": r(0.3, 3)}),
        ("Sigmoid", 6, {}),
        ("Tanh", 6, {}),
        ("Softplus", 6, {}),
        ("Softsign", 6, {}),
        ("HardSigmoid", 6, {"alpha": r(-0.5, 2), "beta": r(-1, 1)}),
        ("HardSigmoid", 6, {}),
        ("HardSwish", 14, {}),
        ("Mish", 18, {}),
        ("Gelu", 20, {}),
        ("Gelu", 20, {"approximate": "tanh"}),
        ("Abs", 6, {}),
        ("Neg", 6, {}),
        ("Atan", 7, {}),
        ("Asinh", 9, {}),
        ("Sin", 7, {}),
        ("Cos", 7, {}),
        ("Erf", 9, {}),
        ("Shrink", 9, {"lambd": 0.5, "bias": 0.5}),
        ("ThresholdedRelu", 10, {"alpha": 0.0}),
    ]
    op, since, attributes = b.pick(simple)
    b.since(since)
    b.emit(op, x, **attributes)


def clipped(b: Maker) -> None:
    low, high = np.sort(np.float16(b.rng.uniform(-2, 2, 2)))
    clip(b, b.variable(), float(low), b.pick([float(high), None]))


def prelu(b: Maker) -> None:
    x = b.variable(least=1)
    b.emit("PRelu", x, b.weight(*b.pick([(), (1,), b.shape(x)[-1:], b.shape(x)])))


def on_box(b: Maker) -> None:
    """A function with bounds on boxes only, after one that makes a box."""
    x = b.variable()
    bounded = b.pick(["Sigmoid", "Tanh", "Sin", "Softsign"])
    y = b.emit(bounded, x)
    op = b.pick(["Exp", "Square", "Pow", "Mul", "Sinh", "Cosh", "Atan"])
    if op == "Square":
        b.emit("Mul", y, y)
    elif op == "Pow":
        b.emit("Pow", y, b.constant(np.float64(b.pick([2, 3]))))
    elif op == "Mul":
        b.emit("Mul", y, b.emit(b.pick(["Sigmoid", "Cos", "Tanh"]), b.like(x)))
    elif op == "Atan":
        b.emit(op, b.emit("Exp", y))
    elif op in ("Sinh", "Cosh"):
        b.since(9)
        b.emit(op, y)
    else:
        b.emit(op, y)


def decomposed(b: Maker) -> None:
    """An activation as an exporter spells it, with the factors of its products in any order."""
    x = b.variable()

    def two(op: str, *operands: str) -> str:
        order = operands if b.chance(0.5) else operands[::-1]
        return str(b.emit(op, *order))

    def c(value: float) -> str:
        return b.constant(np.asarray(value).reshape(b.pick([(), (), (1,)])))

    kind = b.number(0, 13)
    if kind == 0:
        two("Mul", x, b.emit("Sigmoid", x))
    elif kind == 1:  # SiLU with a factor, as in QuickGELU
        two("Mul", x, b.emit("Sigmoid", two("Mul", x, c(b.pick([1.702, 0.5, -1.0, 3.0])))))
    elif kind in (2, 3):
        e = b.emit("Erf", b.emit("Div", x, c(b.pick([math.sqrt(2), 1.0, 0.3]))))
        inner = two("Add", e, c(1.0))
        half = two("Mul", x, c(0.5))
        two("Mul", half, inner) if kind == 2 else two("Mul", two("Mul", x, inner), c(0.5))
    elif kind == 4:
        cube = b.emit("Pow", x, c(3.0)) if b.chance(0.5) else two("Mul", x, b.emit("Mul", x, x))
        t = two("Add", x, two("Mul", cube, c(0.044715)))
        t = b.emit("Tanh", two("Mul", t, c(math.sqrt(2 / math.pi))))
        two("Mul", two("Mul", x, c(0.5)), two("Add", t, c(1.0)))
    elif kind == 5:
        t = clip(b, two("Add", x, c(3.0)), 0.0, 6.0)
        b.emit("Div", two("Mul", x, t), c(6.0))
    elif kind == 6:
        two("Mul", x, b.emit("HardSigmoid", x, alpha=1 / 6, beta=0.5))
    elif kind == 7:
        two("Mul", x, b.emit("Tanh", b.emit("Softplus", x)))
    elif kind == 8:
        b.since(9)
        s = b.emit("Log", two("Add", b.emit("Exp", x), c(1.0)))
        if b.chance(0.5):
            b.emit("Where", b.emit("Greater", x, c(20.0)), x, s)
    elif kind == 9:
        b.emit("Div", x, two("Add", b.emit("Exp", b.emit("Neg", x)), c(1.0)))
    elif kind == 10:
        r = b.emit("Reciprocal", two("Add", b.emit("Exp", b.emit("Neg", x)), c(1.0)))
        two("Mul", x, r)
    elif kind == 11:  # x + f(x) and f(x) − g(x)
        f, g = b.emit("Sigmoid", x), b.emit(b.pick(["Tanh", "Relu", "Softplus"]), x)
        b.emit(b.pick(["Add", "Sub"]), f, g)
    elif kind == 12:  # nested
        y = b.emit("Tanh", two("Mul", x, c(2.0)))
        two("Mul", two("Sub" if b.chance(0.5) else "Add", x, y), c(0.5))
    else:  # x·tanh(x + c), x·σ(ax + c)
        t = two("Add", two("Mul", x, c(b.pick([1.0, -2.0]))), c(b.pick([0.5, -3.0])))
        two("Mul", x, b.emit(b.pick(["Tanh", "Sigmoid", "Erf"]), t))
