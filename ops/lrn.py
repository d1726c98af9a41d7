"""LRN: y_i = x_i (k + a Σ_{j∈W(i)} x_j²)^{−β}, a = alpha/size, W(i) a window over channels.

Scaled by √(a/k), with S_i = 1 + Σ_{W(i)} u_j² and θ = 1 − 1/S_i, the Jacobian is k^{−β} times

    J_ij = δ_ij S_i^{−β} − 2β u_i u_j S_i^{−β−1}   (j ∈ W(i)).

p = ∞. With t = u_i²/S_i and w = |W|, Cauchy–Schwarz bounds the sum of |row i| by
       (1 − θ)^β (|1 − 2βt| + 2β√((w−1) t(θ−t))), and over t by (1 − θ)^β (βθ√w + |1 − βθ|).
       On either side of θ = 1/β that is log-concave in θ, with its maximum in closed form.
p = 1. Column j, c = u_j²: the others whose window holds j are at most h to its left, all in each
       other's windows, with A = Σu² there, so that S_i ≥ 1 + c + A; to its right likewise, B. By
       Cauchy–Schwarz the sum of |column j| is at most
           S_j^{−β}|1 − 2βc/S_j| + 2β√(hc)(ψ(A) + ψ(B)),   ψ(A) = √A (1 + c + A)^{−β−1},
       and as ψ is concave up to its maximum A* = (1 + c)/(2β + 1),
           ψ(A) + ψ(B) ≤ 2ψ(min(N/2, A*)),   N = A + B.
       If size is odd, S_j = 1 + c + N; if not, S_j ≥ 1 + c. The supremum over c, N ≥ 0 is taken by
       branch and bound: 1.0507 for size = 5, β = ¾, where a search finds 1.0316.
p = 2. √(‖J‖₁‖J‖_∞) (Schur's test): 1.031 for size = 5, β = ¾. No search has found more than 1.

On a box Σ_W u² lies in an interval [T⁻, T⁺], and with it c + N and θ.

Source: ONNX operator specification, LRN; Krizhevsky et al. 2012, section 3.3; derived.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from onnxlip.ops.families.attributes import single
from onnxlip.rounding import gamma, mul_up, sqrt_up, up
from onnxlip.rules import Box, Gain, Node, Rule, example, variable

Floats = npt.NDArray[np.float64]

_SLACK = 2.0**-40  # some dozens of roundings, powers among them, of nonnegative terms
_TOLERANCE = 1e-4  # relative, of the branch and bound
_ROUNDS = 24
_MOST_CELLS = 1 << 17


# ── what the node says ────────────────────────────────────────────────────────────────────


def _reach(node: Node) -> tuple[int, int]:
    """How many channels before and after its own each window has."""
    size = int(node.attribute("size"))
    return (size - 1) // 2, size // 2


def _numbers(node: Node) -> tuple[float, float, float]:
    """(a, β, k)."""
    a = single(node, "alpha", 1e-4) / int(node.attribute("size"))
    return a, single(node, "beta", 0.75), single(node, "bias", 1.0)


def _energy(node: Node, box: Box | None) -> tuple[float, float]:
    """(T⁻, T⁺): bounds of (a/k) Σ_W x² over all windows on the box."""
    if box is None or not box.is_bounded:
        return 0.0, math.inf
    a, _, k = _numbers(node)
    low, high = (np.broadcast_to(end, node.x.shape) for end in (box.low, box.high))
    with np.errstate(over="ignore"):
        nearest = _window_sums(node, np.maximum(np.maximum(low, -high), 0.0) ** 2)
        farthest = _window_sums(node, np.maximum(-low, high) ** 2)
    slack = _SLACK + gamma(2 * int(node.attribute("size")))
    least = float(nearest.min(initial=1e300)) * (a / k) * (1 - slack)
    return least, up(float(farthest.max(initial=0.0)) * (a / k) * (1 + slack))


def _window_sums(node: Node, squares: Floats) -> Floats:
    before, after = _reach(node)
    last = squares.shape[1] - 1
    total = squares.copy()
    for step in range(1, min(before, last) + 1):
        total[:, step:] += squares[:, :-step]
    for step in range(1, min(after, last) + 1):
        total[:, :-step] += squares[:, step:]
    return total


# ── the suprema for k = 1 ─────────────────────────────────────────────────────────────────


def _rows(beta: float, width: int, least: float, most: float) -> float:
    """sup over T ∈ [least, most] of (1 − θ)^β (βθ√w + |1 − βθ|), θ = T/(1 + T)."""
    if beta == 0:
        return 1.0
    root = sqrt_up(float(width))
    start, end = least / (1 + least), 1.0 if most == math.inf else most / (1 + most)
    # θ = 1/β is beyond the first side's peak, so its own value need not be looked at.
    peaks = [(root + 2) / ((root + 1) * (1 + beta))]
    if root > 1:
        peaks.append((root - 2) / ((root - 1) * (1 + beta)))
    values = [
        max(1 - theta, 0.0) ** beta * (beta * theta * root + abs(1 - beta * theta))
        for theta in (start, end, *(min(max(t, start), end) for t in peaks))
    ]
    return 1.0 if max(values) == 1 else max(values) * (1 + _SLACK)


@lru_cache(maxsize=256)
def _columns(beta: float, side: int, odd: bool, least: float, most: float) -> float:
    """sup over c, N of the bound of a column's sum, `side` being h."""
    end = 1.0 if most == math.inf else most / (1 + most)
    edges = np.linspace(0.0, min(up(up(end)), 1.0), 17)
    if not odd:
        edges = np.append(edges, 1.0)  # N may be twice as large as T⁺
    low, high = (np.stack(np.meshgrid(e, e)).reshape(2, -1) for e in (edges[:-1], edges[1:]))
    settled = reached = 0.0
    for _ in range(_ROUNDS):
        bound, value = _on_cells(low, high, beta, side, odd, least, most)
        reached = max(reached, float(value.max(initial=0.0)))
        # Cells that cannot raise the result by more than the tolerance are done with.
        settled = max(settled, reached * (1 + _TOLERANCE))
        live = bound > settled
        if not live.any() or live.sum() > _MOST_CELLS:
            settled = max(settled, float(bound.max(initial=0.0))) if live.any() else settled
            break
        low, high, bound = low[:, live], high[:, live], bound[live]
        low, high = _quarters(low, high)
    else:
        settled = max(settled, float(bound.max()))
    return settled * (1 + _SLACK)


def _quarters(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    middle = (low + high) / 2
    starts, ends = [], []
    for first in (0, 1):
        for second in (0, 1):
            pick = np.array([[first], [second]], bool)
            starts.append(np.where(pick, middle, low))
            ends.append(np.where(pick, high, middle))
    return np.concatenate(starts, axis=1), np.concatenate(ends, axis=1)


def _on_cells(
    low: Floats, high: Floats, beta: float, side: int, odd: bool, least: float, most: float
) -> tuple[Floats, Floats]:
    """Upper bounds of the column bound on cells of (c, N), and values at corners.

    Cells are given by σ = c/(1 + c) and τ = N/(1 + N); each factor is taken at the corner where
    it is largest, quotients as v/(r + v) = 1/(1 + r/v), which is fit for v = ∞.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        (c0, n0), (c1, n1) = low / (1 - low), high / (1 - high)
        peak0, peak1 = (1 + c0) / (2 * beta + 1), (1 + c1) / (2 * beta + 1)
        a0, a1 = np.minimum(n0 / 2, peak0), np.minimum(n1 / 2, peak1)

        def share(v: Floats, rest: Floats) -> Floats:
            return np.where(v == 0, 0.0, 1 / (1 + rest / v))

        s0 = np.maximum(1 + c0 + (n0 if odd else 0.0), 1 + least)
        smallest = share(c0, 1 + n1) if odd else np.zeros_like(c0)
        largest = share(c1, 1 + (n0 if odd else 0.0 * n0))
        own = np.maximum(np.abs(1 - 2 * beta * smallest), np.abs(1 - 2 * beta * largest))
        others = np.sqrt(share(c1, 1 + a0) * share(a1, 1 + c0)) * (1 + c0 + a0) ** -beta
        # Also S_i ≥ 1 + T⁻ and √A + √B ≤ √(2N).
        simple = np.where((c1 == 0) | (n1 == 0), 0.0, np.sqrt(c1 * (n1 / 2)))
        others = np.minimum(others, simple * (1 + least) ** (-beta - 1))
        factor = 4 * beta * math.sqrt(side)
        bound = s0**-beta * own + factor * others
        inside = (c0 + n0 <= most) if odd else (c0 <= most) & (n0 <= 2 * most)
        if odd:
            inside &= c1 + n1 >= least
        s = 1 + c0 + (n0 if odd else 0.0)
        corner = np.minimum(
            np.sqrt(c0 * a0) * (1 + c0 + a0) ** (-beta - 1),
            np.sqrt(c0 * n0 / 2) * (1 + least) ** (-beta - 1),
        )
        value = s**-beta * np.abs(1 - 2 * beta * c0 / s) + factor * corner
        value = np.where((c0 + n0 >= least) & np.isfinite(value), value, 0.0)
    return np.where(inside, bound, 0.0), np.where(inside, value, 0.0)


# ── the rule ──────────────────────────────────────────────────────────────────────────────


def _gain(node: Node, i: int, p: float, boxes: Sequence[Box | None]) -> float:
    a, beta, k = _numbers(node)
    if not (k > 0 and a >= 0 and beta >= 0):
        return math.inf
    channels, size = node.x.shape[1], int(node.attribute("size"))
    least, most = (0.0, 0.0) if a == 0 else _energy(node, boxes[0])
    side = min(max(_reach(node)), channels - 1)
    rows = _rows(beta, min(size, channels), least, most)
    if side <= 0 or most == 0 or beta == 0:  # the Jacobian is diagonal
        columns = rows
    elif p == math.inf:
        columns = math.inf
    else:
        odd = size % 2 == 1
        columns = _columns(beta, side, odd, 0.0, math.inf)
        if (least, most) != (0.0, math.inf):
            columns = min(columns, _columns(beta, side, odd, least, most))
    bound = {1.0: columns, 2.0: sqrt_up(mul_up(rows, columns)), math.inf: rows}[p]
    return bound if k == 1 else up(bound * k**-beta * (1 + _SLACK))


def _image(node: Node, boxes: Sequence[Box | None], o: int) -> Box:
    a, beta, k = _numbers(node)
    box = boxes[0] or Box.whole()
    if not (k > 0 and a >= 0 and beta >= 0):
        return Box.whole()
    least, _ = (0.0, 0.0) if a == 0 else _energy(node, boxes[0])
    factor = (k * (1 + least)) ** -beta * (1 + _SLACK)
    cap = math.inf
    if a > 0 and beta > 0.5:  # |u|(1 + u²)^{−β} is largest at u² = 1/(2β − 1)
        t = 1 / (2 * beta - 1)
        cap = math.sqrt(k / a) * k**-beta * math.sqrt(t) * (1 + t) ** -beta * (1 + _SLACK)
    low, high = (np.minimum(np.maximum(end, 0.0) * factor, cap) for end in (-box.low, box.high))
    return Box.of(-low, high).widened()


RULES = (
    Rule(
        "LRN",
        Gain(
            _gain,
            _image,
            reason="with bias ≤ 0 or a negative alpha or beta it has poles or grows without "
            "bound; use positive ones, as every published network does",
        ),
        source="ONNX LRN; Krizhevsky et al. 2012, section 3.3; derived",
        # onnx 1.23's reference loops over images where it means channels: it is right only for
        # as many images as channels.
        examples=(
            example(variable(7, 7, 1, 1), size=5, alpha=1.0),
            example(variable(6, 6, 1, 2), size=3, alpha=0.5, beta=2.0, bias=2.0),
            example(variable(5, 5, 1, 1), size=4, alpha=2.0, beta=0.5, bias=0.25),
            example(variable(4, 4, 1, 1), size=9, alpha=3.0, beta=1.0),
            example(variable(3, 3, 2, 2), size=1, alpha=1.0, beta=1.5),
            example(variable(8, 8, 1, 1, low=0, high=3), size=5, alpha=1e-4),
            example(variable(6, 6, 1, 1, low=1, high=3), size=5, alpha=2.0),
            example(variable(6, 6, 1, 1, low=1, high=3), size=2, alpha=2.0),
        ),
    ),
)
