"""A table of every ONNX file in a folder: ops, certified bound or reason for none, slack, seconds.

python benchmarks/models.py FOLDER [--norm 2] [--markdown] [--json AFTER] [--before BEFORE]

The slack is upper/lower over the affine blocks: the product, and the largest of them. With
`--before`, the JSON file of an earlier run (of another version, say), both stand side by side.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from onnxlip import Analysis, OnnxlipError
from onnxlip.analysis import parse_norm

Row = dict[str, Any]


def describe(path: Path, norm: float) -> Row:
    """ops, seconds, and bound, blocks, slack, worst; or the reason for none."""
    start = time.perf_counter()
    analysis = Analysis(path, norm)
    row: Row = {"ops": "?"}
    try:
        counted = Counter(n.op_type for n in analysis.model.nodes).most_common(5)
        row["ops"] = " ".join(op for op, _ in counted)
        report = analysis.report()
    except OnnxlipError as error:
        row["refused"] = str(error).split(": ", 1)[-1]
        return row | {"seconds": time.perf_counter() - start}
    assert report.upper is not None
    slack = worst = 1.0
    for block in report.blocks:
        if block.lower:
            slack *= block.upper / block.lower
            worst = max(worst, block.upper / block.lower)
    row |= {"bound": report.upper.value, "blocks": len(report.blocks)}
    return row | {"slack": slack, "worst": worst, "seconds": time.perf_counter() - start}


def told(row: Row) -> list[str]:
    """bound, slack and worst block's slack, or what was refused and why."""
    if "refused" in row:
        return ["refused", row["refused"][:160], ""]
    return [f"{row['bound']:.6g}", f"×{row['slack']:.4g}", f"×{row['worst']:.4g}"]


def line(name: str, row: Row, before: Row | None, markdown: bool, width: int) -> str:
    bound, slack, worst = told(row)
    seconds = f"{row['seconds']:.2f}"
    cells = [name, row["ops"], bound, slack, worst, seconds]
    if before is not None:
        first = told(before)
        changed = "slack" in row and "slack" in before
        ratio = f"{row['bound'] / before['bound']:.4g}" if changed and before["bound"] else ""
        took = f"{before['seconds']:.2f}"
        cells = [name, first[0], bound, ratio, first[1], slack, first[2], worst, took, seconds]
    if markdown:
        return "| " + " | ".join(cells) + " |"
    return f"{name:{width}}  {bound:>12}  {seconds:>7} s  {slack[:110]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--norm", default="2", choices=["1", "2", "inf"])
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", type=Path, help="write all rows here as well")
    parser.add_argument("--before", type=Path, help="rows of an earlier run to compare with")
    options = parser.parse_args()
    files = sorted(options.folder.rglob("*.onnx"))
    names = [str(path.relative_to(options.folder)) for path in files]
    before = json.loads(options.before.read_text()) if options.before else {}
    width, rows = max(map(len, names), default=0), {}
    for name, path in zip(names, files, strict=True):
        row = rows[name] = describe(path, parse_norm(options.norm))
        print(line(name, row, before.get(name), options.markdown, width), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
