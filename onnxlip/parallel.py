"""Several blocks at once: as many threads as there are cores, one BLAS thread in each.

NumPy, SciPy and onnxruntime carry thread pools of their own that spin against each other: two
threads inside each product were up to forty times slower than one on a busy machine. So the
cores are shared between blocks, which are independent, and every product runs on one.
Results come in order and do not depend on how many threads there were.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from threading import Condition, Thread
from typing import Generic, TypeVar

__all__ = ["Progress", "cores", "give_back", "one_blas_thread", "side_by_side"]

Progress = Callable[[int, int, str], None]
T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def give_back() -> None:
    """Give what is free in this process's heap back to the system, where the C library can: blocks
    allocate and free arrays of all sizes, and peaks would add up over them."""
    import ctypes

    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)


def one_blas_thread() -> AbstractContextManager[object]:
    """For as long as it lasts, products of small matrices do not wait for threads that spin."""
    import scipy.linalg  # noqa: F401 (only a BLAS that is loaded already can be limited)
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits


def side_by_side(
    work: Callable[[T], R],
    items: Sequence[T],
    name: Callable[[T], str],
    progress: Progress | None = None,
    small: bool = False,
    needs: Sequence[int] = (),
    room: int | None = None,
) -> list[R]:
    """work(item) for all items; results in their order. progress(done, total, name) is called as
    each ends; the first error ends it all. small: the work is not worth any thread.

    needs: bytes that each item takes. Items are begun in their order, but one that does not fit
    into what the running ones leave of `room` lets those after it pass; one that needs more than
    all of it runs alone.
    """
    if small:
        return [
            _told(work, item, k + 1, len(items), name, progress) for k, item in enumerate(items)
        ]
    with one_blas_thread():
        return _Crew(work, items, name, progress, needs, room).run()


def _told(
    work: Callable[[T], R],
    item: T,
    done: int,
    total: int,
    name: Callable[[T], str],
    progress: Progress | None,
) -> R:
    result = work(item)
    if progress is not None:
        progress(done, total, name(item))
    return result


class _Crew(Generic[T, R]):
    """Threads that take the next item that fits."""

    def __init__(
        self,
        work: Callable[[T], R],
        items: Sequence[T],
        name: Callable[[T], str],
        progress: Progress | None,
        needs: Sequence[int],
        room: int | None,
    ) -> None:
        self._work, self._items, self._name, self._progress = work, items, name, progress
        self._needs = list(needs) or [0] * len(items)
        self._free = self._room = room if room is not None else sum(self._needs)
        self._waiting = list(range(len(items)))
        self._running = 0
        self._results: dict[int, R] = {}
        self._error: BaseException | None = None
        self._change = Condition()

    def run(self) -> list[R]:
        count = max(1, min(cores(), len(self._items)))
        crew = [Thread(target=self._serve, daemon=True) for _ in range(count)]
        for thread in crew:
            thread.start()
        try:
            for thread in crew:
                thread.join()
        except BaseException as error:  # Ctrl-C: what runs is let end, nothing more is begun
            with self._change:
                self._error = error
                self._change.notify_all()
            raise
        if self._error is not None:
            raise self._error
        return [self._results[k] for k in range(len(self._items))]

    def _serve(self) -> None:
        while True:
            with self._change:
                k = self._next()
                while k is None and self._waiting and self._error is None:
                    self._change.wait()
                    k = self._next()
                if k is None or self._error is not None:
                    return
                taken = min(self._needs[k], self._room)
                self._waiting.remove(k)
                self._free -= taken
                self._running += 1
            try:
                result = self._work(self._items[k])
            except BaseException as error:
                with self._change:
                    self._error = self._error or error
                    self._change.notify_all()
                return
            with self._change:
                self._results[k] = result
                self._free += taken
                self._running -= 1
                self._change.notify_all()
                if self._progress is not None:
                    self._progress(len(self._results), len(self._items), self._name(self._items[k]))

    def _next(self) -> int | None:
        fitting = (k for k in self._waiting if min(self._needs[k], self._room) <= self._free)
        alone = self._waiting[0] if self._waiting and not self._running else None
        return next(fitting, alone)
