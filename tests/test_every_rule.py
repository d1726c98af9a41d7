"""Every law of every rule, on every example that the rule itself gives."""

from collections import Counter

import pytest

from onnxlip.registry import Registered, built_in
from onnxlip.rules import Refusal
from onnxlip.testing import check_rule


def _name(entry: Registered) -> str:
    rule = entry.rule
    return f"{rule.op_type}-{rule.since}-{type(rule.form).__name__}"


@pytest.mark.parametrize("entry", built_in().registered, ids=_name)
def test_rule_obeys_every_law(entry: Registered) -> None:
    check_rule(entry.rule)


@pytest.mark.parametrize("entry", built_in().registered, ids=_name)
def test_rule_is_found_for_its_own_examples(entry: Registered) -> None:
    from onnxlip.testing import example_node

    if isinstance(entry.rule.form, Refusal):
        return
    for use in entry.rule.examples:
        found = built_in().find(example_node(entry.rule, use))
        assert found is not None
        assert found.rule is entry.rule


def test_no_rule_is_shadowed() -> None:
    """Two rules of one op differ in form or version: else one of them would never be asked."""
    seen = Counter(_name(entry) + entry.rule.domain for entry in built_in())
    assert not [name for name, count in seen.items() if count > 1]
