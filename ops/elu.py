"""Elu, Celu, Selu: f(x) = s·x for x ≥ 0 and s·a·(e^{x/c} − 1) for x < 0.

            s       a     c
    Elu     1       α     1
    Celu    1       α     α      (the one that is smooth: slope 1 on both sides of 0)
    Selu    γ       α     1

On x < 0 the slope (s·a/c)·e^{x/c} is monotone: from 0 at −∞ to s·a/c at 0 (c > 0). So the slopes
are between 0, s and s·a/c: [0, max(1, α)] for Elu (α ≥ 0), [0, 1] for Celu, [0, γα] =
[0, 1.7581] for Selu. At 0 the slope may jump, f does not. With α < 0 Celu grows like e^{x/α} to
the left and has finite slopes on bounded boxes only.

Source: ONNX operator specification; Clevert et al. 2016, Barron 2017, Klambauer et al. 2017.
"""

from collections.abc import Callable

import numpy as np

from onnxlip.ops.families.attributes import single
from onnxlip.ops.families.smooth import RELATIVE, Floats, widen
from onnxlip.rounding import UNIT
from onnxlip.rules import Box, Elementwise, Node, Rule, example, variable

Parameters = tuple[float, float, float]


def _elu(node: Node) -> Parameters:
    return 1.0, single(node, "alpha", 1.0), 1.0


def _celu(node: Node) -> Parameters:
    alpha = single(node, "alpha", 1.0)
    return 1.0, alpha, alpha


def _selu(node: Node) -> Parameters:
    scale = single(node, "gamma", 1.05070102214813232421875)
    return scale, single(node, "alpha", 1.67326319217681884765625), 1.0


def _form(parameters: Callable[[Node], Parameters]) -> Elementwise:
    def slopes(node: Node, box: Box) -> tuple[Floats, Floats]:
        s, a, c = parameters(node)
        if c == 0:
            return np.asarray(-np.inf), np.asarray(np.inf)
        ends = [_exp_slope(np.minimum(end, 0.0), s, a, c) for end in (box.low, box.high)]
        # s·a is a product of two float32 numbers, so exact, and the ratio is 1 for Celu.
        steepest = s * (a / c)
        known = (min(0.0, steepest), max(0.0, steepest)) if c > 0 else (-np.inf, np.inf)
        alpha, beta = widen(
            np.minimum(ends[0], ends[1]), np.maximum(ends[0], ends[1]), known, _error(box, c)
        )
        left, right = box.low < 0, box.high > 0
        touches = (box.low == 0) & (box.high == 0)
        left, right = left | touches, right | touches
        alpha, beta = np.where(left, alpha, np.inf), np.where(left, beta, -np.inf)
        return (
            np.where(right, np.minimum(alpha, s), alpha),
            np.where(right, np.maximum(beta, s), beta),
        )

    def image(node: Node, box: Box) -> Box:
        s, a, c = parameters(node)
        if c == 0:
            return Box.whole()
        ends = _value(box.low, s, a, c), _value(box.high, s, a, c)
        low, high = np.minimum(*ends), np.maximum(*ends)
        # f is monotone on each side of 0, where it is 0.
        inside = (box.low <= 0) & (box.high >= 0)
        low, high = (
            np.where(inside, np.minimum(low, 0.0), low),
            np.where(inside, np.maximum(high, 0.0), high),
        )
        return Box.of(*widen(low, high, relative=_error(box, c)))

    return Elementwise(
        slopes,
        image,
        reason="with a negative alpha it grows exponentially to the left; bound its input from "
        "below",
    )


def _exp_slope(x: Floats, s: float, a: float, c: float) -> Floats:
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(s * (a / c) * np.exp(x / c))


def _value(x: Floats, s: float, a: float, c: float) -> Floats:
    with np.errstate(over="ignore", under="ignore"):
        below = s * a * np.expm1(np.minimum(x, 0.0) / c) if a else np.zeros_like(x)
        return np.asarray(np.where(x > 0, s * np.maximum(x, 0.0), below))


def _error(box: Box, c: float) -> Floats | float:
    """Relative error: x/c is rounded before exp, which may cost |x/c| units (beyond 800 of them
    exp has over- or underflown)."""
    if abs(c) == 1:
        return RELATIVE
    return RELATIVE + 2 * UNIT * np.minimum(box.magnitude / abs(c), 800.0)


RULES = (
    Rule(
        "Elu",
        _form(_elu),
        source="ONNX Elu; Clevert et al. 2016",
        examples=(
            example(variable(2, 5)),
            example(variable(2, 5), alpha=2.5),
            example(variable(2, 5), alpha=0.3),
            example(variable(2, 5), alpha=-0.5),
            example(variable(2, 5, low=-2.0, high=-0.25), alpha=2.5),
            example(variable(2, 5, low=0.25, high=3.0), alpha=2.5),
        ),
    ),
    Rule(
        "Celu",
        _form(_celu),
        source="ONNX Celu; Barron 2017",
        examples=(
            example(variable(2, 5)),
            example(variable(2, 5), alpha=2.5),
            example(variable(2, 5), alpha=0.1),
            example(variable(2, 5, low=-2.0, high=1.0), alpha=-0.5),
        ),
        since=12,
    ),
    Rule(
        "Selu",
        _form(_selu),
        source="ONNX Selu; Klambauer et al. 2017",
        examples=(
            example(variable(2, 5)),
            example(variable(2, 5), alpha=0.75, gamma=1.25),
            example(variable(2, 5, low=-2.0, high=-0.25)),
        ),
    ),
)
