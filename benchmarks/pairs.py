"""The pair problem of SeqLip: the authors' Greedy SeqLip against `estimate`, in one run.

python -m benchmarks.pairs [--quick] [--seconds 1200]

Both maximise ‖outer diag(d) inner‖₂ over d ∈ [0, 1]^n and give estimates from below: the larger the
better. The greedy is written as published (`onnxlip.bounds.pairs.search.greedy`): n SVDs for each
flip. It is stopped after so many seconds; its time is then a lower bound, and its value is what its
flips had reached. One BLAS thread for both. `estimate` runs before and after it, and the slower run
counts.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from onnxlip.bounds.pairs.problem import Found, Pair
from onnxlip.bounds.pairs.search import estimate, greedy

__all__ = ["main"]

_EXPONENT = 0.7  # singular values of a trained-like layer fall like i^−0.7
_CASES = (  # kind, p, n, q, whether the greedy can end within minutes
    ("random", 100, 100, 100, True),
    ("power-law", 100, 100, 100, True),
    ("random", 256, 256, 256, True),
    ("power-law", 256, 256, 256, True),
    ("random", 1000, 1000, 1000, False),
    ("random", 512, 4096, 512, False),
    ("power-law", 512, 4096, 512, False),
)
_SHORT = 30.0  # seconds for a greedy that cannot end
_HEAD = (
    "pair",
    "p × n × q",
    "greedy",
    "s",
    "flips tried",
    "estimate",
    "s",
    "value ratio",
    "time ratio",
)


def main() -> None:
    """Measure and print a table."""
    options = _options()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, one thread of BLAS, seed {options.seed}\n"
    )
    print(f"| {' | '.join(_HEAD)} |\n|{'---|' * len(_HEAD)}", flush=True)
    with threadpool_limits(limits=1, user_api="blas"):
        for kind, p, n, q, ends in _CASES:
            limit = options.seconds if ends and not options.quick else _SHORT
            pair = _pair(kind, p, n, q, np.random.default_rng(options.seed))
            print(f"| {kind} | {p} × {n} × {q} | {_row(pair, limit)} |", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.pairs", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1200.0, help="for one greedy")
    parser.add_argument("--quick", action="store_true", help=f"{_SHORT:.0f} s for every greedy")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _pair(kind: str, p: int, n: int, q: int, rng: np.random.Generator) -> Pair:
    """Gaussian sides, or the factors Σ Vᵀ and U Σ of layers with Σ_i = i^−0.7, U and V random."""
    outer, inner = rng.standard_normal((p, n)), rng.standard_normal((n, q))
    if kind == "power-law":
        outer = np.arange(1.0, p + 1)[:, None] ** -_EXPONENT * np.linalg.qr(outer.T)[0].T
        inner = np.linalg.qr(inner)[0] * np.arange(1.0, q + 1) ** -_EXPONENT
    return Pair(outer, inner, np.zeros(n), np.ones(n))


def _row(pair: Pair, limit: float) -> str:
    ours, before = _timed(lambda: estimate(pair))
    theirs, long = _timed(lambda: greedy(pair, seconds=limit))
    _, after = _timed(lambda: estimate(pair))
    short = max(before, after)
    at_least = "" if theirs.complete else "≥ "
    cells = (
        f"{theirs.value:.6g}" + ("" if theirs.complete else " (not finished)"),
        f"{at_least}{long:.3g}",
        f"{theirs.steps}",
        f"{ours.value:.6g}",
        f"{short:.3g}",
        f"{ours.value / theirs.value:.5f}",
        f"{at_least}{long / short:.3g}",
    )
    return " | ".join(cells)


def _timed(work: Callable[[], Found]) -> tuple[Found, float]:
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start


if __name__ == "__main__":
    main()
