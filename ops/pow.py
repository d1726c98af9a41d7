"""Pow with one constant factor: f(x) = x^p, slopes p·x^{p−1}; or f(x) = bˣ, slopes ln b · bˣ.

p = 1 has slope 1 and p = 0 slope 0 everywhere; all others are Lipschitz on boxes only:
bounded ones for p > 1, ones that stay away from 0 for p < 1. On each side of 0, x^{p−1} is
monotone, so its range on a box is the hull of its ends, and of 0 where p ≥ 3 is odd and 0 is
inside. Where p is no integer, x < 0 has no power, and bˣ asks for b > 0.

Source: ONNX operator specification, Pow.
"""

from collections.abc import Sequence

import numpy as np

from onnxlip.ops.families.smooth import Booleans, Floats, widen
from onnxlip.rules import Box, Elementwise, Node, Refusal, Rule, constant, example, variable
from onnxlip.univariate import Expression


def _slopes(node: Node, box: Box) -> tuple[Floats, Floats]:
    if node.variables == (1,):
        return _exponential_slopes(node, box)
    p = node.floats(1)
    low, high, undefined = _domain(box, p)
    ends = _monomial_slope(low, p), _monomial_slope(high, p)
    alpha, beta = np.minimum(*ends), np.maximum(*ends)
    across = (low <= 0) & (high >= 0)
    flat = across & (p % 2 == 1) & (p > 1)
    alpha = np.where(flat, np.minimum(alpha, 0.0), alpha)
    alpha, beta = widen(alpha, beta)
    # At 0 the slope of x^p is infinite for p < 1, and for p < 0 both sides count.
    bad = undefined | across & (p < 0)
    alpha, beta = np.where(bad, -np.inf, alpha), np.where(bad, np.inf, beta)
    straight = (p == 0) | (p == 1)
    return np.where(straight, p, alpha), np.where(straight, p, beta)


def _image(node: Node, box: Box) -> Box:
    if node.variables == (1,):
        return _exponential_image(node, box)
    p = node.floats(1)
    low, high, _ = _domain(box, p)
    with np.errstate(all="ignore"):
        ends = np.power(low, p), np.power(high, p)
    lower, upper = np.minimum(*ends), np.maximum(*ends)
    across = (low <= 0) & (high >= 0)
    lower = np.where(across & (p > 0), np.minimum(lower, 0.0), lower)
    lower, upper = widen(lower, upper)
    pole = across & (p < 0)
    odd = p % 2 == 1
    lower = np.where(pole & ((low < 0) | (high <= 0)) & odd, -np.inf, lower)
    upper = np.where(pole & ((high > 0) | ~odd | (low >= 0)), np.inf, upper)
    # 0 is the least value where none is negative.
    lower = np.where((low >= 0) | (p % 2 == 0), np.maximum(lower, 0.0), lower)
    return Box.of(np.where(p == 0, 1.0, lower), np.where(p == 0, 1.0, upper))


def _domain(box: Box, p: Floats) -> tuple[Floats, Floats, Booleans]:
    """The box's part where x^p is real, and whether it is only a part."""
    real = p == np.round(p)
    low, high = np.broadcast_arrays(box.low, box.high)[:2]
    cut = ~real & (low < 0)
    return np.where(cut, 0.0, low), np.where(cut, np.maximum(high, 0.0), high), cut


def _monomial_slope(x: Floats, p: Floats) -> Floats:
    with np.errstate(all="ignore"):
        return np.where(p == 0, 0.0, p * np.power(x, p - 1.0))


def _exponential_slopes(node: Node, box: Box) -> tuple[Floats, Floats]:
    b = node.floats(0)
    with np.errstate(all="ignore"):
        ends = [np.where(b == 1, 0.0, np.log(b) * np.power(b, end)) for end in (box.low, box.high)]
    bad = b <= 0
    ends = [np.where(bad, 0.0, end) for end in ends]
    alpha, beta = widen(np.minimum(*ends), np.maximum(*ends))
    return np.where(bad, -np.inf, alpha), np.where(bad, np.inf, beta)


def _exponential_image(node: Node, box: Box) -> Box:
    b = node.floats(0)
    bad = b <= 0
    with np.errstate(all="ignore"):
        ends = [np.power(np.where(bad, 1.0, b), end) for end in (box.low, box.high)]
    low, high = widen(np.minimum(*ends), np.maximum(*ends), (0.0, np.inf))
    return Box.of(np.where(bad, -np.inf, low), np.where(bad, np.inf, high))


def _algebra(node: Node, operands: Sequence[Expression | None]) -> Expression | None:
    base, exponent = operands
    power = exponent.constant if exponent is not None else None
    if base is None or power is None or power not in (0, 1, 2, 3, 4):
        return None
    product = Expression.number(1)
    for _ in range(int(power)):
        product = product * base
    return product


RULES = (
    Rule(
        "Pow",
        Refusal(
            "base and exponent both depend on the input (or broadcast it); freeze one of them, or "
            "expand the base to the output's shape first"
        ),
        source="ONNX Pow",
    ),
    Rule(
        "Pow",
        Elementwise(
            _slopes,
            _image,
            reason="the slope of a power is unbounded on this domain; bound its input (exponents "
            "above 1), or keep it away from 0 (exponents below 1), for instance by Clip",
        ),
        source="ONNX Pow",
        examples=(
            example(variable(2, 5, low=-1.0, high=2.0), constant(2.0)),
            example(variable(2, 5, low=-1.0, high=2.0), constant(3.0)),
            example(variable(2, 5, low=-1.0, high=2.0), constant(4)),
            example(variable(2, 5), constant(1.0)),
            example(variable(2, 5), constant(0.0)),
            example(variable(2, 5, low=0.5, high=2.0), constant(0.5)),
            example(variable(2, 5, low=0.25), constant(-0.5)),
            example(variable(2, 5, low=-3.0, high=-0.25), constant(-1.0)),
            example(variable(2, 5, low=-3.0, high=-0.25), constant(-2.0)),
            example(variable(2, 3, low=0.25, high=4.0), constant([2.0, 0.5, -1.5])),
            example(variable(2, 5, low=0.0, high=2.0), constant(1.5)),
            example(constant(2.0), variable(2, 5, high=2.0)),
            example(constant(0.5), variable(2, 5, low=-2.0)),
        ),
        applies=lambda node: len(node.variables) == 1 and node.x.shape == node.y.shape,
        algebra=_algebra,
    ),
)
