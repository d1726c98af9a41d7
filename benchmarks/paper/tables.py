"""Numbers and tables as markdown."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

__all__ = ["filled", "number", "span", "table"]


def number(value: float | None, digits: int = 4) -> str:
    """With so many digits, without an exponent where that can be read."""
    if value is None:
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        places = digits - 1 - (math.floor(math.log10(abs(value))) if value else 0)
        return f"{value:.{max(0, places)}f}"
    mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def span(values: Sequence[float], digits: int = 3) -> str:
    """Median and, in brackets, least and greatest."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else sum(ordered[middle - 1 : middle + 1]) / 2
    ends = f"{number(ordered[0], digits)}–{number(ordered[-1], digits)}"
    return f"{number(median, digits)} ({ends})"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A markdown table; the first column on the left, numbers on the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def filled(page: str) -> str:
    """Paragraphs of prose in lines of 100 characters; tables, titles and figures as they are."""
    parts = [part.strip() for part in page.strip().split("\n\n")]
    return "\n\n".join(p if p[0] in "|#!" else textwrap.fill(p, 100) for p in parts) + "\n"
