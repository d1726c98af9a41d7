"""Is a rule right? `check_rule` tests every law that a rule must obey, on its own examples.

    from onnxlip.testing import check_rule
    check_rule(my_rule)

The op itself, as onnx's reference implementation runs it in float64 (onnxruntime in float32 where
there is none), is the witness; for an op that neither knows, pass `reference`, a function from
the input arrays to the list of output arrays. A broken law raises AssertionError and says which.

Affine       map = the matrix of the op's differences along basis vectors; ⟨Ax, g⟩ = ⟨x, Aᵀg⟩;
             |A| ≤ modulus; row and column sums ≤ cap
Elementwise  every difference quotient lies in [α, β], every value in the image, on several boxes
             and for gates; smaller boxes give smaller intervals
Gain         no sampled quotient exceeds the gain, for p = 1, 2, ∞, per input and jointly; values
             lie in the image; smaller boxes give no larger gain
Refusal      it has a reason that a user can act on
Fixed        the op gives the stated values, whatever its input
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.linear import LinearMap
from onnxlip.operators import Operator
from onnxlip.registry import built_in
from onnxlip.rules import (
    Affine,
    Box,
    Elementwise,
    Example,
    Fixed,
    Gain,
    Node,
    Refusal,
    Rule,
    Variable,
)
from onnxlip.witness import Reference, Witness

__all__ = ["Reference", "check_linear_map", "check_rule", "example_node"]

Array = npt.NDArray[Any]


def check_rule(rule: Rule, reference: Reference | None = None, seed: int = 0) -> None:
    """Test all laws of one rule on its examples. Raises AssertionError with what is wrong."""
    assert rule.source.strip(), f"{rule.op_type}: a rule names its source"
    if isinstance(rule.form, Refusal):
        assert len(rule.form.reason) > 20, f"{rule.op_type}: a refusal says why, and what to do"
        return
    assert rule.examples, f"{rule.op_type}: a rule without an example is untested"
    for number, use in enumerate(rule.examples):
        rng = np.random.default_rng(seed)
        where = f"{rule.op_type} example {number}"
        witness = Witness(rule, use, reference)
        node = witness.node
        assert rule.applies(node), f"{where}: the rule does not apply to its own example"
        if isinstance(rule.form, Affine):
            _check_affine(rule.form, node, witness, where, rng)
        elif isinstance(rule.form, Elementwise):
            _check_elementwise(rule.form, node, use, witness, where, rng)
        elif isinstance(rule.form, Fixed):
            _check_fixed(rule.form, node, witness, where, rng)
        else:
            _check_gain(rule.form, node, use, witness, where, rng)


def example_node(rule: Rule, use: Example) -> Node:
    """The Node that a rule sees for one of its examples."""
    return Witness(rule, use, None).node


# ── the laws ──────────────────────────────────────────────────────────────────────────────


def _dense_difference(
    witness: Witness, node: Node, i: int, o: int, base: list[Array]
) -> npt.NDArray[np.float64]:
    """The matrix of x_i ↦ f(…, x_i, …)_o − f(…, 0, …)_o, column by column."""
    slot = node.variables.index(i)
    origin = [b.copy() for b in base]
    origin[slot] = np.zeros_like(origin[slot])
    zero = witness(origin)[o].reshape(-1)
    columns = []
    for k in range(node.value(i).size):
        moved = [b.copy() for b in origin]
        moved[slot].reshape(-1)[k] = 1.0
        columns.append(witness(moved)[o].reshape(-1) - zero)
    return np.stack(columns, axis=1) if columns else np.zeros((zero.size, 0))


def _check_affine(
    form: Affine, node: Node, witness: Witness, where: str, rng: np.random.Generator
) -> None:
    base = [rng.standard_normal(node.value(i).shape) for i in node.variables]
    for i in node.variables:
        for o in range(len(node.outputs)):
            here = f"{where}, input {i} to output {o}"
            linear = form.linear(node, i, o)
            size = (node.outputs[o].size, node.value(i).size)
            shape = (linear.rows, linear.columns)
            assert shape == size, f"{here}: the map is {shape}, the op {size}"
            dense = _dense_difference(witness, node, i, o, base)
            check_linear_map(linear, dense, here, rng, witness.tolerance)


def check_linear_map(
    linear: LinearMap,
    dense: npt.NDArray[np.float64],
    where: str,
    rng: np.random.Generator,
    tolerance: float = 1e-9,
) -> None:
    """Test that a map equals a dense matrix, in both directions and both precisions, that the
    dot test holds, and that modulus and cap bound it. Raises AssertionError."""
    m, n = dense.shape
    lowerings = built_in().lowerings
    scale = float(np.abs(dense).max(initial=0.0)) + 1e-30
    double = Operator(linear, lowerings, np.float64)
    single = Operator(linear, lowerings, np.float32)
    forward = double.matvec(np.eye(n)).T
    backward = double.rmatvec(np.eye(m))
    _close(forward, dense, tolerance * scale, f"{where}: the map is not the op's matrix")
    exact = 1e-12 * scale
    _close(backward, forward, exact, f"{where}: the adjoint is not the transposed matrix")
    turned = Operator(linear.adjoint, lowerings, np.float64).matvec(np.eye(m)).T
    _close(turned, forward.T, exact, f"{where}: `adjoint` is not the transposed map")
    for operator, slack in ((double, 1e-12), (single, 1e-4)):
        x, g = rng.standard_normal((2, n)), rng.standard_normal((2, m))
        ax, ag = operator.matvec(x), operator.rmatvec(g)
        error = abs(float(np.vdot(ax, g)) - float(np.vdot(x, ag)))
        size = float(np.linalg.norm(ax)) * float(np.linalg.norm(g))
        # Both products may be small by cancellation: the dot test is scaled by what was summed.
        size += float(np.sqrt(m * n)) * scale * 1e-3
        assert error <= slack * size, f"{where}: dot test in {operator.dtype}: {error / size:.1e}"
        _close(
            operator.gram(x),
            operator.rmatvec(ax),
            slack * (1 + scale**2) * (m + n),
            f"{where}: the fused graph is not AᵀA",
        )
    modulus = Operator(linear, lowerings, np.float64, modulus=True).matvec(np.eye(n)).T
    assert np.all(np.abs(forward) <= modulus + exact), f"{where}: the modulus is below |A|"
    sums = max(np.abs(dense).sum(0).max(initial=0), np.abs(dense).sum(1).max(initial=0))
    cap = linear.cap()
    assert sums <= cap * (1 + 10 * tolerance) + 1e-12 * scale, f"{where}: cap {cap} < {sums}"


def _close(a: Array, b: Array, tolerance: float, message: str) -> None:
    assert a.shape == b.shape, f"{message} (shapes {a.shape}, {b.shape})"
    worst = float(np.abs(a - b).max(initial=0.0))
    assert worst <= tolerance, f"{message} (off by {worst:.2e}, allowed {tolerance:.1e})"


def _samples(spec: Variable, rng: np.random.Generator) -> Array:
    """A point of the example's box, at a random scale: small, ordinary or large."""
    if math.isfinite(spec.low) and math.isfinite(spec.high):
        corner = rng.random(spec.shape) < 0.2
        inside = rng.uniform(spec.low, spec.high, spec.shape)
        return np.asarray(np.where(corner, rng.choice([spec.low, spec.high], spec.shape), inside))
    scale = 10.0 ** rng.uniform(-2, 1.5)
    point = scale * rng.standard_normal(spec.shape) + rng.uniform(-2, 2)
    if math.isfinite(spec.low):
        point = spec.low + np.abs(point)
    elif math.isfinite(spec.high):
        point = spec.high - np.abs(point)
    return np.asarray(point)


def _check_elementwise(
    form: Elementwise,
    node: Node,
    use: Example,
    witness: Witness,
    where: str,
    rng: np.random.Generator,
) -> None:
    (i,) = node.variables
    spec = use.inputs[i]
    assert isinstance(spec, Variable)
    assert node.y.shape == node.x.shape, f"{where}: an elementwise op keeps the shape"
    whole = Box.of(spec.low, spec.high)
    previous: list[tuple[Box, Array, Array]] = []
    boxes = [whole]
    for _ in range(12):
        ends = np.sort(np.stack([_samples(spec, rng), _samples(spec, rng)]), axis=0)
        boxes.append(Box.of(ends[0], ends[1]))
    shape = node.x.shape
    for box in boxes:
        alpha, beta = form.slopes(node, box)
        assert np.all(alpha <= beta), f"{where}: slopes with α > β"
        image = form.image(node, box)
        for _ in range(40):
            a, b = _in_box(box, spec, rng, shape), _in_box(box, spec, rng, shape)
            if rng.random() < 0.5:  # nearby points see the derivative
                b = np.clip(a + (b - a) * 1e-3, box.low, box.high)
            fa, fb = witness([a])[0], witness([b])[0]
            slack = witness.tolerance * (1 + np.abs(fa))
            assert np.all(image.low <= fa + slack), f"{where}: value below the image"
            assert np.all(image.high >= fa - slack), f"{where}: value above the image"
            step = a - b
            apart = np.abs(step) > 1e-5 * (1 + np.abs(a))
            rise = (fa - fb) * np.sign(step)
            noise = witness.tolerance * (1 + np.abs(fa) + np.abs(fb))
            size = np.abs(step)
            with np.errstate(invalid="ignore"):
                low_ok = rise >= np.where(np.isfinite(alpha), alpha * size, -np.inf) - noise
                high_ok = rise <= np.where(np.isfinite(beta), beta * size, np.inf) + noise
            assert np.all(low_ok | ~apart), f"{where}: a difference quotient is below α"
            assert np.all(high_ok | ~apart), f"{where}: a difference quotient exceeds β"
        wide = np.broadcast_arrays(alpha, beta, np.empty(shape))
        previous.append((box, wide[0], wide[1]))
    _, alpha, beta = previous[0]
    for _, a, b in previous[1:]:
        smaller = np.all(a >= alpha - 1e-9) and np.all(b <= beta + 1e-9)
        assert smaller, f"{where}: a smaller box has a larger slope interval"
    if form.gate is not None:
        _check_gate(form, node, witness, where, rng)


def _check_gate(
    form: Elementwise, node: Node, witness: Witness, where: str, rng: np.random.Generator
) -> None:
    from onnxlip.univariate import Expression

    assert form.gate is not None
    x = Expression.x()
    found = 0
    for factor in (0.5, 1.0, 1.702, -1.0):
        for shift in (0.0, 3.0):
            inner = x * Expression.number(factor) + Expression.number(shift)
            interval = form.gate(node, inner)
            if interval is None:
                continue
            found += 1
            for _ in range(200):
                a = _samples(Variable(node.x.shape), rng)
                b = a + rng.choice([1e-2, 1.0]) * rng.standard_normal(a.shape)
                fa, fb = (v * witness([factor * v + shift])[0] for v in (a, b))
                noise = witness.tolerance * (1 + np.abs(fa) + np.abs(fb)) * 10
                rise = (fa - fb) * np.sign(a - b)
                ok = (interval[0] * np.abs(a - b) - noise <= rise) & (
                    rise <= interval[1] * np.abs(a - b) + noise
                )
                assert np.all(ok), f"{where}: x·f({factor}x + {shift}) leaves its slope interval"
    assert found, f"{where}: a gate that knows no x·f(cx) is of no use"


def _in_box(box: Box, spec: Variable, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    low, high = np.broadcast_to(box.low, shape), np.broadcast_to(box.high, shape)
    if box.is_bounded:
        return low + (high - low) * rng.random(shape)
    return np.clip(_samples(spec, rng), low, high)


def _check_fixed(
    form: Fixed, node: Node, witness: Witness, where: str, rng: np.random.Generator
) -> None:
    stated = form.value(node)
    for _ in range(3):
        ran = witness([rng.standard_normal(node.value(i).shape) for i in node.variables])
        for o, (a, b) in enumerate(zip(stated, ran, strict=True)):
            assert np.array_equal(np.asarray(a, np.float64), b), f"{where}: output {o} differs"


def _check_gain(
    form: Gain, node: Node, use: Example, witness: Witness, where: str, rng: np.random.Generator
) -> None:
    specs = [use.inputs[i] for i in node.variables]
    boxes = _boxes(node, use)
    for p in (1.0, 2.0, math.inf):
        gains = {i: form.gain(node, i, p, boxes) for i in node.variables}
        joint = form.joint(node, p, boxes) if form.joint else math.inf
        for g in (*gains.values(), joint):
            assert g >= 0, f"{where}: a negative gain"
        for i in node.variables:
            assert math.isfinite(gains[i]), f"{where}: no finite gain on the example's own box"
        for _ in range(60):
            a = [_samples(s, rng) for s in specs if isinstance(s, Variable)]
            shrink = 10.0 ** rng.uniform(-3, 0)
            b = [
                x + shrink * (_samples(s, rng) - x)
                for x, s in zip(a, specs, strict=True)
                if isinstance(s, Variable)
            ]
            fa = witness(a)
            if form.picks is not None:
                _check_picks(form.picks(node), a, fa[0], where)
            for o, y in enumerate(fa):
                image = form.image(node, boxes, o)
                slack = witness.tolerance * (1 + np.abs(y))
                held = np.all(image.low <= y + slack) and np.all(image.high >= y - slack)
                assert held, f"{where}: output {o} leaves its image"
            for slot, i in enumerate(node.variables):
                moved = list(a)
                moved[slot] = b[slot]
                _compare(witness, fa, moved, a[slot] - b[slot], gains[i], p, f"{where} input {i}")
            apart = np.concatenate([(x - y).ravel() for x, y in zip(a, b, strict=True)])
            _compare(witness, fa, b, apart, joint, p, f"{where} jointly")
    if form.derivative is not None:
        _check_derivative(form, node, specs, witness, where, rng)


def _check_picks(picks: npt.NDArray[np.int64], inputs: list[Array], y: Array, where: str) -> None:
    """Every output entry is one of the entries that the rule says it may be."""
    assert len(inputs) == 1, f"{where}: picks are for ops with one variable input"
    assert picks.shape[0] == y.size, f"{where}: picks for {picks.shape[0]} of {y.size} outputs"
    x = np.append(inputs[0].reshape(-1), np.nan)  # −1 reads what equals nothing
    found = (x[picks] == y.reshape(-1, 1)).any(axis=1)
    assert found.all(), f"{where}: an output is none of the entries that the rule picks from"


def _check_derivative(
    form: Gain, node: Node, specs: list[Any], witness: Witness, where: str, rng: np.random.Generator
) -> None:
    """At two points at once, J v is what the op's central differences come to, but for a few
    directions that may cross a kink; and ⟨J v, g⟩ = ⟨v, Jᵀg⟩."""
    assert form.derivative is not None
    points = [[_moderate(s, rng) for s in specs] for _ in range(2)]
    given = [None if value is None else value.constant for value in node.inputs]
    for slot, i in enumerate(node.variables):
        given[i] = np.stack([point[slot] for point in points])
    push, pull = form.derivative(node, given)
    step, slack = (1e-6, 1e-4) if witness.tolerance < 1e-8 else (3e-3, 2e-2)
    right = 0
    for _ in range(6):
        ways = [rng.standard_normal((2, *node.value(i).shape)) for i in node.variables]
        moved = [np.asarray(y) for y in push(ways)]
        grads = [
            rng.standard_normal(y.shape) if value.name else np.zeros(y.shape)
            for y, value in zip(moved, node.outputs, strict=True)
        ]
        forth = [float(np.vdot(y, g)) for y, g in zip(moved, grads, strict=True)]
        back = [float(np.vdot(v, b)) for v, b in zip(ways, pull(grads), strict=True)]
        size = sum(map(abs, (*forth, *back))) + sum(float(np.linalg.norm(y)) for y in moved)
        assert abs(sum(forth) - sum(back)) <= 1e-9 * (size + 1e-6), f"{where}: dot test"
        near = True
        for k, point in enumerate(points):
            above, below = (
                witness([x + s * step * v[k] for x, v in zip(point, ways, strict=True)])
                for s in (1.0, -1.0)
            )
            for a, b, y in zip(above, below, moved, strict=True):
                slope = (a - b) / (2 * step)
                off = float(np.abs(slope - y[k].reshape(a.shape)).max(initial=0))
                near &= off <= slack * (1 + float(np.abs(slope).max(initial=0)))
        right += near
    assert right >= 3, f"{where}: the derivative is not the limit of difference quotients"


def _moderate(spec: Variable, rng: np.random.Generator) -> Array:
    """A point inside the example's box, of ordinary size."""
    low, high = max(spec.low, -2.0), min(spec.high, 2.0)
    low, high = (low, high) if low < high else (spec.low, spec.high)
    return rng.uniform(low, high, spec.shape)


def _compare(
    witness: Witness,
    fa: list[Array],
    point: list[Array],
    step: Array,
    gain: float,
    p: float,
    where: str,
) -> None:
    size = float(np.linalg.norm(step.ravel(), p))
    for o, (y, z) in enumerate(zip(fa, witness(point), strict=True)):
        rise = float(np.linalg.norm((y - z).ravel(), p))
        noise = witness.tolerance * (1 + float(np.abs(y).sum()) + float(np.abs(z).sum()))
        message = f"{where}, p = {p}: quotient {rise / max(size, 1e-300):.6g} > gain {gain:.6g}"
        assert rise <= gain * size + noise, f"{message} (output {o})"


def _boxes(node: Node, use: Example) -> list[Box | None]:
    boxes: list[Box | None] = []
    for value, spec in zip(node.inputs, use.inputs, strict=True):
        if value is None:
            boxes.append(None)
        elif isinstance(spec, Variable):
            boxes.append(Box.of(spec.low, spec.high))
        else:
            data = np.asarray(value.constant, np.float64)
            boxes.append(Box.of(data, data))
    return boxes
