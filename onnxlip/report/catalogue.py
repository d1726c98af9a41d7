"""The catalogue of rules, made from the rules themselves."""

from __future__ import annotations

import json

from onnxlip.registry import RuleSet
from onnxlip.report.text import columns

__all__ = ["catalogue", "catalogue_json", "catalogue_lines"]


def catalogue(rules: RuleSet) -> list[dict[str, str | int]]:
    """One record per rule, sorted by domain, op and version."""
    records: list[dict[str, str | int]] = [
        {
            "op_type": entry.rule.op_type,
            "domain": entry.rule.domain or "ai.onnx",
            "since": entry.rule.since,
            "form": type(entry.rule.form).__name__.lower(),
            "examples": len(entry.rule.examples),
            "source": entry.rule.source,
            "reason": getattr(entry.rule.form, "reason", ""),
            "origin": entry.origin,
        }
        for entry in rules
    ]
    return sorted(records, key=lambda r: (r["domain"], r["op_type"], r["since"], r["form"]))


def catalogue_json(rules: RuleSet) -> str:
    """The catalogue as a JSON array."""
    return json.dumps(catalogue(rules), indent=2, ensure_ascii=False)


def catalogue_lines(rules: RuleSet) -> list[str]:
    """A table: op, since, form, source; refusals with their reason."""
    rows = []
    for r in catalogue(rules):
        name = r["op_type"] if r["domain"] == "ai.onnx" else f"{r['domain']}.{r['op_type']}"
        told = r["reason"] if r["form"] == "refusal" else r["source"]
        rows.append([str(name), str(r["since"]), str(r["form"]), str(told)])
    ops = {(r["domain"], r["op_type"]) for r in catalogue(rules)}
    table = columns(rows, ["op", "since", "form", "source"])
    return [*table, f"{len(ops)} ops, {len(rules.registered)} rules"]
