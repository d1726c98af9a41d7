"""The plots, as SVG that is the same for the same numbers (no date, no random ids)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper.published import IDEAL, MLP

__all__ = ["by_depth", "ideal"]

_OURS, _OTHER, _PAPER, _LIMIT = "#1f5fa8", "#7aa6d6", "#c0392b", "#777777"


def _axes(count: int) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "onnxlip", "font.size": 9, "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, count, figsize=(3.4 * count, 3.1), squeeze=False, sharey=True)
    for ax in axes[0]:
        ax.set_yscale("log")
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes[0]


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    text = path.read_text()  # matplotlib leaves blanks at ends of lines
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")
    from matplotlib import pyplot as plt

    plt.close(figure)


def ideal(result: dict[str, Any], path: Path) -> None:
    """SeqLip/AutoLip against depth, one panel for each r."""
    depths = np.array(result["depths"])
    figure, axes = _axes(len(result["ratios"]))
    for ax, (r, kinds) in zip(axes, result["ratios"].items(), strict=True):
        for key, colour, label in (
            ("code, less one", _OURS, "ours, x − 1 pairs, Σ^½ at the ends"),
            ("paper", _OTHER, "ours, all x pairs"),
        ):
            values = np.array(kinds[key])
            low, high = np.quantile(values, (0.1, 0.9), axis=0)
            ax.fill_between(depths, low, high, color=colour, alpha=0.25, linewidth=0)
            ax.plot(depths, values.mean(axis=0), color=colour, label=label)
        published = IDEAL[float(r)][: len(depths)]
        ax.plot(depths, published, "o", color=_PAPER, markersize=3.5, label="paper")
        limit = [math.pi ** -(x - 1) for x in depths]
        ax.plot(depths, limit, "--", color=_LIMIT, linewidth=1, label="π^−(x−1)")
        ax.set_title(f"r = {r}")
        ax.set_xlabel("hidden layers x")
    axes[0].set_ylabel("SeqLip / AutoLip")
    axes[0].legend(fontsize=7, frameon=False)
    _save(figure, path)


def by_depth(ours: dict[int, dict[str, float]], path: Path) -> None:
    """Bounds of the 2-D networks against depth: ours and the paper's, each over its own best
    figure from below (ours: the exact constant)."""
    figure, axes = _axes(2)
    published = {
        k: {**v, "exact": max(v["data"], v["annealing"], v["grid"])} for k, v in MLP.items()
    }
    names = {
        "frobenius": ("Frobenius", "#777777"),
        "autolip": ("AutoLip", "#c0392b"),
        "seqlip": ("SeqLip", "#1f5fa8"),
        "grid": ("grid", "#27825a"),
        "annealing": ("annealing", "#8e6bbf"),
        "data": ("data", "#d08a1d"),
    }
    for ax, rows, title in (
        (axes[0], ours, "ours, over the exact constant"),
        (axes[1], published, "paper, over its best lower bound"),
    ):
        for key, (label, colour) in names.items():
            values = [row[key] / row["exact"] for row in rows.values()]
            ax.plot(list(rows), values, "o-", color=colour, markersize=3.5, label=label)
        ax.set_title(title)
        ax.set_xlabel("layers")
    axes[0].legend(fontsize=7, frameon=False)
    _save(figure, path)
