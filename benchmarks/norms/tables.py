"""The figures as markdown, the aims beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["AIMS", "networks", "profile", "singles"]

Result = Mapping[str, Any]

_TITLES = {"alexnet": "AlexNet", "resnet50": "ResNet-50", "vgg16": "VGG16"}
AIMS = {  # lower × faster, slack, bracket × faster, MiB
    "alexnet": (12, 1.01, 2, 700),
    "resnet50": (25, 1.025, 4, 350),
    "vgg16": (12, 1.02, 2, 1536),
}


def networks(results: Mapping[str, Result]) -> str:
    """results: by architecture {"authors", "lower", "bracket", "reference"} of one kind."""
    rows: dict[str, list[str]] = {}
    for name, r in results.items():
        for title, cell in _column(name, r).items():
            rows.setdefault(title, []).append(cell)
    return _table(["", *(_TITLES[name] for name in results)], [[k, *v] for k, v in rows.items()])


def _column(name: str, r: Result) -> dict[str, str]:
    faster, slack, faster_bracket, memory = AIMS[name]
    authors, lower, bracket = r["authors"], r["lower"], r["bracket"]
    best = _best(r)
    short = {k: 1 - v / best[k] for k, v in lower["lower"].items() if best[k] > 0}
    worst = max(short, key=lambda k: short[k])
    theirs = {k: v["value"] for k, v in authors["layers"].items() if k in best}
    # With BatchNormalization folded the maps differ, and only the products can be compared.
    missed = {k: 1 - v / best[k] for k, v in theirs.items()} if len(theirs) == len(best) else {}
    upper = 1.0
    for _, end in bracket["bracket"].values():
        upper *= end
    return {
        "lower ends": f"{lower['seconds']:.2f} s",
        "… faster than the authors (lower)": (
            f"{authors['seconds'] / lower['seconds']:.1f}× (≥ {faster}×)"
        ),
        "… within 1e-3": f"{sum(s <= 1e-3 for s in short.values())} of {len(short)}; "
        f"worst {short[worst]:.1e} ({worst})",
        "… peak memory (lower)": f"{lower['peak_mib']:.0f} MiB",
        "bracket, product of upper/lower": f"{bracket['slack']:.4f} (≤ {slack})",
        "… blocks with several inputs as one map": f"{bracket['blocks']:.4f}",
        "… time": f"{bracket['seconds']:.2f} s (and {bracket['read_s']:.2f} s to read)",
        "… faster than the authors (bracket)": f"{_ratio(authors, bracket)} (≥ {faster_bracket}×)",
        "… peak memory (bracket)": f"{bracket['peak_mib']:.0f} MiB (≤ {memory})",
        "authors' method": f"{authors['seconds']:.1f} s",
        "… within 1e-3 of its end after": f"{authors['seconds_to_1e-3']:.1f} s",
        "… peak memory (authors)": f"{authors['peak_mib']:.0f} MiB",
        "… its product / our upper": f"{authors['product'] / upper:.6g}",
        "… short of the norm by up to": f"{max(missed.values()):.1e}" if missed else "–",
        "cores that others took": ", ".join(
            f"{k} {r[k]['foreign']:.0%}" for k in ("lower", "bracket", "authors")
        ),
    }


def _ratio(authors: Result, ours: Result) -> str:
    return f"{authors['seconds'] / ours['seconds']:.1f}×"


def _best(r: Result) -> dict[str, float]:
    """The largest proved lower end of each map, of whatever origin."""
    found = dict(r["reference"]["reference"])
    for name, (low, _) in r["bracket"]["bracket"].items():
        found[name] = max(found.get(name, 0.0), low, r["lower"]["lower"][name])
    return found


def profile(rows: Sequence[Result], reference: Mapping[str, float]) -> str:
    """Per linear map, with the slack split into the two ends' parts."""
    body = []
    for row in rows:
        (low, high), true = row["bracket"], reference.get(row["name"], 0.0)
        true = max(true, low)
        below, above = (1 - low / true, high / true - 1) if true else (0.0, 0.0)
        body.append(
            [
                row["name"],
                row["kind"],
                f"{row['lower_s']:.2f}",
                f"{row['bracket_s']:.2f}",
                f"{true:.5g}",
                f"{below:.1e}",
                f"{above:.1e}",
                " / ".join(row["methods"]),
            ]
        )
    seconds = [sum(row[k] for row in rows) for k in ("lower_s", "bracket_s")]
    body.append(["total", "", f"{seconds[0]:.2f}", f"{seconds[1]:.2f}", "", "", "", ""])
    heads = [
        "map",
        "kind",
        "lower, CPU s",
        "bracket, CPU s",
        "norm",
        "short by",
        "over by",
        "methods",
    ]
    return _table(heads, body)


def singles(results: Mapping[str, Mapping[str, Result]]) -> str:
    """results: by layer, by method."""
    body = []
    for layer, methods in results.items():
        ours = methods["onnxlip"]
        for method, r in methods.items():
            if "value" in r:
                value, where = f"{r['value']:.6g}", _where(r["value"], ours)
            elif "upper" in r:
                value = f"[{r['lower']:.6g}, {r['upper']:.6g}]"
                where = f"proved, upper/lower − 1 = {r['upper'] / r['lower'] - 1:.1e}"
            else:
                value, where = "–", str(r.get("skipped") or r.get("failed"))
            took = f"{r['seconds']:.3f}" if "seconds" in r else ""
            peak = f"{r['peak_mib']:.0f}" if "seconds" in r else ""
            body.append([layer, method, value, where, took, peak])
    return _table(["layer", "method", "value", "", "seconds", "peak MiB"], body)


def _where(value: float, ours: Result) -> str:
    if value < ours["lower"]:
        return f"{1 - value / ours['lower']:.1e} below what is proved"
    if value > ours["upper"]:
        return f"{value / ours['upper'] - 1:.1e} above what is proved"
    return "within the bracket"


def _table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *body]
    return "\n".join("| " + " | ".join(cell for cell in line) + " |" for line in lines)
