"""AutoLip (Virmaux & Scaman 2018, Algorithm 1) over the network's blocks.

With L_i a bound for block input i, relative to the network's input in the p-norm,

    L_out = min( Σ_i ‖A_i‖_p L_i ,  ‖[A_1 … A_m]‖_p ‖(L_1 … L_m)‖_p ,  ‖(‖A_i‖_p L_i)_i‖_p )

for an affine block: the sum of Algorithm 1; the norm of the joint block times the norm of the
stacked inputs; and, where the parts write to disjoint entries of the output (a concatenation),
the norm of the stacked parts. Nonlinear blocks likewise, with their gains.
Everything is rounded up, so the result is a theorem.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from onnxlip.certificate import Bracket
from onnxlip.errors import RuleError
from onnxlip.network import Block, GainBlock, Network, SlopeBlock
from onnxlip.rounding import add_up, mul_up, norm_up

__all__ = [
    "BlockNorm",
    "Shortcut",
    "autolip",
    "largest_gain",
    "network_bound",
    "nonlinear_norm",
    "pair_bounds",
    "shares",
]


@dataclass(frozen=True)
class BlockNorm:
    """What AutoLip knows of one block.

    each: a bound per block input; whole: for all inputs stacked. For affine blocks these are
    brackets of operator norms; for nonlinear ones the lower ends are 0 where unknown.
    disjoint: the parts of the output that come from each input do not overlap.
    """

    each: tuple[Bracket, ...]
    whole: Bracket
    disjoint: bool = False


@dataclass(frozen=True)
class Shortcut:
    """A bound of what one input of an affine block adds, relative to a tensor further up: gain of
    the chain that leads there, such as SeqLip gives."""

    source: str
    gain: float


Shortcuts = Mapping[tuple[int, int], Shortcut]  # by block and input, in the network's order


def nonlinear_norm(block: SlopeBlock | GainBlock, p: float) -> BlockNorm:
    """The gains of a nonlinear block."""
    if isinstance(block, SlopeBlock):
        gain = _slope_gain(block)
        return BlockNorm((gain,) * len(block.inputs), gain)
    each = tuple(_gain(block.gain(name, p)) for name in block.inputs)
    return BlockNorm(each, _whole_gain(block, each, p))


def largest_gain(block: SlopeBlock | GainBlock, p: float) -> float:
    """The largest bound per input of a nonlinear block; infinite where there is none."""
    if isinstance(block, SlopeBlock):
        return _slope_gain(block).upper
    return max((block.gain(name, p) for name in block.inputs), default=0.0)


def _slope_gain(block: SlopeBlock) -> Bracket:
    top = max(float(np.abs(block.alpha).max(initial=0)), float(np.abs(block.beta).max(initial=0)))
    return Bracket(0.0, top, "", "slope interval")


def _gain(value: float) -> Bracket:
    return Bracket(0.0, value, "", "gain of the op")


def _whole_gain(block: GainBlock, each: Sequence[Bracket], p: float) -> Bracket:
    if len(each) == 1:
        return each[0]
    return _gain(min(norm_up((b.upper for b in each), _dual(p)), block.joint(p)))


def _dual(p: float) -> float:
    """q with Σ a_i b_i ≤ ‖a‖_q ‖b‖_p."""
    return {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[p]


@dataclass(frozen=True)
class _Step:
    """How one block's bound came about: the weights of its inputs, and ln of its gain."""

    weights: tuple[float, ...]
    log_gain: float


def autolip(
    network: Network,
    norms: Sequence[BlockNorm],
    p: float,
    seeds: Mapping[str, float],
    shortcuts: Shortcuts = MappingProxyType({}),
) -> tuple[dict[str, float], list[_Step]]:
    """Bounds of all tensors, given those of the network's inputs (1 for all: moved together)."""
    bounds: dict[str, float] = dict(seeds)
    steps = []
    for k, (block, norm) in enumerate(zip(network.blocks, norms, strict=True)):
        inner = [_known(bounds, name, block) for name in block.inputs]
        terms = [mul_up(b.upper, x) for b, x in zip(norm.each, inner, strict=True)]
        for i, term in enumerate(terms):
            known = shortcuts.get((k, i))
            if known is not None:
                terms[i] = min(term, mul_up(known.gain, _known(bounds, known.source, block)))
        value, how = _combined(norm, inner, terms, p)
        for name in block.outputs:
            if name not in seeds:  # an interior tensor that was chosen as an input stays one
                bounds[name] = value
        steps.append(_step(norm, inner, terms, how, p))
    return bounds, steps


def _known(bounds: Mapping[str, float], name: str, block: Block) -> float:
    """A tensor without a bound is no constant: taking it for one would lose a path."""
    if name not in bounds:
        raise RuleError(f"block '{block.name}' reads '{name}', which no block before it computes")
    return bounds[name]


def _combined(
    norm: BlockNorm, inner: Sequence[float], terms: Sequence[float], p: float
) -> tuple[float, str]:
    """The least of the ways to combine a block's inputs, and which it was."""
    ways = {"sum": add_up(*terms)}
    if len(inner) > 1:
        ways["joint"] = mul_up(norm.whole.upper, norm_up(inner, p))
        if norm.disjoint:
            ways["disjoint"] = norm_up(terms, p)
    how = min(ways, key=lambda way: ways[way])
    return ways[how], how


def _step(
    norm: BlockNorm, inner: Sequence[float], terms: Sequence[float], how: str, p: float
) -> _Step:
    """Logarithmic derivatives of the combined bound."""
    if how == "joint":
        return _Step(_elasticities(inner, p), _log(norm.whole.upper))
    weights = _elasticities(terms, 1.0 if how == "sum" else p)
    gain = sum(w * _log(b.upper) for w, b in zip(weights, norm.each, strict=True) if w)
    return _Step(weights, gain)


def _elasticities(values: Sequence[float], p: float) -> tuple[float, ...]:
    """∂ ln‖v‖_p / ∂ ln v_i, which sum to 1 (0 for a zero or infinite norm)."""
    v = np.asarray(values, np.float64)
    top = float(v.max(initial=0.0))
    if not 0 < top < math.inf:
        return (0.0,) * len(values)
    size = (v == top).astype(float) if p == math.inf else (v / top) ** p
    return tuple(map(float, size / size.sum()))


def _log(x: float) -> float:
    return math.log(x) if x > 0 else 0.0


def network_bound(
    network: Network,
    norms: Sequence[BlockNorm],
    p: float,
    shortcuts: Shortcuts = MappingProxyType({}),
) -> tuple[float, dict[tuple[str, str], float], tuple[float, ...]]:
    """(bound for all inputs moved together to all outputs stacked, bounds by pair, shares)."""
    together, steps = autolip(network, norms, p, dict.fromkeys(network.inputs, 1.0), shortcuts)
    by_output = {o: together.get(o, 0.0) for o in network.outputs}
    pairs = pair_bounds(network, norms, p, shortcuts)
    for output in network.outputs:  # the stacked input bounds each pair's path by duality
        paths = norm_up((pairs[i, output] for i in network.inputs), _dual(p))
        by_output[output] = min(by_output[output], paths)
    return norm_up(by_output.values(), p), pairs, shares(network, steps)


def pair_bounds(
    network: Network,
    norms: Sequence[BlockNorm],
    p: float,
    shortcuts: Shortcuts = MappingProxyType({}),
) -> dict[tuple[str, str], float]:
    """A bound per (input, output), the other inputs held fixed."""
    pairs: dict[tuple[str, str], float] = {}
    for source in network.inputs:
        seeds = {name: float(name == source) for name in network.inputs}
        bounds, _ = autolip(network, norms, p, seeds, shortcuts)
        for output in network.outputs:
            pairs[source, output] = bounds.get(output, 0.0)
    return pairs


def shares(network: Network, steps: Sequence[_Step]) -> tuple[float, ...]:
    """Each block's part in ln(bound): its elasticity times ln of its gain, normalised so that
    the absolute values sum to 1. Negative where a block contracts."""
    elasticity: dict[str, float] = {}
    for output in network.outputs:
        elasticity[output] = elasticity.get(output, 0.0) + 1.0 / len(network.outputs)
    parts = [0.0] * len(steps)
    for k in range(len(steps) - 1, -1, -1):
        block: Block = network.blocks[k]
        here = sum(elasticity.pop(name, 0.0) for name in block.outputs)
        parts[k] = here * steps[k].log_gain
        for name, weight in zip(block.inputs, steps[k].weights, strict=True):
            elasticity[name] = elasticity.get(name, 0.0) + here * weight
    total = sum(map(abs, parts))
    return tuple(part / total if total else 0.0 for part in parts)
