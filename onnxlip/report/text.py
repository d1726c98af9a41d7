"""The report for a person: what was proved first, then where it comes from.

Plain lines in aligned columns, the same on a terminal and in a pipe but for emphasis and width.
"""

from __future__ import annotations

import click

from onnxlip.report.chains import chain_lines
from onnxlip.report.classes import class_lines
from onnxlip.report.figures import columns, shown_down, shown_up
from onnxlip.report.record import BlockReport, Report

__all__ = ["columns", "report_lines", "shown_down", "shown_up"]

_SHOWN = 12  # blocks listed without --verbose, the costliest of them
_LONGEST = 40  # characters of a block's name and ops on a terminal; the end of a name tells more


def report_lines(report: Report, width: int | None = None, verbose: bool = False) -> list[str]:
    """The lines to print. width: columns of the terminal, None where there is none to fit."""
    ends = "  →  ".join(
        ", ".join(f"{name} {_shape(shape)}" for name, shape in side.items())
        for side in (report.inputs, report.outputs)
    )
    norm = {"1": "ℓ1", "2": "ℓ2", "inf": "ℓ∞"}[report.norm]
    space = "all of the input space" if report.domain == "global" else report.domain
    lines = [f"{report.model}: {ends}", f"{norm} norm, {space}", ""]
    ends_of = (("upper bound", report.upper, shown_up), ("lower bound", report.lower, shown_down))
    figures = [
        [click.style(label, bold=True), shown(bound.value), bound.kind, bound.method]
        for label, bound, shown in ends_of
        if bound is not None
    ]
    if report.upper is not None and report.lower is not None and report.lower.value > 0:
        ratio = report.upper.value / report.lower.value
        figures.append(["ratio", shown_up(ratio, 4 if ratio > 1.01 else 6), "", ""])
    free = report.methods.get("free pattern")
    if free is not None:
        told = "no bound that knows slopes by intervals alone is below"
        figures.append(["free slopes", f"≈ {shown_down(free.value)}", free.kind, told])
    lines += columns(figures)
    lines += _method_lines(report)
    if len(report.pairs) > 1:
        rows = [[pair.input, pair.output, shown_up(pair.upper)] for pair in report.pairs]
        lines += ["", *columns(rows, ["from", "to", "upper bound"])]
    if report.blocks:
        lines += ["", *_block_lines(report, width, verbose)]
    if report.chains:
        room = None if width is None else max(10, min(_LONGEST, (width - 50) // 2))
        lines += ["", *chain_lines(report.chains, room, verbose), *_total(report)]
    lines += class_lines(report.classes, report.radii)
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"rule: {op} from {origin}" for op, origin in report.rules.items()]
    affine = sum(b.kind == "affine" for b in report.blocks)
    took = f"{report.seconds:.2f} s on {report.provider}"
    lines.append(f"{len(report.blocks)} blocks ({affine} affine) in {took}")
    return lines


def _total(report: Report) -> list[str]:
    """SeqLip of the whole network: what is proved, and the estimate, which is no bound."""
    proved, guess = report.methods.get("seqlip"), report.methods.get("seqlip, estimate")
    auto = report.methods.get("autolip")
    if proved is None or guess is None or auto is None:
        return []
    return [
        f"in total: AutoLip {shown_up(auto.value)} ≥ certified SeqLip {shown_up(proved.value)}; "
        f"SeqLip estimate {shown_down(guess.value)} (no bound)"
    ]


def _method_lines(report: Report) -> list[str]:
    """All upper bounds and what each took, the least first, where there are several."""
    found = [(m.value, name, m.seconds) for name, m in report.methods.items() if _is_upper(m.kind)]
    if len(found) < 2:
        return []
    rows = [[name, shown_up(value), f"{seconds:.2f} s"] for value, name, seconds in sorted(found)]
    return ["", *columns(rows, ["upper bounds", "", "took"])]


def _is_upper(kind: str) -> bool:
    return kind in ("certified", "probabilistic")


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _block_lines(report: Report, width: int | None, verbose: bool) -> list[str]:
    costly = sorted(report.blocks, key=lambda b: -abs(b.share))
    shown = set(map(id, report.blocks if verbose else costly[:_SHOWN]))
    room = None if width is None else max(12, min(_LONGEST, (width - 50) // 2))
    rows = []
    for block in report.blocks:
        if id(block) in shown:
            ops = " ".join(dict.fromkeys(block.ops))
            row = [_fit(block.name, room), _fit(ops, room), _bracket(block), f"{block.share:.0%}"]
            rows.append([*row, block.methods[1]] if verbose else row)
    headings = ["block", "ops", "norm", "share", "by"][: 5 if verbose else 4]
    lines = columns(rows, headings)
    hidden = len(report.blocks) - len(rows)
    if hidden:
        lines.append(f"and {hidden} more that cost less (--verbose shows all)")
    if costly[0].share > 0:
        lines.append(f"costliest: {costly[0].name}, {costly[0].share:.0%} of the bound's logarithm")
    return lines


def _fit(text: str, room: int | None) -> str:
    return text if room is None or len(text) <= room else "…" + text[1 - room :]


def _bracket(block: BlockReport) -> str:
    upper = shown_up(block.upper, 5)
    if block.lower is None:
        return f"≤ {upper}"
    lower = shown_down(block.lower, 5)
    return upper if upper == lower else f"{lower} … {upper}"
