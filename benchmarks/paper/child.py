"""One job in a process of its own, so that its seconds and its peak memory are its own.

    python -m benchmarks.paper.child '{"job": "alexnet", "model": "x.onnx", "vectors": 50}'

prints one line of JSON: what the job returned, and peak_mib, seconds, processor_s.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["JobError", "run"]

ROOT = Path(__file__).parents[2]


class JobError(Exception):
    """The job ended with an error or took too long."""


def run(job: str, timeout: float = 7200.0, **arguments: Any) -> dict[str, Any]:
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


def _peak_mib() -> float:
    """VmHWM belongs to this program alone; ru_maxrss may count what its parent held before."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def _call(job: str, arguments: dict[str, Any]) -> dict[str, Any]:
    if job == "build":
        from benchmarks.norms.architectures import build

        where = Path(arguments["cache"])
        return {"path": str(build("alexnet", arguments["kind"], arguments["seed"], where))}
    if job == "alexnet":
        from benchmarks.paper import alexnet

        return alexnet.job(**arguments)
    from benchmarks.paper import cnn

    return cnn.JOBS[job](**arguments)


def _main() -> None:
    arguments = json.loads(sys.argv[1])
    job = arguments.pop("job")
    start = time.perf_counter()
    result = _call(job, arguments)
    used = resource.getrusage(resource.RUSAGE_SELF)
    result |= {
        "peak_mib": _peak_mib(),
        "seconds": time.perf_counter() - start,
        "processor_s": used.ru_utime + used.ru_stime,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    _main()
