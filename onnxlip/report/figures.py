"""How figures are shown: bounds stay bounds when digits are dropped, and columns align."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

import click

__all__ = ["columns", "shown_down", "shown_up"]


def shown_up(value: float, digits: int = 6) -> str:
    """A number to some digits, rounded up: what is printed of an upper bound is one too."""
    return f"{float(Context(digits, ROUND_CEILING).create_decimal(Decimal(value))):.{digits}g}"


def shown_down(value: float, digits: int = 6) -> str:
    """The same, rounded down, for lower bounds."""
    return f"{float(Context(digits, ROUND_FLOOR).create_decimal(Decimal(value))):.{digits}g}"


def columns(rows: list[list[str]], headings: list[str] | None = None) -> list[str]:
    """Rows as aligned lines, with dim headings; styled cells count by what is seen of them."""
    table = [[click.style(h, dim=True) for h in headings], *rows] if headings else rows
    seen = [[len(click.unstyle(cell)) for cell in row] for row in table]
    widths = [max(column) for column in zip(*seen, strict=True)]
    return [
        "  ".join(
            cell + " " * (width - size)
            for cell, size, width in zip(row, sizes, widths, strict=True)
        ).rstrip()
        for row, sizes in zip(table, seen, strict=True)
    ]
