"""Gates: slope intervals of x·f(inner(x)) over ℝ, in closed form.

Written with s = scaled x, c = the offset of the inner function.

x·tanh(bx + c).  With s = bx the derivative is h(s) = tanh(s + c) + s sech²(s + c), whose own
derivative 2 sech²(s + c)·(1 − s tanh(s + c)) vanishes where s tanh(s + c) = 1: at one s₊ > 0, for
tanh(s + c) grows and 1/s falls where both are positive, and at one s₋ < 0, which is −s₊ for −c.
There h(s) = 1/s + s(1 − 1/s²) = s. So the interval is [s₋, s₊] itself; for c = 0,
[−1.19968, 1.19968]. (The limits ±1 of h lie inside, for |tanh| < 1 makes |s±| > 1.)

x·tanh(kx + ax³), k and a of one sign.  With s = kx, r = a/k³ ≥ 0, u = s + rs³, y = rs²:
h = tanh u + s(1 + 3y) sech²u is odd, and h′ has the sign of q − tanh u,
q = (1 + 6y)/(s(1 + 3y)²), for s > 0. There q falls (d log q/d log s = 12y/(1 + 6y) − 1 −
12y/(1 + 3y) < 0) and tanh u grows, so h has one maximum, and it lies at the one crossing. It is
bracketed in floats by certified signs, and h is enclosed over the bracket.

x·σ(e) = x/2 + (x/2)·tanh(e/2): SiLU is [½ − s₊/2, ½ + s₊/2] = [−0.09984, 1.09984].

x·erf(bx + c).  With t = bx + c the derivative is h(t) = erf t + (t − c)(2/√π)e^{−t²}, and h′ has
the sign of 1 − t(t − c): extrema at t± = (c ± √(c² + 4))/2, where t − c = 1/t. So the maximum is
v(t₊), v(t) = erf t + (2/√π)e^{−t²}/t; and v falls for t > 0, so v at a float below t₊ is an upper
bound. The minimum is −v(t₊) for −c. For c = 0: ±(erf 1 + 2/(e√π)) = ±1.25781.

x·clip(bx + c, l, h).  The derivative is l, 2bx + c or h on the three pieces, so the interval is the
hull of l, h, 2l − c, 2h − c: exact.

All of it does not depend on b ≠ 0. Sources: derived; constants as in Hendrycks & Gimpel 2016
(GELU), Ramachandran et al. 2017 (SiLU), Misra 2019 (Mish).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from onnxlip.ops.families.smooth import outside
from onnxlip.rounding import UNIT
from onnxlip.rules import Node
from onnxlip.univariate import Expression, Interval, scale_interval, sum_intervals

__all__ = ["MISH", "clip_gate", "erf_gate", "sigmoid_gate", "tanh_gate"]

_HALF = Fraction(1, 2)
_ULPS = 8 * UNIT  # libm's exp, tanh and erf err by less than this, relatively

# Extremes of the derivative of x·tanh(softplus(x)), which has two critical points
# (ops/mish.py); to be compared with mpmath in the tests.
MISH = outside(-0.11252612238946255, 1.088498161251728)


def tanh_gate(node: Node, inner: Expression) -> Interval | None:
    """x·tanh(bx + c), x·tanh(kx + ax³), and Mish: x·tanh(softplus(bx))."""
    return _tanh(inner)


def sigmoid_gate(node: Node, inner: Expression) -> Interval | None:
    """x·σ(bx + c) and x·σ(kx + ax³)."""
    twice = _tanh(inner * Expression.number(_HALF))
    if twice is None:
        return None
    return sum_intervals([scale_interval(_HALF, twice), (0.5, 0.5)])


def erf_gate(node: Node, inner: Expression) -> Interval | None:
    """x·erf(bx + c)."""
    if inner.linear is None:
        return None
    b, c = inner.linear
    if b == 0:
        return _constant(math.erf, c)
    try:
        return -_erf_maximum(float(-c)), _erf_maximum(float(c))
    except OverflowError:
        return None


def clip_gate(inner: Expression, low: Fraction, high: Fraction) -> Interval | None:
    """x·clip(bx + c, low, high) for low ≤ high."""
    if inner.linear is None:
        return None
    b, c = inner.linear
    ends = [low, high, 2 * low - c, 2 * high - c] if b else [min(max(c, low), high)]
    try:
        return scale_interval(min(ends), (1.0, 1.0))[0], scale_interval(max(ends), (1.0, 1.0))[1]
    except OverflowError:
        return None


def _tanh(inner: Expression) -> Interval | None:
    atom = inner.single_atom
    if atom is not None and atom.key == "Softplus":
        line = atom.inner.linear
        return MISH if line is not None and line[0] != 0 and line[1] == 0 else None
    powers = inner.polynomial
    if powers is None or not powers.keys() <= {0, 1, 3}:
        return None
    c, k, a = (powers.get(power, Fraction(0)) for power in (0, 1, 3))
    if not k and not a:
        return _constant(math.tanh, c)
    if not k or (a and c) or a / k < 0:
        return None
    try:
        if a:
            most = _cubic_maximum(float(a / k**3))
            return (-most, most) if most is not None else None
        return -_offset_maximum(float(-c)), _offset_maximum(float(c))
    except OverflowError:
        return None


def _constant(f: Callable[[float], float], c: Fraction) -> Interval:
    """The slope of x·f(c): f(c), rounded outward."""
    value = f(float(c))
    return (0.0, 0.0) if c == 0 else (value - 2 * _ULPS, value + 2 * _ULPS)


def _least(certified: Callable[[float], bool], low: float, high: float) -> float:
    """A float in (low, high] that is `certified`, next to one that is not; `high` must be."""
    while True:
        middle = low + (high - low) / 2
        if not low < middle < high:
            return high
        if certified(middle):
            high = middle
        else:
            low = middle


@lru_cache(maxsize=1024)
def _offset_maximum(c: float) -> float:
    """An upper bound of s₊ in s tanh(s + c) = 1, tight to some ulps."""
    # `c` is a rounded fraction and s + c is rounded again.
    error = 2 * UNIT * abs(c)

    def beyond(s: float) -> bool:
        argument = s + c
        argument -= error + 2 * UNIT * abs(argument)
        return argument > 0 and s * math.tanh(argument) * (1 - 2 * _ULPS) > 1

    # There tanh(s + c) ≥ tanh 2 > 0.96 and s ≥ 2; not certified only where |c| swamps the 2.
    far = 2.0 + max(0.0, -c)
    return _least(beyond, 0.0, far) if beyond(far) else math.inf


@lru_cache(maxsize=1024)
def _cubic_maximum(r: float) -> float | None:
    """An upper bound of max tanh(s + rs³) + s(1 + 3rs²) sech²(s + rs³), tight to some ulps.

    Every quantity is a sum or product of positive ones, so each errs by a few UNIT relatively
    (the rounding of r, a fraction, included): 16 UNIT for u, y, p and q together.
    """
    if not 0 <= r <= 1e30:
        return None  # nobody's activation
    many = 16 * UNIT

    def sides(s: float) -> tuple[float, float]:
        y = r * s * s
        return math.tanh(s * (1 + y)), (1 + 6 * y) / (s * (1 + 3 * y) ** 2)

    def after(s: float) -> bool:
        t, q = sides(s)
        return t * (1 - many - _ULPS) > q * (1 + many)

    def not_before(s: float) -> bool:
        t, q = sides(s)
        return t * (1 + many + _ULPS) >= q * (1 - many)

    # At s = 1.25, tanh u ≥ tanh 1.25 > 0.84 and q ≤ (1 + 6y)/(1.25(1 + 3y)²) ≤ 0.8.
    end = _least(after, 0.0, 1.25)
    start = math.nextafter(_least(not_before, 0.0, end), 0.0)
    if not start > 0 or not_before(start):
        return None
    w = min(1.0, sides(end)[0] * (1 + many + _ULPS))
    slope = end * (1 + 3 * r * end * end) * (1 + many)
    v = sides(start)[0] * (1 - many - _ULPS)
    return (w + slope * ((1 - v * v) * (1 + 8 * UNIT) + 4 * UNIT)) * (1 + 8 * UNIT)


@lru_cache(maxsize=1024)
def _erf_maximum(c: float) -> float:
    """An upper bound of v(t₊), tight to some ulps while |c| is moderate."""
    root = math.hypot(c, 2.0)
    t = (c + root) / 2 if c >= 0 else 2 / (root - c)  # without cancellation
    t *= 1 - 2 * _ULPS
    if not 0 < t < 1e8:  # v < 1 + e^{−t²} there
        return 1.0 + 4 * UNIT if t > 0 else math.inf
    bell = 2 / math.sqrt(math.pi) * math.exp(-t * t) * (1 + 4 * _ULPS + 4 * t * t * UNIT)
    return (math.erf(t) * (1 + _ULPS) + bell / t) * (1 + _ULPS)
