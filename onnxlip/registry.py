"""Which rule and which lowering: the set of all that are known, and where each came from.

Built-in modules of `onnxlip.ops` come first, then entry points of the group "onnxlip.rules", then
what the caller passes. A module offers `RULES` (and `LOWERINGS`), tuples of values.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

from onnxlip.errors import RuleError, UsageError
from onnxlip.lowering import Lowering, Lowerings
from onnxlip.rules import Amendment, Fixed, Node, Rule
from onnxlip.univariate import Expression

Algebra = Callable[[Node, Sequence[Expression | None]], Expression | None]

__all__ = ["Registered", "RuleSet", "built_in", "rule_set"]


@dataclass(frozen=True)
class Registered:
    """A rule and where it came from: a module's name, or "argument"."""

    rule: Rule
    origin: str


class RuleSet:
    """An immutable, ordered collection of rules with the lowerings that go with them."""

    def __init__(
        self,
        registered: Sequence[Registered],
        lowerings: Lowerings,
        amendments: Sequence[Amendment] = (),
    ) -> None:
        self.registered = tuple(registered)
        self.lowerings = lowerings
        self.amendments = tuple(amendments)
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
            if entry.rule.since <= node.opset <= (entry.rule.until or node.opset)
            and entry.rule.applies(node)
        ]
        if not fitting:
            return None
        newest = max(entry.rule.since for entry in fitting)
        return [entry for entry in fitting if entry.rule.since == newest][-1]

    def fixed(self, node: Node) -> Fixed | None:
        """The form of a node that depends on shapes and types only (its outputs not known yet)."""
        entries = self._by_op.get((_domain(node.domain), node.op_type), ())
        forms = [
            e.rule.form for e in entries if isinstance(e.rule.form, Fixed) and e.rule.applies(node)
        ]
        return forms[-1] if forms else None

    def always_fixed(self, op_type: str, domain: str = "") -> bool:
        """Whether every use of this op depends on shapes and types only."""
        entries = self._by_op.get((_domain(domain), op_type), ())
        return bool(entries) and all(isinstance(e.rule.form, Fixed) for e in entries)

    def shape_of(self, node: Node) -> Sequence[tuple[int, ...]] | None:
        """The outputs' shapes by a rule, for an op that onnx has no schema of; None if no rule
        knows the op."""
        entries = self._by_op.get((_domain(node.domain), node.op_type), ())
        said = [e.rule.shape for e in entries if e.rule.shape is not None]
        if said:
            return said[-1](node)
        return [node.x.shape] if entries else None

    def algebra(self, op_type: str, domain: str = "") -> Algebra | None:
        """What an arithmetic op makes of expressions, whichever of its rules says so."""
        entries = self._by_op.get((_domain(domain), op_type), ())
        said = [e.rule.algebra for e in entries if e.rule.algebra is not None]
        return said[-1] if said else None

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
    amendments: list[Amendment] = []
    add = None
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        registered += [Registered(rule, module.__name__) for rule in _rules_of(module)]
        lowerings += getattr(module, "LOWERINGS", ())
        amendments += getattr(module, "AMENDMENTS", ())
        add = getattr(module, "ADD", add)
    if add is None:
        raise RuleError("onnxlip.ops offers no ADD: the installation is broken; reinstall onnxlip")
    return RuleSet(registered, Lowerings(tuple(lowerings), add), amendments)


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
            raise UsageError(
                f"module '{module.__name__}' offers no RULES: define RULES = (rule, …)"
            )
        registered += [Registered(rule, module.__name__) for rule in found]
        extra += getattr(module, "LOWERINGS", ())
    registered += [Registered(rule, "argument") for rule in rules]
    if len(registered) == len(base.registered) and not extra:
        return base
    lowerings = base.lowerings.extended(tuple(extra))
    return RuleSet(registered, lowerings, base.amendments)


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
