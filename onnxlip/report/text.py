"""The report for a person: what was proved first, then where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxlip.report.record import BlockReport, Report

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_report"]

_SHOWN = 12  # blocks listed without --verbose, the costliest of them


def print_report(report: Report, console: Console, verbose: bool = False) -> None:
    """Print to a rich console; plain where it is no terminal."""
    from rich.table import Table

    ends = "  →  ".join(
        ", ".join(f"{name} {_shape(shape)}" for name, shape in side.items())
        for side in (report.inputs, report.outputs)
    )
    space = "all of the input space" if report.domain == "global" else report.domain
    console.print(f"{report.model}: {ends}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"ℓ{_norm(report.norm)} norm, {space}\n", highlight=False)

    figures = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for label, bound in (("upper bound", report.upper), ("lower bound", report.lower)):
        if bound is not None:
            figures.add_row(
                f"[bold]{label}[/]", f"[bold]{bound.value:.6g}[/]", bound.kind, bound.method
            )
    console.print(figures, highlight=False)
    if len(report.pairs) > 1:
        _print_pairs(report, console)
    if report.blocks:
        _print_blocks(report, console, verbose)
    for note in report.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    for op, origin in report.rules.items():
        console.print(f"rule: {op} from {origin}", markup=False, highlight=False)
    affine = sum(b.kind == "affine" for b in report.blocks)
    console.print(
        f"{len(report.blocks)} blocks ({affine} affine) in {report.seconds:.2f} s "
        f"on {report.provider}",
        highlight=False,
    )


def _norm(norm: str) -> str:
    return {"1": "1", "2": "2", "inf": "∞"}[norm]


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _print_pairs(report: Report, console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("from", "to", "upper bound"):
        table.add_column(heading)
    for pair in report.pairs:
        table.add_row(pair.input, pair.output, f"{pair.upper:.6g}")
    console.print()
    console.print(table, highlight=False)


def _print_blocks(report: Report, console: Console, verbose: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    costly = sorted(report.blocks, key=lambda b: -abs(b.share))
    shown = set(map(id, report.blocks if verbose else costly[:_SHOWN]))
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("block", overflow="ellipsis", no_wrap=True, max_width=40)
    table.add_column("ops", overflow="ellipsis", no_wrap=True, max_width=36)
    table.add_column("norm", justify="left", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    if verbose:
        table.add_column("by", no_wrap=True)
    for block in report.blocks:
        if id(block) in shown:
            row = [escape(block.name), escape(_ops(block)), _bracket(block), f"{block.share:.0%}"]
            table.add_row(*row, *([block.methods[1]] if verbose else []))
    console.print()
    console.print(table, highlight=False)
    hidden = len(report.blocks) - len(shown)
    if hidden:
        console.print(f"and {hidden} more that cost less (--verbose shows all)", highlight=False)
    if costly[0].share > 0:
        console.print(
            f"costliest: {costly[0].name}, {costly[0].share:.0%} of the bound's logarithm",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _ops(block: BlockReport) -> str:
    return " ".join(dict.fromkeys(block.ops))


def _bracket(block: BlockReport) -> str:
    if block.lower is None:
        return f"≤ {block.upper:.5g}"
    if block.lower == block.upper:
        return f"{block.upper:.5g}"
    if f"{block.lower:.5g}" == f"{block.upper:.5g}":
        return f"{block.upper:.5g}"
    slack = f"  (+{block.upper / block.lower - 1:.2%})" if block.lower else ""
    return f"{block.lower:.5g} … {block.upper:.5g}{slack}"
