"""Activations against mpmath: constants, monotone pieces, rounding; soundness and tightness on
boxes; gates."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from mpmath import mp, mpf

from onnxlip.errors import RuleError
from onnxlip.ops import (
    acosh,
    asin,
    asinh,
    atan,
    atanh,
    erf,
    exp,
    gelu,
    log,
    mish,
    sigmoid,
    sinh,
    softplus,
    softsign,
    sqrt,
    swish,
    tanh,
)
from onnxlip.ops.families import gates
from onnxlip.ops.families.smooth import RELATIVE, Curve
from onnxlip.recognise import atom_for
from onnxlip.registry import built_in
from onnxlip.rounding import TINY
from onnxlip.rules import Box, Elementwise, Node, Value, constant, example, variable
from onnxlip.testing import check_rule
from onnxlip.univariate import Expression

Array = npt.NDArray[Any]
Function = Callable[[Any], Any]
DIGITS = 50


@pytest.fixture(autouse=True)
def _many_digits() -> Any:
    with mpmath.workdps(DIGITS):
        yield


# ── the curves and what they are ──────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Case:
    """A curve, its function in mpmath with its derivative, and where to look at it."""

    curve: Curve
    f: Function
    df: Function
    low: float = -40.0
    high: float = 40.0


def _phi(x: Any) -> Any:
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def _normal(x: Any) -> Any:
    return mp.erfc(-x / mp.sqrt(2)) / 2


def _logistic(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x))


def _u(x: Any) -> Any:
    return mp.sqrt(2 / mp.pi) * (x + mpf("0.044715") * x**3)


def _du(x: Any) -> Any:
    return mp.sqrt(2 / mp.pi) * (1 + 3 * mpf("0.044715") * x**2)


def _mish_derivative(x: Any) -> Any:
    s = mp.log1p(mp.exp(x))
    return mp.tanh(s) + x * mp.sech(s) ** 2 * _logistic(x)


CASES = {
    "sigmoid": Case(sigmoid.CURVE, _logistic, lambda x: _logistic(x) * _logistic(-x)),
    "tanh": Case(tanh.CURVE, mp.tanh, lambda x: mp.sech(x) ** 2),
    "softplus": Case(softplus.CURVE, lambda x: mp.log1p(mp.exp(x)), _logistic),
    "softsign": Case(softsign.CURVE, lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2),
    "gelu": Case(gelu.ERF, lambda x: x * _normal(x), lambda x: _normal(x) + x * _phi(x), -14, 40),
    "gelu tanh": Case(
        gelu.TANH,
        lambda x: x * _logistic(2 * _u(x)),
        lambda x: _logistic(2 * _u(x)) + x / 2 * _du(x) * mp.sech(_u(x)) ** 2,
        -20,
        40,
    ),
    "swish": Case(
        swish.CURVE,
        lambda x: x * _logistic(x),
        lambda x: _logistic(x) + x * _logistic(x) * _logistic(-x),
    ),
    "mish": Case(mish.CURVE, lambda x: x * mp.tanh(mp.log1p(mp.exp(x))), _mish_derivative),
    "erf": Case(erf.CURVE, mp.erf, lambda x: 2 / mp.sqrt(mp.pi) * mp.exp(-x * x), -12, 12),
    "atan": Case(atan.CURVE, mp.atan, lambda x: 1 / (1 + x * x)),
    "asinh": Case(asinh.CURVE, mp.asinh, lambda x: 1 / mp.sqrt(1 + x * x)),
    "acosh": Case(acosh.CURVE, mp.acosh, lambda x: 1 / mp.sqrt(x * x - 1), 1.001, 30.0),
    "atanh": Case(atanh.CURVE, mp.atanh, lambda x: 1 / (1 - x * x), -0.999, 0.999),
    "asin": Case(asin.ASIN, mp.asin, lambda x: 1 / mp.sqrt(1 - x * x), -0.999, 0.999),
    "acos": Case(asin.ACOS, mp.acos, lambda x: -1 / mp.sqrt(1 - x * x), -0.999, 0.999),
    "sinh": Case(sinh.SINH, mp.sinh, mp.cosh, -8.0, 8.0),
    "cosh": Case(sinh.COSH, mp.cosh, mp.sinh, -8.0, 8.0),
    "exp": Case(exp.CURVE, mp.exp, mp.exp, -30.0, 8.0),
    "log": Case(log.CURVE, mp.log, lambda x: 1 / x, 1e-3, 30.0),
    "sqrt": Case(sqrt.CURVE, mp.sqrt, lambda x: 1 / (2 * mp.sqrt(x)), 1e-3, 30.0),
}
NAMES = sorted(CASES)


def _points(case: Case, n: int, seed: int = 0) -> Array:
    """Points over the case's interval, many of them near 0 (or near its finite lower end)."""
    rng = np.random.default_rng(seed)
    wide = rng.uniform(case.low, case.high, n // 2)
    near = np.clip(rng.standard_normal(n // 2) * 2, case.low, case.high)
    return np.sort(np.concatenate([wide, near]))


@pytest.mark.parametrize("name", NAMES)
def test_derivative_is_the_derivative(name: str) -> None:
    case = CASES[name]
    for x in _points(case, 10):
        assert mp.almosteq(mp.diff(case.f, mpf(x)), case.df(mpf(x)), 1e-20, 1e-20)


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_errs_by_less_than_half_of_what_is_allowed(name: str) -> None:
    case = CASES[name]
    points = _points(case, 400)
    for mine, true in ((case.curve.value, case.f), (case.curve.derivative, case.df)):
        computed = np.asarray(mine(points))
        for x, y in zip(points, computed, strict=True):
            exact = true(mpf(x))
            allowed = RELATIVE * abs(exact) + case.curve.absolute + TINY
            assert abs(mpf(y) - exact) <= allowed / 2, f"at {x}"


def _extrema(points: tuple[tuple[float, float], ...], slope: Function, value: Function) -> None:
    for position, stated in points:
        exact = mpf(0) if position == 0 else mp.findroot(slope, mpf(position))
        assert abs(exact - position) <= 2**-53 * abs(position)
        assert abs(value(exact) - stated) <= 2**-53 * abs(stated)


@pytest.mark.parametrize("name", NAMES)
def test_bends_and_turns_are_extrema(name: str) -> None:
    case = CASES[name]
    _extrema(case.curve.bends, lambda x: mp.diff(case.df, x), case.df)
    _extrema(case.curve.turns, case.df, case.f)


@pytest.mark.parametrize("name", NAMES)
def test_there_are_no_other_extrema(name: str) -> None:
    """f″ changes its sign at bends only, f′ at turns only."""
    case = CASES[name]
    points = [mpf(x) for x in _points(case, 200)]
    second = [mp.diff(case.df, x) for x in points]
    first = [case.df(x) for x in points]
    for signs, extrema in ((second, case.curve.bends), (first, case.curve.turns)):
        for (a, b), (s, t) in zip(pairwise(points), pairwise(signs), strict=True):
            changes = s * t < 0
            between = [e for e, _ in extrema if a <= e <= b]
            assert changes == (len(between) == 1), f"between {a} and {b}"


@pytest.mark.parametrize("name", NAMES)
def test_slope_range_is_the_true_range_to_1e_12(name: str) -> None:
    case = CASES[name]
    candidates = [mpf(v) for v in case.curve.slope_limits]
    for position, _ in case.curve.bends:
        exact = mpf(0) if not position else mp.findroot(lambda x: mp.diff(case.df, x), position)
        candidates.append(case.df(exact))
    low, high = case.curve.slope_range
    for stated, exact in ((low, min(candidates)), (high, max(candidates))):
        assert stated == exact or abs(stated - exact) <= 1e-12 * abs(exact)
    assert low <= min(candidates)
    assert max(candidates) <= high
    alpha, beta = case.curve.slopes(np.asarray(-np.inf), np.asarray(np.inf))
    assert (float(alpha), float(beta)) == (low, high)


@pytest.mark.parametrize("name", NAMES)
def test_limits_are_approached(name: str) -> None:
    case = CASES[name]
    for side, limit in enumerate(case.curve.slope_limits):
        end = case.curve.domain[side]
        sign = (1, -1)[side]
        near = mpf(end) + sign * mpf(10) ** -30 if math.isfinite(end) else -sign * mpf(10) ** 20
        if abs(limit) == math.inf:
            assert case.df(near) * mp.sign(limit) > 1e5 or case.df in (mp.exp, mp.sinh, mp.cosh)
        else:
            assert abs(case.df(near) - limit) < 1e-8


@pytest.mark.parametrize("name", NAMES)
def test_boxes_are_sound_and_tight(name: str) -> None:
    case = CASES[name]
    rng = np.random.default_rng(1)
    for _ in range(40):
        low, high = np.sort(rng.choice(_points(case, 200, 2), 2))
        alpha, beta = (float(v) for v in case.curve.slopes(np.asarray(low), np.asarray(high)))
        least, most = (float(v) for v in case.curve.image(np.asarray(low), np.asarray(high)))
        x = np.linspace(low, high, 4001)
        slope, value = case.curve.derivative(x), case.curve.value(x)
        step = (high - low) / 4000
        for bound, found, sign in ((alpha, slope.min(), 1), (beta, slope.max(), -1)):
            assert (found - bound) * sign >= -2 * RELATIVE * abs(bound) - case.curve.absolute
            assert (found - bound) * sign <= 1e-3 * max(1.0, abs(bound)) + 3 * step
        assert np.all((value >= least) & (value <= most))
        room = 1e-3 + step * max(abs(alpha), abs(beta))
        assert value.min() - least <= room
        assert most - value.max() <= room
        for _ in range(5):
            a, b = (mpf(float(v)) for v in rng.uniform(low, high, 2))
            if a != b:
                quotient = (case.f(a) - case.f(b)) / (a - b)
                assert alpha <= quotient <= beta
                assert least <= case.f(a) <= most


def test_published_constants() -> None:
    assert gelu.ERF.slope_range == pytest.approx((-0.1289041, 1.1289041), abs=1e-7)
    assert gelu.TANH.slope_range == pytest.approx((-0.1289931, 1.1289931), abs=1e-7)
    assert swish.CURVE.slope_range == pytest.approx((-0.0998393, 1.0998393), abs=1e-7)
    assert mish.CURVE.slope_range == pytest.approx((-0.1125261, 1.0884982), abs=1e-7)
    assert erf.CURVE.slope_range[1] == pytest.approx(2 / math.sqrt(math.pi), abs=1e-15)


def test_infinite_and_huge_ends() -> None:
    for case in CASES.values():
        start, end = case.curve.domain
        huge = np.array([-np.inf, -1e300, -800.0, 0.0, 800.0, 1e300, np.inf])
        for i, low in enumerate(huge):
            for high in huge[i:]:
                alpha, beta = case.curve.slopes(np.asarray(low), np.asarray(high))
                least, most = case.curve.image(np.asarray(low), np.asarray(high))
                assert alpha <= beta
                assert least <= most
                if low <= start and high >= end:
                    assert (float(alpha), float(beta)) == case.curve.slope_range


# ── forms with parameters, on boxes ───────────────────────────────────────────────────────


def _node(op_type: str, *constants: Any, opset: int = 24, **attributes: Any) -> Node:
    x = Value("x", (), np.dtype(np.float32))
    inputs: list[Value | None] = [x]
    for c in constants:
        if c is None:
            inputs.append(None)
        else:
            data = np.asarray(c, np.float32)
            inputs.append(Value("c", data.shape, data.dtype, data))
    return Node(op_type, tuple(inputs), (replace(x, name="y"),), attributes, "", opset)


def _form(node: Node) -> Elementwise:
    found = built_in().find(node)
    assert found is not None
    assert isinstance(found.rule.form, Elementwise)
    return found.rule.form


def _f32(value: float) -> float:
    return float(np.float32(value))


def _elu(x: Array, s: float, a: float, c: float) -> Array:
    return np.where(x > 0, s * x, s * a * np.expm1(np.minimum(x, 0) / c))


LAMBDA, ALPHA = _f32(1.05070102214813232421875), _f32(1.67326319217681884765625)

FORMS: list[tuple[Node, Callable[[Array], Array], float, float]] = [
    (_node("Relu"), lambda x: np.maximum(x, 0), -5, 5),
    (_node("Abs"), np.abs, -5, 5),
    (_node("LeakyRelu"), lambda x: np.where(x < 0, _f32(0.01) * x, x), -5, 5),
    (_node("LeakyRelu", alpha=1.5), lambda x: np.where(x < 0, 1.5 * x, x), -5, 5),
    (_node("PRelu", -0.25), lambda x: np.where(x < 0, -0.25 * x, x), -5, 5),
    (_node("Clip", -1.0, 2.0), lambda x: np.clip(x, -1, 2), -5, 5),
    (_node("Clip", None, 2.0), lambda x: np.minimum(x, 2), -5, 5),
    (_node("Clip", 0.5), lambda x: np.maximum(x, 0.5), -5, 5),
    (_node("Clip", 2.0, -1.0), lambda x: np.full_like(x, -1.0), -5, 5),
    (_node("Elu"), lambda x: _elu(x, 1, 1, 1), -9, 5),
    (_node("Elu", alpha=2.0), lambda x: _elu(x, 1, 2, 1), -9, 5),
    (_node("Elu", alpha=-2.0), lambda x: _elu(x, 1, -2, 1), -9, 5),
    (_node("Celu", alpha=0.5), lambda x: _elu(x, 1, 0.5, 0.5), -9, 5),
    (_node("Celu", alpha=-1.0), lambda x: _elu(x, 1, -1, -1), -4, 5),
    (_node("Selu"), lambda x: _elu(x, LAMBDA, ALPHA, 1), -9, 5),
    (_node("HardSigmoid"), lambda x: np.clip(_f32(0.2) * x + 0.5, 0, 1), -5, 5),
    (_node("HardSigmoid", alpha=-2.0), lambda x: np.clip(-2 * x + 0.5, 0, 1), -5, 5),
    (_node("HardSwish"), lambda x: x * np.clip(x / 6 + 0.5, 0, 1), -5, 5),
    (_node("Swish", alpha=2.0), lambda x: x / (1 + np.exp(-2 * x)), -9, 9),
    (_node("Swish", alpha=-2.0), lambda x: x / (1 + np.exp(2 * x)), -9, 9),
    (_node("Swish", alpha=0.0), lambda x: x / 2, -9, 9),
    (_node("Shrink", bias=0.5), lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0), -3, 3),
    (_node("Sin"), np.sin, -9, 9),
    (_node("Cos"), np.cos, -9, 9),
    (_node("Tan"), np.tan, -1.5, 1.5),
    (_node("Tan"), np.tan, 1.6, 4.7),
    (_node("Reciprocal"), lambda x: 1 / x, 0.1, 5),
    (_node("Reciprocal"), lambda x: 1 / x, -5, -0.1),
    (_node("Pow", 0.0), np.ones_like, -3, 3),
    (_node("Pow", 1.0), lambda x: x, -3, 3),
    (_node("Pow", 2.0), lambda x: x**2, -3, 3),
    (_node("Pow", 3.0), lambda x: x**3, -3, 3),
    (_node("Pow", 4.0), lambda x: x**4, -3, 3),
    (_node("Pow", 0.5), np.sqrt, 0.1, 5),
    (_node("Pow", 1.5), lambda x: x**1.5, 0.0, 5),
    (_node("Pow", -1.0), lambda x: 1 / x, -5, -0.1),
    (_node("Pow", -2.0), lambda x: x**-2, -5, -0.1),
    (_node("Pow", -1.5), lambda x: x**-1.5, 0.1, 5),
]


@pytest.mark.parametrize(("node", "f", "start", "end"), FORMS)
def test_forms_are_sound_and_tight_on_boxes(
    node: Node, f: Callable[[Array], Array], start: float, end: float
) -> None:
    form = _form(node)
    rng = np.random.default_rng(3)
    special = [v for v in (-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0) if start <= v <= end]
    boxes = np.sort(rng.uniform(start, end, (60, 2)), axis=1).tolist()
    boxes += [(a, b) for a in special for b in special if a < b]
    low, high = np.array(boxes).T
    alpha, beta = (np.broadcast_to(v, low.shape) for v in form.slopes(node, Box.of(low, high)))
    image = form.image(node, Box.of(low, high))
    x = low + (high - low) * np.linspace(0, 1, 4001)[:, None]
    y = f(x)
    assert np.all(image.low <= y + 1e-13)
    assert np.all(image.high >= y - 1e-13)
    step = (high - low) / 4000
    room = 1e-3 + step * np.maximum(np.abs(alpha), np.abs(beta))
    assert np.all(y.min(axis=0) - image.low <= room)
    assert np.all(image.high - y.max(axis=0) <= room)
    noise = 1e-15 * (1 + np.abs(y).max(axis=0)) / step
    quotients = np.diff(y, axis=0) / np.diff(x, axis=0)
    size = 1 + np.maximum(np.abs(alpha), np.abs(beta))
    assert np.all(alpha - 4 * noise - 1e-12 <= quotients.min(axis=0))
    assert np.all(quotients.max(axis=0) <= beta + 4 * noise + 1e-12)
    near = 1e-3 * size + 2 * noise + step * 20 * size**2
    assert np.all(quotients.min(axis=0) - alpha <= near)
    assert np.all(beta - quotients.max(axis=0) <= near)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (_node("Relu"), (0.0, 1.0)),
        (_node("Abs"), (-1.0, 1.0)),
        (_node("LeakyRelu"), (_f32(0.01), 1.0)),
        (_node("PRelu", 3.0), (1.0, 3.0)),
        (_node("Elu"), (0.0, 1.0)),
        (_node("Elu", alpha=2.0), (0.0, 2.0)),
        (_node("Celu", alpha=0.3), (0.0, 1.0)),
        (_node("Selu"), (0.0, LAMBDA * ALPHA)),
        (_node("Sigmoid"), (0.0, 0.25)),
        (_node("Tanh"), (0.0, 1.0)),
        (_node("Softplus"), (0.0, 1.0)),
        (_node("Softsign"), (0.0, 1.0)),
        (_node("HardSigmoid"), (0.0, _f32(0.2))),
        (_node("HardSwish"), (-0.5, 1.5)),
        (_node("Clip", 0.0, 6.0), (0.0, 1.0)),
        (_node("Clip", 2.0, 1.0), (0.0, 0.0)),
        (_node("Shrink", bias=0.5), (0.0, 1.0)),
        (_node("Sin"), (-1.0, 1.0)),
        (_node("Cos"), (-1.0, 1.0)),
        (_node("Atan"), (0.0, 1.0)),
        (_node("Asinh"), (0.0, 1.0)),
        (_node("Pow", 1.0), (1.0, 1.0)),
        (_node("Pow", 0.0), (0.0, 0.0)),
        (_node("ThresholdedRelu", alpha=0.0), (0.0, 1.0)),
        # without a bound on all of ℝ
        (_node("ThresholdedRelu"), (0.0, math.inf)),
        (_node("ThresholdedRelu", alpha=-1.0), (-math.inf, 1.0)),
        (_node("Shrink"), (0.0, math.inf)),
        (_node("Shrink", bias=2.0), (-math.inf, 1.0)),
        (_node("Shrink", lambd=-1.0, bias=0.5), (-math.inf, 1.0)),
        (_node("Celu", alpha=-1.0), (1.0, math.inf)),
        (_node("Exp"), (0.0, math.inf)),
        (_node("Log"), (0.0, math.inf)),
        (_node("Sqrt"), (0.0, math.inf)),
        (_node("Reciprocal"), (-math.inf, math.inf)),
        (_node("Tan"), (1.0, math.inf)),
        (_node("Pow", 2.0), (-math.inf, math.inf)),
        (_node("Pow", 3.0), (0.0, math.inf)),
        (_node("Pow", 0.5), (-math.inf, math.inf)),
    ],
)
def test_global_slopes(node: Node, expected: tuple[float, float]) -> None:
    alpha, beta = _form(node).slopes(node, Box.whole())
    assert alpha == pytest.approx(expected[0], rel=1e-13, abs=1e-300)
    assert beta == pytest.approx(expected[1], rel=1e-13, abs=1e-300)
    if math.isinf(expected[0]) or math.isinf(expected[1]):
        assert any(word in _form(node).reason for word in ("keep", "bound", "set"))


def _on(op_type: str, low: float, high: float, **attributes: Any) -> tuple[float, float]:
    node = _node(op_type, **attributes)
    alpha, beta = _form(node).slopes(node, Box.of(low, high))
    return float(alpha), float(beta)


def test_a_jump_counts_on_boxes_with_points_on_both_sides() -> None:
    assert _on("ThresholdedRelu", -3.0, 1.0) == (0.0, 0.0)  # 1 itself is mapped to 0
    assert _on("ThresholdedRelu", 1.0, 3.0) == (1.0, math.inf)
    assert _on("ThresholdedRelu", math.nextafter(1.0, 2.0), 3.0) == (1.0, 1.0)
    assert _on("Shrink", -0.5, 0.5) == (0.0, 0.0)
    assert _on("Shrink", 0.0, 0.75)[1] == math.inf
    assert _on("Shrink", -0.75, 0.0)[1] == math.inf
    assert _on("Shrink", -0.75, -0.5)[1] == math.inf
    assert _on("Shrink", 0.75, 9.0) == (1.0, 1.0)
    node = _node("ThresholdedRelu", alpha=-1.0)
    image = _form(node).image(node, Box.of(-2.0, -0.5))
    assert image.low <= -1.0  # just right of −1


def test_edges_of_domains() -> None:
    assert _on("Sqrt", 0.0, 1.0)[1] == math.inf
    assert _on("Log", -1.0, 1.0)[1] == math.inf
    assert _on("Reciprocal", 0.0, 1.0) == (-math.inf, math.inf)
    assert _on("Reciprocal", -1.0, 1.0) == (-math.inf, math.inf)
    assert _on("Asin", -1.0, 0.0)[1] == math.inf
    assert _on("Atanh", 0.0, 1.0)[1] == math.inf
    assert _on("Acosh", 1.0, 2.0)[1] == math.inf
    assert _on("Tan", 1.0, 2.0)[1] == math.inf
    assert _on("Exp", -math.inf, 0.0)[1] == pytest.approx(1.0)
    assert _on("Exp", 800.0, 900.0)[0] == np.finfo(float).max  # and not infinite
    for exponent, low in ((0.5, 0.0), (-1.0, -1.0), (-2.0, -1.0), (1.5, -1.0)):
        node = _node("Pow", exponent)
        alpha, beta = _form(node).slopes(node, Box.of(low, 1.0))
        assert beta == math.inf
        assert alpha in (-math.inf, 0.5) or alpha == pytest.approx(0.5)


@pytest.mark.parametrize("alpha", [0.2, 0.3, 1 / 6, 0.7, -0.9, 1e-3])
@pytest.mark.parametrize("beta", [0.5, 0.1, 0.3])
def test_hard_sigmoid_at_rounded_breakpoints(alpha: float, beta: float) -> None:
    a, b = Fraction(_f32(alpha)), Fraction(_f32(beta))
    for t in (-b / a, (1 - b) / a):
        outer, inner = (0.0, float(a)) if (t == -b / a) == (a > 0) else (float(a), 0.0)
        for end in (math.nextafter(float(t), k * math.inf) for k in (-1, 1)):
            for x in (end, float(t)):
                right = _on("HardSigmoid", x, x + 1e-9, alpha=alpha, beta=beta)
                left = _on("HardSigmoid", x - 1e-9, x, alpha=alpha, beta=beta)
                if Fraction(x) < t:
                    assert min(right) <= outer <= max(right)
                    assert min(right) <= inner <= max(right)
                if Fraction(x) > t:
                    assert min(left) <= outer <= max(left)
                    assert min(left) <= inner <= max(left)


def test_far_out_sin_is_enclosed_by_everything() -> None:
    assert _on("Sin", 1e18, 1e18 + 1024) == (-1.0, 1.0)
    assert _on("Sin", -math.inf, 0.0) == (-1.0, 1.0)


def test_images_of_powers_across_zero() -> None:
    for exponent, low, high, expected in (
        (-1.0, -1.0, 2.0, (-math.inf, math.inf)),
        (-1.0, 0.0, 2.0, (0.5, math.inf)),
        (-2.0, -1.0, 2.0, (0.25, math.inf)),
        (2.0, -1.0, 2.0, (0.0, 4.0)),
        (3.0, -1.0, 2.0, (-1.0, 8.0)),
        (0.5, -1.0, 4.0, (0.0, 2.0)),
    ):
        node = _node("Pow", exponent)
        image = _form(node).image(node, Box.of(low, high))
        assert (image.low, image.high) == pytest.approx(expected)
    for low, high, expected in (
        (-1.0, 2.0, (-math.inf, math.inf)),
        (0.0, 2.0, (0.5, math.inf)),
        (-2.0, 0.0, (-math.inf, -0.5)),
        (0.0, 0.0, (-math.inf, math.inf)),
    ):
        node = _node("Reciprocal")
        image = _form(node).image(node, Box.of(low, high))
        assert (image.low, image.high) == pytest.approx(expected)


def test_half_open_clips_obey_every_law() -> None:
    rule = next(e.rule for e in built_in() if e.rule.op_type == "Clip" and e.rule.examples)
    assert isinstance(rule.form, Elementwise)
    node = _node("Clip", 1.0)
    assert rule.form.gate is not None
    assert rule.form.gate(node, Expression.x()) is None  # x·max(x, 1) has no bound
    bare = replace(rule.form, gate=None)
    uses = (
        example(variable(2, 5), constant(0.5)),
        example(variable(2, 5), None, constant(0.5)),
        example(variable(2, 5)),
    )
    check_rule(replace(rule, form=bare, examples=uses))


# ── gates ─────────────────────────────────────────────────────────────────────────────────


def _line(b: float, c: float = 0.0) -> Expression:
    return Expression.x() * Expression.number(b) + Expression.number(c)


def _gate(op_type: str, inner: Expression, *constants: Any, **attributes: Any) -> Any:
    node = _node(op_type, *constants, **attributes)
    gate = _form(node).gate
    assert gate is not None
    return gate(node, inner)


def _true_range(h: Function, start: float, end: float) -> tuple[Any, Any]:
    """Range of a derivative, by sampling and then ternary search around the best sample."""
    t = [mpf(start) + (mpf(end) - start) * k / 800 for k in range(801)]
    values = [h(v) for v in t]
    ends = []
    for sign, k in ((1, values.index(min(values))), (-1, values.index(max(values)))):
        left, right = t[max(k - 1, 0)], t[min(k + 1, 800)]
        for _ in range(100):
            a, b = left + (right - left) / 3, right - (right - left) / 3
            left, right = (left, b) if sign * h(a) < sign * h(b) else (a, right)
        ends.append(h(left))
    return ends[0], ends[1]


def _assert_tight(interval: tuple[float, float] | None, true: tuple[Any, Any]) -> None:
    assert interval is not None
    assert interval[0] <= true[0]
    assert true[1] <= interval[1]
    for mine, exact in zip(interval, true, strict=True):
        assert abs(mine - exact) <= 1e-12 * max(map(abs, true))


@pytest.mark.parametrize("c", [0.0, 1.0, -1.0, 3.0, -8.0, 20.0, -50.0])
def test_gates_of_lines(c: float) -> None:
    def tanh_slope(t: Any) -> Any:
        return mp.tanh(t) + (t - c) * mp.sech(t) ** 2

    def sigmoid_slope(t: Any) -> Any:
        return _logistic(t) + (t - c) * _logistic(t) * _logistic(-t)

    def erf_slope(t: Any) -> Any:
        return mp.erf(t) + (t - c) * 2 / mp.sqrt(mp.pi) * mp.exp(-t * t)

    reach = abs(c) + 12
    for op_type, slope in (("Tanh", tanh_slope), ("Sigmoid", sigmoid_slope), ("Erf", erf_slope)):
        true = _true_range(slope, -reach, reach)
        for b in (1.0, -0.3, 1.702, 1e-30, 1e30):  # which makes no difference
            _assert_tight(_gate(op_type, _line(b, c)), true)


def test_gates_of_constants() -> None:
    for op_type, f in (("Tanh", math.tanh), ("Erf", math.erf)):
        low, high = _gate(op_type, _line(0.0, 0.7))
        assert low <= f(0.7) <= high
        assert _gate(op_type, _line(0.0)) == (0.0, 0.0)
    assert _gate("Sigmoid", _line(0.0)) == (0.5, 0.5)


@pytest.mark.parametrize("r", [0.0, 1e-6, 0.0702, 1.0, 1e4, 1e12])
def test_cubic_gates(r: float) -> None:
    """x·tanh(x + r x³) and the σ form, for any curvature."""
    x = Expression.x()
    inner = x + x * x * x * Expression.number(r)

    def slope(s: Any) -> Any:
        u = s + r * s**3
        return mp.tanh(u) + s * (1 + 3 * r * s * s) * mp.sech(u) ** 2

    reach = 4 / (1 + r ** (1 / 3))
    _, most = _true_range(slope, 0.0, reach)
    _assert_tight(_gate("Tanh", inner), (-most, most))
    twice = inner * Expression.number(2)
    _assert_tight(_gate("Sigmoid", twice), ((1 - most) / 2, (1 + most) / 2))
    assert _gate("Tanh", -inner) == _gate("Tanh", inner)


def test_gates_without_a_bound_say_so() -> None:
    x = Expression.x()
    assert _gate("Tanh", x * x) is None
    assert _gate("Tanh", x - x * x * x) is None
    assert _gate("Tanh", x + x * x * x + Expression.number(1)) is None
    assert _gate("Sigmoid", x * x) is None
    assert _gate("Erf", x * x) is None
    assert _gate("Clip", x * x, 0.0, 1.0) is None
    assert _gate("Clip", x, 0.0) is None
    for offset in (1e200, 1e17, -1e17):  # sound, and None rather than wrong, where rounding rules
        for op_type in ("Tanh", "Sigmoid", "Erf"):
            found = _gate(op_type, _line(1.0, offset))
            assert found is None or found[1] - found[0] > 0.9 * abs(offset)


def test_gates_of_clips_are_exact() -> None:
    assert _gate("Clip", _line(1.0, 3.0), 0.0, 6.0) == (-3.0, 9.0)
    assert _gate("Clip", _line(-2.0, 3.0), 0.0, 6.0) == (-3.0, 9.0)
    assert _gate("Clip", _line(1.0), 0.0, 6.0) == (0.0, 12.0)
    assert _gate("Clip", _line(0.0, 4.0), 0.0, 6.0) == (4.0, 4.0)
    assert _gate("HardSigmoid", _line(1.0), alpha=0.25) == (-0.5, 1.5)
    assert _gate("HardSigmoid", _line(1.0, 1.0), alpha=0.25) == (-0.75, 1.25)
    assert _gate("HardSigmoid", _line(1.0), alpha=1 / 6) == (-0.5, 1.5)
    assert gates.clip_gate(_line(1.0), Fraction(-1), Fraction(2)) == (-2.0, 4.0)


def test_mish_gate_is_mish() -> None:
    node = _node("Softplus")
    rule = built_in().find(node)
    assert rule is not None
    for b in (1.0, -3.0):
        atom = atom_for(rule.rule, node, _line(b))
        assert _gate("Tanh", Expression.atom(atom)) == mish.CURVE.slope_range
    shifted = atom_for(rule.rule, node, _line(1.0, 1.0))
    assert _gate("Tanh", Expression.atom(shifted)) is None
    assert _gate("Tanh", Expression.atom(shifted) + Expression.x()) is None


def test_only_elementwise_ops_make_atoms() -> None:
    rule = next(e.rule for e in built_in() if e.rule.op_type == "Transpose")
    with pytest.raises(RuleError, match="elementwise"):
        atom_for(rule, _node("Transpose"), Expression.x())
