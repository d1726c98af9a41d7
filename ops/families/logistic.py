"""The logistic function σ(x) = 1/(1 + e^{−x}), and its spelling as a reciprocal."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from onnxlip.ops.families.smooth import Floats
from onnxlip.recognise import atom_for
from onnxlip.rules import Node, Value
from onnxlip.univariate import Expression

__all__ = ["exp_plus_one", "reciprocal", "sigmoid"]


def sigmoid(x: Floats) -> Floats:
    """σ(x) without overflow and without cancellation."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def exp_plus_one(e: Expression) -> tuple[Fraction, Expression] | None:
    """(c, z) if e = c·(1 + Exp(z))."""
    if len(e.terms) != 2:
        return None
    (one, c), ((power, atoms), d) = e.terms
    if one != (0, ()) or power != 0 or c != d or len(atoms) != 1 or atoms[0].key != "Exp":
        return None
    return c, atoms[0].inner


def reciprocal(e: Expression) -> Expression | None:
    """1/e for a constant, and for c·(1 + Exp(z)), which is σ(−z)/c; else None.

    What Reciprocal(e) and Div(…, e) are in the algebra of expressions.
    """
    from onnxlip.ops.sigmoid import RULES

    found = exp_plus_one(e)
    if found is None:
        return e.reciprocal()
    c, z = found
    x = Value("x", (), np.dtype(np.float32))
    atom = atom_for(RULES[0], Node("Sigmoid", (x,), (x,)), -z)
    return Expression.atom(atom) * Expression.number(1 / c)
