"""Certificates of the pair problem: laws over random pairs; the proof against exact rationals."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from onnxlip.bounds.pairs import proof
from onnxlip.bounds.pairs.certified import Certified, certified
from onnxlip.bounds.pairs.descent import descended
from onnxlip.bounds.pairs.interior import minimised
from onnxlip.bounds.pairs.problem import Pair
from onnxlip.bounds.pairs.relaxation import closed_form, relaxation, value_at
from onnxlip.bounds.pairs.scaling import balanced
from onnxlip.norms.dense import dense_norm
from onnxlip.rounding import mul_up

Exact = list[list[Fraction]]

INTERVALS = [(0.0, 1.0), (0.2, 1.0), (-0.13, 1.13), (-1.0, 1.0), (0.0, 0.25), (-2.0, -1.0)]


def random_pair(seed: int, most: int = 6) -> Pair:
    """Shapes, slope intervals (mixed and fixed ones too), ranks and scales vary with the seed."""
    rng = np.random.default_rng(seed)
    n, p, q = (int(k) for k in rng.integers(1, most + 1, 3))
    outer, inner = rng.standard_normal((p, n)), rng.standard_normal((n, q))
    if seed % 4 == 1:  # rank one
        outer, inner = np.outer(outer[:, 0], outer[0]), np.outer(inner[:, 0], inner[0])
    if seed % 4 == 2:
        outer, inner = np.round(2 * outer), np.round(inner)
    if seed % 3 == 2:
        scale = 10.0 ** rng.integers(-6, 7, n)
        outer, inner = outer * scale, inner / scale[:, None]
    alpha, beta = (np.full(n, x) for x in INTERVALS[seed % len(INTERVALS)])
    if seed % 5 == 1:
        chosen = rng.integers(0, len(INTERVALS), n)
        alpha, beta = np.array(INTERVALS)[chosen].T.copy()
    if seed % 5 == 2:
        fixed = rng.random(n) < 0.5
        alpha[fixed] = beta[fixed] = rng.standard_normal(int(fixed.sum()))
    size = (1.0, 1e100, 1e-100)[seed // 7 % 3]
    return Pair(outer * size, inner * (1.0, 1.0 / size)[seed % 2], alpha, beta)


def vertices(pair: Pair) -> list[np.ndarray]:
    ends = (dict.fromkeys(e) for e in zip(pair.alpha, pair.beta, strict=True))
    return [np.array(d) for d in itertools.product(*ends)]


def largest(pair: Pair) -> float:
    scale = max(float(np.abs(pair.outer).max(initial=0.0)), 1e-300)
    unit = Pair(pair.outer / scale, pair.inner, pair.alpha, pair.beta)
    return scale * max(unit.value(d) for d in vertices(pair))


def product(pair: Pair) -> float:
    norms = (dense_norm(m[None]).upper for m in (pair.outer, pair.inner))
    return mul_up(next(norms), pair.largest, next(norms))


def holds(pair: Pair, bound: Certified) -> bool:
    return largest(pair) * (1 - 1e-12) <= bound.upper <= product(pair)


@pytest.mark.parametrize("group", range(6))
def test_it_bounds_every_vertex_and_not_more_than_the_product(group: int) -> None:
    for seed in range(50 * group, 50 * group + 50):
        pair = random_pair(seed)
        bound = certified(pair)
        assert holds(pair, bound), seed
        if bound.weights is not None:
            assert proof.proved(pair, bound.weights) == pytest.approx(bound.upper, rel=1e-9)


def test_it_is_close_to_the_maximum() -> None:
    """On random pairs the relaxation itself is at most some per cent too large."""
    ratios = [certified(p).upper / max(largest(p), 1e-300) for p in map(random_pair, range(60))]
    finite = [r for p, r in zip(map(random_pair, range(60)), ratios, strict=True) if largest(p)]
    assert max(finite) < 1.08
    assert float(np.median(finite)) < 1.003


@pytest.mark.parametrize("seed", range(12))
def test_inside_the_box_too(seed: int) -> None:
    rng, pair = np.random.default_rng(seed), random_pair(seed)
    bound = certified(pair).upper
    for _ in range(50):
        d = pair.alpha + rng.random(pair.size) * (pair.beta - pair.alpha)
        assert pair.value(np.clip(d, pair.alpha, pair.beta)) <= bound * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_symmetries(seed: int) -> None:
    """Transposed, with its neurons in another order, and with its neurons rescaled it is the same
    problem."""
    rng, pair = np.random.default_rng(seed), random_pair(seed)
    bound = certified(pair, tolerance=1e-7).upper
    order = rng.permutation(pair.size)
    scale = np.exp(rng.standard_normal(pair.size))
    others = [
        Pair(pair.inner.T, pair.outer.T, pair.alpha, pair.beta),
        Pair(pair.outer[:, order], pair.inner[order], pair.alpha[order], pair.beta[order]),
        Pair(pair.outer * scale, pair.inner / scale[:, None], pair.alpha, pair.beta),
        Pair(-pair.outer, pair.inner, -pair.beta, -pair.alpha),
    ]
    for other in others:
        assert certified(other, tolerance=1e-7).upper == pytest.approx(bound, rel=1e-5)
    powers = np.exp2(rng.integers(-200, 200, pair.size))
    even = Pair(pair.outer / powers, pair.inner * powers[:, None], pair.alpha, pair.beta)
    assert balanced(even).upper(1.0) == balanced(pair).upper(1.0)
    assert np.array_equal(balanced(even).pair.outer, balanced(pair).pair.outer)


def _pair(outer: list[list[float]], inner: list[list[float]], *ends: float) -> Pair:
    a, b = np.array(outer, float), np.array(inner, float)
    a, b = a.reshape(len(outer), -1), b.reshape(a.shape[1] if a.size else 0, -1)
    n = a.shape[1]
    return Pair(a, b, np.full(n, ends[0]), np.full(n, ends[1]))


def test_nothing_to_bound() -> None:
    none = np.zeros(0)
    assert certified(Pair(np.zeros((3, 0)), np.zeros((0, 2)), none, none)).upper == 0
    assert certified(Pair(np.zeros((0, 2)), np.ones((2, 2)), np.zeros(2), np.ones(2))).upper == 0
    assert certified(_pair([[0, 0]], [[1, 2], [3, 4]], 0, 1)).upper == 0
    assert certified(_pair([[1, 2]], [[0], [0]], 0, 1)).upper == 0
    assert certified(_pair([[1, 2]], [[1], [1]], 0, 0)).upper == 0


@pytest.mark.parametrize("size", [1.0, 1e100, 1e-100, 1e-150])
def test_one_neuron(size: float) -> None:
    bound = certified(_pair([[3 * size]], [[2 / 7]], -0.5, 1.5)).upper
    assert 9 / 7 * size * (1 - 1e-15) <= bound <= 9 / 7 * size * (1 + 1e-12)


def test_a_known_pattern_costs_rounding_only(rng: np.random.Generator) -> None:
    d = rng.standard_normal(9)
    pair = Pair(rng.standard_normal((5, 9)), rng.standard_normal((9, 4)), d, d)
    found = certified(pair)
    assert found.method == "fixed"
    assert pair.value(d) <= found.upper <= pair.value(d) * (1 + 1e-9)


def test_a_row_and_a_column_have_a_closed_form(rng: np.random.Generator) -> None:
    """p = q = 1: the maximum is the larger of two sums, and the relaxation is exact."""
    a, b = rng.standard_normal(12), rng.standard_normal(12)
    pair = Pair(a[None], b[:, None], np.zeros(12), np.ones(12))
    truth = max(np.maximum(a * b, 0).sum(), np.maximum(-a * b, 0).sum())
    assert truth <= certified(pair, tolerance=1e-6).upper <= truth * (1 + 1e-5)


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        certified(_pair([[math.inf]], [[1]], 0, 1))
    with pytest.raises(ValueError, match="weights"):
        proof.proved(_pair([[1]], [[1]], 0, 1), np.ones(2))


@pytest.mark.parametrize("weights", [[0.0, 1.0], [-3.0, 3.0], [math.nan, 3.0], [math.inf, 3.0]])
def test_multipliers_that_prove_nothing(weights: list[float]) -> None:
    pair = _pair([[1, 1], [1, -1]], [[1, 0], [0, 1]], 0, 1)
    assert proof.proved(pair, np.array(weights)) == math.inf
    assert proof.proved(pair, np.array([0.9, 0.9])) == math.inf  # I − EEᵀ is indefinite
    assert proof.proved(pair, np.array([3.0, 3.0])) < 4


def test_out_of_time_there_is_still_a_bound(rng: np.random.Generator) -> None:
    pair = Pair(*rng.standard_normal((2, 30, 30)), np.zeros(30), np.ones(30))
    early, late = certified(pair, seconds=0.0), certified(pair)
    assert largest_sample(pair, rng) <= late.upper < early.upper <= product(pair)
    assert certified(pair).upper == late.upper


def largest_sample(pair: Pair, rng: np.random.Generator) -> float:
    ends = (np.where(rng.random(pair.size) < 0.5, pair.alpha, pair.beta) for _ in range(50))
    return max(map(pair.value, ends))


@pytest.mark.parametrize("shape", [(20, 20, 20), (5, 40, 5), (30, 8, 30), (1, 25, 25), (25, 25, 1)])
def test_the_optimum_is_one(shape: tuple[int, int, int], rng: np.random.Generator) -> None:
    """The dual's bound meets it, and no neighbour is better."""
    p, n, q = shape
    pair = Pair(rng.standard_normal((p, n)), rng.standard_normal((n, q)), np.zeros(n), np.ones(n))
    problem = relaxation(balanced(pair).pair)
    start = closed_form(problem)
    assert start is not None
    best = minimised(problem, start.multipliers, 1e-7)
    assert best is not None
    assert best.lower <= best.rho <= best.lower * (1 + 1e-6) <= start.rho * (1 + 1e-6)
    assert value_at(problem, best.multipliers) == pytest.approx(best.rho, rel=1e-6)
    for _ in range(20):
        other = best.multipliers * np.exp(0.01 * rng.standard_normal(n))
        assert value_at(problem, other) >= best.lower * (1 - 1e-9)


# ---- the proof against exact rational arithmetic


def exact(matrix: np.ndarray) -> Exact:
    return [[Fraction(float(x)) for x in row] for row in matrix]


def times(a: Exact, b: Exact) -> Exact:
    columns = list(zip(*b, strict=True))
    return [
        [sum((x * y for x, y in zip(r, c, strict=True)), Fraction(0)) for c in columns] for r in a
    ]


def exact_parts(pair: Pair, weights: np.ndarray) -> tuple[Exact, Exact, Exact]:
    """I − EEᵀ, M and FᵀF without rounding, for the slopes as the proof takes them."""
    centre, radius = proof.slopes(pair)
    a, b = exact(pair.outer), exact(pair.inner)
    t = [Fraction(float(s)) ** 2 for s in weights]
    c, r = ([Fraction(float(x)) for x in v] for v in (centre, radius))
    inverse = [1 / x if y else Fraction(0) for x, y in zip(t, r, strict=True)]
    scaled = [[x * y for x, y in zip(row, inverse, strict=True)] for row in a]
    first = times(scaled, [list(col) for col in zip(*a, strict=True)])
    first = [[(i == j) - x for j, x in enumerate(row)] for i, row in enumerate(first)]
    mixed = times(a, [[x * y for y in row] for x, row in zip(c, b, strict=True)])
    weighted = [[x * y * y * v for v in row] for x, y, row in zip(t, r, b, strict=True)]
    return first, mixed, times([list(col) for col in zip(*b, strict=True)], weighted)


def bordered(parts: tuple[Exact, Exact, Exact], rho: Fraction, shift: Fraction) -> Exact:
    """H(ρ) + shift·I."""
    first, mixed, last = parts
    p, q = len(first), len(last)
    top = [[x + (i == j) * shift for j, x in enumerate(first[i])] + mixed[i] for i in range(p)]
    low = [
        [mixed[j][i] for j in range(p)] + [(i == j) * (rho + shift) - last[i][j] for j in range(q)]
        for i in range(q)
    ]
    return top + low


def semidefinite(matrix: Exact) -> bool:
    """By exact elimination."""
    m = [row[:] for row in matrix]
    for k in range(len(m)):
        if m[k][k] < 0 or (m[k][k] == 0 and any(m[k][k:])):
            return False
        for i in range(k + 1, len(m)):
            if m[k][k]:
                ratio = m[i][k] / m[k][k]
                m[i] = [x - ratio * y for x, y in zip(m[i], m[k], strict=True)]
    return True


def integers(seed: int) -> tuple[Pair, np.ndarray]:
    """A small pair of integers (scaled), and integer weights that are nearly too small."""
    rng = np.random.default_rng(seed)
    n, p, q = (int(k) for k in rng.integers(1, 5, 3))
    low, high = INTERVALS[seed % len(INTERVALS)]
    outer, inner = (rng.integers(-4, 5, s).astype(float) for s in ((p, n), (n, q)))
    pair = balanced(Pair(outer, inner, np.full(n, low), np.full(n, high))).pair
    size = float(np.linalg.norm(pair.outer, 2)) if pair.outer.size else 1.0
    near = (1 + 2.0**-20, 1.01, 1.5)[seed % 3]
    return pair, np.full(pair.size, size * near) * (1 + rng.random(pair.size) * (seed % 2))


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_accepted_that_is_not_positive_semidefinite(seed: int) -> None:
    pair, weights = integers(seed)
    parts = proof._parts(pair, weights) if pair.size else None
    guess = proof._guess(parts) if parts else None
    if parts is None or not guess:
        return
    true = exact_parts(pair, weights)
    accepted = []
    for slack in [s * 2.0**-e for e in range(20, 60, 4) for s in (-1, 1)] + [0.0, -0.1, -0.9]:
        rho = guess * (1 + slack)
        error = proof._proved_error(parts, rho)
        if error is not None:
            accepted.append(slack)
            assert error < 1e-9
            assert semidefinite(bordered(true, Fraction(rho), Fraction(error)))
    assert accepted
    assert min(accepted) > -1e-6  # what is clearly too small is refused


@pytest.mark.parametrize("seed", range(40))
def test_the_bound_of_multipliers_is_theirs(seed: int) -> None:
    """Not below what exact arithmetic gives for them, but for the theorem's (1 + ε); and close."""
    pair, weights = integers(seed)
    value = proof.proved_scaled(pair, weights)
    if not 0 < value < math.inf:
        return
    true, square = exact_parts(pair, weights), Fraction(value) ** 2
    assert semidefinite(bordered(true, square, Fraction(1e-11)))
    assert not semidefinite(bordered(true, square * Fraction(0.9999), Fraction(0)))


@pytest.mark.parametrize("seed", range(6))
def test_the_blocks_errors_cover_their_rounding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 40
    alpha = rng.uniform(-0.5, 0.5, n)
    beta = alpha + rng.choice([0.0, 0.3, 0.5], n)
    pair = Pair(rng.uniform(-1, 1, (3, n)), rng.uniform(-1, 1, (n, 2)), alpha, beta)
    weights = rng.uniform(5, 7, n)
    parts = proof._parts(pair, weights)
    assert parts is not None
    first, mixed, last = exact_parts(pair, weights)
    computed = [
        (parts.first, first, parts.first_error + 2.0**-53),
        (parts.mixed, mixed, parts.mixed_error),
        (parts.last, last, parts.last_error),
    ]
    for matrix, truth, error in computed:
        rows = [
            [x - y for x, y in zip(r, s, strict=True)]
            for r, s in zip(exact(matrix), truth, strict=True)
        ]
        square = sum(x * x for row in rows for x in row)
        assert 0 < square <= Fraction(error) ** 2
        assert error < 1e-12


def test_slopes_are_widened_and_never_narrowed(rng: np.random.Generator) -> None:
    alpha = rng.standard_normal(2000) * 10.0 ** rng.integers(-12, 1, 2000)
    beta = alpha + np.abs(rng.standard_normal(2000)) * 10.0 ** rng.integers(-17, 1, 2000)
    beta[::5] = alpha[::5]
    pair = Pair(np.ones((1, 2000)), np.ones((2000, 1)), alpha, beta)
    centre, radius = proof.slopes(pair)
    for a, b, c, r in zip(
        *(map(Fraction, x.tolist()) for x in (alpha, beta, centre, radius)), strict=True
    ):
        assert c - r <= a <= b <= c + r
        assert (r == 0) == (a == b)
        assert r <= (b - a) / 2 + Fraction(2.0**-52) * max(abs(a), abs(b))


def test_nearly_singular(rng: np.random.Generator) -> None:
    """Slopes [−1, 1]: M = 0 and the best multipliers make I − EEᵀ singular."""
    pair = Pair(*rng.standard_normal((2, 6, 6)), -np.ones(6), np.ones(6))
    truth = largest(pair)
    for tolerance in (1e-2, 1e-5, 1e-9):
        bound = certified(pair, tolerance=tolerance).upper
        assert truth <= bound <= product(pair)


WRONG = {
    "half the radius": {"slopes": lambda f: lambda p: (f(p)[0], 0.5 * f(p)[1])},
    "no centre": {"slopes": lambda f: lambda p: (0.0 * f(p)[0], f(p)[1])},
    "too small a matrix": {"_parts": lambda f: lambda p, s: f(_shrunk(p), s)},
    "any ρ will do": {
        "_guess": lambda f: lambda parts: 0.8 * f(parts),
        "_proved_error": lambda f: lambda parts, rho: 0.0,
    },
}


def _shrunk(p: Pair) -> Pair:
    return Pair(0.9 * p.outer, p.inner, p.alpha, p.beta)


def _broken() -> int:
    """How many pairs' bounds lie below their maximum."""
    pairs = [(p, w) for p, w in map(integers, range(30)) if p.size]
    return sum(proof.proved_scaled(p, w) < largest(p) * (1 - 1e-9) for p, w in pairs)


@pytest.mark.parametrize("name", WRONG)
def test_planted_errors_are_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _broken()
    for place, wrong in WRONG[name].items():
        monkeypatch.setattr(proof, place, wrong(getattr(proof, place)))
    assert _broken()


def test_every_error_reaches_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """ε of (1 + ε)(ρ + ε), with ρ ≤ 2 in the units of the proof."""
    pair, weights = next((p, w) for p, w in map(integers, range(5)) if p.free.size > 1)
    exact_one = proof.proved_scaled(pair, weights)
    for place, size in {"cholesky_margin": 0.25, "spread": 1e18, "gamma": 0.25}.items():
        with monkeypatch.context() as patch:
            patch.setattr(proof, place, lambda *_, _size=size, **__: _size)
            assert proof.proved_scaled(pair, weights) > 1.05 * exact_one


def test_a_wrong_guess_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    right = proof._guess
    monkeypatch.setattr(proof, "_guess", lambda parts: 0.8 * (right(parts) or 0.0))
    assert not _broken()


def test_first_order_comes_close_to_the_optimum(rng: np.random.Generator) -> None:
    """What large pairs get, on one that is small enough for both."""
    for low in (0.0, -1.0):
        pair = Pair(*rng.standard_normal((2, 40, 40)), np.full(40, low), np.ones(40))
        problem = relaxation(balanced(pair).pair)
        start = closed_form(problem)
        assert start is not None
        best = minimised(problem, start.multipliers, 1e-6)
        assert best is not None
        found = descended(problem, start, 2e-4)
        assert best.lower <= found.rho <= best.rho * 1.003 < start.rho
        assert value_at(problem, found.multipliers) == pytest.approx(found.rho, rel=1e-9)
        assert descended(problem, start, 2e-4, lambda: True) is start
