"""One job in a process of its own, so that its peak memory is its own.

    python -m benchmarks.norms.child '{"job": "authors", "model": "x.onnx"}'

prints one line of JSON: what the job returned, and peak_mib, wall_s, foreign: the part of all
cores that other processes used meanwhile (a figure above 0.1 makes seconds doubtful).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["JobError", "run", "wait_until_quiet"]

ROOT = Path(__file__).parents[2]


class JobError(Exception):
    """The job ended with an error or took too long."""


def run(job: str, timeout: float = 3600.0, **arguments: Any) -> dict[str, Any]:
    """The job's result. Raises JobError."""
    command = [sys.executable, "-m", __spec__.name, json.dumps({"job": job, **arguments})]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise JobError(f"> {timeout:.0f} s") from None
    if done.returncode:
        raise JobError((done.stderr.strip().splitlines() or ["no message"])[-1])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def wait_until_quiet(patience: float, window: float = 1.0, most: float = 0.1) -> None:
    """Until all processes use at most this part of the cores, or patience ends."""
    end = time.perf_counter() + patience
    while time.perf_counter() < end:
        before = _busy()
        time.sleep(window)
        after = _busy()
        if before is None or after is None or after - before < most * window * _cores():
            return


def _cores() -> int:
    return os.cpu_count() or 1


def _peak_mib() -> float:
    """VmHWM belongs to this program alone; ru_maxrss may count what its parent held before."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def _busy() -> float | None:
    """CPU seconds of all processes since the start, where Linux tells."""
    try:
        fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except OSError:
        return None
    return (sum(fields[:8]) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def _call(job: str, arguments: dict[str, Any]) -> dict[str, Any]:
    # Imports are part of a job's memory, so each job imports only what it needs.
    if job == "authors":
        from benchmarks.norms.authors import estimate

        return estimate(Path(arguments["model"]), seed=arguments["seed"])
    if job == "build":
        from benchmarks.norms.architectures import build

        where = Path(arguments["cache"])
        path = build(arguments["architecture"], arguments["kind"], arguments["seed"], where)
        return {"path": str(path)}
    if job.startswith("ours."):
        from benchmarks.norms import ours

        run_job = ours.JOBS[job.removeprefix("ours.")]
        return run_job(
            Path(arguments["model"]), arguments["seed"], arguments.get("tolerance", 0.01)
        )
    from benchmarks.norms import singles

    return singles.measure(job.removeprefix("single."), **arguments)


def _main() -> None:
    arguments = json.loads(sys.argv[1])
    job = arguments.pop("job")
    start, before, own = time.perf_counter(), _busy(), time.process_time()
    result = _call(job, arguments)
    wall, after = time.perf_counter() - start, _busy()
    foreign = 0.0
    if before is not None and after is not None:
        used = time.process_time() - own
        foreign = max(0.0, after - before - used) / (wall * _cores())
    result |= {"peak_mib": _peak_mib(), "wall_s": wall, "foreign": foreign}
    print(json.dumps(result))


if __name__ == "__main__":
    _main()
