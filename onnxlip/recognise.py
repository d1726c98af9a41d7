"""Recognition: the univariate function that a subgraph computes, whoever wrote it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from onnxlip.errors import RuleError
from onnxlip.rules import Box, Elementwise, Node, Rule
from onnxlip.univariate import Atom, Expression, Interval

__all__ = ["atom_for", "atom_key"]


def atom_key(node: Node) -> str:
    """Names F with its parameters: op type, attributes and constant inputs.

    Clip with bounds 0 and 6 is "Clip[1=0.0,2=6.0]", Sigmoid is "Sigmoid". Equal keys are equal
    functions; the reverse need not hold (an attribute may be left out or be given its default).
    """
    parts = [f"{name}={_text(value)}" for name, value in sorted(node.attributes.items())]
    for position, value in enumerate(node.inputs):
        if value is not None and value.constant is not None:
            parts.append(f"{position}={_text(value.constant)}")
    domain = node.domain if node.domain not in ("", "ai.onnx") else ""
    name = f"{domain}::{node.op_type}" if domain else node.op_type
    return f"{name}[{','.join(parts)}]" if parts else name


def _text(value: Any) -> str:
    """A parameter in writing that tells it from any other; large arrays by their digest."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        return repr(value)
    if array.size == 1:
        return repr(array.reshape(()).item())
    data = np.ascontiguousarray(array)
    digest = hashlib.sha256(repr((data.dtype.str, data.shape)).encode() + data.tobytes())
    return digest.hexdigest()


def atom_for(rule: Rule, node: Node, inner: Expression) -> Atom:
    """F(inner), F being what the elementwise `rule` says of `node`.

    Where F differs from entry to entry (a slope per channel), intervals are hulls over entries.
    Raises RuleError if the rule's form is not Elementwise.
    """
    form = rule.form
    if not isinstance(form, Elementwise):
        raise RuleError(f"{rule.op_type}: only an elementwise op is a function of one variable")

    def slopes(interval: Interval) -> Interval:
        alpha, beta = form.slopes(node, Box.of(*interval))
        return float(np.min(alpha)), float(np.max(beta))

    def image(interval: Interval) -> Interval:
        box = form.image(node, Box.of(*interval))
        return float(np.min(box.low)), float(np.max(box.high))

    def gate(expression: Expression) -> Interval | None:
        return form.gate(node, expression) if form.gate else None

    return Atom(atom_key(node), inner, slopes, image, gate)
