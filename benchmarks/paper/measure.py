"""Bounds of one network as plain numbers, for tables."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from onnxlip import Analysis
from onnxlip.bounds.autolip import network_bound
from onnxlip.bounds.lower.portfolio import lower_bound
from onnxlip.bounds.plane import plane_constant
from onnxlip.bounds.seqlip import SeqLip, SeqLipEffort, seqlip
from onnxlip.network import AffineBlock
from onnxlip.norms.frobenius import frobenius
from onnxlip.norms.workspace import Workspace
from onnxlip.rounding import mul_up

__all__ = ["below", "chains", "exact", "layers", "upper"]


def layers(analysis: Analysis) -> list[AffineBlock]:
    """The affine blocks of a sequential network, the first one first."""
    return [block for block in analysis.network.blocks if isinstance(block, AffineBlock)]


def upper(analysis: Analysis) -> dict[str, float]:
    """The products of Frobenius norms (for slopes in [0, 1]) and of spectral norms: both proved."""
    work = Workspace(analysis.rule_set.lowerings)
    sizes = [frobenius(block.maps[0], work) for block in layers(analysis)]
    autolip = network_bound(analysis.network, analysis.norms(), 2.0)[0]
    return {"frobenius": mul_up(*sizes), "autolip": autolip}


def chains(analysis: Analysis, effort: SeqLipEffort) -> tuple[SeqLip, float]:
    """SeqLip and the seconds that it took, the norms not counted."""
    norms = analysis.norms()
    start = time.perf_counter()
    found = seqlip(analysis.network, norms, Workspace(analysis.rule_set.lowerings), effort)
    return found, time.perf_counter() - start


def below(analysis: Analysis, method: str, evaluations: int, data: Any = None) -> float:
    """The steepest pair that one search finds, or "portfolio": all but the paper's annealing."""
    options: dict[str, Any] = {} if method == "portfolio" else {"methods": (method,)}
    return lower_bound(analysis, data=data, evaluations=evaluations, **options).value


def exact(analysis: Analysis) -> dict[str, Any]:
    """The constant of a network with two inputs; where; and how many linear regions."""
    weights, biases = [], []
    for node in analysis.graph.nodes:
        if node.op_type == "Gemm":
            weight, bias = (np.asarray(node.constant(i), np.float64) for i in (1, 2))
            weights.append(weight if node.attributes.get("transB") else weight.T)
            biases.append(bias)
    start = time.perf_counter()
    found = plane_constant(weights, biases)
    return {
        "exact": found.value,
        "point": found.point.tolist(),
        "regions": found.regions,
        "exact seconds": time.perf_counter() - start,
    }
