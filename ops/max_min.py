"""Max and Min of several tensors, with broadcasting.

With constants c and one variable that keeps its shape: f(x) = max(x, c) entry by entry, slopes
in [0, 1]; 1 where the box lies above c, 0 where it lies below. Otherwise, with S_i the broadcast
of input i, |max_i a_i − max_i b_i| ≤ max_i |a_i − b_i| gives

    alone      ‖δy‖_p ≤ ‖S_i‖_p ‖δx_i‖_p        (1, or m^(1/p) where x_i is repeated m times)
    together   ‖δy‖_p ≤ max_i ‖S_i‖_p · ‖δx‖_p   (‖δy‖_p^p ≤ Σ_i ‖S_i δx_i‖_p^p)

Source: ONNX operator specification, Max and Min; derived.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.ops.families.derivatives import aligned, weighted
from onnxlip.ops.families.piecewise_linear import piecewise_linear
from onnxlip.ops.families.spread import common_shape, spread_norm
from onnxlip.rules import Box, Derivative, Gain, Node, Rule, constant, example, variable

Floats = npt.NDArray[np.float64]
Fold = Callable[[Sequence[Any]], Any]


def _limits(node: Node, fold: Fold) -> list[Floats]:
    """The one breakpoint: the constants' own maximum (or minimum), if there are any."""
    given = [node.floats(k) for k in range(len(node.inputs)) if k not in node.variables]
    return [fold(given)] if given else []


def _elementwise(node: Node) -> bool:
    return len(node.variables) == 1 and node.x.shape == common_shape(node)


def _gain(node: Node, i: int, p: float, boxes: Sequence[Box | None]) -> float:
    return spread_norm(node, i, p)


def _joint(node: Node, p: float, boxes: Sequence[Box | None]) -> float:
    return max(spread_norm(node, i, p) for i in node.variables)


def _derivative(node: Node, inputs: Sequence[npt.NDArray[Any] | None], fold: Fold) -> Derivative:
    """The winners' own directions."""
    rank = len(node.y.shape)
    given = [
        aligned(x, rank) if k in node.variables else x
        for k, x in enumerate(inputs)
        if x is not None
    ]
    best = fold(given)
    taken = np.zeros(best.shape, bool)
    weights = []
    for k in node.variables:
        wins = (given[k] == best) & ~taken
        taken |= wins
        weights.append(wins.astype(np.float64))
    return weighted(node, weights)


def _rules(op_type: str, fold: Fold) -> tuple[Rule, Rule]:
    def slopes(node: Node) -> list[float]:
        if not _limits(node, fold):
            return [1.0]
        return [0.0, 1.0] if op_type == "Max" else [1.0, 0.0]

    def image(node: Node, boxes: Sequence[Box | None], o: int) -> Box:
        given = [box for box in boxes if box is not None]
        return Box.of(fold([box.low for box in given]), fold([box.high for box in given]))

    source = f"ONNX {op_type}; derived: |max a − max b| ≤ max |a − b|"
    return (
        Rule(
            op_type,
            piecewise_linear(
                breakpoints=lambda node: _limits(node, fold),
                slopes=slopes,
                function=lambda node, x: fold([x, *_limits(node, fold)]),
            ),
            source=source,
            examples=(
                example(variable(2, 3), constant(0.5)),
                example(constant(shape=(3,)), variable(2, 3), constant(shape=(2, 1), seed=1)),
                example(variable(2, 3, low=-0.5, high=1.0), constant(shape=(3,))),
                example(variable(2, 3)),
            ),
            since=8,
            applies=_elementwise,
        ),
        Rule(
            op_type,
            Gain(
                _gain,
                image,
                _joint,
                derivative=lambda node, inputs: _derivative(node, inputs, fold),
            ),
            source=source,
            examples=(
                example(variable(2, 3), variable(2, 3)),
                example(variable(2, 3), variable(2, 3), variable(2, 3), constant(0.1)),
                example(variable(3), variable(4, 2, 1)),
                example(variable(2, 1), constant(shape=(1, 3))),
                example(variable(3, low=-1, high=2), variable(2, 3, low=0, high=1)),
            ),
            since=8,
            applies=lambda node: not _elementwise(node),
        ),
    )


def _fold(pairwise: np.ufunc) -> Fold:
    def fold(arrays: Sequence[Any]) -> Any:
        total = np.asarray(arrays[0], np.float64)
        for a in arrays[1:]:
            total = pairwise(total, a)
        return total

    return fold


RULES = (*_rules("Max", _fold(np.maximum)), *_rules("Min", _fold(np.minimum)))
