"""The graph: a networkx multigraph of the ops that lie between chosen inputs and outputs.

Nodes are ops (attribute `node`: a `Node`, `rule`: where its rule came from and what it is) and,
for every chosen tensor, an endpoint (`input:NAME`, `output:NAME`). Edges are tensors (attributes
`tensor`, `position`: which input of the consumer it is, `output`: which one of the producer).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlip.errors import ModelError, NotLipschitzError, Refused, UnsupportedError, UsageError
from onnxlip.folding import fold
from onnxlip.model import Model, has_subgraph, reads
from onnxlip.registry import Registered, RuleSet
from onnxlip.rules import Node, Value

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["Graph", "build_graph", "is_real", "refuse", "unsupported"]


@dataclass(frozen=True)
class Graph:
    """What is analysed.

    nodes: in topological order, each with its rule (None where only fusion may explain it)
    inputs: the chosen inputs; held: other tensors that the outputs depend on, held fixed
    outputs: the chosen outputs; those that do not depend on an input have no path to it
    """

    nodes: tuple[Node, ...]
    rules: Mapping[str, Registered]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    held: tuple[Value, ...]
    values: Mapping[str, Value]
    notes: tuple[str, ...] = ()

    @cached_property
    def network(self) -> nx.MultiDiGraph:
        """The networkx multigraph, made when first asked for: importing networkx takes half as
        long as importing onnx and onnxruntime, and a bound of a small model no longer."""
        return _network(
            self.nodes,
            self.rules,
            [v.name for v in self.inputs],
            [v.name for v in self.outputs],
        )


def build_graph(
    model: Model,
    rules: RuleSet,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
) -> Graph:
    """Choose, fold, and refuse what no rule covers, all at once.

    inputs, outputs: names of tensors, interior ones too; none means the model's own.
    Raises UsageError (no such tensor), UnsupportedError (ops without a rule), ModelError
    (integer inputs, non-finite weights).
    """
    sources, sinks = _choose(model, inputs, outputs)
    between = _between(model, rules, sources, sinks)
    _refuse_unknown(model, rules, between)
    wanted = _ancestors(model, (*sources, *sinks))
    found, values = fold(model, rules, lambda proto: id(proto) in wanted)
    for name in sources:
        if values[name].constant is not None:
            raise UsageError(f"--input {name}: it is a constant of {model.name}; it cannot move")
    kinds = {i: value for i, value in values.items() if i in sources}
    _refuse_integers(model, kinds, found)
    _refuse_integer_outputs(model, [values[s] for s in sinks])
    nodes = [_cut(n, sources) for n in _reachable(found, set(sources), sinks)]
    _refuse_nonfinite(model, nodes)
    entries = {n.name: entry for n in nodes if (entry := rules.find(n)) is not None}
    produced = {y.name for n in nodes for y in n.outputs} | set(sources)
    held = {
        v.name: v
        for n in nodes
        for v in n.inputs
        if v is not None and v.constant is None and v.name not in produced
    }
    return Graph(
        tuple(nodes),
        entries,
        tuple(values[s] for s in sources),
        tuple(values[s] for s in sinks),
        tuple(held.values()),
        values,
        _left_out(model, sinks, chosen=bool(outputs)),
    )


def _choose(
    model: Model, inputs: Sequence[str], outputs: Sequence[str]
) -> tuple[list[str], list[str]]:
    tensors = set(model.inputs) | {name for n in model.nodes for name in n.output}
    for option, names in (("--input", inputs), ("--output", outputs)):
        for name in names:
            if name not in tensors:
                known = ", ".join(model.inputs if option == "--input" else model.outputs)
                raise UsageError(
                    f"{option} {name}: {model.name} has no such tensor (it has {known}, and "
                    "interior ones)"
                )
    sources, sinks = list(dict.fromkeys(inputs)), list(dict.fromkeys(outputs))
    if not sources:
        used = {name for n in model.nodes for name in reads(n)} | set(model.outputs)
        sources = [name for name in model.inputs if name in used]
    if not sinks:
        sinks = [name for name, kind in model.outputs.items() if _moves(kind)]
    if not sinks:
        raise ModelError(
            f"{model.name}: no output is a real-valued tensor; name an interior one with --output"
            if model.outputs
            else f"{model.name}: the graph has no output"
        )
    return sources, sinks


def _moves(kind: int) -> bool:
    """Whether an element type is one of real numbers (or is not declared)."""
    from onnx import TensorProto

    real = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return kind in (*real, TensorProto.UNDEFINED)


def _left_out(model: Model, sinks: Sequence[str], chosen: bool) -> tuple[str, ...]:
    left = [] if chosen else [name for name in model.outputs if name not in sinks]
    return tuple(
        f"output '{name}' holds integers or labels, which move in jumps: it is left out"
        for name in left
    )


def _ancestors(model: Model, sinks: Iterable[str]) -> set[int]:
    """Identities of the nodes that the sinks need."""
    needed, kept = set(sinks), set()
    for proto in reversed(model.nodes):
        if needed & set(proto.output):
            kept.add(id(proto))
            needed |= set(reads(proto))
    return kept


def _between(
    model: Model, rules: RuleSet, sources: Sequence[str], sinks: Sequence[str]
) -> list[Any]:
    """Nodes through which the sources reach the sinks. Shape ops pass no dependence on."""
    wanted = _ancestors(model, sinks)
    reached, path = set(sources), []
    for proto in model.nodes:
        if id(proto) not in wanted or not reached & set(reads(proto)):
            continue
        if rules.always_fixed(proto.op_type, proto.domain):
            continue
        reached |= {name for name in proto.output if name and name not in sources}
        path.append(proto)
    return path


def _refuse_unknown(model: Model, rules: RuleSet, nodes: Sequence[Any]) -> None:
    """One error for all ops that no rule covers."""
    unknown: dict[tuple[str, str], list[str]] = {}
    for proto in nodes:
        # A rule sees a node's inputs only, not what its subgraphs read besides.
        if not rules.knows(proto.op_type, proto.domain) or has_subgraph(proto):
            label = proto.name or next(filter(None, proto.output), "")
            unknown.setdefault((proto.domain, proto.op_type), []).append(label)
    if unknown:
        raise unsupported(model, unknown)


def unsupported(model: Model, unknown: Mapping[tuple[str, str], Sequence[str]]) -> UnsupportedError:
    """The error for ops without a rule: op, domain, opset, nodes, remedy."""
    parts, refused = [], []
    for (domain, op_type), labels in sorted(unknown.items()):
        version = model.opsets.get("" if domain == "ai.onnx" else domain, "?")
        parts.append(f"{domain or 'ai.onnx'}.{op_type} (opset {version}) at {_some(labels)}")
        reason = f"no rule for this op of {domain or 'ai.onnx'} (opset {version})"
        refused += [Refused(op_type, label, reason) for label in labels]
    return UnsupportedError(
        f"{model.name}: no rule for {len(unknown)} op{'s' * (len(unknown) > 1)}: "
        f"{'; '.join(parts)}. Add a rule (ten lines, see README 'Extension') and pass it with "
        "--rules MODULE, or cut the network with --input/--output",
        tuple(refused),
    )


def _refuse_integers(model: Model, sources: Mapping[str, Value], nodes: Sequence[Node]) -> None:
    for name, value in sources.items():
        if is_real(value):
            continue
        after = _first_float(nodes, name)
        remedy = f"use --input {after}" if after else "there is no float tensor behind it"
        raise ModelError(
            f"{model.name}: input '{name}' has type {value.dtype.name}: integers do not move "
            f"continuously, so no Lipschitz constant is defined; {remedy}"
        )


def _refuse_integer_outputs(model: Model, sinks: Sequence[Value]) -> None:
    for value in sinks:
        if not is_real(value):
            raise ModelError(
                f"{model.name}: output '{value.name}' has type {value.dtype.name}: what is an "
                "integer moves in jumps, so no finite bound exists; name a float tensor before it "
                "with --output"
            )


def is_real(value: Value) -> bool:
    """Whether a tensor holds real numbers: any floating type of at least 16 bits."""
    return value.dtype.kind == "f" or value.dtype.name == "bfloat16"


def _first_float(nodes: Sequence[Node], source: str) -> str | None:
    reached = {source}
    for node in nodes:
        if any(v is not None and v.name in reached for v in node.inputs):
            for y in node.outputs:
                if y.dtype.kind == "f":
                    return y.name
                reached.add(y.name)
    return None


def _reachable(nodes: Sequence[Node], sources: set[str], sinks: Sequence[str]) -> list[Node]:
    """Nodes between sources and sinks; a chosen interior tensor cuts what produces it."""
    reached, forward = set(sources), []
    for node in nodes:
        if all(y.name in sources for y in node.outputs):
            continue
        if any(v is not None and v.name in reached for v in node.inputs):
            reached |= {y.name for y in node.outputs}
            forward.append(node)
    needed, kept = set(sinks), []
    for node in reversed(forward):
        if any(y.name in needed and y.name not in sources for y in node.outputs):
            kept.append(node)
            needed |= {v.name for v in node.inputs if v is not None and v.constant is None}
    return kept[::-1]


def _cut(node: Node, sources: Sequence[str]) -> Node:
    """The node without outputs that are chosen inputs: those are not what it computes."""
    if not any(y.name in sources for y in node.outputs):
        return node
    outputs = tuple(replace(y, name="") if y.name in sources else y for y in node.outputs)
    return replace(node, outputs=outputs)


def _refuse_nonfinite(model: Model, nodes: Sequence[Node]) -> None:
    for node in nodes:
        for value in node.inputs:
            if value is None or value.constant is None:
                continue
            data = value.constant
            if data.dtype.kind not in "fV" or not data.size:
                continue
            extremes = np.asarray([data.max(), data.min()], np.float64)  # NaN is both
            if not np.all(np.isfinite(extremes)):
                raise ModelError(
                    f"{model.name}: the constant '{value.name}' of {node.op_type} '{node.name}' "
                    "holds NaN or infinity: no bound exists; export the model again"
                )


def _network(
    nodes: Sequence[Node],
    entries: Mapping[str, Registered],
    sources: Sequence[str],
    sinks: Sequence[str],
) -> nx.MultiDiGraph:
    import networkx as nx

    graph: nx.MultiDiGraph = nx.MultiDiGraph()
    made: dict[str, tuple[str, int]] = {}
    for name in sources:
        graph.add_node(f"input:{name}", kind="input")
        made[name] = (f"input:{name}", 0)
    for node in nodes:
        graph.add_node(node.name, kind="op", node=node, rule=entries.get(node.name))
        for position, value in enumerate(node.inputs):
            if value is not None and value.name in made:
                producer, output = made[value.name]
                graph.add_edge(
                    producer, node.name, tensor=value.name, position=position, output=output
                )
        for output, y in enumerate(node.outputs):
            if y.name:
                made.setdefault(y.name, (node.name, output))
    for name in sinks:
        graph.add_node(f"output:{name}", kind="output")
        if name in made:
            producer, output = made[name]
            graph.add_edge(producer, f"output:{name}", tensor=name, position=0, output=output)
    return graph


def refuse(model: Model, nodes: Iterable[tuple[Node, str]]) -> NotLipschitzError:
    """The error for nodes that no bound passes through, all of them at once."""
    refused = tuple(Refused(n.op_type, n.name, reason) for n, reason in nodes)
    alike: dict[tuple[str, str], list[str]] = {}
    for r in refused:
        alike.setdefault((r.op_type, r.reason), []).append(r.node)
    parts = [f"{op} {_some(labels)}: {reason}" for (op, reason), labels in alike.items()]
    return NotLipschitzError(f"{model.name}: no finite bound: {'; '.join(parts)}", refused)


def _some(labels: Sequence[str]) -> str:
    """Up to three names, and how many more there are."""
    shown = ", ".join(f"'{label}'" for label in labels[:3])
    return f"{shown} and {len(labels) - 3} more" if len(labels) > 3 else shown
