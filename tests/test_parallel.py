"""Items side by side: results in order, memory never over-committed, errors and progress told."""

import threading
import time

import pytest

from onnxlip import parallel
from onnxlip.parallel import shared, side_by_side


class Gauge:
    """How much the running items hold together."""

    def __init__(self) -> None:
        self.now = self.most = self.alone_with = 0
        self.lock = threading.Lock()
        self.running = 0

    def work(self, need: int) -> int:
        with self.lock:
            self.now += need
            self.running += 1
            self.most = max(self.most, self.now)
            if need > 100:
                self.alone_with = max(self.alone_with, self.running)
        time.sleep(0.002)
        with self.lock:
            self.now -= need
            self.running -= 1
        return -need


@pytest.fixture(autouse=True)
def _four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 4)


@pytest.mark.parametrize("small", [True, False])
def test_results_come_in_the_order_of_the_items(small: bool) -> None:
    items = list(range(30))
    assert side_by_side(lambda k: k * k, items, str, small=small) == [k * k for k in items]
    assert side_by_side(lambda k: k, [], str, small=small) == []


def test_memory_is_never_given_twice() -> None:
    gauge, needs = Gauge(), [60, 50, 10, 40, 30, 90, 5, 5, 70, 20] * 3
    found = side_by_side(gauge.work, needs, str, needs=needs, room=100)
    assert found == [-need for need in needs]
    assert 50 <= gauge.most <= 100


def test_what_needs_more_than_all_runs_alone() -> None:
    gauge, needs = Gauge(), [10, 500, 10, 10, 300, 10]
    side_by_side(gauge.work, needs, str, needs=needs, room=100)
    assert gauge.alone_with == 1


def test_the_first_error_ends_it() -> None:
    begun = []

    def work(k: int) -> int:
        begun.append(k)
        if k == 3:
            raise ValueError("third")
        time.sleep(0.005)
        return k

    with pytest.raises(ValueError, match="third"):
        side_by_side(work, range(100), str)
    assert len(begun) < 20


def test_progress_counts_to_the_end_and_is_told_by_one_thread_at_a_time() -> None:
    told: list[tuple[int, int, str]] = []
    inside = threading.Lock()

    def progress(done: int, total: int, name: str) -> None:
        assert inside.acquire(blocking=False)
        told.append((done, total, name))
        inside.release()

    side_by_side(lambda k: k, range(40), str, progress)
    assert [done for done, _, _ in told] == list(range(1, 41))
    assert {total for _, total, _ in told} == {40}
    assert {name for _, _, name in told} == set(map(str, range(40)))


def test_idle_threads_take_turns_of_a_loop_and_results_keep_their_order() -> None:
    seen = set()

    def turn(j: int) -> int:
        seen.add(threading.get_ident())
        time.sleep(0.005)
        return j * j

    assert list(shared(turn, range(5))) == [0, 1, 4, 9, 16]
    assert len(seen) == 1
    found = side_by_side(lambda k: list(shared(turn, range(30))), [0], str)
    assert found == [[j * j for j in range(30)]]
    assert len(seen) > 2


def test_an_error_in_a_shared_turn_ends_the_loop_and_a_loop_may_end_early() -> None:
    def turn(j: int) -> int:
        if j == 7:
            raise ValueError("seventh")
        return j

    with pytest.raises(ValueError, match="seventh"):
        side_by_side(lambda k: list(shared(turn, range(20))), range(3), str)
    assert side_by_side(lambda k: next(shared(turn, range(5))), range(3), str) == [0, 0, 0]
