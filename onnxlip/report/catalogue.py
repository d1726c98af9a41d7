"""The catalogue of rules, made from the rules themselves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from onnxlip.registry import RuleSet

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["catalogue", "catalogue_json", "print_catalogue"]


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


def print_catalogue(rules: RuleSet, console: Console) -> None:
    """A table: op, since, form, source; refusals with their reason."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("op", "since", "form", "source"):
        table.add_column(heading, no_wrap=heading != "source", overflow="fold")
    for r in catalogue(rules):
        name = r["op_type"] if r["domain"] == "ai.onnx" else f"{r['domain']}.{r['op_type']}"
        told = r["reason"] if r["form"] == "refusal" else r["source"]
        table.add_row(str(name), str(r["since"]), str(r["form"]), escape(str(told)))
    console.print(table, highlight=False)
    ops = {(r["domain"], r["op_type"]) for r in catalogue(rules)}
    console.print(f"{len(ops)} ops, {len(rules.registered)} rules", highlight=False)
