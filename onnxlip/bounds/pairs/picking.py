"""The pair problem through a max-pool: which entry each window hands on is chosen as well.

Between two affine maps lie slopes and windows: output w is d_w times one of the entries j of its
window, d_w in the slope interval there. The pair is then

    max ‖Σ_w d_w a_w b_{j(w)}ᵀ‖₂   over j(w) ∈ window w and d_w ∈ [α_{w,j}, β_{w,j}],

a_w the columns of `outer` and b_j the rows of `inner`. Its relaxation over convex combinations is
convex, so that a vertex is best again, and sign power finds local maxima: with (u, v) the top
singular pair, every window takes the (j, d) with the largest d (outerᵀu)_w (inner v)_j. The
paper's SeqLip stops at pools; this is an estimate that does not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.pairs.leading import leading

__all__ = ["PickedPair", "picked_estimate"]

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

_ROUNDS = 200
_GROWN = 1e-9


@dataclass(frozen=True, eq=False)
class PickedPair:
    """outer: (p, windows); inner: (n, q); picks: (windows, k) rows of `inner`, −1 where there are
    fewer; alpha, beta: (windows, k), the slope interval of every pick."""

    outer: Floats
    inner: Floats
    picks: Places
    alpha: Floats
    beta: Floats

    def at(self, chosen: Places, slopes: Floats) -> Floats:
        """The matrix where window w hands on pick `chosen[w]` with slope `slopes[w]`."""
        rows = np.take_along_axis(self.picks, chosen[:, None], 1)[:, 0]
        return np.asarray((self.outer * slopes) @ self.inner[rows])


def picked_estimate(
    pair: PickedPair, seed: int = 0, starts: int = 6, seconds: float | None = None
) -> float:
    """A local maximum, the best of some starts; an estimate of the maximum from below.

    seconds: after so long no further start is tried, and the last one ends where it is.
    """
    if not pair.outer.size or not pair.inner.size or not pair.picks.size:
        return 0.0
    end = math.inf if seconds is None else time.monotonic() + seconds
    rng = np.random.default_rng(seed)
    best = 0.0
    for start in _starts(pair, rng, starts):
        best = max(best, _ascended(pair, *start, end))
        if time.monotonic() > end:
            break
    return best


def _starts(
    pair: PickedPair, rng: np.random.Generator, count: int
) -> Iterator[tuple[Places, Floats]]:
    """From single directions on both sides, the leading ones first: what each would choose."""
    for k in range(count):
        if k < min(count - 2, pair.outer.shape[0], pair.inner.shape[1]):
            yield _best(pair, pair.outer[k], pair.inner[:, k])
        else:
            u = rng.standard_normal(pair.outer.shape[0])
            v = rng.standard_normal(pair.inner.shape[1])
            yield _best(pair, u @ pair.outer, pair.inner @ v)


def _ascended(pair: PickedPair, chosen: Places, slopes: Floats, end: float) -> float:
    value, right = 0.0, None
    for _ in range(_ROUNDS):
        top = leading(pair.at(chosen, slopes), start=right)
        found = float(top.values[0]) if len(top.values) else 0.0
        if found <= value * (1 + _GROWN):
            break
        value, right = found, top.right
        if time.monotonic() > end:
            break
        chosen, slopes = _best(pair, top.left[:, 0] @ pair.outer, pair.inner @ top.right[:, 0])
    return value


def _best(pair: PickedPair, a: Floats, z: Floats) -> tuple[Places, Floats]:
    """For every window the pick and slope with the largest slope · a_w z_j."""
    products = a[:, None] * z[pair.picks]
    slopes = np.where(products > 0, pair.beta, pair.alpha)
    gains = np.where(pair.picks >= 0, products * slopes, -np.inf)
    chosen = gains.argmax(axis=1)
    slope = np.take_along_axis(slopes, chosen[:, None], 1)[:, 0]
    empty = np.take_along_axis(pair.picks, chosen[:, None], 1)[:, 0] < 0
    return chosen, np.where(empty, 0.0, slope)
