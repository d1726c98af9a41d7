"""Several blocks at once: as many threads as there are cores, one BLAS thread in each.

NumPy, SciPy and onnxruntime carry thread pools of their own that spin against each other: two
threads inside each product were up to forty times slower than one on a busy machine. So the
cores are shared between blocks, which are independent, and every product runs on one.
Results come in order and do not depend on how many threads there were.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import TypeVar

__all__ = ["Progress", "cores", "side_by_side"]

Progress = Callable[[int, int, str], None]
T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def side_by_side(
    work: Callable[[T], R],
    items: Sequence[T],
    name: Callable[[T], str],
    progress: Progress | None = None,
    small: bool = False,
) -> Iterable[R]:
    """work(item) for all items, in order. progress(done, total, name) is called as each ends;
    the first error ends it all. small: the work is not worth any thread."""
    done, lock = 0, Lock()

    def one(item: T) -> R:
        nonlocal done
        result = work(item)
        with lock:
            done += 1
            if progress is not None:
                progress(done, len(items), name(item))
        return result

    if small:
        return list(map(one, items))
    from concurrent.futures import ThreadPoolExecutor

    import scipy.linalg  # noqa: F401 (only a BLAS that is loaded already can be limited)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        pool = ThreadPoolExecutor(max_workers=max(1, min(cores(), len(items))))
        try:
            return list(pool.map(one, items))
        finally:
            pool.shutdown(cancel_futures=True)
