"""Gains of softmaxes and normalisations against Jacobians that are made as large as possible.

`check_rule` samples quotients; here a search climbs ‖J(x)‖_p, J by complex steps (exact to
rounding) of plain definitions, so a gain must not only hold but, where claimed, be attained.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from onnxlip.ops.families.normalization import least_spread
from onnxlip.registry import built_in
from onnxlip.rules import Box, Gain, Node, Refusal, Value

Floats = npt.NDArray[np.float64]
Function = Callable[[Any], Any]
NORMS = (1.0, 2.0, math.inf)


# ── the rule at work ──────────────────────────────────────────────────────────────────────


def gain(
    op_type: str,
    shape: tuple[int, ...],
    p: float,
    /,
    *constants: Any,
    box: tuple[Any, Any] = (-math.inf, math.inf),
    outputs: int = 1,
    opset: int = 23,
    **attributes: Any,
) -> float:
    arrays = [np.asarray(c, np.float32) for c in constants]
    single = np.dtype(np.float32)
    inputs = (
        Value("x", shape, single),
        *(Value(f"c{k}", a.shape, single, a) for k, a in enumerate(arrays)),
    )
    ys = tuple(Value(f"y{k}", shape, single) for k in range(outputs))
    node = Node(op_type, inputs, ys, attributes, opset=opset)
    found = built_in().find(node)
    assert found is not None
    form = found.rule.form
    assert isinstance(form, Gain)
    boxes = [Box.of(*box), *(Box.of(a, a) for a in arrays)]
    return form.gain(node, 0, p, boxes)


# ── the search ────────────────────────────────────────────────────────────────────────────


def jacobians(f: Function, points: Floats) -> Floats:
    """(m, outputs, n) for (m, n) points; f maps (…, n) arrays, complex ones included."""
    step = 1e-30
    moved = points[:, None, :] + 1j * step * np.eye(points.shape[1])
    result: Floats = np.swapaxes(np.imag(f(moved)) / step, 1, 2)
    return result


def sizes(f: Function, points: Floats, p: float) -> Floats:
    j = jacobians(f, points)
    if p == 2:
        return np.linalg.norm(j, 2, axis=(1, 2))
    result: Floats = np.abs(j).sum(axis=1 if p == 1 else 2).max(axis=1)
    return result


def largest(
    f: Function, n: int, p: float, low: Any = -np.inf, high: Any = np.inf, seed: int = 0
) -> float:
    """The largest ‖J(x)‖_p that an evolutionary search over the box finds."""
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(-3, 1.5, (400, 1))
    spread = 10.0 ** rng.uniform(-2, 0, (400, n)) * (rng.random((400, n)) < 0.7)
    bounded = np.all(np.isfinite(low)) and np.all(np.isfinite(high))
    pool = scales * rng.standard_normal((400, n)) * spread
    if bounded:
        pool = low + (high - low) * np.round(rng.random((400, n)) * 8) / 8
    best = 0.0
    for round_ in range(60):
        pool = np.clip(pool, low, high)
        values = sizes(f, pool, p)
        best = max(best, float(np.nanmax(values)))
        parents = pool[np.argsort(-values)[:20]]
        width = 10.0 ** rng.uniform(-2.5 - round_ / 30, 0.3, (19, 20, 1))
        size = np.abs(parents).mean(axis=1, keepdims=True) + (0 if round_ % 2 else 1e-3)
        children = parents + width * size * rng.standard_normal((19, 20, n))
        few = rng.random((19, 20, n)) < 0.4
        pool = np.concatenate([parents, np.where(few, children, parents).reshape(-1, n)])
    return best


def softmax(x: Any) -> Any:
    e = np.exp(x - x.real.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def log_softmax(x: Any) -> Any:
    x = x - x.real.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def layer(scale: Any, epsilon: float, centred: bool = True, root: bool = True) -> Function:
    def f(x: Any) -> Any:
        z = x - x.mean(axis=-1, keepdims=True) if centred else x
        v = (z * z).mean(axis=-1, keepdims=True)
        return np.asarray(scale) * z / (np.sqrt(v + epsilon) if root else np.sqrt(v) + epsilon)

    return f


def lrn(size: int, alpha: float, beta: float, bias: float) -> Function:
    def f(x: Any) -> Any:
        n = x.shape[-1]
        near = np.zeros((n, n))
        for i in range(n):
            near[i, max(0, i - (size - 1) // 2) : i + size // 2 + 1] = 1
        return x * (bias + alpha / size * (x * x) @ near.T) ** -beta

    return f


# ── softmax ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("n", [2, 3, 6])
def test_softmax_is_one_half_and_attained(n: int, p: float) -> None:
    assert gain("Softmax", (4, n), p) == 0.5
    assert 0.499 <= largest(softmax, n, p) <= 0.5 + 1e-12


@pytest.mark.parametrize(
    ("p", "expected"), [(1.0, lambda n: n - 1), (2.0, math.sqrt), (math.inf, lambda n: 2)]
)
@pytest.mark.parametrize("n", [2, 3, 6])
def test_log_softmax_is_attained(n: int, p: float, expected: Callable[[int], float]) -> None:
    bound = gain("LogSoftmax", (2, n), p)
    assert bound == pytest.approx(expected(n), rel=1e-12)
    assert 0.99 * bound <= largest(log_softmax, n, p) <= bound * (1 + 1e-9)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
def test_softmax_of_one_entry_is_constant(op_type: str) -> None:
    assert all(gain(op_type, (5, 1), p) == 0 for p in NORMS)


def test_softmax_axis_says_what_a_group_is() -> None:
    assert gain("LogSoftmax", (2, 5, 3), 1.0) == 2
    assert gain("LogSoftmax", (2, 5, 3), 1.0, axis=1) == 4
    assert gain("LogSoftmax", (2, 5, 3), 1.0, axis=-3) == 1


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize(("op_type", "f"), [("Softmax", softmax), ("LogSoftmax", log_softmax)])
def test_softmax_on_a_box(op_type: str, f: Function, p: float) -> None:
    low, high = np.array([-1.0, 0.0, 2.0, -2.0]), np.array([0.0, 0.5, 2.5, 1.0])
    bound, found = gain(op_type, (1, 4), p, box=(low, high)), largest(f, 4, p, low, high)
    assert found <= bound * (1 + 1e-12)
    assert bound <= min(gain(op_type, (1, 4), p), 1.6 * found)
    point = gain(op_type, (1, 4), p, box=(low, low))
    exact = float(sizes(f, low[None], p)[0])
    assert exact * (1 - 1e-12) <= point <= exact * (1.0 if p == math.inf else 1.45) + 1e-9


def test_softmax_on_a_box_of_large_numbers() -> None:
    low, high = np.array([800.0, -900.0, 0.0]), np.array([900.0, -800.0, 1.0])
    assert 0 <= gain("Softmax", (3,), 2.0, box=(low, high)) < 1e-11
    assert gain("LogSoftmax", (3,), math.inf, box=(low, high)) == 2


# ── layer, RMS, instance, group ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("epsilon", [1e-5, 0.3])
@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_layer_normalization_is_nearly_attained(n: int, epsilon: float, p: float) -> None:
    epsilon = float(np.float32(epsilon))
    bound = gain("LayerNormalization", (3, n), p, np.ones(n), epsilon=epsilon)
    found = largest(layer(1.0, epsilon), n, p) if epsilon > 0.1 else math.nan
    at_rest = float(sizes(layer(1.0, epsilon), np.zeros((1, n)), p)[0])
    assert at_rest <= bound * (1 + 1e-12)
    assert not found > bound
    assert bound <= 1.003 * np.nanmax([found, at_rest])


@pytest.mark.parametrize("n", [24, 64])
def test_layer_normalization_row_sums_of_long_groups(n: int) -> None:
    """Here the supremum is at θ near 2/3, where one entry stands against all others."""
    bound = gain("LayerNormalization", (1, n), math.inf, np.ones(n), epsilon=1.0)
    f, step = layer(1.0, 1.0), 1e-30
    a, b = np.meshgrid(np.linspace(0.2, 12, 120), np.linspace(0.05, 4, 80))
    best = 0.0
    for k in range(1, n - 1):  # x = (a, −b … −b, 0 … 0), with k times −b
        x = np.zeros((a.size, 1, n))
        x[:, 0, 0], x[:, 0, 1 : 1 + k] = a.ravel(), -b.reshape(-1, 1)
        moved = x + 1j * step * np.eye(n)[[0, 1, n - 1]]
        row = np.abs(np.imag(f(moved)[:, :, 0])) / step
        best = max(best, float((row @ np.array([1, k, n - 1 - k])).max()))
    assert 0.97 * bound <= best <= bound


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("n", [2, 3, 5, 9, 24])
def test_rms_normalization_is_attained(n: int, p: float) -> None:
    bound = gain("RMSNormalization", (3, n), p, np.ones(n), epsilon=0.5)
    x = np.concatenate([10 ** np.linspace(-3, 2, 2000)[:, None], np.ones((2000, n - 1))], axis=1)
    scaled = np.concatenate([x * s for s in (1e-6, 0.3, 0.5, 0.7, 0.9, 1.0, 1.2, 1.5)])
    found = float(sizes(layer(1.0, 0.5, centred=False), scaled, p).max())
    assert 0.99 * bound <= found <= bound * (1 + 1e-12)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("centred", [True, False])
def test_scale_vectors(centred: bool, p: float) -> None:
    op_type = "LayerNormalization" if centred else "RMSNormalization"
    scale = np.array([0.5, -3.0, 1.0, 0.0, 1.5, 0.25])
    bound = gain(op_type, (2, 6), p, scale, epsilon=0.5)
    found = largest(layer(scale, 0.5, centred), 6, p)
    assert found <= bound <= 1.35 * found
    assert bound <= 3.0 * gain(op_type, (2, 6), p, np.ones(6), epsilon=0.5) * (1 + 1e-12)
    # With γ inside Cauchy–Schwarz, column sums do better than max|γ| times the unit gain.
    wide = np.ones(400)
    wide[0] = 5.0
    unit = gain(op_type, (1, 400), 1.0, np.ones(400), epsilon=0.5)
    assert gain(op_type, (1, 400), 1.0, wide, epsilon=0.5) < 0.6 * 5.0 * unit


def test_spectral_gain_is_the_formula() -> None:
    scale, epsilon = np.array([1.0, -2.5, 0.5], np.float32), float(np.float32(1e-3))
    expected = 2.5 / math.sqrt(epsilon)
    for op_type, shape, arguments, attributes in (
        ("LayerNormalization", (2, 3), (scale,), {}),
        ("RMSNormalization", (2, 3), (scale,), {}),
        ("InstanceNormalization", (1, 3, 4, 4), (scale, np.zeros(3)), {}),
        ("GroupNormalization", (1, 3, 2, 2), (scale, np.zeros(3)), {"num_groups": 1}),
    ):
        bound = gain(op_type, shape, 2.0, *arguments, epsilon=1e-3, **attributes)
        assert expected <= bound <= expected * (1 + 1e-12)
        default = gain(op_type, shape, 2.0, *arguments, **attributes)
        assert default == pytest.approx(2.5 / math.sqrt(np.float32(1e-5)), rel=1e-12)


@pytest.mark.parametrize("p", NORMS)
def test_gain_is_a_maximum_over_groups(p: float) -> None:
    one = gain("LayerNormalization", (1, 4), p, np.ones(4), epsilon=0.125)
    assert gain("LayerNormalization", (5, 7, 4), p, np.ones(4), epsilon=0.125) == one
    # A γ per row: the row with the largest one counts.
    rows = np.array([[1.0], [3.0], [2.0]])
    several = gain("LayerNormalization", (3, 4), p, rows, epsilon=0.125)
    assert several == pytest.approx(3 * one, rel=1e-12)
    # The whole Jacobian of a batch, its blocks next to each other
    f = layer(np.ones(4), 0.125)
    flat = largest(lambda x: f(x.reshape(*x.shape[:-1], 3, 4)).reshape(x.shape), 12, p)
    assert flat <= one


@pytest.mark.parametrize("p", NORMS)
def test_axis_and_groups_set_the_number_of_entries(p: float) -> None:
    def layers(n: int) -> float:
        return gain("LayerNormalization", (1, n), p, np.ones(n), epsilon=0.125)

    cube = (2, 3, 4)
    assert gain("LayerNormalization", cube, p, np.ones(4), epsilon=0.125) == layers(4)
    both = gain("LayerNormalization", cube, p, np.ones(cube[1:]), axis=1, epsilon=0.125)
    assert both == pytest.approx(layers(12), rel=1e-12)
    ones, zeros = np.ones(6), np.zeros(6)
    instance = gain("InstanceNormalization", (2, 6, 5, 2), p, ones, zeros, epsilon=0.125)
    assert instance == pytest.approx(layers(10), rel=1e-12)
    for count in (1, 2, 6):
        group = gain(
            "GroupNormalization", (2, 6, 5), p, ones, zeros, num_groups=count, epsilon=0.125
        )
        assert group == pytest.approx(layers(30 // count), rel=1e-12)


def test_withdrawn_group_normalization_has_a_scale_per_group() -> None:
    old = gain("GroupNormalization", (1, 6, 3), 2.0, [1.0, 4.0], [0.0, 0.0], num_groups=2)
    new = gain("GroupNormalization", (1, 6, 3), 2.0, [1, 1, 1, 4, 4, 4], np.zeros(6), num_groups=2)
    assert old == new


def test_epsilon_zero_has_a_gain_only_away_from_constant_groups() -> None:
    ones = np.ones(4)
    low, high = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.5, 1.5, 2.5, 3.5])
    for p in NORMS:
        assert gain("LayerNormalization", (1, 4), p, ones, epsilon=0.0) == math.inf
        assert gain("LayerNormalization", (1, 4), p, ones, epsilon=-1e-3) == math.inf
        local = gain("LayerNormalization", (1, 4), p, ones, epsilon=0.0, box=(low, high))
        found = largest(layer(1.0, 0.0), 4, p, low, high)
        assert found <= local <= 1.35 * found


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("centred", [True, False])
def test_normalization_on_boxes(centred: bool, p: float, rng: np.random.Generator) -> None:
    op_type = "LayerNormalization" if centred else "RMSNormalization"
    scale = np.array([1.0, 2.0, 0.5, 1.0, 1.0])
    everywhere = gain(op_type, (1, 5), p, scale, epsilon=0.01)
    for width in (0.01, 0.3, 3.0):
        low = rng.standard_normal(5) * 2
        high = low + width
        bound = gain(op_type, (1, 5), p, scale, epsilon=0.01, box=(low, high))
        found = largest(layer(scale, 0.01, centred), 5, p, low, high)
        assert found <= bound <= everywhere * (1 + 1e-12)
        if width < 0.1:
            assert bound <= 2.2 * found


def test_optional_outputs_count_where_they_are_used() -> None:
    n, epsilon = 6, 0.05
    epsilon = float(np.float32(epsilon))
    alone = [gain("LayerNormalization", (2, n), p, np.ones(n), epsilon=epsilon) for p in NORMS]
    two = [
        gain("LayerNormalization", (2, n), p, np.ones(n), epsilon=epsilon, outputs=2) for p in NORMS
    ]
    assert two == alone  # the mean's gain is at most 1 here

    def inverse(x: Any) -> Any:
        z = x - x.mean(axis=-1, keepdims=True)
        return (np.mean(z * z, axis=-1, keepdims=True) + epsilon) ** -0.5

    for p, own in zip(NORMS, alone, strict=True):
        found = largest(inverse, n, p)
        three = gain("LayerNormalization", (2, n), p, np.ones(n), epsilon=epsilon, outputs=3)
        assert max(found, own) <= three <= 1.02 * max(found, own)


def test_variable_scales_are_refused_with_a_remedy() -> None:
    single = np.dtype(np.float32)
    x, scale = Value("x", (2, 3), single), Value("s", (3,), single)
    for op_type in ("LayerNormalization", "RMSNormalization"):
        node = Node(op_type, (x, scale), (Value("y", (2, 3), single),), opset=23)
        found = built_in().find(node)
        assert found is not None
        assert isinstance(found.rule.form, Refusal)
        assert "freeze" in found.rule.form.reason


# ── how small a variance can be ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("centred", [True, False])
def test_least_spread_is_the_minimum(centred: bool, rng: np.random.Generator) -> None:
    low = rng.standard_normal((200, 4)) * 2
    high = low + rng.random((200, 4)) * rng.choice([0.0, 0.1, 1.0], (200, 1))
    proved = least_spread(low, high, centred)
    # Over the box the variance is least at x = clip(c) for some c.
    c = np.linspace(-6, 6, 4001)[:, None, None] if centred else np.zeros((1, 1, 1))
    x = np.clip(c, low, high)
    true = (x.var(axis=-1) if centred else (x**2).mean(axis=-1)).min(axis=0)
    assert np.all(proved <= true)
    assert np.all(proved >= true * (1 - 1e-2) - 1e-4)
    assert np.all(least_spread(np.zeros((1, 1)), np.ones((1, 1)), centred) == 0)


def test_least_spread_of_half_open_and_huge_boxes() -> None:
    inf = math.inf
    low = np.array([[-inf, 1.0, 3.0], [0.0, -inf, 0.0], [-inf, -inf, -inf], [1e200, 0.0, 0.0]])
    high = np.array([[0.0, 2.0, inf], [inf, 1.0, inf], [inf, inf, inf], [2e200, 1.0, 1.0]])
    proved = least_spread(low, high, centred=True)
    # (0, 1 … 2, 3): the variance is least at the middle, 1.5
    assert proved[0] == pytest.approx(1.5)
    assert np.all(proved[1:] == 0)


# ── mean-variance, ℓp, LRN ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("p", NORMS)
def test_mean_variance_normalization(p: float) -> None:
    n, epsilon = 4, float(np.float32(1e-9))
    worst = gain("MeanVarianceNormalization", (3, n), p, axes=[1])
    x = 1e-13 * np.random.default_rng(0).standard_normal((2000, n))
    found = float(sizes(layer(1.0, epsilon, root=False), x, p).max())
    assert 0.99 * worst <= found <= worst
    low, high = np.arange(4.0), np.arange(4.0) + 0.3
    local = gain("MeanVarianceNormalization", (1, n), p, axes=[1], box=(low, high))
    found = largest(layer(1.0, epsilon, root=False), n, p, low, high)
    assert found <= local <= 1.35 * found


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("p", NORMS)
def test_lp_normalization(p: float, q: int) -> None:
    def f(x: Any) -> Any:
        size = x * np.sign(x.real) if q == 1 else x * x
        return x / size.sum(axis=-1, keepdims=True) ** (1 / q)

    assert gain("LpNormalization", (2, 4), p, p=q) == math.inf
    low, high = np.array([-2.0, -2.0, 0.5, -2.0]), np.array([2.0, 2.0, 2.0, 2.0])
    bound = gain("LpNormalization", (1, 4), p, p=q, box=(low, high))
    found = largest(f, 4, p, low, high)
    assert found <= bound
    if (p, q) in ((2.0, 2), (1.0, 1)):  # attained at the point of least norm
        assert bound <= 1.001 * found


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize(
    ("size", "alpha", "beta", "bias"),
    [
        (5, 1.0, 0.75, 1.0),
        (5, 3.0, 2.0, 0.5),
        (3, 1.0, 0.75, 2.0),
        (4, 1.0, 1.0, 1.0),
        (1, 1, 3, 1),
    ],
)
def test_lrn(size: int, alpha: float, beta: float, bias: float, p: float) -> None:
    attributes = {"size": size, "alpha": alpha, "beta": beta, "bias": bias}
    n = 2 * size + 1
    bound = gain("LRN", (1, n, 1, 1), p, **attributes)
    found = max(largest(lrn(size, alpha, beta, bias), n, p), bias**-beta)
    assert found <= bound * (1 + 1e-12)
    slack = {1.0: 1.03, 2.0: 1.06, math.inf: 1.01}[p] if size % 2 else 1.5
    assert bound <= slack * found
    assert gain("LRN", (2, n, 3, 3), p, **attributes) == bound


def test_lrn_of_alexnet() -> None:
    """alpha = 10⁻⁴, β = ¾, k = 1, five channels: what the module's docstring says."""
    gains = [gain("LRN", (1, 96, 54, 54), p, size=5) for p in NORMS]
    assert gains[0] == pytest.approx(1.0507, abs=2e-4)
    assert gains[1] == pytest.approx(math.sqrt(gains[0] * gains[2]), rel=1e-9)
    theta = 0.236 / 1.236 / 1.75
    assert gains[2] == pytest.approx((1 - theta) ** 0.75 * (1 + 0.75 * theta * 1.236), abs=1e-4)


@pytest.mark.parametrize("p", NORMS)
def test_lrn_on_boxes(p: float, rng: np.random.Generator) -> None:
    everywhere = gain("LRN", (1, 7, 1, 1), p, size=5, alpha=1.0)
    for shift, width in ((0.0, 0.05), (0.0, 2.0), (1.0, 0.05), (4.0, 1.0)):
        low = rng.standard_normal(7) + shift
        high = low + width
        column = (low.reshape(1, 7, 1, 1), high.reshape(1, 7, 1, 1))
        bound = gain("LRN", (1, 7, 1, 1), p, size=5, alpha=1.0, box=column)
        found = largest(lrn(5, 1.0, 0.75, 1.0), 7, p, low, high)
        assert found <= bound <= everywhere * (1 + 1e-12)


def test_lrn_far_from_zero_is_small() -> None:
    low = np.full((1, 5, 1, 1), 10.0)
    bound = gain("LRN", (1, 5, 1, 1), math.inf, size=5, alpha=0.5, box=(low, low + 0.1))
    found = float(sizes(lrn(5, 0.5, 0.75, 1.0), low.reshape(1, 5), math.inf)[0])
    assert found <= bound <= 1.4 * found


def test_lrn_without_a_positive_bias_has_no_gain() -> None:
    for broken in ({"bias": 0.0}, {"bias": -1.0}, {"alpha": -1.0}, {"beta": -0.5}):
        assert gain("LRN", (1, 6, 1, 1), 2.0, size=5, **broken) == math.inf
    assert gain("LRN", (1, 6, 1, 1), 2.0, size=5, alpha=0.0) == 1
