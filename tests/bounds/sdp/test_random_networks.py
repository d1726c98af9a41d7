"""No bound of a random network is exceeded, by quotients at points or by free patterns.

`python -m tests.random_graphs.bounds 0 10000` looks at more networks than a test has the time for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from onnxlip.bounds.sdp.build import layered
from tests.random_graphs.bounds import Outcome, check
from tests.random_graphs.patterns import jacobian, largest_pattern

CHUNK, COUNT = 6, 30


@cache
def outcome(seed: int) -> Outcome:
    return check(seed)


@pytest.mark.parametrize("first", range(0, COUNT, CHUNK))
def test_no_bound_is_exceeded(first: int) -> None:
    for seed in range(first, first + CHUNK):
        assert not outcome(seed).exceeding, f"seed {seed}: {outcome(seed).exceeding[0]}"


def test_bounds_are_come_near() -> None:
    """Else the law above would say nothing."""
    found = [o for o in map(outcome, range(COUNT)) if o.free > 0 and "LipSDP" in o.bounds]
    assert len(found) > 0.8 * COUNT
    assert np.median([o.free / o.bounds["LipSDP"] for o in found]) > 0.98
    assert max(o.attained / min(o.bounds.values()) for o in found) > 0.999
    assert {"Slopes", "Windows", "Gain"} == set().union(*(o.kinds for o in found))


def test_one_that_is_too_low_is_noticed() -> None:
    """Three percent below LipSDP, that is."""
    wrong = [too_low(o) for o in map(outcome, range(COUNT)) if "LipSDP" in o.bounds and o.free > 0]
    assert np.mean([bool(o.exceeding) for o in wrong]) > 0.5


def too_low(o: Outcome) -> Outcome:
    return replace(o, bounds={"LipSDP": 0.97 * o.bounds["LipSDP"]}, blind=frozenset({"LipSDP"}))


def patterns(n: int) -> Iterator[np.ndarray]:
    for k in range(2**n):
        yield np.array([float(k >> i & 1) for i in range(n)])


def test_patterns_are_sought_well(rng: np.random.Generator) -> None:
    """Against all of them, where they can be counted."""
    for _ in range(5):
        sizes = [(4, 3), (3, 4), (2, 3)]
        system = layered([rng.standard_normal(s) for s in sizes])
        best = max(
            np.linalg.norm(jacobian(system, [np.diag(d), np.diag(e)]), 2)
            for d in patterns(4)
            for e in patterns(3)
        )
        assert 0.95 * best <= largest_pattern(system, 6, rng) <= best * (1 + 1e-12)
