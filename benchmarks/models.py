"""A table of every ONNX file in a folder: ops, certified bound or reason for none, seconds.

python benchmarks/models.py FOLDER [--norm 2] [--markdown]
"""

import argparse
import time
from collections import Counter
from pathlib import Path

from onnxlip import Analysis, OnnxlipError
from onnxlip.analysis import parse_norm


def describe(path: Path, norm: float) -> tuple[str, str, str, float]:
    """(ops, bound, product of the affine brackets' slack or the reason, seconds)."""
    start = time.perf_counter()
    analysis = Analysis(path, norm)
    ops = "?"
    try:
        ops = " ".join(
            k for k, _ in Counter(n.op_type for n in analysis.model.nodes).most_common(5)
        )
        report = analysis.report()
    except OnnxlipError as error:
        return ops, "refused", str(error).split(": ", 1)[-1], time.perf_counter() - start
    assert report.upper is not None
    slack = 1.0
    for block in report.blocks:
        if block.lower:
            slack *= block.upper / block.lower
    seconds = time.perf_counter() - start
    return (
        ops,
        f"{report.upper.value:.6g}",
        f"{len(report.blocks)} blocks, slack ×{slack:.4g}",
        seconds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--norm", default="2", choices=["1", "2", "inf"])
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    files = sorted(options.folder.rglob("*.onnx"))
    width = max((len(str(f.relative_to(options.folder))) for f in files), default=0)
    for path in files:
        name = str(path.relative_to(options.folder))
        ops, bound, told, seconds = describe(path, parse_norm(options.norm))
        if options.markdown:
            print(f"| {name} | {ops} | {bound} | {told[:160]} | {seconds:.2f} |", flush=True)
        else:
            print(f"{name:{width}}  {bound:>12}  {seconds:7.2f} s  {told[:110]}", flush=True)


if __name__ == "__main__":
    main()
