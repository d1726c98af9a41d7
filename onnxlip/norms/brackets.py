"""Brackets lower ≤ ‖A‖_p ≤ upper of linear maps: where all methods meet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxlip.certificate import Bracket
from onnxlip.errors import ModelError, RuleError, UsageError
from onnxlip.linear import LinearMap, Product, Sum, selection
from onnxlip.lowering import Lowerings
from onnxlip.norms.enclosure import euclid
from onnxlip.norms.induced import induced_bounds, stacked_rows
from onnxlip.norms.lower import spectral_lower
from onnxlip.norms.merging import side_by_side
from onnxlip.norms.probabilistic import ProbabilisticBracket, probabilistic_upper
from onnxlip.norms.structure import is_empty, isometry, overlap
from onnxlip.norms.upper import least, meeting, spectral_upper
from onnxlip.norms.workspace import Bound, Workspace
from onnxlip.rounding import add_up, down

__all__ = ["bracket", "bracket_with", "joint", "probabilistic_bracket", "refuse_infinite"]


def bracket(
    linear: LinearMap,
    lowerings: Lowerings,
    p: float,
    *,
    provider: str = "cpu",
    seed: int = 0,
    lower: str = "lanczos",
) -> Bracket:
    """Certified bounds of ‖A‖_p from both sides, p ∈ {1, 2, ∞}.

    lower: how the lower end is searched for where p = 2, "lanczos" or "power" (the power method
    of Virmaux & Scaman 2018, for comparison); it is 0 where nothing is known. provider: where
    float32 iterations run ("auto", "cpu", "cuda"); what is proved runs on the CPU in float64. The
    same seed gives the same figures.

    Raises ModelError if a coefficient is not finite or products overflow float64, and RuleError
    if the ends contradict each other: a map's cap, terms or lowering is wrong.
    """
    if lower not in ("lanczos", "power"):
        raise UsageError(f"unknown method '{lower}' of lower ends: use lanczos or power")
    refuse_infinite(linear)
    return bracket_with(linear, p, Workspace(lowerings, provider, seed, lower))


def bracket_with(linear: LinearMap, p: float, work: Workspace) -> Bracket:
    """The same with a given workspace, which may know something of the map."""
    with np.errstate(all="ignore"):  # overflow and NaN are handled as values
        if p == 2:
            upper = spectral_upper(linear, work)  # first, as its proof may know the lower end too
            return _made(spectral_lower(linear, work), upper, linear)
        return _made(*induced_bounds(linear, p, work), linear)


def refuse_infinite(linear: LinearMap) -> None:
    """Raise ModelError if a coefficient is not finite or products overflow float64."""
    with np.errstate(all="ignore"):
        if is_empty(linear) or math.isfinite(linear.cap()):
            return
    raise ModelError(
        f"the norm of a {linear.rows}×{linear.columns} {type(linear).__name__} is not finite: a "
        "coefficient is NaN or infinite, or its row and column sums overflow float64"
    )


def probabilistic_bracket(
    linear: LinearMap,
    lowerings: Lowerings,
    delta: float,
    *,
    tolerance: float = 1e-3,
    provider: str = "cpu",
    seed: int = 0,
) -> ProbabilisticBracket:
    """A proved lower end of ‖A‖₂ and an upper one that fails with probability at most `delta`.

    For several blocks at once, give each its share (`probabilistic.shared`). Not a `Bracket`, whose
    ends are theorems. Raises ModelError as `bracket` does, and UsageError for a δ not offered.
    """
    refuse_infinite(linear)
    work = Workspace(lowerings, provider, seed)
    with np.errstate(all="ignore"):
        lower = spectral_lower(linear, work)
        upper, products = probabilistic_upper(linear, work, delta, tolerance)
    # Where the proved end shows that the other one failed, it is the better of the two.
    return ProbabilisticBracket(lower.value, max(upper, lower.value), delta, lower.method, products)


def joint(
    maps: Sequence[LinearMap],
    each: Sequence[Bracket],
    lowerings: Lowerings,
    p: float,
    *,
    provider: str = "cpu",
    seed: int = 0,
) -> Bracket:
    """Certified bounds of ‖[A_1 … A_m]‖_p: several inputs, stacked, into one output.

    each: the maps' own brackets for this p. p = 1: exactly the largest of them. p = 2: as
    `upper.meeting` for maps that read disjoint inputs, and as one map where they merge into one;
    p = ∞: row sums, in all at most the sum of norms. Where p = 2, small stacks are written out.
    """
    if len(maps) == 1:
        return each[0]
    lower = max((Bound(b.lower, b.lower_method) for b in each), key=lambda b: b.value)
    skips = _beside_isometries(maps, each) if p == 2 else Bound(0.0, "")
    lower = max(lower, skips)
    uppers = [b.upper for b in each]
    if p == 1:
        top = max(each, key=lambda b: b.upper)
        return Bracket(lower.value, top.upper, lower.method, top.upper_method)
    work = Workspace(lowerings, provider, seed)
    stacked = _stacked(maps)
    with np.errstate(all="ignore"):
        if p == 2:
            most = overlap(tuple(maps))
            upper = Bound(meeting(uppers, most, 1), "sum of branches")
            # Beside skips and apart from others one branch's own slack is all there is.
            sharp = most == 1 or skips.value > 0
            dense = work.dense(stacked)
            if dense is not None:
                lower = max(lower, Bound(dense.lower, "quotient at a singular vector"))
                upper = least(upper, Bound(dense.upper, "written out, dense Cholesky"))
            elif not sharp and upper.value > lower.value * (1.0 + work.tolerance):
                low, high = _as_one(maps, work)
                lower, upper = max(lower, low), least(upper, high)
            return _made(lower, upper, stacked)
        low, high = stacked_rows(maps, uppers, work)
        return _made(max(lower, low), least(high, Bound(add_up(*uppers), "sum")), stacked)


def _as_one(maps: Sequence[LinearMap], work: Workspace) -> tuple[Bound, Bound]:
    """(lower, upper) bounds of ‖[A_1 … A_m]‖₂ by the map that they merge into, if there is one."""
    one = side_by_side(maps)
    if one is None:
        return Bound(0.0, ""), Bound(math.inf, "")
    upper = spectral_upper(one.linear, work)
    lower = spectral_lower(one.linear, work)
    low = max(0.0, down(lower.value - one.error))
    return Bound(low, lower.method), Bound(
        add_up(upper.value, one.error), f"merged, {upper.method}"
    )


def _beside_isometries(maps: Sequence[LinearMap], each: Sequence[Bracket]) -> Bound:
    """‖[A c_1U_1 … c_mU_m]‖₂² = ‖AAᵀ + Σc_j²I‖₂ = ‖A‖₂² + Σc_j² if all U_jU_jᵀ = I: a skip beside
    another branch. From below, for any choice of A."""
    scales = [isometry(a.adjoint) for a in maps]
    rest = [k for k, scale in enumerate(scales) if scale is None]
    if len(rest) > 1:
        return Bound(0.0, "")
    chosen = rest[0] if rest else 0
    parts = [scale.lower for k, scale in enumerate(scales) if scale and k != chosen]
    return Bound(euclid(np.array([each[chosen].lower, *parts])).lower, each[chosen].lower_method)


def _stacked(maps: Sequence[LinearMap]) -> LinearMap:
    """Σ A_j P_j, P_j the part of the stacked input that is input j."""
    n = sum(a.columns for a in maps)
    parts, begin = [], 0
    for a in maps:
        parts.append(Product((a, selection(np.arange(begin, begin + a.columns), n))))
        begin += a.columns
    return Sum(tuple(parts))


def _made(lower: Bound, upper: Bound, linear: LinearMap) -> Bracket:
    top = upper if upper.value == upper.value else Bound(math.inf, "")
    if lower.value > top.value:
        raise RuleError(
            f"the norm of a {linear.rows}×{linear.columns} {type(linear).__name__} would be at "
            f"least {lower.value!r} ({lower.method}) and at most {top.value!r} ({top.method}): its "
            "cap, its terms or its lowering is wrong"
        )
    return Bracket(lower.value, top.value, lower.method, top.method)
