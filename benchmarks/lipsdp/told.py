"""What `onnxlip` says of a file, from a process of its own: the report as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["told"]


def told(path: Path, *options: str) -> dict[str, Any]:
    """The report, or {"why": reason} where there is none."""
    command = [sys.executable, "-m", "onnxlip", str(path), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        return {"why": (done.stderr.strip().splitlines() or ["no report"])[-1]}
    return report if report.get("upper") else {"why": "no bound"}
