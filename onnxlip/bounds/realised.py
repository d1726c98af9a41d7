"""A point that has given slopes in one hidden layer, and the quotient that is attained there.

With z = Nx + b and N of full row rank, x = N⁺(z* − b) has z = z* for any z*. Where each function
is steepest and flattest is found by evaluating it at many numbers, so that no op need be known.
The quotient along the leading singular vector is evaluated as any other (`lower.attained`): it is
a lower bound whether or not rank or slopes are what they are hoped to be.
"""

from __future__ import annotations

import time

import numpy as np

from onnxlip.bounds.exact import Layer
from onnxlip.bounds.lower.attained import Attained, Quotients
from onnxlip.bounds.lower.double import Double
from onnxlip.bounds.lower.problem import Points, Subject
from onnxlip.bounds.pairs.scaling import Places
from onnxlip.bounds.sdp.system import Floats
from onnxlip.graph import build_graph
from onnxlip.network import SlopeBlock

__all__ = ["realised"]

_STEP = 1e-4
_GRID = np.concatenate(
    [[1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 4.0, -4.0, 0.0], np.arange(-6.0, 6.0, 0.1), [30.0, -30.0]]
)
_DIGITS = 7  # to which slopes are told apart: of equal ones the first number serves


def realised(subject: Subject, layer: Layer, d: Floats) -> Attained | None:
    """The quotient at a point whose slopes are nearest to d (free neurons); None where the network
    has not exactly one elementwise block."""
    begin = time.perf_counter()
    blocks = [b for b in subject.network.blocks if isinstance(b, SlopeBlock)]
    if len(blocks) != 1:
        return None
    (block,) = blocks
    alpha, beta = block.flat()
    free = np.flatnonzero(alpha < beta)
    (before,), (after,) = block.inputs, block.outputs
    sources = [v.name for v in subject.graph.inputs]
    rules, model = subject.rule_set, subject.model
    bend = Double(model, build_graph(model, rules, [before], [after]), rules.lowerings)
    lead = Double(model, build_graph(model, rules, sources, [before]), rules.lowerings)
    inner = layer.pair.inner[: len(free)]
    wanted = _places(bend, d, free, len(alpha))
    at_zero = lead(np.zeros(inner.shape[1]))[free]
    x = np.asarray(np.linalg.lstsq(inner, wanted - at_zero, rcond=None)[0], np.float64)
    pair = layer.pair
    whole = np.concatenate([d, pair.beta[len(d) :]])
    v = np.asarray(np.linalg.svd(pair.at(whole))[2][0], np.float64)
    points = Points(x[None], v[None], np.ones(1))
    value, x, y = Quotients(subject).best(points)
    took = time.perf_counter() - begin
    return Attained(value, x, y, "realised slopes", took, subject.norm, subject.model.sha256)


def _places(bend: Double, d: Floats, free: Places, size: int) -> Floats:
    """Numbers at which each free function has about the slope that is wanted."""
    slopes = []
    for t in _GRID:
        rise = bend(np.full(size, t + _STEP)) - bend(np.full(size, t - _STEP))
        slopes.append(rise[free] / (2 * _STEP))
    off = np.abs(np.stack(slopes) - d).round(_DIGITS)
    return np.asarray(_GRID[off.argmin(axis=0)])
