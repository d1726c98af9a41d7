"""Pairs through max-pools: choices of entries and slopes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxlip.bounds.pairs.picking import PickedPair, picked_estimate


def _brute_force(pair: PickedPair) -> float:
    windows, k = pair.picks.shape
    options = [
        [
            (c, s)
            for c in range(k)
            if pair.picks[w, c] >= 0
            for s in (pair.alpha[w, c], pair.beta[w, c])
        ]
        or [(0, 0.0)]
        for w in range(windows)
    ]
    best = 0.0
    for chosen in itertools.product(*options):
        picks, slopes = (np.array(x) for x in zip(*chosen, strict=True))
        best = max(best, float(np.linalg.norm(pair.at(picks, slopes), 2)))
    return best


def _random(rng: np.random.Generator) -> PickedPair:
    picks = np.array([[0, 1, -1], [1, 2, 3], [3, 4, -1], [-1, -1, -1]])
    shape = picks.shape
    return PickedPair(
        rng.standard_normal((3, 4)),
        rng.standard_normal((5, 2)),
        picks,
        rng.choice([0.0, -0.1, 0.2], shape),
        rng.choice([1.0, 0.2, 1.1], shape),
    )


def test_estimates_are_attained_and_mostly_the_maximum() -> None:
    hits = 0
    for seed in range(40):
        pair = _random(np.random.default_rng(seed))
        found, best = picked_estimate(pair, seed), _brute_force(pair)
        assert found <= best * (1 + 1e-12)
        hits += found >= best * (1 - 1e-9)
    assert hits >= 36


def test_windows_of_one_are_a_plain_pair(rng: np.random.Generator) -> None:
    outer, inner = rng.standard_normal((3, 6)), rng.standard_normal((6, 3))
    pair = PickedPair(outer, inner, np.arange(6)[:, None], np.zeros((6, 1)), np.ones((6, 1)))
    best = max(
        float(np.linalg.norm((outer * np.array(d)) @ inner, 2))
        for d in itertools.product((0.0, 1.0), repeat=6)
    )
    assert picked_estimate(pair) == pytest.approx(best, rel=1e-9)


def test_nothing_to_pick() -> None:
    empty = np.zeros((0, 1))
    assert (
        picked_estimate(
            PickedPair(np.zeros((2, 0)), np.zeros((3, 2)), empty.astype(int), empty, empty)
        )
        == 0
    )
