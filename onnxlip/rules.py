"""What a rule is: local facts about one op, stated as a value.

A rule says what one op is mathematically and nothing about networks; composition is written
once, in the engine. Exactly one of five *forms*:

    Affine       y_o = Σ_i A_oi x_i + b_o       gives the linear map A_oi
    Elementwise  y = f(x), entry by entry       gives slope intervals and images on a box
    Gain         anything else with a bound     gives ‖f(x) − f(y)‖_p / ‖x − y‖_p on a box
    Refusal      no bound exists                says why, and what the user can do
    Fixed        y depends on shapes only       gives y: a constant of the network

To teach onnxlip an op, write such a value and pass it: `analyze(model, rules=[mine])`,
`onnxlip --rules mymodule`, or an entry point of group "onnxlip.rules". Later ones win.
`onnxlip.testing.check_rule` tells whether a rule is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.box import Box
from onnxlip.linear import LinearMap
from onnxlip.univariate import Expression

__all__ = [
    "Affine",
    "Amendment",
    "Box",
    "Constant",
    "Derivative",
    "Elementwise",
    "Example",
    "Fixed",
    "Form",
    "Gain",
    "Node",
    "Refusal",
    "Rule",
    "Value",
    "Variable",
    "always",
    "constant",
    "example",
    "only_variable",
    "variable",
]


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor as a rule sees it: its shape is always known, its data where it is constant."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    constant: npt.NDArray[Any] | None = None

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Node:
    """One op of the network. `inputs` has None where an optional input is left out."""

    op_type: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    opset: int = 1
    name: str = ""

    @property
    def variables(self) -> tuple[int, ...]:
        """Positions of the inputs that depend on the network's input."""
        return tuple(i for i, v in enumerate(self.inputs) if v is not None and v.constant is None)

    @property
    def x(self) -> Value:
        """The first variable input."""
        return self.value(self.variables[0])

    @property
    def y(self) -> Value:
        """The first output."""
        return self.outputs[0]

    def value(self, position: int) -> Value:
        """The input at a position where there must be one."""
        found = self.inputs[position] if position < len(self.inputs) else None
        if found is None:
            from onnxlip.errors import ModelError

            raise ModelError(f"{self.op_type} '{self.name}' lacks its input {position}")
        return found

    def has(self, position: int) -> bool:
        """Whether the (optional) input at this position is given."""
        return position < len(self.inputs) and self.inputs[position] is not None

    def constant(self, position: int, default: Any = None) -> npt.NDArray[Any]:
        """The data of a constant input, in its own type; `default` where it is left out.

        Raises ModelError if the input is variable, or left out without a default.
        """
        if not self.has(position) and default is not None:
            return np.asarray(default)
        found = self.value(position).constant
        if found is None:
            from onnxlip.errors import ModelError

            raise ModelError(
                f"{self.op_type} '{self.name}': its input {position} depends on the network's "
                "input, where only a constant is supported"
            )
        return found

    def floats(self, position: int, default: Any = None) -> npt.NDArray[np.float64]:
        """Constant input as float64: exact for float16, bfloat16, float32 and float64."""
        return np.asarray(self.constant(position, default)).astype(np.float64)

    def ints(self, position: int, default: Any = None) -> tuple[int, ...]:
        """Constant input as a flat tuple of integers: axes, shapes, pads."""
        return tuple(int(i) for i in np.asarray(self.constant(position, default)).reshape(-1))

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute in plain Python (int, float, str, list, array)."""
        return self.attributes.get(name, default)


# ── the forms ─────────────────────────────────────────────────────────────────────────────

Linear = Callable[[Sequence[npt.NDArray[Any]]], Sequence[npt.NDArray[Any]]]
Derivative = tuple[Linear, Linear]


@dataclass(frozen=True)
class Affine:
    """y_o = Σ_i A_oi x_i + b_o.

    linear(node, i, o) is A_oi, a map from the flattened input at position i (always one of
    `node.variables`) to the flattened output o. Biases do not matter to it. Adjoint, norms,
    products on CPU and GPU all follow from it.
    """

    linear: Callable[[Node, int, int], LinearMap]


@dataclass(frozen=True)
class Elementwise:
    """y_k = f_k(x_k): one variable input, output of the same shape.

    slopes(node, box) → (α, β), arrays broadcastable to x, with
        α ≤ (f(a) − f(b)) / (a − b) ≤ β   for all a ≠ b in the box (closed, may be all of ℝ),
    rounded outward. image(node, box) → a box that holds f(box).
    gate(node, inner): slope interval of x·f(inner(x)) over ℝ, for an expression `inner` in x,
    or None where it has none: what x·Sigmoid(x) is (see `onnxlip.univariate`). `reason` is what
    the user reads where the slopes on the domain are infinite.
    """

    slopes: Callable[[Node, Box], tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]
    image: Callable[[Node, Box], Box]
    gate: Callable[[Node, Expression], tuple[float, float] | None] | None = None
    reason: str = "its slope is unbounded on this domain"


@dataclass(frozen=True)
class Gain:
    """Any op with a bound per variable input.

    gain(node, i, p, boxes): an upper bound of ‖f(…xᵢ…) − f(…yᵢ…)‖_p / ‖xᵢ − yᵢ‖_p, the other
    inputs fixed anywhere in their boxes; p ∈ {1.0, 2.0, math.inf}; rounded up; math.inf where
    there is none on these boxes (then `reason` is what the user reads).
    joint(node, p, boxes): the same for all variable inputs moved together, measured as one
    stacked vector; None where the sum over inputs is all that is known.
    image(node, boxes, o): a box that holds output o. `boxes` has one Box per input position,
    constants included (None where an optional input is left out).
    picks(node): for an op that hands entries on, each entry of output 0 being one of some entries
    of its only variable input (a maximum over windows): which ones, (outputs, k) flat positions, −1
    where there are fewer than k.
    derivative(node, inputs) → (push, pull) at m points, for searches from below: inputs are arrays
    by position, variable ones of shape (m, *shape), constants as they are, None where left out.
    push: directions of the variable inputs, in order, to those of all outputs (J v); pull:
    gradients of all outputs to those of the variable inputs (Jᵀ g); each with the leading m.
    Where f has a kink, either side will do. None: searches compare values only.
    """

    gain: Callable[[Node, int, float, Sequence[Box | None]], float]
    image: Callable[[Node, Sequence[Box | None], int], Box] = lambda node, boxes, o: Box.whole()
    joint: Callable[[Node, float, Sequence[Box | None]], float] | None = None
    reason: str = "it has no finite gain on this domain"
    picks: Callable[[Node], npt.NDArray[np.int64]] | None = None
    derivative: Callable[[Node, Sequence[npt.NDArray[Any] | None]], Derivative] | None = None


@dataclass(frozen=True)
class Refusal:
    """No Lipschitz bound exists, whatever the rest of the network is: why, and what to do."""

    reason: str


@dataclass(frozen=True)
class Fixed:
    """y depends on the shapes and types of its inputs only: value(node) → the outputs' data."""

    value: Callable[[Node], Sequence[npt.NDArray[Any]]]


Form = Affine | Elementwise | Gain | Refusal | Fixed


@dataclass(frozen=True)
class Amendment:
    """What the conversion of an old file forgets: attributes that nodes of this op must get
    (unless they have them) when the file's operator set is below `before`."""

    op_type: str
    before: int
    attributes: Mapping[str, Any]


# ── a rule and its examples ───────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Variable:
    """A variable input of an example, and the box on which the op's bound is claimed."""

    shape: tuple[int, ...]
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Constant:
    """A constant input of an example: explicit data, or normal random data of a shape."""

    data: Any = None
    shape: tuple[int, ...] = ()
    positive: bool = False
    dtype: str = "float32"
    seed: int = 0

    def array(self) -> npt.NDArray[Any]:
        """The data, or the random draw that stands for it."""
        if self.data is not None:
            return np.asarray(self.data, dtype=self.dtype)
        draw = np.random.default_rng(self.seed).standard_normal(self.shape)
        return np.asarray(np.abs(draw) + 0.25 if self.positive else draw).astype(self.dtype)


@dataclass(frozen=True)
class Example:
    """One use of an op, on which every law is tested and which the catalogue shows."""

    inputs: tuple[Variable | Constant | None, ...]
    attributes: Mapping[str, Any]
    outputs: int = 1


def variable(*shape: int, low: float = -math.inf, high: float = math.inf) -> Variable:
    """A variable input of this shape (on the box [low, high])."""
    return Variable(shape, low, high)


def constant(
    data: Any = None,
    *,
    shape: tuple[int, ...] = (),
    positive: bool = False,
    dtype: str | None = None,
    seed: int = 0,
) -> Constant:
    """A constant input: `data` (integers become int64), or random numbers of a `shape`."""
    if dtype is None:
        dtype = "float32" if data is None or np.asarray(data).dtype.kind == "f" else "int64"
    return Constant(data, shape, positive, dtype, seed)


def example(*inputs: Variable | Constant | None, outputs: int = 1, **attributes: Any) -> Example:
    """An example call of the rule's op: its inputs in order, its attributes by name."""
    return Example(inputs, attributes, outputs)


def always(node: Node) -> bool:
    """The rule covers every use of its op."""
    return True


def only_variable(*positions: int) -> Callable[[Node], bool]:
    """The rule covers nodes whose variable inputs are among these positions."""

    def applies(node: Node) -> bool:
        return set(node.variables) <= set(positions)

    return applies


@dataclass(frozen=True)
class Rule:
    """One op (of one domain, from one version on) and its form.

    source: the operator's specification, and paper and equation of the formula.
    examples: never empty, except for a Refusal; tests and catalogue run on them.
    applies: which uses of the op the rule covers; of several rules that fit, the one with the
    greatest `since` ≤ the model's opset is taken, and among these the last registered.
    until: the last version of the op's domain that has it, where it was removed later.
    shape(node) → the outputs' shapes, for an op that onnx has no schema of; None means that the
    output is shaped like the first variable input.
    algebra(node, operands): for arithmetic ops, the expression that the op makes of those of its
    inputs (one per position, None where an input is left out), or None where it is none. Ops
    without it become atoms of their own if they are Elementwise.
    """

    op_type: str
    form: Form
    source: str
    examples: tuple[Example, ...] = ()
    domain: str = ""
    since: int = 1
    until: int | None = None
    applies: Callable[[Node], bool] = always
    algebra: Callable[[Node, Sequence[Expression | None]], Expression | None] | None = None
    shape: Callable[[Node], Sequence[tuple[int, ...]]] | None = None
