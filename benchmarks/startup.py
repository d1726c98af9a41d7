"""Start-up: `onnxlip` on a small model against importing onnx and onnxruntime, in one run.

python benchmarks/startup.py [MODEL] [--runs 9]
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

SMALL = Path(__file__).parent.parent / "fixtures" / "models" / "mlp_relu.onnx"


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", default=SMALL)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    ours = [sys.executable, "-m", "onnxlip", str(options.model)]
    base = [sys.executable, "-c", "import onnx, onnxruntime"]
    pairs = [(seconds(ours), seconds(base)) for _ in range(options.runs + 1)][1:]
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"onnxlip {options.model.name}: {a:.3f} s; import onnx, onnxruntime: {b:.3f} s")
    print(f"ratio {statistics.median(x / y for x, y in pairs):.2f} (aim: at most 2)")


if __name__ == "__main__":
    main()
