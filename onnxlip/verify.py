"""Proves a certificate anew: one pass, one Cholesky factorisation, nothing shared with the solvers.

The model is read as for every bound, up to blocks with linear maps, slopes and gains (`model`,
`graph`, `network`, `operators`); nothing of `bounds` and `norms` is used. Of the certificate
nothing is believed: its norms are proved, and its multipliers may be any numbers ≥ 0.

The form. Write increments t(a) − t(b) for all tensors, and for every nonlinear block

    u = S z + P w,   ‖w_j‖ ≤ ‖g_j‖ for groups j of entries,   g = R z

(which S, P, R and groups, and why, says `feedback`). All the rest is linear: (y, g) = H (x, w), H
strictly triangular in the blocks. Let T_j ≥ 0, one for each group, and T_w, T_g the diagonal
matrices of T by the entries of w and of g.

Theorem. If M = diag(ρ, T_w) − Hᵀ diag(1, T_g) H ⪰ 0 ("direct"), or
M = diag(ρ, T_g) − H diag(1, T_w) Hᵀ ⪰ 0 ("transposed"), then ‖y‖² ≤ ρ‖x‖².
Proof. Direct: ‖y‖² + ΣT_j‖g_j‖² ≤ ρ‖x‖² + ΣT_j‖w_j‖² by M at (x, w), and ‖w_j‖ ≤ ‖g_j‖.
Transposed: Δ_j = w_j g_jᵀ/‖g_j‖² has norm ≤ 1 and w = Δg, so y = Jx, J made of H and Δ. Jᵀ maps ỹ
to x̃ where (x̃, w̃) = Hᵀ(ỹ, g̃) and g̃ = Δᵀw̃, ‖g̃_j‖ ≤ ‖w̃_j‖: the direct case for Hᵀ, and ‖J‖ = ‖Jᵀ‖.
(LipSDP-Neuron of Fazlyab et al. 2019 on any graph; there u stands for w.) A "product" is AutoLip
(Virmaux & Scaman 2018, Algorithm 1): bounds of all tensors from norms of all parts.

Rounding (words and facts of `enclosed`; scalars are exact). Let v = (x, w), ‖x‖ = 1 (transposed:
(ỹ, g̃), and Hᵀ for H), made of segments with ‖v_s‖ ≤ β_s, where β comes from norms along the graph.

1. For a block of rows r of H with weights ≤ W, a = Σ_s size_rs β_s and d = Σ_s e_rs β_s, the true
   ‖Hv‖²_r, weighted, exceeds that of Ĥ by at most W((a + d)² − a²).
2. An entry of M̂ is a sum of at most n + 1 terms of two products, n rows of H, so it errs by
   γ_{n+3} (diagonal + |Ĥ|ᵀ W |Ĥ|): between v's, by γ_{n+3} (Σ_s max diagonal_s β_s² + Σ_r W a²).
3. M̂ has order N. Cholesky that runs to completion gives vᵀM̂v ≥ −γ_{N+3}/(1 − γ_{N+3}) (Σ_s √trace_s
   β_s)². No scaling of v enters, and no shift: ρ has to be large enough.

So ‖y‖² ≤ ρ + 1. + 2. + 3. + underflow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from onnxlip.enclosed import (
    LOST,
    ORDER,
    Floats,
    VerificationError,
    array,
    factored,
    float_up,
    gamma,
    root,
    trace,
)
from onnxlip.errors import UsageError
from onnxlip.feedback import Form, Segment
from onnxlip.graph import build_graph
from onnxlip.lowering import Lowerings
from onnxlip.model import load
from onnxlip.network import Network, build_network
from onnxlip.proofs import Certificate
from onnxlip.registry import RuleSet, rule_set

__all__ = ["VerificationError", "Verified", "proved_square", "read", "verify"]


@dataclass(frozen=True)
class Verified:
    """A theorem: ‖f(a) − f(b)‖₂ ≤ bound · ‖a − b‖₂ for all a, b. proved: the least that follows."""

    bound: float
    proved: float


def verify(certificate: Certificate, model: Any, rules: RuleSet | None = None) -> Verified:
    """Prove it for a model (a path or a ModelProto).

    rules: those that it was made with, if not the built-in ones. Raises UsageError (another model,
    norm or other rules), VerificationError (no proof), and what reading a model raises.
    """
    given = list(certificate.multipliers)
    scales = {m.block: m.scales for m in given if m.scales}
    with np.errstate(all="ignore"):
        network, lowerings = read(certificate, model, rules or rule_set())
        form = Form(network, lowerings, certificate.norms, scales, certificate.kind != "product")
        if certificate.kind == "product":
            square = form.product
        else:
            values = []
            for name, count in form.groups:
                found = next((m for m in given if m.block == name), None)
                if found is None or len(found.values) != count:
                    raise VerificationError(f"block '{name}' needs {count} multipliers")
                given.remove(found)
                values.append(np.array(found.values))
            if certificate.rho is None:
                raise VerificationError("there is no rho")
            square = proved_square(form, certificate.kind, certificate.rho, values)
    proved = float_up(root(square))
    if certificate.bound < 0 or Fraction(certificate.bound) ** 2 < square:
        told = f"{proved!r} follows, not {certificate.bound!r}"
        raise VerificationError(f"the bound is lower than what is proved: {told}")
    return Verified(certificate.bound, proved)


def read(certificate: Certificate, model: Any, rules: RuleSet) -> tuple[Network, Lowerings]:
    """The network that a certificate speaks of, between its tensors. Raises as `verify`."""
    if (certificate.norm, certificate.domain) != ("2", "global"):
        raise UsageError("only certificates of the 2-norm on the whole space are known")
    if isinstance(model, (str, Path)) and Path(model).is_file():
        with open(model, "rb") as file:  # before shapes that fit another model are put to it
            _same(hashlib.file_digest(file, "sha256").hexdigest(), certificate, Path(model).name)
    found = load(model, certificate.shapes, rules.amendments)
    _same(found.sha256, certificate, found.name)
    graph = build_graph(found, rules, certificate.inputs, certificate.outputs)
    used = {e.rule.op_type: e.origin for e in graph.rules.values()}
    used = {op: origin for op, origin in used.items() if not origin.startswith("onnxlip.ops.")}
    if used != certificate.rules:
        made, here = (", ".join(sorted(set(r.values()))) for r in (certificate.rules, used))
        raise UsageError(f"made with additional rules of: {made or 'none'}; here: {here or 'none'}")
    return build_network(found, graph, rules), rules.lowerings


def _same(sha256: str, certificate: Certificate, name: str) -> None:
    if sha256 != certificate.sha256:
        raise UsageError(f"the certificate is of another model than {name}: '{certificate.model}'")


def proved_square(form: Form, kind: str, rho: float, multipliers: Sequence[Floats]) -> Fraction:
    """‖y‖² ≤ this · ‖x‖², by the theorem; multipliers: by `form.groups`, each (count,).

    kind: "direct" or "transposed". Raises VerificationError where M is not (numerically) positive
    definite, or something is too large.
    """
    blocks, rows, columns = form.blocks, form.rows, form.columns
    if kind == "transposed":
        blocks = {(s, r): block.transposed for (r, s), block in blocks.items()}
        rows, columns = columns, rows
    for (name, _), t in zip(form.groups, multipliers, strict=True):
        if not (np.isfinite(t).all() and (t >= 0).all()):
            raise VerificationError(f"a multiplier of block '{name}' is negative or no number")

    def weights(s: Segment, free: float) -> Floats:
        return np.full(s.size, free) if s.block is None else multipliers[s.block][s.group]

    if not (np.isfinite(rho) and rho >= 0):
        raise VerificationError("rho is negative or no number")
    edges = np.cumsum([0, *(s.size for s in columns)])
    order, n = int(edges[-1]), sum(r.size for r in rows)
    if order > ORDER:
        raise VerificationError(f"the matrix M is of order {order}, too large (at most {ORDER})")
    places = [slice(*edges[s : s + 2]) for s in range(len(columns))]
    m = np.zeros((order, order))  # its lower triangle
    diagonal = np.einsum("ii->i", m)
    square = Fraction(rho)
    largest = Fraction(0)
    for s, column in enumerate(columns):
        diagonal[places[s]] = weights(column, rho)
        top = Fraction(float(np.max(diagonal[places[s]], initial=0.0)))
        square += gamma(n + 3) * top * column.reach**2  # 2.
        largest = max(largest, top)
    for r, row in enumerate(rows):
        entered, weight = [s for s in range(len(columns)) if (r, s) in blocks], weights(row, 1.0)
        a = sum((blocks[r, s].size * columns[s].reach for s in entered), Fraction(0))
        d = sum((blocks[r, s].error * columns[s].reach for s in entered), Fraction(0))
        top = Fraction(float(np.max(weight, initial=0.0)))
        square += top * ((a + d) ** 2 - a**2 + gamma(n + 3) * a**2)  # 1. and 2.
        largest = max([largest, top, *(top * blocks[r, s].size for s in entered)])
        for s in entered:
            scaled = blocks[r, s].matrix.T * weight
            for q in entered:
                if q <= s:
                    m[places[s], places[q]] -= array(scaled @ blocks[r, q].matrix)
    total = Fraction(0)
    for place, column in zip(places, columns, strict=True):
        total += root(trace(m[place, place])) * column.reach
    square += gamma(order + 3) * total**2  # 3.
    square += LOST * (1 + largest) ** 2 * sum((c.reach**2 for c in columns), Fraction(0))
    if not factored(m):
        raise VerificationError("the matrix M of the theorem is not positive definite")
    return square
