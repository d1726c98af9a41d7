"""Laws of the searches: attained, at vertices, monotone, no larger than the maximum, and no worse
than Greedy SeqLip."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from onnxlip.bounds.pairs import leading as leading_module
from onnxlip.bounds.pairs import search
from onnxlip.bounds.pairs.exact import brute_force
from onnxlip.bounds.pairs.flips import growth
from onnxlip.bounds.pairs.leading import FEW, Place, leading, reduced
from onnxlip.bounds.pairs.problem import Found, Pair
from onnxlip.bounds.pairs.search import estimate, greedy, sign_power

Floats = npt.NDArray[np.float64]

INTERVALS = ("relu", "leaky", "gelu", "mixed", "some fixed", "all fixed")


def slopes(kind: str, n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    low = {"relu": 0.0, "leaky": 0.2, "gelu": -0.13}.get(kind)
    if low is not None:
        return np.full(n, low), np.full(n, 1.13 if kind == "gelu" else 1.0)
    ends = np.sort(rng.uniform(-1.0, 1.5, (2, n)), axis=0)
    fixed = rng.random(n) < {"mixed": 0.0, "some fixed": 0.4, "all fixed": 2.0}[kind]
    return ends[0], np.where(fixed, ends[0], ends[1])


def random_pair(kind: str, shape: tuple[int, int, int], seed: int) -> Pair:
    rng = np.random.default_rng(seed)
    p, n, q = shape
    outer, inner = rng.standard_normal((p, n)), rng.standard_normal((n, q))
    if seed % 3 == 1:  # trained-like: singular values that fall
        outer *= np.arange(1.0, p + 1)[:, None] ** -1.0
        inner *= np.arange(1.0, q + 1) ** -1.0
    return Pair(outer, inner, *slopes(kind, n, rng))


def small_pairs(kind: str, count: int) -> list[Pair]:
    rng = np.random.default_rng(INTERVALS.index(kind))
    shapes = rng.integers(1, (13, 11, 13), (count, 3)).tolist()
    return [random_pair(kind, (p, n, q), k) for k, (p, n, q) in enumerate(shapes)]


def norm(pair: Pair, d: Floats) -> float:
    return float(np.linalg.svd((pair.outer * d) @ pair.inner, compute_uv=False).max(initial=0.0))


def assert_sound(pair: Pair, found: Found) -> None:
    assert np.all((found.d == pair.alpha) | (found.d == pair.beta))
    assert found.value == pytest.approx(norm(pair, found.d), rel=1e-11, abs=1e-13)


def reference_greedy(pair: Pair) -> float:
    """Greedy SeqLip in a few lines of its own."""
    d = pair.beta.copy()
    while True:
        flips = [np.where(np.arange(len(d)) == j, pair.alpha + pair.beta - d, d) for j in pair.free]
        best = max(flips, key=lambda e: norm(pair, e), default=d)
        if norm(pair, best) <= norm(pair, d):
            return norm(pair, d)
        d = best


@pytest.mark.parametrize("kind", INTERVALS)
def test_sign_power_is_attained_at_a_vertex_and_never_falls(kind: str) -> None:
    rng = np.random.default_rng(1)
    for pair in small_pairs(kind, 40):
        start = pair.alpha + rng.random(pair.size) * (pair.beta - pair.alpha)
        found = sign_power(pair, start)
        assert_sound(pair, found)
        assert found.value >= norm(pair, start) * (1 - 1e-12)
        again = sign_power(pair, found.d)
        assert again.value >= found.value * (1 - 1e-12)


@pytest.mark.parametrize("kind", INTERVALS)
def test_sign_power_ends_where_signs_agree(kind: str) -> None:
    """At the end d maximises Σ d_j x_j for its own singular pair, or the norm would not grow."""
    for pair in small_pairs(kind, 40):
        found = sign_power(pair, pair.beta)
        u, s, vt = np.linalg.svd(pair.at(found.d))
        if len(s) > 1 and s[0] - s[1] < 1e-3 * s[0]:
            continue  # which pair is on top is not told
        x = (u[:, 0] @ pair.outer) * (pair.inner @ vt[0])
        best = np.maximum(pair.alpha * x, pair.beta * x).sum()
        assert best <= found.value * (1 + 1e-7)


@pytest.mark.parametrize("kind", INTERVALS)
def test_estimate_never_exceeds_the_maximum_and_nearly_always_is_it(kind: str) -> None:
    missed = 0
    for pair in small_pairs(kind, 60):
        found, exact = estimate(pair, starts=8), brute_force(pair)
        assert_sound(pair, found)
        assert found.value <= exact.value * (1 + 1e-12)
        missed += found.value < exact.value * (1 - 1e-9)
    assert missed <= 1


@pytest.mark.parametrize("kind", ["relu", "gelu", "some fixed"])
@pytest.mark.parametrize("shape", [(20, 20, 20), (32, 32, 32), (5, 40, 30), (60, 30, 7)])
def test_estimate_is_no_worse_than_greedy(kind: str, shape: tuple[int, int, int]) -> None:
    for seed in range(2):
        pair = random_pair(kind, shape, seed)
        found = estimate(pair)
        assert_sound(pair, found)
        assert found.value >= greedy(pair).value - 1e-9


@pytest.mark.parametrize("kind", INTERVALS)
def test_estimate_ends_where_no_flip_helps(kind: str) -> None:
    pair = random_pair(kind, (60, 70, 55), 3)
    found = estimate(pair, starts=4)
    assert_sound(pair, found)
    for j in pair.free:
        d = found.d.copy()
        d[j] = pair.alpha[j] + pair.beta[j] - d[j]
        assert norm(pair, d) <= found.value * (1 + 1e-7)


@pytest.mark.parametrize("kind", ["relu", "mixed"])
@pytest.mark.parametrize("shape", [(9, 10, 8), (50, 60, 55)])
def test_estimate_does_not_depend_on_how_the_pair_is_written(
    kind: str, shape: tuple[int, int, int]
) -> None:
    """Neurons renumbered or rescaled, sides exchanged, units changed. Rounding leads a search of 64
    neurons elsewhere now and then, so it is compared loosely there."""
    rng = np.random.default_rng(4)
    tolerance = 1e-9 if shape[1] < 20 else 1e-2
    pair = random_pair(kind, shape, 5)
    value = estimate(pair).value
    order = rng.permutation(pair.size)
    scale = np.exp(rng.uniform(-6, 6, pair.size))
    written = (
        Pair(pair.outer[:, order], pair.inner[order], pair.alpha[order], pair.beta[order]),
        replace(pair, outer=pair.inner.T.copy(), inner=pair.outer.T.copy()),
        replace(pair, outer=pair.outer * scale, inner=pair.inner / scale[:, None]),
        replace(pair, outer=-pair.outer),
        replace(pair, outer=pair.outer * 2.0**300, inner=pair.inner * 2.0**-300),
        replace(pair, alpha=-pair.beta, beta=-pair.alpha),
    )
    for same in written:
        assert estimate(same).value == pytest.approx(value, rel=tolerance)


@pytest.mark.parametrize("scale", [2.0**-400, 2.0**-40, 2.0**40, 2.0**400])
def test_any_scale(scale: float) -> None:
    pair = random_pair("mixed", (6, 7, 5), 5)
    scaled = replace(pair, outer=pair.outer * scale)
    for found in (estimate(scaled, starts=4), sign_power(scaled, pair.beta)):
        assert found.value == pytest.approx(norm(scaled, found.d), rel=1e-12)
    assert estimate(scaled).value == pytest.approx(scale * estimate(pair).value, rel=1e-12)


def test_polish_and_settling_raise_what_sign_power_has_found() -> None:
    pair = random_pair("relu", (60, 70, 55), 3)
    clock = search._Clock(None)
    place = search._ascended(Place.at(reduced(pair), pair.beta), clock)
    settled = search._settled(place, clock)
    assert settled.value > place.value * (1 + 1e-4)
    assert search._polished_best([place], 1, clock).value > place.value * (1 + 1e-4)
    assert not np.any(growth(settled, leading(settled.matrix, 60)) > 1e-6 * settled.value**2)


def test_estimate_is_deterministic_in_the_seed() -> None:
    pair = random_pair("relu", (60, 64, 56), 6)
    found = [estimate(pair, seed=s, starts=4) for s in (1, 1, 2)]
    assert found[0].value == found[1].value
    assert np.array_equal(found[0].d, found[1].d)
    assert found[0].steps == found[1].steps


@pytest.mark.parametrize("kind", INTERVALS)
def test_greedy_is_greedy(kind: str) -> None:
    for pair in small_pairs(kind, 25):
        found = greedy(pair)
        assert_sound(pair, found)
        assert found.complete
        assert found.value == pytest.approx(reference_greedy(pair), rel=1e-12, abs=1e-14)


def test_greedy_can_end_in_a_local_maximum() -> None:
    """Else a comparison with it would be one with the maximum."""
    pairs = [random_pair("relu", (24, 24, 24), k) for k in range(8)]
    assert any(greedy(p).value < estimate(p).value * (1 - 1e-6) for p in pairs)


def test_time_stops_a_search_and_it_says_so() -> None:
    pair = random_pair("relu", (40, 50, 40), 7)
    for found in (greedy(pair, seconds=0.0), estimate(pair, seconds=0.0)):
        assert not found.complete
        assert_sound(pair, found)
        assert found.value >= norm(pair, pair.beta) * (1 - 1e-12)
    assert estimate(pair, starts=3).complete


@pytest.mark.parametrize("kind", ["relu", "mixed", "some fixed"])
@pytest.mark.parametrize("at_the_end", [True, False])
def test_growth_tells_exactly_which_flips_raise_the_norm(kind: str, at_the_end: bool) -> None:
    rng = np.random.default_rng(8)
    raising = 0
    for pair in small_pairs(kind, 60):
        d = np.where(rng.random(pair.size) < 0.5, pair.alpha, pair.beta)
        d = sign_power(pair, d).d if at_the_end else d
        place = Place.at(reduced(pair), d)
        told = growth(place, leading(place.matrix, place.sides.lesser))
        for j in range(pair.size):
            flipped = d.copy()
            flipped[j] = pair.alpha[j] + pair.beta[j] - d[j]
            true = norm(pair, flipped) ** 2 - norm(pair, d) ** 2
            if abs(true) > 1e-8 * norm(pair, d) ** 2:
                assert (told[j] > 0) == (true > 0)
                raising += true > 0
    assert raising >= 10


@pytest.mark.parametrize("shape", [(200, 90), (90, 200), (60, 60), (30, 7), (1, 1), (3, 80)])
@pytest.mark.parametrize("rank", [1, 5, 80])
def test_leading_triplets(
    shape: tuple[int, int], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leading_module, "_RESIDUAL", 1e-9)
    rng = np.random.default_rng(9)
    u, s, vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    s = np.where(np.arange(len(s)) < rank, 0.8 ** np.arange(len(s)), 0.0)
    matrix = (u * s) @ vt
    for start in (None, rng.standard_normal((shape[1], min(FEW, *shape)))):
        top = leading(matrix, start=start)
        assert top.values == pytest.approx(s[:FEW], abs=1e-5)
        assert top.values[0] == pytest.approx(s[0], rel=1e-12)
        assert top.left[:, 0] @ matrix @ top.right[:, 0] == pytest.approx(s[0], rel=1e-12)
        assert top.rest * max(1, min(shape) - FEW) == pytest.approx((s[FEW:] ** 2).sum(), abs=1e-5)


def test_values_are_attained_even_if_the_iteration_has_not_converged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leading_module, "_ROUNDS", 1)
    matrix = np.random.default_rng(10).standard_normal((150, 120))
    top = leading(matrix)
    assert np.linalg.norm(top.right[:, 0]) == pytest.approx(1, rel=1e-14)
    assert np.linalg.norm(matrix @ top.right[:, 0]) == pytest.approx(top.values[0], rel=1e-13)
    assert top.values[0] < np.linalg.norm(matrix, 2)


def test_chunks_of_neurons(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = random_pair("mixed", (20, 333, 15), 11)
    whole = estimate(pair, starts=3)
    monkeypatch.setattr(leading_module, "_ENTRIES", 100)
    assert estimate(pair, starts=3).value == pytest.approx(whole.value, rel=1e-3)
    sides = reduced(pair)
    assert sides.matrix(whole.d) == pytest.approx(pair.at(whole.d), rel=1e-12, abs=1e-12)
    among = np.array([5, 300, 7])
    some = np.isin(np.arange(333), among)
    assert sides.matrix(whole.d, among) == pytest.approx(pair.at(whole.d * some), abs=1e-12)


def test_large_sides_are_not_decomposed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above _WHOLE no full set of singular vectors is made, above _EXACT no SVD."""
    pair = random_pair("relu", (70, 90, 80), 12)
    value = estimate(pair, starts=4).value
    monkeypatch.setattr(search, "_WHOLE", 10)
    monkeypatch.setattr(search, "_EXACT", 10)
    found = estimate(pair, starts=4)
    assert found.value == pytest.approx(norm(pair, found.d), rel=1e-7)
    assert found.value <= norm(pair, found.d) * (1 + 1e-12)
    assert found.value >= 0.99 * value


@pytest.mark.parametrize(
    "shape", [(0, 0, 0), (3, 0, 2), (0, 4, 2), (2, 4, 0), (1, 1, 1), (1, 5, 1)]
)
def test_edges(shape: tuple[int, int, int]) -> None:
    pair = random_pair("gelu", shape, 0)
    for found in (sign_power(pair, pair.beta), estimate(pair), greedy(pair), brute_force(pair)):
        assert_sound(pair, found)
        assert found.value == pytest.approx(brute_force(pair).value, rel=1e-12)


@pytest.mark.parametrize("which", ["outer", "inner", "both", "slopes"])
def test_zero_matrices(which: str) -> None:
    pair = random_pair("gelu", (60, 55, 70), 0)
    zero = np.zeros(55)
    if which == "slopes":
        pair = replace(pair, alpha=zero, beta=zero)
    if which in ("outer", "both"):
        pair = replace(pair, outer=np.zeros_like(pair.outer))
    if which in ("inner", "both"):
        pair = replace(pair, inner=np.zeros_like(pair.inner))
    for found in (sign_power(pair, pair.centre), estimate(pair, starts=3), greedy(pair, 0.1)):
        assert found.value == 0
        assert_sound(pair, found)


def test_a_start_with_nothing_in_it_is_left() -> None:
    """All β give a zero matrix, yet there is something to be found."""
    rng = np.random.default_rng(13)
    pair = Pair(rng.standard_normal((5, 6)), rng.standard_normal((6, 4)), -np.ones(6), np.zeros(6))
    assert estimate(pair).value == pytest.approx(brute_force(pair).value, rel=1e-12)
