"""LipSDP-Neuron by general solvers and by ours, in one run.

python -m benchmarks.lipsdp [--seconds 600] [--quick] [--only NAME]

Needs the extra `bench` (cvxpy, Clarabel, SCS). Random networks with spectral norms of 1, so that no
solver is put at a disadvantage by scaling. One thread for each, and seconds of the processor. A
general solver's are its own, without what cvxpy takes to hand the problem over; ours are all, with
closed forms to start from and the proof at the end.

A general solver's tolerance is not that of its value: where its value is off by more than 10⁻⁶ with
10⁻⁶ asked for, it runs again with 10⁻⁸.

A value that a general solver reports is not a bound: it may lie below the optimum. What its
multipliers prove, by our own proof, stands beside it.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
from collections.abc import Iterator, Sequence

from threadpoolctl import threadpool_limits

from benchmarks.lipsdp.cases import CASES, Case
from benchmarks.lipsdp.general import SOLVERS, Solved, solved
from onnxlip.bounds.sdp.closed import closed_forms
from onnxlip.bounds.sdp.interior import minimised
from onnxlip.bounds.sdp.proof import Certifier
from onnxlip.bounds.sdp.reduction import smaller
from onnxlip.bounds.sdp.system import System

__all__ = ["main"]

_TOLERANCE = 1e-6  # of the bound, relative
_ASKED = (1e-6, 1e-8)  # of general solvers, one after the other
_QUICK = 30.0
_HEAD = ("network", "solver", "s", "reported", "reported/ours", "proved", "proved/ours", "× ours")


def main() -> None:
    """Measure and print a table."""
    options = _options()
    seconds = min(options.seconds, _QUICK) if options.quick else options.seconds
    print(f"{platform.machine()}, {os.cpu_count()} cores, one thread, at most {seconds:.0f} s\n")
    print(f"| {' | '.join(_HEAD)} |\n|{'---|' * len(_HEAD)}", flush=True)
    with threadpool_limits(limits=1):
        for case in CASES:
            if (options.quick and case.large) or options.only not in case.name:
                continue
            for row in _rows(case, seconds, options.solvers):
                print(f"| {case.name} | {row} |", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.lipsdp", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="for one general solver")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK:.0f} s; small ones only")
    parser.add_argument("--only", default="", help="networks whose name holds this")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=SOLVERS)
    return parser.parse_args()


def _rows(case: Case, seconds: float, solvers: Sequence[str]) -> Iterator[str]:
    system, plain = case.make()
    proved, lower, took = _ours(system)
    yield f"onnxlip | {took:.3g} | ≥ {lower:.8g} | {lower / proved:.7f} | {proved:.8g} | 1 | 1"
    if case.general:
        for solver in solvers:
            for tolerance in _ASKED:
                found = solved(plain, solver, tolerance, seconds)
                yield _theirs(system, found, f"{solver}, {tolerance:g}", proved, took)
                if not abs(found.value / proved - 1) > _TOLERANCE or found.status != "optimal":
                    break


def _ours(system: System) -> tuple[float, float, float]:
    """(proved bound, what no multipliers are below in floating point, seconds)."""
    start = time.process_time()
    small, _ = smaller(system)
    forms = closed_forms(small).values()
    first = min(forms, key=lambda form: form.rho)
    found = minimised(small, first.multipliers, 2 * _TOLERANCE)
    assert found is not None
    value = Certifier(small).proved(found.multipliers, found.rho)
    return value, math.sqrt(max(found.lower, 0.0)), time.process_time() - start


def _theirs(system: System, found: Solved, name: str, ours: float, took: float) -> str:
    proved = Certifier(system).proved(found.multipliers) if found.value > 0 else math.inf
    cells = (
        f"{name}, {found.status}",
        f"{found.seconds:.3g}",
        f"{found.value:.8g}",
        f"{found.value / ours:.7f}",
        f"{proved:.8g}",
        f"{proved / ours:.7f}",
        f"{found.seconds / took:.3g}",
    )
    return " | ".join(cells)


if __name__ == "__main__":
    main()
