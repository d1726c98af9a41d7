"""Everything side by side in one run, every figure from a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.norms import tables
from benchmarks.norms.child import JobError, run, wait_until_quiet

__all__ = ["main"]

_ARCHITECTURES = ("alexnet", "resnet50", "vgg16")
_KINDS = ("random", "power-law")
_QUIET = 0.1  # part of the cores that others may take


def main() -> None:
    """Parse, measure, print."""
    options = _options()
    options.cache.mkdir(parents=True, exist_ok=True)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    if options.singles:
        _singles()
        return
    for kind in options.kinds:
        results = {}
        for architecture in options.only:
            path = _model(architecture, kind, options)
            results[architecture] = _measure(path, options)
        print(f"### {kind} weights\n\n{tables.networks(results)}\n", flush=True)
        if options.profile:
            for architecture in options.only:
                path = _model(architecture, kind, options)
                _tell(f"{path.stem}: profile")
                rows = run("ours.profile", model=str(path), seed=options.seed)["rows"]
                known = results[architecture]["reference"]["reference"]
                print(f"#### {path.stem}\n\n{tables.profile(rows, known)}\n", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.norms", description=__doc__)
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "onnxlip-benchmarks",
        help="folder for models (1.8 GB in all) and reference norms",
    )
    parser.add_argument("--only", nargs="+", choices=_ARCHITECTURES, default=_ARCHITECTURES)
    parser.add_argument("--kinds", nargs="+", choices=_KINDS, default=_KINDS)
    parser.add_argument("--runs", type=int, default=1, help="the fastest of so many, taken in turn")
    parser.add_argument(
        "--attempts", type=int, default=3, help="at a job, while others take the cores"
    )
    parser.add_argument(
        "--patience", type=float, default=60.0, help="seconds to wait for others to become quiet"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="also every linear map by itself")
    parser.add_argument(
        "--quick", action="store_true", help="no long reference runs: norms as the bracket has them"
    )
    parser.add_argument("--singles", action="store_true", help="single layers, against libraries")
    return parser.parse_args()


def _model(architecture: str, kind: str, options: argparse.Namespace) -> Path:
    built = run(
        "build", architecture=architecture, kind=kind, seed=options.seed, cache=str(options.cache)
    )
    return Path(built["path"])


def _measure(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    jobs = ("lower", "bracket", "authors")
    found: dict[str, list[dict[str, Any]]] = {job: [] for job in jobs}
    for _ in range(options.runs):
        for job in jobs:
            _tell(f"{path.stem}: {job}")
            name = job if job == "authors" else f"ours.{job}"
            found[job] += _undisturbed(name, path, options)
    result: dict[str, Any] = {job: _least(rows) for job, rows in found.items()}
    return result | {"reference": _reference(path, options)}


def _undisturbed(name: str, path: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs of one job until others leave it the machine, or attempts end."""
    rows: list[dict[str, Any]] = []
    while len(rows) < options.attempts:
        wait_until_quiet(options.patience)
        aim = tables.AIMS[path.stem.split("-")[0]][1] - 1
        rows.append(run(name, model=str(path), seed=options.seed, tolerance=aim))
        if rows[-1]["foreign"] < _QUIET:
            break
    return rows


def _least(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest run: what others do to a shared machine only adds to the seconds."""
    return min(rows, key=lambda row: row["seconds"])


def _reference(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    kept = path.with_suffix(".reference.json")
    if options.quick and not kept.exists():
        return {"reference": {}}
    if not kept.exists():
        _tell(f"{path.stem}: reference")
        kept.write_text(json.dumps(run("ours.reference", model=str(path), seed=options.seed)))
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def _singles() -> None:
    from benchmarks.norms.singles import LAYERS, METHODS

    results: dict[str, dict[str, dict[str, Any]]] = {}
    for layer, what in LAYERS.items():
        results[layer] = {}
        for method in METHODS:
            if method.startswith("flattened") and len(what.shape) == 2:
                continue
            _tell(f"{layer}: {method}")
            try:
                results[layer][method] = run(f"single.{method}", timeout=180.0, layer=layer)
            except JobError as error:
                results[layer][method] = {"failed": str(error)}
    print(tables.singles(results))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
