"""Activations as exporters spell them: every spelling has the slope interval of its function."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from onnxlip.recognise import atom_for, atom_key
from onnxlip.registry import built_in
from onnxlip.rules import Elementwise, Node, Value
from onnxlip.univariate import Expression, scale_interval, sum_intervals

Array = npt.NDArray[np.float64]
X = Expression.x()


def _apply(op_type: str, *operands: Expression | float, **attributes: Any) -> Expression | None:
    """What recognition makes of one node: its rule's algebra, else an atom."""
    x = Value("x", (2, 3), np.dtype(np.float32))
    values, expressions = [], []
    for operand in operands:
        if isinstance(operand, Expression):
            values.append(x)
            expressions.append(operand)
        else:
            data = np.asarray(operand, np.float32)
            values.append(Value("c", (), data.dtype, data))
            expressions.append(Expression.number(float(data)))
    node = Node(op_type, tuple(values), (x,), attributes, "", 21)
    for entry in built_in():
        if entry.rule.op_type == op_type and entry.rule.algebra is not None:
            found = entry.rule.algebra(node, expressions)
            if found is not None:
                return found
    found_rule = built_in().find(node)
    assert found_rule is not None
    if not isinstance(found_rule.rule.form, Elementwise):
        return None
    return Expression.atom(atom_for(found_rule.rule, node, expressions[0]))


def _op(op_type: str, *operands: Expression | float, **attributes: Any) -> Expression:
    found = _apply(op_type, *operands, **attributes)
    assert found is not None
    return found


def _f32(v: float) -> float:
    return float(np.float32(v))


def _cube_by_mul(x: Expression) -> Expression:
    return _op("Mul", _op("Mul", x, x), x)


def _gelu_argument(cube: Callable[[Expression], Expression] = _cube_by_mul) -> Expression:
    inside = _op("Add", X, _op("Mul", cube(X), 0.044715))
    return _op("Mul", inside, math.sqrt(2 / math.pi))


def _erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf)(x))


def _gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def _silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


def _hard_swish(x: Array) -> Array:
    return np.asarray(x * np.clip(x / 6 + 0.5, 0, 1))


def _softplus(x: Array) -> Array:
    return np.asarray(np.logaddexp(0, x))


def _mish(x: Array) -> Array:
    return np.asarray(x * np.tanh(_softplus(x)))


def _maybe_softplus(beta: float, threshold: float) -> Expression | None:
    z = _op("Mul", X, beta) if beta != 1 else X
    written = _op("Div", _op("Log", _op("Add", _op("Exp", z), 1.0)), beta)
    return _apply("Where", _op("Greater", z, threshold), X, written)


def _with_threshold(beta: float = 1.0) -> Expression:
    found = _maybe_softplus(beta, 20.0)
    assert found is not None
    return found


SPELLINGS: dict[str, tuple[Callable[[], Expression], Callable[[Array], Array]]] = {
    # GELU
    "half last": (
        lambda: _op(
            "Mul", _op("Mul", X, _op("Add", _op("Erf", _op("Div", X, math.sqrt(2))), 1.0)), 0.5
        ),
        _gelu,
    ),
    "half first": (
        lambda: _op(
            "Mul", _op("Mul", 0.5, X), _op("Add", 1.0, _op("Erf", _op("Mul", X, math.sqrt(0.5))))
        ),
        _gelu,
    ),
    "half of the gate": (
        lambda: _op(
            "Mul",
            X,
            _op("Mul", _op("Add", _op("Erf", _op("Div", X, math.sqrt(2))), 1.0), 0.5),
        ),
        _gelu,
    ),
    "distributed": (
        lambda: _op(
            "Add",
            _op("Div", X, 2.0),
            _op("Mul", _op("Div", X, 2.0), _op("Erf", _op("Div", X, math.sqrt(2)))),
        ),
        _gelu,
    ),
    "tanh": (
        lambda: _op("Mul", _op("Mul", X, 0.5), _op("Add", _op("Tanh", _gelu_argument()), 1.0)),
        _gelu_tanh,
    ),
    "tanh with a power": (
        lambda: _op(
            "Mul",
            _op(
                "Mul", X, _op("Add", _op("Tanh", _gelu_argument(lambda x: _op("Pow", x, 3.0))), 1.0)
            ),
            0.5,
        ),
        _gelu_tanh,
    ),
    "tanh with x factored out": (
        lambda: _op(
            "Mul",
            _op("Mul", X, 0.5),
            _op(
                "Add",
                _op(
                    "Tanh",
                    _op(
                        "Mul",
                        _op("Mul", X, math.sqrt(2 / math.pi)),
                        _op("Add", _op("Mul", _op("Mul", X, X), 0.044715), 1.0),
                    ),
                ),
                1.0,
            ),
        ),
        _gelu_tanh,
    ),
    "tanh form by a sigmoid": (
        lambda: _op("Mul", X, _op("Sigmoid", _op("Mul", _gelu_argument(), 2.0))),
        _gelu_tanh,
    ),
    # SiLU
    "silu": (lambda: _op("Mul", X, _op("Sigmoid", X)), _silu),
    "silu by tanh": (
        lambda: _op(
            "Mul",
            _op("Mul", X, 0.5),
            _op("Add", _op("Tanh", _op("Mul", X, 0.5)), 1.0),
        ),
        _silu,
    ),
    "silu by a reciprocal": (
        lambda: _op("Mul", X, _op("Reciprocal", _op("Add", _op("Exp", _op("Neg", X)), 1.0))),
        _silu,
    ),
    "quick gelu": (
        lambda: _op("Mul", X, _op("Sigmoid", _op("Mul", X, 1.702))),
        lambda x: x / (1 + np.exp(-1.702 * x)),
    ),
    # HardSwish
    "hard swish by relu6": (
        lambda: _op("Div", _op("Mul", X, _op("Clip", _op("Add", X, 3.0), 0.0, 6.0)), 6.0),
        _hard_swish,
    ),
    "hard swish by relu6, divided first": (
        lambda: _op("Mul", X, _op("Div", _op("Clip", _op("Add", X, 3.0), 0.0, 6.0), 6.0)),
        _hard_swish,
    ),
    "hard swish by a hard sigmoid": (
        lambda: _op("Mul", X, _op("HardSigmoid", X, alpha=1 / 6, beta=0.5)),
        _hard_swish,
    ),
    # Mish and Softplus
    "mish": (lambda: _op("Mul", X, _op("Tanh", _op("Softplus", X))), _mish),
    "mish by log": (
        lambda: _op("Mul", X, _op("Tanh", _op("Log", _op("Add", _op("Exp", X), 1.0)))),
        _mish,
    ),
    "mish by a threshold": (lambda: _op("Mul", X, _op("Tanh", _with_threshold())), _mish),
    "softplus by log": (lambda: _op("Log", _op("Add", 1.0, _op("Exp", X))), _softplus),
    "softplus by a threshold": (_with_threshold, _softplus),
    "softplus with beta": (lambda: _with_threshold(2.0), lambda x: _softplus(2 * x) / 2),
    "softplus with a negative beta": (
        lambda: _with_threshold(-2.0),
        lambda x: _softplus(-2 * x) / -2,
    ),
    "softplus by less": (
        lambda: _op("Where", _op("Less", X, 20.0), _op("Softplus", X), X),
        _softplus,
    ),
    "softplus by less or equal, swapped": (
        lambda: _op("Where", _op("LessOrEqual", 20.0, X), X, _op("Softplus", X)),
        _softplus,
    ),
    "softplus by greater or equal of the input": (
        lambda: _op(
            "Where",
            _op("GreaterOrEqual", X, 5.0),
            X,
            _op("Div", _op("Softplus", _op("Mul", X, 4.0)), 4.0),
        ),
        lambda x: _softplus(4 * x) / 4,
    ),
    "sigmoid by exp": (
        lambda: _op("Reciprocal", _op("Add", _op("Exp", _op("Mul", X, -3.0)), 1.0)),
        lambda x: 1 / (1 + np.exp(-3 * x)),
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_have_the_slopes_of_their_function(name: str) -> None:
    make, f = SPELLINGS[name]
    slopes = make().slopes()
    assert slopes is not None
    x = np.linspace(-12, 12, 200_001)
    quotients = np.diff(f(x)) / np.diff(x)
    # float32 constants in the graph move the function by about 1e-7
    assert slopes[0] <= quotients.min() + 1e-6
    assert slopes[1] >= quotients.max() - 1e-6
    assert slopes[0] >= quotients.min() - 1e-4
    assert slopes[1] <= quotients.max() + 1e-4


@pytest.mark.parametrize(
    ("name", "interval"),
    [
        ("half last", (-0.12890414518515478, 1.1289041451851548)),
        ("distributed", (-0.12890414518515478, 1.1289041451851548)),
        ("tanh", (-0.128993, 1.128994)),
        ("silu", (-0.09983932012886691, 1.099839320128867)),
        ("quick gelu", (-0.09983932012886691, 1.099839320128867)),
        ("hard swish by a hard sigmoid", (-0.5, 1.5)),
        ("hard swish by relu6", (-0.5, 1.5)),
        ("mish by a threshold", (-0.11252612238946255, 1.088498161251728)),
        ("softplus by a threshold", (0.0, 1.0)),
        ("softplus with beta", (0.0, 1.0)),
        ("sigmoid by exp", (0.0, 0.75)),
    ],
)
def test_slopes_are_the_published_ones(name: str, interval: tuple[float, float]) -> None:
    slopes = SPELLINGS[name][0]().slopes()
    tolerance = 1e-6 if name == "tanh" else 1e-14
    assert slopes == pytest.approx(interval, rel=tolerance, abs=tolerance)


def test_equal_functions_have_equal_texts() -> None:
    for names in (
        ("half last", "half of the gate", "distributed"),
        ("tanh", "tanh with a power"),
        ("mish", "mish by log", "mish by a threshold"),
        ("softplus by log", "softplus by a threshold", "softplus by less"),
        ("hard swish by relu6",),
    ):
        assert len({SPELLINGS[name][0]().text for name in names}) == 1


def test_a_threshold_is_noted_with_what_it_changes() -> None:
    (note,) = _with_threshold().notes
    assert "2.1e-09" in note
    (note,) = _with_threshold(2.0).notes
    assert "1e-09" in note
    assert SPELLINGS["mish by a threshold"][0]().notes == _with_threshold().notes


@pytest.mark.parametrize(
    "make",
    [
        lambda: _maybe_softplus(1.0, 9.0),  # a jump of 1e-4
        lambda: _maybe_softplus(1.0, -20.0),
        lambda: _apply("Where", _op("Less", X, 20.0), X, _op("Softplus", X)),  # the wrong way
        lambda: _apply("Where", _op("Greater", X, 20.0), _op("Softplus", X), X),
        lambda: _apply("Where", _op("Greater", X, 20.0), _op("Mul", X, 2.0), _op("Softplus", X)),
        lambda: _apply("Where", _op("Greater", X, 20.0), X, _op("Softplus", _op("Mul", X, 2.0))),
        lambda: _apply("Where", _op("Greater", _op("Mul", X, X), 20.0), X, _op("Softplus", X)),
        lambda: _apply("Where", _op("Greater", X, 20.0), X, _op("Sigmoid", X)),
        lambda: _apply("Where", X, X, _op("Softplus", X)),
    ],
)
def test_other_choices_are_not_taken_for_softplus(make: Callable[[], Expression | None]) -> None:
    assert make() is None


def test_predicates_have_no_slopes() -> None:
    step = _op("Greater", X, 0.0)
    assert step.slopes() is None
    assert step.image() == (0.0, 1.0)
    assert (X * step).slopes() is None


def test_a_constant_condition_chooses_its_branch() -> None:
    assert _op("Where", 1.0, X, _op("Exp", X)) == X
    assert _op("Where", 0.0, _op("Exp", X), X) == X


def test_powers_are_products() -> None:
    assert _op("Pow", X, 2.0) == X * X
    assert _op("Pow", X, 0.0).constant == 1
    assert _op("Pow", X, 1.0) == X
    assert _op("Pow", X, 0.5).single_atom is not None
    assert _op("Pow", X, 5.0).single_atom is not None
    assert _op("Pow", X, 2.0).slopes() is None


def test_logs_of_other_sums_stay_logs() -> None:
    for e in (
        _op("Log", _op("Add", _op("Exp", X), 2.0)),
        _op("Log", X),
        _op("Log", _op("Add", _op("Exp", X), X)),
    ):
        assert e.single_atom is not None
        assert e.single_atom.key == "Log"
        assert e.slopes() is None


def test_chains_multiply() -> None:
    assert _op("Tanh", _op("Sigmoid", _op("Mul", X, 4.0))).slopes() == pytest.approx((0.0, 1.0))
    # 1 + σ(x) lies in [1, 2], where tanh's slopes are at most 1 − tanh²(1).
    slopes = _op("Tanh", _op("Add", _op("Sigmoid", X), 1.0)).slopes()
    assert slopes is not None
    assert slopes[1] == pytest.approx(0.25 * (1 - math.tanh(1) ** 2))


def test_products_without_a_bound() -> None:
    for e in (X * X, X * _op("Relu", X), X * _op("Softplus", X), X * X * _op("Sigmoid", X)):
        assert e.slopes() is None


def test_keys_tell_parameters_apart() -> None:
    def key(**attributes: Any) -> str:
        x = Value("x", (), np.dtype(np.float32))
        return atom_key(Node("Elu", (x,), (x,), attributes))

    x = Value("x", (3,), np.dtype(np.float32))
    assert key() == "Elu"
    assert key(alpha=0.5) == "Elu[alpha=0.5]"
    assert key(alpha=0.5) != key(alpha=0.25)

    def slope(data: Any) -> str:
        array = np.asarray(data, np.float32)
        return atom_key(Node("PRelu", (x, Value("s", array.shape, array.dtype, array)), (x,)))

    assert slope(0.5) == "PRelu[1=0.5]"
    assert slope([0.5, 0.25, 0.0]) != slope([0.5, 0.25, 0.125])
    other = Node("Elu", (x,), (x,), {"approximate": "tanh", "axes": [1, 2]}, "com.example")
    assert (
        atom_key(other)
        == "com.example::Elu[approximate='tanh',axes=" + atom_key(other).split("axes=")[1]
    )


def test_a_slope_per_channel_is_a_hull() -> None:
    x = Value("x", (1, 3, 2), np.dtype(np.float32))
    data = np.array([[0.5], [-0.25], [2.0]], np.float32)
    node = Node("PRelu", (x, Value("s", data.shape, data.dtype, data)), (x,))
    found = built_in().find(node)
    assert found is not None
    e = Expression.atom(atom_for(found.rule, node, X))
    assert e.slopes() == pytest.approx((-0.25, 2.0), rel=1e-15)


def test_intervals_round_outward() -> None:
    third = Fraction(1, 3)
    low, high = scale_interval(third, (1.0, 1.0))
    assert Fraction(low) < third < Fraction(high)
    assert scale_interval(Fraction(-2), (1.0, 3.0)) == (-6.0, -2.0)
    assert scale_interval(Fraction(0), (-math.inf, 1.0)) == (0.0, 0.0)
    low, high = sum_intervals([(0.1, 0.1), (0.2, 0.2)])
    assert Fraction(low) <= Fraction(0.1) + Fraction(0.2) <= Fraction(high)
    assert sum_intervals([]) == (0.0, 0.0)
