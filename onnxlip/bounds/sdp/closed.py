"""Multipliers in closed form, chosen while a system is eliminated from its outputs back.

At a node, P is the quadratic form that follows of u, and T may be anything with diag(T) − P ≻ 0.
With T = s·t, t fixed and λ = λmax(t^−½ P t^−½), an eigenvector's share of what is passed on is

    r² s + c² λ + c² λ²/(s − λ),   least at  s = λ(1 + c/r)      (2λ for ReLU, c = r),

c and r being centre and radius of the slopes (theory.md, section 4). Every t is feasible; which is
least differs from network to network:

    scalar      t = 1                      ECLipsE-Fast (Xu & Sivaranjani 2024)
    seq-l2      t_j = ‖P_j:‖₂              rows of P
    diagonal    t_j = P_jj
    root        t_j = √P_jj
    rows        t_j = Σ_k |P_jk|
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from onnxlip.bounds.sdp.elimination import Elimination
from onnxlip.bounds.sdp.form import dense
from onnxlip.bounds.sdp.relations import Quadratic
from onnxlip.bounds.sdp.system import Floats, Matrix, System
from onnxlip.norms.krylov import ritz

__all__ = ["SHAPES", "ClosedForm", "closed_forms", "cost"]

Shape = Callable[[Floats], Floats]

SHAPES: Mapping[str, Shape] = {
    "seq-l2": lambda p: np.sqrt(np.einsum("ij,ij->i", p, p)),
    "scalar": lambda p: np.ones(len(p)),
    "diagonal": lambda p: np.einsum("ii->i", p).copy(),
    "root": lambda p: np.sqrt(np.abs(np.einsum("ii->i", p))),
    "rows": lambda p: np.abs(p).sum(axis=1),
}

_CLEAR = 1.05  # diag(T) is at least this much above P, relatively
_FLOOR = 1e-4  # of the largest t: smaller ones would leave their neurons nearly free
_NOTHING = 1e-100
_DIRECT = 300


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """multipliers: flat; rho: what they prove, in floating point."""

    multipliers: Floats
    rho: float


def closed_forms(system: System, late: Callable[[], bool] = lambda: False) -> dict[str, ClosedForm]:
    """All that are feasible, by name, as far as that goes before it is late."""
    plan = Elimination(system)
    found: dict[str, ClosedForm] = {}
    for name, shape in SHAPES.items():
        if late():
            break
        with suppress(np.linalg.LinAlgError):  # what overflows has no eigenvalues
            eliminated = plan.chosen(_choice(shape), late)
            if eliminated is not None:
                found[name] = ClosedForm(eliminated.multipliers, eliminated.top()[0])
    return found


def cost(system: System) -> float:
    """Multiplications that they take, roughly: a factorisation and a solve at every node."""
    widths = [float(n.relation.rows) for n in system.nonlinear]
    behind = [float(system.width), *widths]
    once = sum(n**3 + n * n * before for n, before in zip(widths, behind, strict=False))
    return len(SHAPES) * once


def _choice(shape: Shape) -> Callable[[int, Quadratic, Matrix], Floats]:
    def choose(_k: int, q: Quadratic, p: Matrix) -> Floats:
        form = dense(p)
        count = q.reach.shape[0]
        t = np.zeros(count)
        np.maximum.at(t, q.group, shape(form))
        top = float(t.max(initial=0.0))
        if not top > 0:
            return np.full(count, _NOTHING)
        t = np.maximum(t, _FLOOR * top)
        root = 1.0 / np.sqrt(t[q.group])
        scaled: Floats = root[:, None] * form * root
        return t * max(_top(scaled), _NOTHING / top) * np.maximum(_CLEAR, 1.0 + _ratio(q))

    return choose


def _ratio(q: Quadratic) -> Floats:
    """c/r of every multiplier: the largest entries of its rows of `centre`, and of `reach`."""
    rows = np.sqrt(np.asarray((q.centre**2).sum(axis=1)).ravel())
    centre = np.zeros(q.reach.shape[0])
    np.maximum.at(centre, q.group, rows)
    reach = np.sqrt(np.asarray(q.reach.max(axis=1).todense()).ravel())
    ratio: Floats = centre / np.where(reach > 0, reach, 1.0)
    return ratio


def _top(form: Floats) -> float:
    """λmax with a little room, as an iteration ends below it."""
    n = len(form)
    if n <= _DIRECT:
        return float(np.linalg.eigvalsh(form)[-1])
    start = np.random.default_rng(n).standard_normal(n)
    return ritz(lambda v: form @ v, start, 100, 1e-4)[0] * 1.001
