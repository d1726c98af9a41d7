"""Certified bounds beside published ones.

python -m benchmarks.lipsdp.facts FACTS.json FOLDER

FACTS.json: `networks_with_files`, a list of {"file": path below FOLDER, "lipsdp_neuron": …, other
published figures}. The files are not part of this project. Ours are proved, so from above.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.lipsdp.told import told

_NO_BOUNDS = ("file", "norm", "source", "exact", "exact_seqlip", "greedy_seqlip_of_that_repo")
_HEAD = (
    "network",
    "LipSDP, published",
    "LipSDP, ours",
    "ours/published − 1",
    "exact, published",
    "our best",
    "by",
    "least upper bound published",
    "our lower bound",
    "upper/lower",
    "s",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.lipsdp.facts", description=__doc__)
    parser.add_argument("facts", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    print(f"| {' | '.join(_HEAD)} |\n|{'---|' * len(_HEAD)}", flush=True)
    for row in json.loads(options.facts.read_text())["networks_with_files"]:
        report = told(options.folder / row["file"], "--lower", "portfolio")
        print(f"| {Path(row['file']).stem} | {' | '.join(_cells(row, report))} |", flush=True)


def _cells(row: dict[str, Any], report: dict[str, Any]) -> list[str]:
    if "why" in report:
        return [report["why"], *[""] * (len(_HEAD) - 2)]
    published = row["lipsdp_neuron"]
    ours = report["methods"].get("lipsdp-neuron", {}).get("value", float("nan"))
    uppers = [v for k, v in row.items() if k not in _NO_BOUNDS and k != "sampled_lower"]
    exact = row.get("exact", row.get("exact_seqlip"))
    upper, lower = report["upper"], report["lower"]["value"]
    return [
        f"{published:.7g}",
        f"{ours:.7g}",
        f"{ours / published - 1:+.1e}",
        f"{exact:.7g}" if exact else "",
        f"{upper['value']:.7g}",
        upper["method"],
        f"{min(uppers):.7g}",
        f"{lower:.7g}",
        f"{upper['value'] / lower:.4f}",
        f"{report['seconds']:.1f}",
    ]


if __name__ == "__main__":
    main()
