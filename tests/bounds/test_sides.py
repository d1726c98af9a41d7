"""A pair whose sides are cut short: the bound holds for the whole pair."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from onnxlip.bounds.pairs.certified import certified
from onnxlip.bounds.pairs.problem import Pair
from onnxlip.bounds.sides import Side, cut_short, side
from onnxlip.linear import Matrix
from onnxlip.norms.factors import factors
from onnxlip.norms.workspace import Workspace
from onnxlip.registry import built_in

Floats = np.ndarray


def _split(m: Floats, after: bool, end: bool) -> Floats:
    """The exact side: U Σ̃ or V Σ̃."""
    u, s, vt = np.linalg.svd(m, full_matrices=False)
    return (u if after else vt.T) * (s if end else np.sqrt(s))


def _largest(outer: Floats, inner: Floats, alpha: Floats, beta: Floats) -> float:
    vertices = itertools.product(*zip(alpha, beta, strict=True))
    return max(float(np.linalg.norm((outer.T * np.array(d)) @ inner, 2)) for d in vertices)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ends", [(True, True), (True, False), (False, True), (False, False)])
def test_the_whole_pair_is_bounded(seed: int, ends: tuple[bool, bool]) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 8))
    maps = [rng.standard_normal((n, 5)) * 2.0, rng.standard_normal((4, n))]
    alpha = rng.choice([0.0, -0.2, 0.1], n)
    beta = rng.choice([1.0, 0.1, 1.3], n)
    work = Workspace(built_in().lowerings)
    kept = [None, 1, 2][seed % 3]
    below, above = (factors(Matrix(m[None]), kept, work) for m in maps)
    norms = [float(np.linalg.norm(m, 2)) * (1 + 1e-14) for m in maps]
    inner = side(below, norms[0], after=True, end=ends[0])
    outer = side(above, norms[1], after=False, end=ends[1])
    pair = Pair(outer.matrix.T, inner.matrix, alpha, beta)
    bound = cut_short(outer, inner, pair.largest, certified(pair).upper)
    truth = _largest(_split(maps[1], False, ends[1]), _split(maps[0], True, ends[0]), alpha, beta)
    assert truth * (1 - 1e-12) <= bound <= outer.whole * pair.largest * inner.whole * (1 + 1e-12)
    if kept is None:  # nothing was cut: no more than the certificate, but for rounding
        assert bound <= certified(pair).upper * (1 + 1e-6)


def test_what_is_cut_off_counts(rng: np.random.Generator) -> None:
    """Without its parts the bound of a cut pair would lie below the whole pair's maximum."""
    m = rng.standard_normal((6, 6))
    work = Workspace(built_in().lowerings)
    found = factors(Matrix(m[None]), 1, work)
    norm = float(np.linalg.norm(m, 2)) * (1 + 1e-14)
    inner, outer = (side(found, norm, after=a, end=True) for a in (True, False))
    pair = Pair(outer.matrix.T, inner.matrix, np.zeros(6), np.ones(6))
    cut = certified(pair).upper
    truth = _largest(_split(m, False, True), _split(m, True, True), pair.alpha, pair.beta)
    assert cut < truth <= cut_short(outer, inner, 1.0, cut)


def test_nothing_proved_leaves_the_product() -> None:
    unproved = Side(np.ones((2, 1)), (), 3.0)
    assert cut_short(unproved, unproved, 2.0, 1.0) == 18.0
    assert cut_short(Side(np.ones((2, 1)), (1.0, 0.0), 3.0), unproved, 2.0, math.inf) == 18.0
