"""The command line: measure, keep, write the page."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.paper import alexnet, cnn, ideal, mlp, page

__all__ = ["main"]

_EXPERIMENTS: dict[str, ModuleType] = {"ideal": ideal, "mlp": mlp, "cnn": cnn, "alexnet": alexnet}


@dataclass(frozen=True)
class Options:
    """What an experiment is told. cache: folder of models; data: digits other than ours."""

    name: str
    quick: bool
    data: Path | None
    cache: Path

    def tell(self, text: str) -> None:
        """Say on the terminal how far it is."""
        print(text, file=sys.stderr, flush=True)

    def keep(self, result: dict[str, Any]) -> None:
        """What has been measured so far, so that nothing is lost if a long run is ended."""
        if not self.quick:
            page.keep(self.name, result)


def main() -> None:
    """Parse, measure, write."""
    given = _arguments()
    for name in given.experiments or _EXPERIMENTS:
        options = Options(name, given.quick, given.data, given.cache)
        if given.page:
            continue
        result = _EXPERIMENTS[name].measure(options)
        options.keep(result)
        print(_EXPERIMENTS[name].part(result, None), flush=True)
    if not given.quick:
        print(page.written(_EXPERIMENTS))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.paper", description=__doc__)
    parser.add_argument("experiments", nargs="*", metavar="|".join(_EXPERIMENTS))
    parser.add_argument("--quick", action="store_true", help="a little of each; writes no page")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page")
    parser.add_argument("--data", type=Path, help=".npz with x (n, 28, 28) and y (n,)")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "onnxlip-benchmarks",
        help="folder for trained models",
    )
    given = parser.parse_args()
    unknown = set(given.experiments) - set(_EXPERIMENTS)
    if unknown:
        parser.error(f"unknown experiment '{unknown.pop()}': use {', '.join(_EXPERIMENTS)}")
    return given
