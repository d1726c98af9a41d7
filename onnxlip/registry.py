"""Which rule and which lowering: the set of all that are known, and where each came from.

Built-in modules of `onnxlip.ops` come first, then entry points of the group "onnxlip.rules", then
what the caller passes. A module offers `RULES` (and `LOWERINGS`), tuples of values.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

from onnxlip.errors import RuleError, UsageError
from onnxlip.lowering import Lowering, Lowerings
from onnxlip.rules import Node, Rule

__all__ = ["Registered", "RuleSet", "built_in", "rule_set"]


@dataclass(frozen=True)
class Registered:
    """A rule and where it came from: a module's name, or "argument"."""

    rule: Rule
    origin: str


class RuleSet:
    """An immutable, ordered collection of rules with the lowerings that go with them."""

    def __init__(self, registered: Sequence[Registered], lowerings: Lowerings) -> None:
        self.registered = tuple(registered)
        self.lowerings = lowerings
        self._by_op: dict[tuple[str, str], list[Registered]] = {}
        for entry in self.registered:
            key = (_domain(entry.rule.domain), entry.rule.op_type)
            self._by_op.setdefault(key, []).append(entry)

    def __iter__(self) -> Iterator[Registered]:
        return iter(self.registered)

    def find(self, node: Node) -> Registered | None:
        """The rule for this node, or None: the greatest `since` ≤ its opset, then the last one
        registered among those that apply."""
        fitting = [
            entry
            for entry in self._by_op.get((_domain(node.domain), node.op_type), ())
            if entry.rule.since <= node.opset and entry.rule.applies(node)
        ]
        if not fitting:
            return None
        newest = max(entry.rule.since for entry in fitting)
        return [entry for entry in fitting if entry.rule.since == newest][-1]

    def knows(self, op_type: str, domain: str = "") -> bool:
        """Whether there is any rule for this op, whatever its inputs."""
        return (_domain(domain), op_type) in self._by_op


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _rules_of(module: ModuleType) -> tuple[Rule, ...]:
    rules = getattr(module, "RULES", ())
    if not all(isinstance(rule, Rule) for rule in rules):
        raise RuleError(f"{module.__name__}.RULES must be a tuple of onnxlip Rules")
    return tuple(rules)


@lru_cache(maxsize=1)
def built_in() -> RuleSet:
    """The rules and lowerings of onnxlip.ops."""
    package = importlib.import_module("onnxlip.ops")
    registered: list[Registered] = []
    lowerings: list[Lowering] = []
    add = None
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        registered += [Registered(rule, module.__name__) for rule in _rules_of(module)]
        lowerings += getattr(module, "LOWERINGS", ())
        add = getattr(module, "ADD", add)
    if add is None:
        raise RuleError("onnxlip.ops offers no ADD: the installation is broken; reinstall onnxlip")
    return RuleSet(registered, Lowerings(tuple(lowerings), add))


def rule_set(rules: Iterable[Rule] = (), modules: Iterable[str] = ()) -> RuleSet:
    """Built-in rules, then entry points, then `modules` by name, then `rules`; later ones win.

    Raises UsageError if a module cannot be imported or offers no rules.
    """
    base = built_in()
    registered = list(base.registered)
    extra: list[Lowering] = []
    for module in [*_entry_points(), *(_import(name) for name in modules)]:
        found = _rules_of(module)
        if not found:
            raise UsageError(f"module '{module.__name__}' offers no RULES: define RULES = (rule, …)")
        registered += [Registered(rule, module.__name__) for rule in found]
        extra += getattr(module, "LOWERINGS", ())
    registered += [Registered(rule, "argument") for rule in rules]
    if len(registered) == len(base.registered) and not extra:
        return base
    return RuleSet(registered, base.lowerings.extended(tuple(extra)))


def _entry_points() -> list[ModuleType]:
    from importlib.metadata import entry_points

    return [_import(point.value) for point in entry_points(group="onnxlip.rules")]


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a user's module may fail in any way
        raise UsageError(
            f"cannot import rules module '{name}': {type(error).__name__}: {error}"
        ) from error
