"""Makes certificates of what solvers found, each with the bound that `verify` proves from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnxlip.bounds.sdp.system import split
from onnxlip.enclosed import Floats, VerificationError, float_up, root
from onnxlip.errors import UsageError
from onnxlip.feedback import Form
from onnxlip.network import AffineBlock
from onnxlip.proofs import Certificate, Claim, Multipliers
from onnxlip.verify import proved_square

if TYPE_CHECKING:
    from onnxlip.analysis import Analysis
    from onnxlip.bounds.autolip import BlockNorm

__all__ = ["best_certificate", "multiplier_certificate", "product_certificate"]

_SLACKS = (0.0, *(2.0**e for e in range(-44, -7, 6)))  # how far ρ is raised, relatively
_LEAST = 2.0**-70  # of multipliers, relative to the largest one: M has to be definite


def best_certificate(analysis: Analysis) -> Certificate:
    """Of the least bound of the last report that has one: by multipliers, or by norms.

    Raises VerificationError where a block is too large to be written out, UsageError for another
    norm than 2.
    """
    if analysis.norm != 2:
        raise UsageError("certificates are for the 2-norm")
    norms, given = analysis.norms(), analysis.multipliers
    if given is None:
        return product_certificate(analysis, norms)
    nodes = given.system.nonlinear
    parts = [(n.name, t) for n, t in zip(nodes, split(given.system, given.values), strict=True)]
    orientation = "transposed" if given.turned else "direct"
    return multiplier_certificate(analysis, orientation, parts, given.rho, norms, given.scales)


def product_certificate(analysis: Analysis, norms: Sequence[BlockNorm]) -> Certificate:
    """AutoLip's certificate, for the 2-norm. norms: of `analysis.network.blocks`.

    Raises VerificationError (one line) where a block is too large to be written out.
    """
    made = _draft(analysis, "product", norms)
    with np.errstate(all="ignore"):
        form = Form(analysis.network, analysis.rule_set.lowerings, made.norms, {}, False)
    return replace(made, bound=float_up(root(form.product)))


def multiplier_certificate(
    analysis: Analysis,
    orientation: str,
    multipliers: Sequence[tuple[str, Floats]],
    rho: float,
    norms: Sequence[BlockNorm],
    scales: Mapping[str, Sequence[float]] | None = None,
) -> Certificate:
    """A certificate of LipSDP.

    orientation: "direct" or "transposed"; multipliers: (block, T) of the nonlinear nodes of
    `bounds.sdp`'s system or of its transpose, in that system's order, T multiplying
    r²z² − (u − cz)² and the like; rho: where M(ρ, T) ⪰ 0, raised until that is proved; scales: of
    blocks with several inputs, by which these were stacked. Raises VerificationError where
    nothing is proved, or something is too large.
    """
    made = _draft(analysis, orientation, norms)
    scales = dict(scales or {})
    with np.errstate(all="ignore"):
        lowerings = analysis.rule_set.lowerings
        form = Form(analysis.network, lowerings, made.norms, scales, True)
        values = _in_order(form, orientation, multipliers)
        for slack in _SLACKS:
            raised = rho * (1.0 + slack)
            try:
                square = proved_square(form, orientation, raised, values)
            except VerificationError:
                if slack == _SLACKS[-1]:
                    raise
                continue
            break
    told = tuple(
        Multipliers(name, tuple(map(float, t)), tuple(map(float, scales.get(name, ()))))
        for (name, _), t in zip(form.groups, values, strict=True)
    )
    return replace(made, bound=float_up(root(square)), rho=raised, multipliers=told)


def _draft(analysis: Analysis, kind: str, norms: Sequence[BlockNorm]) -> Certificate:
    graph, network, model = analysis.graph, analysis.network, analysis.model
    origins = {e.rule.op_type: e.origin for e in graph.rules.values()}
    return Certificate(
        model=model.name,
        sha256=model.sha256,
        inputs=tuple(v.name for v in graph.inputs),
        outputs=tuple(v.name for v in graph.outputs),
        shapes={name: shape for name, (shape, _) in model.inputs.items()},
        kind=kind,
        bound=0.0,
        norms=tuple(
            Claim(
                block.output,
                tuple(b.upper for b in norm.each),
                norm.whole.upper if len(norm.each) > 1 else None,
            )
            for block, norm in zip(network.blocks, norms, strict=True)
            if isinstance(block, AffineBlock)
        ),
        rules={op: o for op, o in origins.items() if not o.startswith("onnxlip.ops.")},
    )


def _in_order(
    form: Form, orientation: str, multipliers: Sequence[tuple[str, Floats]]
) -> list[Floats]:
    """By the form's groups, of ‖g_j‖² − ‖w_j‖². Transposed, T(r²z̃² − (ũ − cz̃)²) has ũ − cz̃ = r g̃,
    so that r²T is the multiplier. None is 0."""
    given = list(multipliers if orientation == "direct" else reversed(multipliers))
    found = []
    for (name, count), radius in zip(form.groups, form.radii, strict=True):
        place = next((k for k, (block, _) in enumerate(given) if block == name), None)
        values = given.pop(place)[1] if place is not None else np.zeros(count)
        found.append(values if orientation == "direct" else values * radius**2)
    top = max((float(t.max(initial=0.0)) for t in found), default=0.0)
    return [np.maximum(t, _LEAST * top) for t in found]
