"""docs/paper.md, from what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.paper.tables import filled

__all__ = ["keep", "kept", "written"]

ROOT = Path(__file__).parents[2] / "docs"
FOLDER = ROOT / "paper"


def keep(name: str, result: dict[str, Any]) -> None:
    """One experiment's numbers, as JSON."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(_rounded(result), indent=1) + "\n")


def kept(name: str) -> dict[str, Any] | None:
    """The same, from an earlier run."""
    file = FOLDER / f"{name}.json"
    if not file.exists():
        return None
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def written(experiments: dict[str, ModuleType]) -> Path:
    """The page with all experiments that have been measured, and the figures."""
    results = {name: kept(name) for name in experiments}
    parts = [
        experiments[name].part(result, FOLDER)
        for name, result in results.items()
        if result is not None
    ]
    path = ROOT / "paper.md"
    path.write_text(_HEAD + "\n".join(filled(part) for part in parts))
    return path


def _rounded(value: Any) -> Any:
    """Eight digits say all that a table needs."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value


_HEAD = """\
# The paper's experiments, anew

Every experiment of Virmaux & Scaman, "Lipschitz regularity of deep neural networks: analysis and
efficient estimation" (NeurIPS 2018), from our own scripts and seeds, the paper's numbers beside
ours. `python -m benchmarks.paper` measures, keeps the numbers in `docs/paper/*.json`, and writes
this page and its figures from them (`--page` does only that).

Three kinds of figure are kept apart. *Certified*: products of Frobenius norms, AutoLip and
certified SeqLip are theorems, rounding included; the exact constant is exact but for rounding.
*Estimate*: SeqLip as published, whoever searches, is a local maximum of a maximisation, and bounds
nothing. *Attained*: lower bounds are quotients at two points that anybody can evaluate.

"""
