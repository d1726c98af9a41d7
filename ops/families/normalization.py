"""y = γ ⊙ z/s + β by groups of n entries, z = x − mean x (or z = x), s = √(v + ε), v = ‖z‖²/n.

Layer, instance and group normalisation centre; RMS and ℓ2 normalisation do not. With P the
projection on Σz = 0 (or P = I), u = z/‖z‖ and θ = v/(v + ε) ∈ [0, 1), the Jacobian is

    J = (1/s) diag(γ) M,   M = P − θ u uᵀ.

s = √v + ε (ONNX MeanVarianceNormalization) gives the same M with θ = √v/(√v + ε). A path crosses
v = 0 in one point or stays there, so sup ‖J‖_p over v > 0 is the gain.

p = 2. P − θuuᵀ has eigenvalues in [0, 1], hence ‖J‖₂ ≤ max|γ|/s, largest at the least variance.
       Globally it is attained in the limit v → 0 when all γ of a group are equal, and never more
       than √(n/(n−1)) too large: ‖diag(γ)P‖₂ ≥ ‖eᵢᵀdiag(γ)P‖₂ = |γᵢ|√(1 − 1/n).
p = ∞. Let x̂ = √(nθ) u (then M = P − x̂x̂ᵀ/n), t = x̂ᵢ². By Cauchy–Schwarz, row i of |nM|, centred,
       sums to at most n − 1 − t + √((n−1) Σ_{j≠i}(1 + x̂ᵢx̂ⱼ)²), where Σⱼx̂ⱼ = 0, Σⱼx̂ⱼ² = nθ give
       Σ_{j≠i}(1 + x̂ᵢx̂ⱼ)² = n − 1 + t(nθ − 2) − t². That is −t + √(n−1) times a half circle
       over t: its maximum is at t = 0 if θ ≤ 4/n, and else a point of the circle:
           ‖M‖_∞ ≤ H(θ) = 2(1 − 1/n)                          θ ≤ 4/n
                          1 − θ/2 + √(1 − θ + nθ²/4)           θ ≥ 4/n,   (1 + √n)/2 at θ = 1.
       Not centred: −t + √((n−1) t (nθ − t)) in the same way gives H(θ) = 1 + θ(√n − 1)/2.
       Both increase with θ. ‖J‖_∞ ≤ max|γ| H(θ)/s.
p = 1. M is symmetric, so max|γ| H(θ)/s again. Column j with the γᵢ kept inside Cauchy–Schwarz,
       |γⱼ|(n − 1 − t) + √(Σγ² − γⱼ²) √(…), gives also, with ρ the root mean square of γ,
           max|γ|(1 − θ/2) + ρ √(1 − θ + nθ²/4)                       (centred),
           max|γ|(1 − θ/2) + ρ √n θ/2                                 (not centred).
       Centred with |1 + x̂ᵢx̂ⱼ| ≤ 1 + |x̂ᵢx̂ⱼ|, Cauchy–Schwarz for the second part only, it gives
           max|γ|(1 − 2/n − θ/2)₊ + mean|γ| + ρ √n θ/2, an equality at θ = 0.

Large θ needs large s. With s_min from v_min, τ = (s_min/s)² and w₀ = ε/s_min² (or, for s = √v + ε,
τ = s_min/s and w₀ = ε/s_min): θ = 1 − τw₀ and 1/s = τ^e/s_min, e = ½ (or 1). So the gain is
sup_{τ∈(0,1]} τ^e H(1 − τw₀)/s_min, which is bounded on a fine partition of (0, 1].

Source: derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxlip.ops.families.axis_groups import Groups
from onnxlip.rounding import TINY, down, gamma, up
from onnxlip.rules import Box, Derivative, Gain, Node

__all__ = ["AFFINE_REMEDY", "Normalization", "least_spread", "normalization"]

Floats = npt.NDArray[np.float64]

AFFINE_REMEDY = (
    "its scale or bias depends on the input, so its gain grows without bound; freeze both to "
    "constants (fold them into initializers), or write a rule for this use"
)

# Every figure below is made of nonnegative terms by fewer than 100 roundings, and sums of n terms
# on top of it carry γ_n: relative errors below 2⁻⁴⁶, or below what `gamma` says.
_SLACK = 2.0**-44
_CELLS = 1024
_MOST_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Normalization:
    """What one node normalises, and how. `scale` and `bias` are broadcastable to `groups.view`.

    root: s = √(v + ε), the usual; False: s = √v + ε.
    """

    groups: Groups
    scale: Floats
    bias: Floats
    epsilon: float
    centred: bool = True
    root: bool = True


def normalization(
    describe: Callable[[Node], Normalization],
    reason: str = (
        "its epsilon is 0, so its slope grows without bound as a group becomes constant; set a "
        "positive epsilon, or bound the input away from constant groups"
    ),
) -> Gain:
    """Gain form of an op that `describe` reads; outputs 1 and 2, if any, are mean and 1/s."""

    @np.errstate(over="ignore", invalid="ignore")  # overflow is on the safe side
    def gain(node: Node, i: int, p: float, boxes: Sequence[Box | None]) -> float:
        if node.x.size == 0:
            return 0.0
        what = describe(node)
        if not what.epsilon >= 0:
            return math.inf
        bounds = [_of_result(what, boxes[0], p)]
        if _used(node, 1):
            bounds.append(_of_mean(what.groups.size, p))
        if _used(node, 2):
            bounds.append(_of_inverse(what, boxes[0], p))
        return max(bounds)

    @np.errstate(over="ignore", invalid="ignore")
    def image(node: Node, boxes: Sequence[Box | None], o: int) -> Box:
        return _image(describe(node), boxes[0], o, node.outputs[o].shape)

    def derivative(node: Node, inputs: Sequence[Floats | None]) -> Derivative:
        assert inputs[0] is not None
        return _derivative(node, describe(node), inputs[0])

    return Gain(gain, image, reason=reason, derivative=derivative)


def _derivative(node: Node, what: Normalization, x: Floats) -> Derivative:
    """J v = γ/s ∘ (Pv − θu uᵀv), see the module; the mean has 1/n, and 1/s has −z/(n s³)."""
    n, m, groups = what.groups.size, len(x), what.groups
    scale = groups.view_rows(what.scale)

    def centred(rows: Floats) -> Floats:
        return rows - rows.mean(axis=-1, keepdims=True) if what.centred else rows

    def by_group(tensors: Floats) -> Floats:
        return np.stack([groups.rows(t) for t in tensors])

    def tensors(rows: Floats) -> Floats:
        return np.stack([np.broadcast_to(groups.tensor(r), node.x.shape) for r in rows])

    z = centred(by_group(x))
    v = (z**2).mean(axis=-1, keepdims=True)
    s = np.sqrt(v + what.epsilon) if what.root else np.sqrt(v) + what.epsilon
    weight = 1 / np.maximum(s**2 if what.root else s * np.sqrt(v), TINY)

    def middle(rows: Floats) -> Floats:
        along = (z * rows).mean(axis=-1, keepdims=True)
        return np.asarray((centred(rows) - z * along * weight) / s)

    def push(ways: Sequence[Floats]) -> list[Floats]:
        d = by_group(ways[0])
        rest = (d.mean(axis=-1), -(z * d).mean(axis=-1) / s[..., 0] ** 3)
        named = zip(node.outputs[1:], rest, strict=False)
        parts = [r.reshape(m, *y.shape) if y.name else np.zeros(m) for y, r in named]
        return [tensors(scale * middle(d)), *parts]

    def pull(gradients: Sequence[Floats]) -> list[Floats]:
        total = middle(scale * by_group(gradients[0]))
        for o, part in ((1, np.full_like(z, 1 / n)), (2, -z / (n * s**3))):
            if _used(node, o):
                total = total + gradients[o].reshape(m, -1, 1) * part
        return [tensors(total)]

    return push, pull


def _used(node: Node, o: int) -> bool:
    return len(node.outputs) > o and node.outputs[o].name != ""


# ── gains ─────────────────────────────────────────────────────────────────────────────────


def _of_result(what: Normalization, box: Box | None, p: float) -> float:
    n = what.groups.size
    if what.centred and n == 1:
        return 0.0
    scale = np.abs(what.groups.view_rows(what.scale))
    round_up = 1 + gamma(n + 3) + _SLACK
    figures = (
        scale.max(axis=1),
        scale.mean(axis=1) * round_up,
        np.sqrt((scale**2).mean(axis=1)) * round_up,
        _least(what, box),
    )
    rows = np.stack(np.broadcast_arrays(*figures), axis=1)
    rows = np.unique(rows[rows[:, 0] > 0], axis=0)
    if len(rows) > _MOST_ROWS:  # one group that is at least as bad as each
        rows = np.append(rows[:, :3].max(axis=0), rows[:, 3].min())[None]
    if not len(rows):
        return 0.0
    top, mean, rms, spread = rows.T
    s = _least_s(what, spread)
    if np.any(s <= 0):
        return math.inf
    if p == 2:
        return float(np.max(np.nextafter(top / s, np.inf)))
    # w₀ = 1 − θ at the least s, rounded down: a larger θ is on the safe side.
    most = np.minimum(what.epsilon / (s * s if what.root else s) * (1 - 2.0**-50), 1.0)
    shape = _suprema(what, p, most, top, mean, rms)
    # θ errs by 2⁻⁵³, and d log H/dθ ≤ √n.
    slack = _SLACK + math.sqrt(n) * 2.0**-50
    return float(np.max(np.nextafter(shape * (1 + slack) / s, np.inf)))


def _suprema(
    what: Normalization, p: float, most: Floats, top: Floats, mean: Floats, rms: Floats
) -> Floats:
    """sup over τ ∈ (0, 1] of τ^e times the norm of diag(γ)M, an upper bound per group.

    On each cell of a partition every factor is taken at the end where it is largest.
    """
    n = what.groups.size
    right = np.arange(1, _CELLS + 1) / _CELLS
    large = 1 - (right - 1 / _CELLS) * most[:, None]  # θ at the cell's left end
    small = 1 - right * most[:, None]
    top, mean, rms = top[:, None], mean[:, None], rms[:, None]
    straight = rms * math.sqrt(n) * large / 2
    if what.centred:
        norm = top * _centred(n, large)
        if p == 1:
            root = np.sqrt(np.maximum(_half_circle(n, small), _half_circle(n, large)))
            norm = np.minimum(norm, top * (1 - small / 2) + rms * root)
            norm = np.minimum(norm, top * np.maximum(1 - 2 / n - small / 2, 0) + mean + straight)
    else:
        norm = top * (1 + large * (math.sqrt(n) - 1) / 2)
        if p == 1:  # increases with θ, because ρ√n ≥ max|γ|
            norm = np.minimum(norm, top * (1 - large / 2) + straight)
    result: Floats = ((np.sqrt(right) if what.root else right) * norm).max(axis=1)
    return result


def _half_circle(n: int, theta: Floats) -> Floats:
    return 1 - theta + n * theta**2 / 4


def _centred(n: int, theta: Floats) -> Floats:
    """H(θ), see the module."""
    return np.where(n * theta <= 4, 2 - 2 / n, 1 - theta / 2 + np.sqrt(_half_circle(n, theta)))


def _of_mean(n: int, p: float) -> float:
    """The mean is a row of 1/n: its dual norms."""
    return 1.0 if p == math.inf else up(1 / n) if p == 1 else up(1 / down(math.sqrt(n)))


def _of_inverse(what: Normalization, box: Box | None, p: float) -> float:
    """1/s = (v + ε)^{−1/2} has the gradient −z/(n s³), z centred: its dual norms are at most
    q(v) = √v (v + ε)^{−3/2} times 1, 1/√n, √(n−1)/n for p = ∞, 2, 1 (|z_j| ≤ √((n−1)v)).
    q increases up to v = ε/2 and decreases from there."""
    n, epsilon = what.groups.size, what.epsilon
    v = float(np.min(_least(what, box), initial=math.inf))
    if n == 1:
        return 0.0
    if v + epsilon <= 0:
        return math.inf
    worst = max(v, epsilon / 2)
    q = math.sqrt(worst) / (worst + epsilon) / math.sqrt(worst + epsilon)
    factor = 1.0 if p == math.inf else 1 / math.sqrt(n) if p == 2 else math.sqrt(n - 1) / n
    return up(q * factor * (1 + _SLACK))


# ── how small a group's variance can be on a box ──────────────────────────────────────────


def _least(what: Normalization, box: Box | None) -> Floats:
    """A lower bound of v per group."""
    if box is None:
        return np.zeros(1)
    low, high = (what.groups.rows(end) for end in (box.low, box.high))
    return least_spread(low, high, what.centred)


def _least_s(what: Normalization, spread: Floats) -> Floats:
    """A lower bound of s per group."""
    if what.root:
        return np.sqrt(np.maximum(spread + what.epsilon, 0.0)) * (1 - _SLACK)
    return (np.sqrt(spread) + what.epsilon) * (1 - _SLACK)


@np.errstate(over="ignore", invalid="ignore")
def least_spread(low: Floats, high: Floats, centred: bool) -> Floats:
    """Lower bounds, per row, of the variance (mean square if not centred) over low ≤ x ≤ high.

    The variance is min_c mean (x − c)², so its minimum over the box is that of
    g(c) = mean dist(c, [low, high])² over c: convex, and its minimiser lies between min high and
    max low, if these are in this order; otherwise a constant x is in the box. Any c and slope
    g′(c) prove min g ≥ g(c) − |g′(c)| · (max low − min high).
    """
    low, high = np.broadcast_arrays(low, high)  # of width 1 where all entries have one interval
    n = low.shape[1]
    result = np.zeros(low.shape[0])
    if not centred:
        centre, span, live = result, result, np.arange(len(result))
    else:
        left, right = high.min(axis=1), low.max(axis=1)
        live = np.flatnonzero(left < right)
        left, right = left[live], right[live]
        span = right - left
        for _ in range(44 if len(live) else 0):
            centre = left / 2 + right / 2
            below, above = _gaps(low[live], high[live], centre)
            rising = above.sum(axis=1) > below.sum(axis=1)
            left, right = np.where(rising, left, centre), np.where(rising, centre, right)
        centre = left
    if not len(live):
        return result
    below, above = _gaps(low[live], high[live], centre)
    g = (below**2 + above**2).sum(axis=1) / n * (1 - 2 * gamma(n + 8))
    drop = np.zeros(1)
    if centred:
        falls, rises = below.sum(axis=1), above.sum(axis=1)
        slope = 2 / n * (np.abs(falls - rises) + (falls + rises) * gamma(n + 8))
        drop = slope * span * (1 + _SLACK)
    proved = (g - drop) * (1 - _SLACK)
    result[live] = np.where(np.isfinite(proved), np.maximum(proved, 0.0), 0.0)
    return result


def _gaps(low: Floats, high: Floats, centre: Floats) -> tuple[Floats, Floats]:
    """How far each interval lies above the centre, and how far below it."""
    c = centre[:, None]
    return np.maximum(low - c, 0.0), np.maximum(c - high, 0.0)


# ── images ────────────────────────────────────────────────────────────────────────────────


def _image(what: Normalization, box: Box | None, o: int, shape: tuple[int, ...]) -> Box:
    box = box or Box.whole()
    low, high = (what.groups.rows(end) for end in (box.low, box.high))
    if o == 1:
        least, most = -_mean_up(-low, what.groups.size), _mean_up(high, what.groups.size)
        return Box.of(_per_group(least, shape), _per_group(most, shape))
    s = _least_s(what, least_spread(low, high, what.centred))[:, None]
    if o == 2:
        with np.errstate(divide="ignore"):
            return Box.of(0.0, _per_group(np.nextafter(1 / s, np.inf), shape))
    below, above = (_result_up(what, *ends, s) for ends in ((-high, -low), (low, high)))
    scale, bias = what.groups.view_rows(what.scale), what.groups.view_rows(what.bias)
    one, two = -scale * below, scale * above
    slack = (np.abs(scale) * np.maximum(below, above) + np.abs(bias)) * 2 * _SLACK
    return Box.of(
        what.groups.tensor(np.minimum(one, two) + bias - slack),
        what.groups.tensor(np.maximum(one, two) + bias + slack),
    ).widened()


def _mean_up(values: Floats, n: int) -> Floats:
    """Upper bounds of the groups' means, infinite where they overflow."""
    size = np.abs(values).mean(axis=1, keepdims=True)
    mean = values.mean(axis=1, keepdims=True) + size * (gamma(2 * n + 4) + _SLACK)
    return np.where(np.isfinite(size), mean, np.inf)


def _result_up(what: Normalization, low: Floats, high: Floats, s: Floats) -> Floats:
    """Upper bounds, at least 0, of z/s for low ≤ x ≤ high."""
    n = what.groups.size
    z = high
    if what.centred:
        # z_i = x_i − mean x, where x_i itself takes part in the mean.
        z = high + _mean_up(-low, n) - (high - low) / n
        z = z + (np.abs(high) + np.abs(low)) * 4 * _SLACK
        z = np.where(np.isnan(z), np.inf, z)
    z = np.maximum(z, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(z == 0, 0.0, z / s) * (1 + _SLACK)
    # |z_i| ≤ √((n−1)v) if Σz = 0, since z_i² = (Σ_{j≠i}z_j)² ≤ (n−1)(nv − z_i²); else √(nv).
    return np.minimum(ratio, math.sqrt(n - 1 if what.centred else n) * (1 + _SLACK))


def _per_group(values: Floats, shape: tuple[int, ...]) -> Floats:
    """One number per group as an output of this shape."""
    return values.reshape(() if values.size == 1 else shape)
