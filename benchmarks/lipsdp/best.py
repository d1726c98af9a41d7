"""The best bound of every file within a time.

python -m benchmarks.lipsdp.best [--seconds 60] [--lower quick] FILE …
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.lipsdp.told import told

_HEAD = ("network", "AutoLip", "best", "by", "AutoLip/best", "lower", "upper/lower", "s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.lipsdp.best", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--seconds", default="60", help="budget of each; 'none': the default one")
    parser.add_argument("--lower", default="quick")
    options = parser.parse_args()
    budget = [] if options.seconds == "none" else ["--timeout", options.seconds]
    print(f"| {' | '.join(_HEAD)} |\n|{'---|' * len(_HEAD)}", flush=True)
    for path in options.files:
        row = _row(path, [*budget, "--lower", options.lower])
        print(f"| {path.stem} | {' | '.join(row)} |", flush=True)


def _row(path: Path, options: list[str]) -> list[str]:
    report = told(path, *options)
    if "why" in report:
        return [report["why"], *[""] * (len(_HEAD) - 2)]
    autolip, upper = report["methods"]["autolip"]["value"], report["upper"]
    lower = (report["lower"] or {}).get("value")
    return [
        f"{autolip:.6g}",
        f"{upper['value']:.6g}",
        upper["method"],
        f"{autolip / upper['value']:.4g}",
        f"{lower:.6g}" if lower else "",
        f"{upper['value'] / lower:.4f}" if lower else "",
        f"{report['seconds']:.1f}",
    ]


if __name__ == "__main__":
    main()
