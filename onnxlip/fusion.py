"""Fusion: subgraphs that map one tensor to another entry by entry are one univariate function.

x·Sigmoid(x) joins two tensors in a product that has no bound, yet as a function of x it has one.
For every tensor we keep its expression in each of the tensors that it is a univariate function
of; where a node joins several such operands (or has no bound of its own), the nearest common
root whose expression has a finite slope interval replaces everything in between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxlip.recognise import atom_for
from onnxlip.registry import Registered, RuleSet
from onnxlip.rules import Affine, Box, Elementwise, Gain, Node, Refusal, Value
from onnxlip.univariate import Expression, Interval

__all__ = ["Fused", "fuse", "without_aliases"]

_MAX_ROOTS = 12  # how far back a root is looked for, in tensors
Roots = dict[str, Expression]


@dataclass(frozen=True)
class Fused:
    """y = f(root), entry by entry: the nodes it replaces, its slope interval, and f in words."""

    root: str
    output: str
    nodes: tuple[str, ...]
    slopes: Interval
    image: Interval
    text: str
    notes: tuple[str, ...]


def fuse(
    nodes: Sequence[Node],
    rules: RuleSet,
    entries: Mapping[str, Registered],
    sinks: Sequence[str],
) -> tuple[tuple[Node, ...], dict[str, Fused]]:
    """The nodes that remain and the fused functions by output tensor.

    nodes: in topological order; sinks: names of the tensors that are wanted.
    """
    roots = _expressions(nodes, rules, entries)
    needed = set(sinks)
    kept: list[Node] = []
    fused: dict[str, Fused] = {}
    for node in reversed(nodes):
        if not any(y.name in needed for y in node.outputs):
            continue
        found = _best(node, entries, roots) if len(node.outputs) == 1 else None
        if found is None:
            kept.append(node)
            needed |= {node.value(i).name for i in node.variables}
            continue
        root, expression, slopes = found
        between = _between(nodes, root, node.y.name)
        fused[node.y.name] = Fused(
            root,
            node.y.name,
            between,
            slopes,
            expression.image(),
            expression.text,
            expression.notes,
        )
        needed.add(root)
    return tuple(reversed(kept)), fused


def without_aliases(
    nodes: Sequence[Node],
    rules: RuleSet,
    entries: Mapping[str, Registered],
    sinks: Sequence[str],
) -> tuple[Node, ...]:
    """The nodes without those whose algebra says that they are x itself (Identity, a Cast between
    floating types, x + 0): what reads them reads x, so that they hide neither a function that is
    spelled around them nor the box of what they pass on."""
    origin: dict[str, Value] = {}
    kept: list[Node] = []
    for node in nodes:
        inputs = tuple(origin.get(v.name, v) if v is not None else None for v in node.inputs)
        if any(a is not b for a, b in zip(inputs, node.inputs, strict=True)):
            node = replace(node, inputs=inputs)
        if _is_alias(node, rules, entries.get(node.name)):
            origin[node.y.name] = node.x
            if node.y.name not in sinks:
                continue
        kept.append(node)
    return tuple(kept)


def _is_alias(node: Node, rules: RuleSet, entry: Registered | None) -> bool:
    if entry is None or not isinstance(entry.rule.form, Affine) or len(node.variables) != 1:
        return False
    if any(y.name for y in node.outputs[1:]) or not _keeps_shape(node):
        return False
    return _apply(node, rules, entry, {}, node.x.name) == Expression.x()


def _expressions(
    nodes: Sequence[Node], rules: RuleSet, entries: Mapping[str, Registered]
) -> dict[str, Roots]:
    found: dict[str, Roots] = {}
    for node in nodes:
        for y in node.outputs:
            found[y.name] = {}
        if len(node.outputs) == 1 and _keeps_shape(node):
            found[node.y.name] = _node_roots(node, rules, entries.get(node.name), found)
        for y in node.outputs:
            found[y.name][y.name] = Expression.x()
    return found


def _keeps_shape(node: Node) -> bool:
    shape = node.y.shape
    return bool(node.variables) and all(
        v.shape == shape if v.constant is None else v.size == 1
        for v in node.inputs
        if v is not None
    )


def _node_roots(
    node: Node, rules: RuleSet, entry: Registered | None, found: Mapping[str, Roots]
) -> Roots:
    operands = [found.get(name, {name: Expression.x()}) for name in _variables(node)]
    common = [r for r in operands[0] if all(r in other for other in operands[1:])]
    result: Roots = {}
    for root in common[-_MAX_ROOTS:]:
        expression = _apply(node, rules, entry, found, root)
        if expression is not None and expression.moderate:
            result[root] = expression
    return result


def _variables(node: Node) -> list[str]:
    return [node.value(i).name for i in node.variables]


def _apply(
    node: Node,
    rules: RuleSet,
    entry: Registered | None,
    found: Mapping[str, Roots],
    root: str,
) -> Expression | None:
    def expression(value: Value | None) -> Expression | None:
        if value is None:
            return None
        if value.constant is None:
            return found.get(value.name, {value.name: Expression.x()})[root]
        number = float(value.constant.reshape(()))
        return Expression.number(number) if math.isfinite(number) else None

    algebra = rules.algebra(node.op_type, node.domain)
    if algebra is not None:
        result = algebra(node, [expression(v) for v in node.inputs])
        if result is not None:
            return result
    if entry is None or not isinstance(entry.rule.form, Elementwise):
        return None
    inner = expression(node.x)
    return None if inner is None else Expression.atom(atom_for(entry.rule, node, inner))


def _best(
    node: Node, entries: Mapping[str, Registered], roots: Mapping[str, Roots]
) -> tuple[str, Expression, Interval] | None:
    """The nearest root that explains a node which needs explaining."""
    entry = entries.get(node.name)
    if entry is not None and len(set(_variables(node))) == 1 and len(node.variables) == 1:
        form = entry.rule.form
        if isinstance(form, (Affine, Gain)):
            return None
        if isinstance(form, Elementwise) and _finite_alone(form, node):
            return None
    for root, expression in reversed(roots[node.y.name].items()):
        if root == node.y.name:
            continue
        if (
            expression.linear is not None
            and entry is not None
            and not isinstance(entry.rule.form, (Refusal, Gain))
        ):
            continue  # an affine op says more about itself
        slopes = expression.slopes()
        if slopes is not None:
            return root, expression, slopes
    return None


def _finite_alone(form: Elementwise, node: Node) -> bool:
    alpha, beta = form.slopes(node, Box.whole())
    return bool(np.all(np.isfinite(alpha)) and np.all(np.isfinite(beta)))


def _between(nodes: Sequence[Node], root: str, output: str) -> tuple[str, ...]:
    """Names of the nodes on the ways from the root to the output."""
    forward, reached = [], {root}
    for node in nodes:
        if node.y.name != root and any(name in reached for name in _variables(node)):
            reached |= {y.name for y in node.outputs}
            forward.append(node)
    kept, needed = [], {output}
    for node in reversed(forward):
        if any(y.name in needed for y in node.outputs):
            kept.append(node.name)
            needed |= set(_variables(node)) - {root}
    return tuple(reversed(kept))
