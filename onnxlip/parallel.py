"""Several blocks at once: as many threads as there are cores, one BLAS thread in each.

NumPy, SciPy and onnxruntime carry thread pools of their own that spin against each other: two
threads inside each product were up to forty times slower than one on a busy machine. So the
cores are shared between blocks, which are independent, and every product runs on one.
Results come in order and do not depend on how many threads there were.

Towards the end, or where memory holds others back, threads have no block to begin. These help with
what a running block offers to share (`shared`): loops whose turns are independent and as many and
as large as they are on one core, with results that are combined in order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import Context, ContextVar, copy_context
from threading import Condition, Thread
from typing import Any, Generic, TypeVar

__all__ = [
    "Progress",
    "cores",
    "give_back",
    "one_blas_thread",
    "one_heap",
    "shared",
    "side_by_side",
]

_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h

Progress = Callable[[int, int, str], None]
T = TypeVar("T")
R = TypeVar("R")

_WORTH = 1 << 23  # bytes from which on it takes less time to give them back than to fill them
_AHEAD = 2  # turns of one loop that are under way or not yet taken up: they all hold memory


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def give_back(freed: int = _WORTH) -> None:
    """Give what is free in this process's heap back to the system, where the C library can: blocks
    allocate and free arrays of all sizes, and peaks would add up over them.

    freed: bytes, roughly, that have been let go; few are not worth it.
    """
    if freed < _WORTH:
        return
    import ctypes

    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)


def one_heap() -> None:
    """From here on all threads of this process allocate from one heap, where the C library is
    glibc: with a heap each, all of them keep room for the largest of what they did."""
    import ctypes

    try:
        choose = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    choose(_ARENA_MAX, 1)


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


def shared(work: Callable[[T], R], turns: Sequence[T]) -> Iterator[R]:
    """work(turn) for all turns, in their order; threads of `side_by_side` that have nothing else
    to do take some of them. Anywhere else it is a plain loop.

    Turns may run at the same time, so none may read what another writes.
    """
    change = _CHANGE.get(None)
    if change is None or len(turns) < 2:
        yield from map(work, turns)
        return
    share = _Share(work, turns, change[0])
    with change[0]:
        change[1].append(share)
        change[0].notify_all()
    try:
        yield from share.results()
    finally:  # also where the caller has seen enough
        with change[0]:
            change[1].remove(share)
            share.end()


class _Share(Generic[T, R]):
    """One loop, and which of its turns have been taken."""

    def __init__(self, work: Callable[[T], R], turns: Sequence[T], change: Condition) -> None:
        self._work, self._turns, self._change = work, turns, change
        self._next = self._taken_up = self._running = 0
        self._done: dict[int, R] = {}
        self._error: BaseException | None = None
        self._context = copy_context()  # numpy keeps there what it does about overflow

    def claim(self) -> int | None:
        """A turn for who holds the lock and calls `run` next, or None."""
        k = self._next
        if k >= len(self._turns) or k >= self._taken_up + _AHEAD or self._error is not None:
            return None
        self._next += 1
        self._running += 1
        return k

    def run(self, k: int) -> None:
        """Without the lock. An error is kept for the loop's own thread."""
        context: Context = self._context.copy()
        error, result = None, []
        try:
            result.append(context.run(self._work, self._turns[k]))
        except BaseException as raised:
            error = raised
        with self._change:
            self._running -= 1
            if error is not None:
                self._error = self._error or error
            else:
                self._done[k] = result.pop()
            self._change.notify_all()

    def results(self) -> Iterator[R]:
        """In order, on the loop's own thread, which takes turns itself."""
        for k in range(len(self._turns)):
            yield self._result(k)

    def _result(self, k: int) -> R:
        while True:
            with self._change:
                turn = None
                while turn is None:
                    if self._error is not None:
                        raise self._error
                    if k in self._done:
                        self._taken_up = k + 1
                        self._change.notify_all()
                        return self._done.pop(k)
                    turn = self.claim()
                    if turn is None:
                        self._change.wait()
            self.run(turn)

    def end(self) -> None:
        """With the lock: nothing more is begun, and what runs is let end."""
        self._next = len(self._turns)
        while self._running:
            self._change.wait()


_CHANGE: ContextVar[tuple[Condition, list[_Share[Any, Any]]]] = ContextVar("crew")


class _Crew(Generic[T, R]):
    """Threads that take the next item that fits, or else help with one that runs."""

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
        self._shares: list[_Share[Any, Any]] = []

    def run(self) -> list[R]:
        count = max(1, min(cores(), _AHEAD * len(self._items)))
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
        _CHANGE.set((self._change, self._shares))
        while True:
            with self._change:
                k, offer = None, None
                while k is None and offer is None:
                    if self._error is not None or not (self._waiting or self._running):
                        return
                    k = self._next()
                    offer = self._offered() if k is None else None
                    if k is None and offer is None:
                        self._change.wait()
                if k is not None:
                    taken = min(self._needs[k], self._room)
                    self._waiting.remove(k)
                    self._free -= taken
                    self._running += 1
            if k is None:
                assert offer is not None
                offer[0].run(offer[1])
                continue
            try:
                result = self._work(self._items[k])
            except BaseException as error:
                with self._change:
                    self._error = self._error or error
                    self._running -= 1
                    self._change.notify_all()
                return
            with self._change:
                self._results[k] = result
                self._free += taken
                self._running -= 1
                self._change.notify_all()
                if self._progress is not None:
                    self._progress(len(self._results), len(self._items), self._name(self._items[k]))

    def _offered(self) -> tuple[_Share[Any, Any], int] | None:
        """A turn of a loop that runs."""
        for share in self._shares:
            turn = share.claim()
            if turn is not None:
                return share, turn
        return None

    def _next(self) -> int | None:
        fitting = (k for k in self._waiting if min(self._needs[k], self._room) <= self._free)
        alone = self._waiting[0] if self._waiting and not self._running else None
        return next(fitting, alone)
