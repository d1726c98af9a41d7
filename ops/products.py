"""Mul, MatMul and Div of two tensors that both depend on the input: bounds on bounded boxes.

Over ℝ none has one: the gain with respect to one factor is the size of the other. On a box,

    Mul      |δy| = |b||δa|                  ‖δy‖_p ≤ ‖diag(max |b|) S_a‖_p ‖δa‖_p
    MatMul   δY = δA B                       ‖δY‖_p ≤ max over B of the norm of x ↦ xB
    Div      |δy| = |δa|/|b|,  |a||δb|/|bb′|  weights 1/min |b| and max |a|/min |b|²

with S_a the broadcast of a (see families/spread.py). For MatMul a row x of A is mapped to xB: its
norm is the largest sum of |B|'s rows (p = 1) or columns (p = ∞), or ‖B‖₂ ≤ ‖max |B|‖₂ (p = 2);
where a matrix A meets several B_j, the map is x ↦ (xB_j)_j, and sums over j (of squares for p = 2)
take the place of single norms. Transposition swaps the factors' parts.
Both moved: f(a, b) − f(a′, b′) = [f(a, b) − f(a′, b)] + [f(a′, b) − f(a′, b′)], so the dual p-norm
of the two gains bounds it.

c / x with a constant c is elementwise: f(x) − f(y) = −c/(xy) · (x − y).

Source: ONNX operator specification; derived (product rule, theory, section 3).
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxlip.ops.families.derivatives import aligned, shrunk, weighted
from onnxlip.ops.families.magnitudes import squared_spectral
from onnxlip.ops.families.spread import common_shape, joint_of, spread_norm
from onnxlip.rounding import TINY, gamma, sqrt_up, up
from onnxlip.rules import (
    Box,
    Derivative,
    Elementwise,
    Gain,
    Node,
    Rule,
    constant,
    example,
    variable,
)
from onnxlip.univariate import MAX_TERMS, Expression

Floats = npt.NDArray[np.float64]

_ADVICE = (
    "bound the input (a box that keeps both factors bounded), or put a bounded function such as "
    "Sigmoid before it"
)


def _two_variables(node: Node) -> bool:
    return {0, 1} <= set(node.variables)


def _box(boxes: Sequence[Box | None], i: int) -> Box:
    return boxes[i] or Box.whole()


# ── Mul ───────────────────────────────────────────────────────────────────────────────────


def _mul_gain(node: Node, i: int, p: float, boxes: Sequence[Box | None]) -> float:
    other = _box(boxes, 1 - i)
    if not other.is_bounded:
        return math.inf
    return spread_norm(node, i, p, other.magnitude)


def _mul_joint(node: Node, p: float, boxes: Sequence[Box | None]) -> float:
    return joint_of([_mul_gain(node, i, p, boxes) for i in (0, 1)], p)


def _mul_image(node: Node, boxes: Sequence[Box | None], o: int) -> Box:
    a, b = _box(boxes, 0), _box(boxes, 1)
    with np.errstate(invalid="ignore", over="ignore"):
        ends = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    ends = [np.where(np.isnan(e), 0.0, e) for e in ends]  # 0 · ∞: the factor 0 wins
    return Box.of(np.minimum.reduce(ends), np.maximum.reduce(ends)).widened()


def _mul_derivative(node: Node, inputs: Sequence[Floats | None]) -> Derivative:
    rank = len(node.y.shape)
    a, b = (aligned(x, rank) for x in inputs if x is not None)
    return weighted(node, [b, a])


def _mul_algebra(node: Node, operands: Sequence[Expression | None]) -> Expression | None:
    a, b = operands
    product = None if a is None or b is None else a * b
    return product if product is not None and len(product.terms) <= MAX_TERMS else None


# ── MatMul ────────────────────────────────────────────────────────────────────────────────


def _matrices(node: Node, boxes: Sequence[Box | None]) -> tuple[Floats, Floats]:
    """max |A| and max |B|, vectors made matrices as MatMul does."""
    a, b = (np.broadcast_to(_box(boxes, k).magnitude, node.value(k).shape) for k in (0, 1))
    return (a[None] if a.ndim == 1 else a), (b[:, None] if b.ndim == 1 else b)


def _matmul_gain(node: Node, i: int, p: float, boxes: Sequence[Box | None]) -> float:
    if not _box(boxes, 1 - i).is_bounded:
        return math.inf
    moved, other = _matrices(node, boxes)[:: 1 if i == 0 else -1]
    if i == 1:  # (AB)ᵀ = BᵀAᵀ
        other = np.swapaxes(other, -1, -2)
    sizes = squared_spectral(other) if p == 2 else other.sum(axis=-1 if p == 1 else -2)
    batch = np.broadcast_shapes(moved.shape[:-2], other.shape[:-2])
    tail = sizes.shape[other.ndim - 2 :]
    sizes = np.broadcast_to(sizes, (*batch, *tail))
    repeats = 1
    if p != math.inf:
        own = (1,) * (len(batch) - moved.ndim + 2) + moved.shape[:-2]
        shared = tuple(d for d, n in enumerate(batch) if own[d] == 1 and n > 1)
        repeats = math.prod(batch[d] for d in shared)
        sizes = sizes.sum(axis=shared)
    bound = float(sizes.max(initial=0.0))
    if not bound:
        return 0.0
    bound = up(bound * up(1.0 + gamma(max(other.shape[-2:]) + repeats)))
    return sqrt_up(bound) if p == 2 else bound


def _matmul_joint(node: Node, p: float, boxes: Sequence[Box | None]) -> float:
    return joint_of([_matmul_gain(node, i, p, boxes) for i in (0, 1)], p)


def _matmul_derivative(node: Node, inputs: Sequence[Floats | None]) -> Derivative:
    """δY = δA B + A δB."""
    a, b = (_as_matrices(x, node, k) for k, x in enumerate(inputs) if x is not None)

    def push(ways: Sequence[Floats]) -> list[Floats]:
        da, db = (_as_matrices(x, node, k) for k, x in enumerate(ways))
        return [(np.matmul(da, b) + np.matmul(a, db)).reshape(len(a), *node.y.shape)]

    def pull(gradients: Sequence[Floats]) -> list[Floats]:
        shape = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        g = gradients[0].reshape(*shape, a.shape[-2], b.shape[-1])
        back = np.matmul(g, np.swapaxes(b, -1, -2)), np.matmul(np.swapaxes(a, -1, -2), g)
        return [
            shrunk(x, y.shape[1:]).reshape(len(a), *node.value(k).shape)
            for k, (x, y) in enumerate(zip(back, (a, b), strict=True))
        ]

    return push, pull


def _as_matrices(x: Floats, node: Node, k: int) -> Floats:
    """(m, …, rows, columns), with as many axes for both factors."""
    if len(node.value(k).shape) == 1:
        x = x[:, None, :] if k == 0 else x[:, :, None]
    return aligned(x, max(2, *(len(node.value(i).shape) for i in (0, 1))))


def _matmul_image(node: Node, boxes: Sequence[Box | None], o: int) -> Box:
    """Midpoint and radius: AB = A₀B₀ ± (|A₀| R_B + R_A |B|), |B| ≤ |B₀| + R_B."""
    if not (_box(boxes, 0).is_bounded and _box(boxes, 1).is_bounded):
        return Box.whole()
    (a, ra), (b, rb) = (_midpoint(_box(boxes, k), node.value(k).shape) for k in (0, 1))
    with np.errstate(over="ignore", invalid="ignore"):
        size = np.matmul(np.abs(a) + ra, np.abs(b) + rb)
        centre = np.matmul(a, b)
        radius = np.matmul(np.abs(a), rb) + np.matmul(ra, np.abs(b) + rb)
        terms = node.value(0).shape[-1]
        # Every product above errs by at most γ_(terms + 3) of `size`, which errs by as much.
        radius = radius + size * up(4 * gamma(terms + 8)) + terms * TINY
        low, high = np.nextafter(centre - radius, -np.inf), np.nextafter(centre + radius, np.inf)
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
        return Box.whole()
    return Box.of(low, high)


def _midpoint(box: Box, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    point = box.low == box.high
    centre = np.where(point, box.low, 0.5 * box.low + 0.5 * box.high)
    radius = np.nextafter(np.maximum(box.high - centre, centre - box.low), np.inf)
    radius = np.where(point, 0.0, radius)
    return np.broadcast_to(centre, shape), np.broadcast_to(radius, shape)


# ── Div ───────────────────────────────────────────────────────────────────────────────────


def _distance(box: Box) -> Floats:
    """min |x| per entry."""
    return np.maximum(0.0, np.maximum(box.low, -box.high))


def _quotient(a: Floats, b: Floats) -> Floats:
    """a / b rounded up, for a ≥ 0 and b ≥ 0; infinite where b is 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(b > 0, np.nextafter(a / b, np.inf), np.inf)


def _div_gain(node: Node, i: int, p: float, boxes: Sequence[Box | None]) -> float:
    a, b = _box(boxes, 0), _box(boxes, 1)
    near = _distance(b)
    if i == 0:
        weight = _quotient(np.asarray(1.0), near)
    elif np.all(np.isfinite(a.magnitude)):
        weight = _quotient(_quotient(a.magnitude, near), near)
    else:
        return math.inf
    return spread_norm(node, i, p, weight)


def _div_joint(node: Node, p: float, boxes: Sequence[Box | None]) -> float:
    return joint_of([_div_gain(node, i, p, boxes) for i in node.variables], p)


def _div_image(node: Node, boxes: Sequence[Box | None], o: int) -> Box:
    a, b = _box(boxes, 0), _box(boxes, 1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ends = [x / y for x in (a.low, a.high) for y in (b.low, b.high)]
    low, high = np.minimum.reduce(ends), np.maximum.reduce(ends)
    apart = (_distance(b) > 0) & ~np.isnan(low) & ~np.isnan(high)
    low, high = np.where(apart, low, -np.inf), np.where(apart, high, np.inf)
    return Box(np.nextafter(low, -np.inf), np.nextafter(high, np.inf))


def _div_derivative(node: Node, inputs: Sequence[Floats | None]) -> Derivative:
    rank = len(node.y.shape)
    a, b = (
        aligned(x, rank) if k in node.variables else np.asarray(x, np.float64)
        for k, x in enumerate(inputs)
        if x is not None
    )
    weights = {0: 1 / b, 1: -a / b**2}
    return weighted(node, [weights[k] for k in node.variables])


def _over_slopes(node: Node, box: Box) -> tuple[Floats, Floats]:
    c = node.floats(0)
    near, far = _distance(box), box.magnitude
    size = np.abs(c)
    steep = _quotient(_quotient(size, near), near)
    with np.errstate(invalid="ignore"):
        once = np.nextafter(size / np.maximum(far, TINY), -np.inf)
        flat = np.maximum(np.nextafter(once / np.maximum(far, TINY), -np.inf), 0.0)
    flat = np.where(near > 0, flat, 0.0)
    alpha = np.where(near > 0, np.where(c >= 0, -steep, flat), -np.inf)
    beta = np.where(near > 0, np.where(c >= 0, -flat, steep), np.inf)
    return alpha, beta


def _over_image(node: Node, box: Box) -> Box:
    c = node.floats(0)
    return _div_image(node, (Box.of(c, c), box), 0)


def _over_variable(node: Node) -> bool:
    return node.variables == (1,) and node.value(1).shape == common_shape(node)


RULES = (
    Rule(
        "Mul",
        Gain(
            _mul_gain,
            _mul_image,
            _mul_joint,
            "it multiplies two tensors that both depend on the input, so the gain of one grows "
            f"with the other; {_ADVICE}",
            derivative=_mul_derivative,
        ),
        source="ONNX Mul; derived: product rule on a box",
        examples=(
            example(variable(2, 3, low=-1, high=2), variable(2, 3, low=0, high=0.5)),
            example(variable(2, 3, low=-1, high=2), variable(3, low=-3, high=1)),
            example(variable(2, 1, low=0, high=1), variable(1, 3, low=-2, high=2)),
            example(variable(low=0, high=1), variable(4, low=-2, high=-1)),
        ),
        since=7,
        applies=_two_variables,
        algebra=_mul_algebra,
    ),
    Rule(
        "MatMul",
        Gain(
            _matmul_gain,
            _matmul_image,
            _matmul_joint,
            "it multiplies two tensors that both depend on the input (as attention does), so the "
            f"gain of one grows with the other; {_ADVICE}",
            derivative=_matmul_derivative,
        ),
        source="ONNX MatMul; derived: product rule on a box; Collatz-Wielandt bound of ‖max |B|‖₂",
        examples=(
            example(variable(2, 3, low=-1, high=2), variable(3, 4, low=-1, high=0.5)),
            example(variable(2, 2, 3, low=-1, high=1), variable(3, 2, low=0, high=1)),
            example(variable(3, low=-1, high=1), variable(2, 3, 2, low=-2, high=1)),
            example(variable(1, 2, 2, 3, low=0, high=1), variable(2, 1, 3, 1, low=-1, high=1)),
            example(variable(3, low=1, high=2), variable(3, low=-1, high=2)),
            example(variable(2, 2, 3, low=-1, high=1), variable(3, low=0, high=1)),
        ),
        applies=_two_variables,
    ),
    Rule(
        "Div",
        Elementwise(
            _over_slopes,
            _over_image,
            reason="it divides by a tensor that depends on the input and may come near 0; bound "
            "the input so that the divisor stays away from 0, or add a positive ε to it",
        ),
        source="ONNX Div; derived: f(x) − f(y) = −c/(xy) · (x − y)",
        examples=(
            example(constant(1.0), variable(2, 3, low=0.5, high=2)),
            example(constant(shape=(3,)), variable(2, 3, low=0.25)),
            example(constant([-1.0, 0.0, 2.0]), variable(3, high=-0.5)),
        ),
        since=7,
        applies=_over_variable,
    ),
    Rule(
        "Div",
        Gain(
            _div_gain,
            _div_image,
            _div_joint,
            "it divides by a tensor that depends on the input: its gain is finite only where the "
            "divisor stays away from 0 and the numerator is bounded; bound the input, or add a "
            "positive ε to the divisor after an Abs, Exp or Softplus",
            derivative=_div_derivative,
        ),
        source="ONNX Div; derived: quotient rule on a box",
        examples=(
            example(variable(2, 3, low=-1, high=2), variable(2, 3, low=0.5, high=1)),
            example(variable(2, 3, low=-1, high=2), variable(2, 1, low=-2, high=-0.5)),
            example(variable(low=1, high=2), variable(3, low=0.25, high=1)),
            example(constant(shape=(2, 3)), variable(2, 1, low=0.5, high=1)),
        ),
        since=7,
        applies=lambda node: 1 in node.variables and not _over_variable(node),
    ),
)
