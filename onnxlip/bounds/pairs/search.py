"""Searches for the d that makes ‖outer diag(d) inner‖₂ large: estimates of the maximum from below.

**Sign power.** For unit vectors u, v and x_j = (outerᵀu)_j (inner v)_j,

    ‖outer diag(d) inner‖ ≥ uᵀ outer diag(d) inner v = Σ_j d_j x_j,

with equality at the top singular pair of d. So take that pair, then d_j ← β_j where x_j > 0 and
α_j elsewhere, the maximiser of the sum: neither step lowers the norm. It is the alternating
maximisation of a function that is convex in d, and it ends at a vertex of the box which depends on
where it began.

**One-flip polish.** At its end no flip gains to first order, but many do to second. `flips` ranks
all n of them by one set of singular vectors; norms confirm the best, alone or several together,
and sign power goes on from there.

**Starts.** All β; signs of x for the leading singular pairs at all β and at the middle of the box;
signs of x for random u, v, so that no numbering or scale of neurons plays any part. The best few
are polished, and the best of these is kicked (u, v with some noise) and climbs again.

**Greedy SeqLip** (Virmaux & Scaman 2018, Section 5) is kept as published, to compare with: d starts
at β, and the coordinate that raises the norm most is flipped until none does; a flip costs n norms.

None of these is a bound from above, whatever the search may be called elsewhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.pairs.flips import growth
from onnxlip.bounds.pairs.leading import Place, Sides, leading, reduced
from onnxlip.bounds.pairs.problem import Found, Pair

__all__ = ["estimate", "greedy", "sign_power"]

Floats = npt.NDArray[np.float64]

_GROWN = 1e-8  # relative growth of a norm that is not rounding
_TRIED = 6  # single flips that are given a norm before a place counts as the best around
_WHOLE = 512  # up to this lesser side the last decision is made with all triplets
_LEADING = 2  # pairs of a place that starts are made of
_SHARE = 8  # one of so many ends of sign power is polished, but two at least
_WORK = 1 << 22  # multiplications of one norm that all starts may take together, about
_LEAST, _MOST = 2, 32  # starts
_KICKS = (0.5, 1.0)  # noise relative to what the leading pair has
_FRUITLESS = 8  # kicks in a row that lead nowhere, after which there are no more
_EXACT = 1024  # up to this lesser side the value is an SVD's


class _Clock:
    """When to stop, and whether that was the reason; how many norms there have been."""

    def __init__(self, seconds: float | None) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds
        self.stopped = False
        self.norms = 0

    def is_over(self) -> bool:
        self.stopped = self.stopped or time.monotonic() >= self._end
        return self.stopped


def sign_power(pair: Pair, start: Floats, seconds: float | None = None) -> Found:
    """Sign power from `start` (n,), any point of the box; ends at a vertex, and no lower.

    steps: how many norms it took.
    """
    clock = _Clock(seconds)
    place = _ascended(_at(reduced(pair), np.asarray(start, np.float64), clock), clock)
    return _found(place, clock)


def estimate(
    pair: Pair, seed: int = 0, starts: int | None = None, seconds: float | None = None
) -> Found:
    """The best of several starts of sign power with one-flip polish.

    starts: how many, by default between 2 and 32, as the size allows; as many kicks of the best
    follow, or fewer where they lead nowhere. Deterministic in the seed unless `seconds` stop it
    (complete is False then). steps: how many norms it took.
    """
    clock, sides = _Clock(seconds), reduced(pair)
    first = _at(sides, pair.beta.copy(), clock)
    if not sides.lesser or not len(pair.free):
        return _found(first, clock)
    if starts is None:
        starts = max(_LEAST, min(_MOST, _WORK // (sides.left.size * sides.right.shape[1])))
    rng = np.random.default_rng(seed)
    places = [_ascended(first, clock)]
    middle = _at(sides, pair.centre, clock)
    for d in _starts(first, middle, rng, starts - 1):
        if clock.is_over():
            break
        places.append(_ascended(_at(sides, d, clock), clock))
    best = _polished_best(places, max(2, starts // _SHARE), clock)
    fruitless = 0
    for k in range(starts):
        if clock.is_over() or fruitless == _FRUITLESS:
            break
        kicked = best.moved(_kick(best, rng, _KICKS[k % len(_KICKS)]))
        clock.norms += 1
        after = _polished(_ascended(kicked, clock), clock)
        fruitless += 1
        if after.value > best.value * (1 + _GROWN):
            best, fruitless = after, 0
    return _found(_settled(best, clock), clock)


def greedy(pair: Pair, seconds: float | None = None) -> Found:
    """Greedy SeqLip as published: the best of n flips at a time, n SVDs each.

    complete: whether it ended by itself; if not, the value is that of the flips so far. steps: how
    many norms it took.
    """
    clock = _Clock(seconds)
    d = pair.beta.copy()
    value = pair.value(d)
    while True:
        chosen = -1
        for j in pair.free:
            if clock.is_over():
                return Found(value, d, clock.norms, complete=False)
            kept = d[j]
            d[j] = _other(pair, d)[j]
            tried = pair.value(d)
            clock.norms += 1
            if tried > value:
                value, chosen = tried, j
            d[j] = kept
        if chosen < 0:
            return Found(value, d, clock.norms)
        d[chosen] = _other(pair, d)[chosen]


def _other(pair: Pair | Sides, d: Floats) -> Floats:
    """Every slope at its other end."""
    return np.where(d == pair.beta, pair.alpha, pair.beta)


def _at(sides: Sides, d: Floats, clock: _Clock) -> Place:
    clock.norms += 1
    return Place.at(sides, d)


def _found(place: Place, clock: _Clock) -> Found:
    """With the norm computed anew, as the matrix has been through many small changes."""
    matrix = place.sides.matrix(place.d)
    if not matrix.size:
        value = 0.0
    elif place.sides.lesser <= _EXACT:
        value = float(np.linalg.norm(matrix, 2))
    else:
        value = float(leading(matrix, start=place.top.right).values[0])
    return Found(place.sides.scaled(value), place.d, clock.norms, complete=not clock.stopped)


def _ascended(place: Place, clock: _Clock) -> Place:
    """Sign power. The first step is taken in any case, as the start may be no vertex."""
    if not place.sides.lesser:
        return Place.at(
            place.sides, np.where(place.d == place.sides.alpha, place.d, place.sides.beta)
        )
    first = True
    while first or not clock.is_over():
        d = place.sides.best(place.top.left[:, 0], place.top.right[:, 0])
        if np.array_equal(d, place.d):
            break
        after = place.moved(d)
        clock.norms += 1
        grown = after.value > place.value * (1 + _GROWN)
        if not grown and not (first and not _is_vertex(place)):
            break
        place, first = after, False
    return place


def _is_vertex(place: Place) -> bool:
    sides = place.sides
    return bool(np.all((place.d == sides.alpha) | (place.d == sides.beta)))


def _polished(place: Place, clock: _Clock, whole: bool = False) -> Place:
    """Flips that raise the norm, as long as the ranking finds any; sign power after each.

    Flips are made several at a time while that goes well. whole: rank by all triplets.
    """
    together = 1
    while not clock.is_over():
        gains = growth(place, leading(place.matrix, place.sides.lesser) if whole else place.top)
        order = np.argsort(-gains, kind="stable")
        after, together = _best_flip(place, order, int((gains > 0).sum()), together, clock)
        if after is None:
            break
        place = _ascended(after, clock)
    return place


def _best_flip(
    place: Place, order: npt.NDArray[np.int64], hopeful: int, together: int, clock: _Clock
) -> tuple[Place | None, int]:
    """The first flips in this order that raise the norm, and how many to make at once next."""
    other = _other(place.sides, place.d)
    together = max(1, min(together, hopeful))
    groups: list[npt.NDArray[np.int64]] = []
    while together > 1:
        groups.append(order[:together])
        together //= 4
    singles = order[: max(_TRIED, min(hopeful, 2 * _TRIED))]
    for group in [*groups, *singles[:, None]]:
        if clock.is_over():
            break
        d = place.d.copy()
        d[group] = other[group]
        after = place.moved(d)
        clock.norms += 1
        if after.value > place.value * (1 + _GROWN):
            return after, 2 * len(group)
    return None, 1


def _polished_best(places: list[Place], count: int, clock: _Clock) -> Place:
    """The best after polish of the `count` that are best before."""
    places.sort(key=lambda place: -place.value)
    kept: list[Place] = []
    for place in places:
        if all(not np.array_equal(place.d, other.d) for other in kept):
            kept.append(place)
    done = [_polished(place, clock) for place in kept[:count]]
    return max(done, key=lambda place: place.value)


def _settled(place: Place, clock: _Clock) -> Place:
    """No single flip raises it further, as all triplets tell; where they are too many, as it is."""
    return _polished(place, clock, whole=True) if place.sides.lesser <= _WHOLE else place


def _starts(first: Place, middle: Place, rng: np.random.Generator, count: int) -> Iterator[Floats]:
    """Vertices to begin at: half of them at most by leading pairs, in both signs, then random."""
    sides = first.sides
    pairs = [
        (sign * place.top.left[:, k], place.top.right[:, k])
        for k in range(min(_LEADING, len(first.top.values)))
        for place in (first, middle)
        for sign in (1.0, -1.0)
    ][: count // 2]
    for u, v in pairs:
        yield sides.best(u, v)
    for _ in range(count - len(pairs)):
        u, v = (rng.standard_normal((side.shape[1],)) for side in (sides.left, sides.right))
        yield sides.best(u, v)


def _kick(place: Place, rng: np.random.Generator, size: float) -> Floats:
    """Signs by the leading pair and `size` times as much noise, in the spans of both sides."""
    sides, top = place.sides, place.top
    images = (sides.left @ top.left[:, 0], sides.right @ top.right[:, 0])
    x = np.ones_like(place.d)
    for image, side in zip(images, (sides.left, sides.right), strict=True):
        noise = side @ rng.standard_normal((side.shape[1],))
        scale = float(np.linalg.norm(image)) / max(float(np.linalg.norm(noise)), 1e-300)
        x *= image + size * scale * noise
    return np.where(x > 0, sides.beta, sides.alpha)
