"""Softplus as exporters write it out: log(1 + eˣ), and x itself where x is large.

    Where(βx > t, x, log(1 + e^{βx})/β),   t = 20 in torch

keeps e^{βx} from overflowing. Where it takes the shortcut, log(1 + e^z) − z = log(1 + e^{−z})
≤ log(1 + e^{−t}) with z = βx: 2e-9 for t = 20. The two branches do not quite meet, so the function
as written jumps; it is read as Softplus(βx)/β, and the note says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from onnxlip.ops.families.logistic import exp_plus_one
from onnxlip.recognise import atom_for
from onnxlip.rounding import up
from onnxlip.rules import Node, Value
from onnxlip.univariate import Atom, Expression, Interval

__all__ = ["SOFTPLUS", "log", "positive", "where"]

SOFTPLUS = "Softplus"  # the key of its atoms, by onnxlip.recognise.atom_key
POSITIVE = "Positive"
LEAST_THRESHOLD = 10  # the shortcut then changes values by less than 5e-5/β


def log(node: Node, operands: Sequence[Expression | None]) -> Expression | None:
    """Log(1 + Exp(e)) = Softplus(e)."""
    from onnxlip.ops.softplus import RULES

    found = exp_plus_one(operands[0]) if operands[0] is not None else None
    if found is None or found[0] != 1:
        return None
    x = Value("x", (), np.dtype(np.float32))
    return Expression.atom(atom_for(RULES[0], Node("Softplus", (x,), (x,)), found[1]))


def positive(e: Expression) -> Expression:
    """The predicate e > 0 (or e ≥ 0: which of the two makes no difference to `where`), as 0 or 1.

    It jumps, so by itself it has no finite slopes.
    """

    def slopes(interval: Interval) -> Interval:
        return -math.inf, math.inf

    def image(interval: Interval) -> Interval:
        return 0.0, 1.0

    return Expression.atom(Atom(POSITIVE, e, slopes, image, lambda inner: None))


def where(node: Node, operands: Sequence[Expression | None]) -> Expression | None:
    """Where(z > t, z/β, Softplus(z)/β) and its mirror image with z < t, for t ≥ 10."""
    condition, yes, no = operands
    if condition is None or yes is None or no is None:
        return None
    chosen = condition.constant
    if chosen is not None:
        return yes if chosen else no
    predicate = condition.single_atom
    if predicate is None or predicate.key != POSITIVE:
        return None
    for straight, curved, sign in ((yes, no, 1), (no, yes, -1)):
        found = _scaled_softplus(curved)
        if found is None:
            continue
        factor, z = found
        if straight != z * Expression.number(factor):
            continue
        threshold = _threshold(predicate.inner, z, sign)
        if threshold is not None and threshold >= LEAST_THRESHOLD:
            return curved.with_note(_note(factor, threshold))
    return None


def _scaled_softplus(e: Expression) -> tuple[Fraction, Expression] | None:
    """(c, z) if e = c·Softplus(z)."""
    if len(e.terms) != 1:
        return None
    ((power, atoms), c) = e.terms[0]
    if power != 0 or len(atoms) != 1 or atoms[0].key != SOFTPLUS:
        return None
    return c, atoms[0].inner


def _threshold(condition: Expression, z: Expression, sign: int) -> Fraction | None:
    """t if `condition` > 0 says z > t (sign +1) or z < t (sign −1)."""
    slopes = dict(z.terms)
    term = next((term for term in slopes if term != (0, ())), None)
    if term is None:
        return None
    ratio = dict(condition.terms).get(term, Fraction(0)) / slopes[term]
    if ratio * sign <= 0:
        return None
    rest = (condition - z * Expression.number(ratio)).constant
    return None if rest is None else -rest / ratio


def _note(factor: Fraction, threshold: Fraction) -> str:
    gap = up(abs(float(factor)) * up(math.log1p(up(math.exp(-float(threshold))))))
    return (
        f"Where(z > {float(threshold):g}, z, log(1 + e^z)) is read as Softplus(z), from which it "
        f"differs by at most {gap:.2g} (it jumps by that much at the threshold)"
    )
