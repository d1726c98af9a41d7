"""LipLT: laws over random systems of every kind, and systems where it is attained."""

import itertools
import math

import numpy as np
import pytest

from onnxlip.bounds.liplt import cost, deviation, liplt
from onnxlip.bounds.sdp.build import layered
from onnxlip.bounds.sdp.relations import Gain, Relation, Slopes, Spread, Windows
from onnxlip.bounds.sdp.system import Affine, Floats, Nonlinear, Part, System

from .sdp.systems import KINDS, Rng, jacobian, operator, part


def norm(matrix: Floats) -> float:
    return float(np.linalg.norm(matrix, 2))


def gaussian(rng: Rng, *widths: int) -> list[Floats]:
    return [rng.standard_normal((m, n)) / np.sqrt(n) for n, m in itertools.pairwise(widths)]


def recursion(weights: list[Floats], c: float, r: float) -> float:
    """The paper's, for equal slope intervals c ± r."""
    found: list[float] = []
    for k, w in enumerate(weights):
        total, product, factor = 0.0, w, 1.0
        for j in range(k - 1, -1, -1):
            total += factor * r * norm(product) * found[j]
            product, factor = product @ weights[j], factor * c
        found.append(total + factor * norm(product))
    return found[-1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", [False, True])
def test_no_operators_that_the_relations_allow_exceed_it(kind, turned: bool, rng: Rng) -> None:  # type: ignore[no-untyped-def]
    for _ in range(10):
        system = kind(rng).transposed() if turned else kind(rng)
        if any(isinstance(n.relation, Spread) for n in system.nonlinear):
            continue  # it has no transpose, which is where it came from
        bound = liplt(system)
        assert bound is not None
        assert bound <= system.bound
        for trial in range(40):
            operators = [operator(n.relation, rng, trial % 2 == 0) for n in system.nonlinear]
            assert norm(jacobian(system, operators)) <= bound * (1 + 1e-14)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 1.0), (-0.25, 1.125), (-1.0, 1.0), (0.5, 1.0)])
def test_it_is_not_above_the_papers_recursion_nor_that_above_the_product(
    alpha: float, beta: float, rng: Rng
) -> None:
    for widths in ((4, 6, 3), (5, 8, 8, 8, 2), (3, 4, 5, 6, 7, 8, 9)):
        weights = gaussian(rng, *widths)
        system = layered(weights, alpha, beta)
        papers = recursion(weights, (alpha + beta) / 2, (beta - alpha) / 2)
        bound = liplt(system)
        assert bound is not None
        assert bound <= papers * (1 + 1e-10)
        assert papers <= system.bound * (1 + 1e-10)


def test_it_is_attained_where_all_layers_stretch_into_one_direction(rng: Rng) -> None:
    """Nothing may be left out of the sum there: the product of the norms is J's norm."""
    for slopes in ((0.0, 1.0), (-0.5, 1.5), (-1.0, 1.0)):
        vectors = [rng.uniform(0.5, 1.5, n) for n in (3, 5, 4, 6, 2)]
        weights = [np.outer(b, a) for a, b in itertools.pairwise(vectors)]
        system = layered(weights, *slopes)
        largest = [np.full((n.relation.rows,), slopes[1]) for n in system.nonlinear]
        attained = norm(jacobian(system, [np.diag(d) for d in largest]))
        bound = liplt(system)
        assert bound is not None
        assert attained * (1 - 1e-13) <= bound <= attained * (1 + 1e-10)


@pytest.mark.parametrize("windows", [1, 2, 5])
def test_it_is_attained_by_a_maximum_of_opposites(windows: int) -> None:
    """From x, −x: each of so many windows over both hands one of them on."""
    pool = Windows(np.tile(np.array([[0, 1]]), (windows, 1)), 2)
    nodes = (Affine("z", (part("x", np.array([[1.0], [-1.0]])),)), Nonlinear("u", "z", pool, "max"))
    system = System(("x",), ("u",), nodes, {"x": 1, "z": 2, "u": windows})
    attained = norm(jacobian(system, [np.tile(np.array([[1.0, 0.0]]), (windows, 1))]))
    bound = liplt(system)
    assert bound is not None
    assert attained * (1 - 1e-13) <= bound <= attained * (1 + 1e-10)


def relations(rng: Rng) -> list[Relation]:
    centre, radius = rng.standard_normal(5), rng.uniform(0.1, 1, 5)
    picks = np.array([[0, 1, 2], [2, 3, -1], [0, 2, 4], [3, -1, -1]])
    spread = Spread(np.array([0, 0, 1, 2, 2, 2]), 3)
    return [Slopes(centre, radius), Windows(picks, 5), spread, Gain(0.7, 3, 4)]


@pytest.mark.parametrize("which", range(4))
def test_a_deviation_is_within_its_radii(which: int, rng: Rng) -> None:
    relation = relations(rng)[which]
    radii, gain = deviation(relation)
    centre = relation.quadratic.centre.toarray()
    for trial in range(200):
        difference = operator(relation, rng, trial % 2 == 0) - centre
        moved = radii > 0
        assert np.allclose(difference[~moved], 0)
        assert norm(difference[moved] / radii[moved, None]) <= gain * (1 + 1e-14)


def test_a_linear_network_is_exact(rng: Rng) -> None:
    """Also if slopes leave no choice, and if paths cancel."""
    a, b = gaussian(rng, 5, 7, 4)
    chain = (Affine("z", (part("x", a),)), Affine("y", (part("z", b),)))
    sizes = {"x": 5, "z": 7, "y": 4}
    bound = liplt(System(("x",), ("y",), chain, sizes))
    assert bound == pytest.approx(norm(b @ a), rel=1e-11)
    assert bound >= norm(b @ a) * (1 - 1e-14)
    both = (*chain[:1], Affine("y", (part("z", b), part("x", -b @ a))))
    cancelled = liplt(System(("x",), ("y",), both, sizes))
    assert cancelled is not None
    assert 0 <= cancelled < 1e-11


@pytest.mark.parametrize("kind", KINDS)
def test_errors_of_the_maps_are_paid_for(kind, rng: Rng) -> None:  # type: ignore[no-untyped-def]
    """A perturbation of every map by its error stays below the bound."""
    system = kind(rng)
    rough = [
        Affine(n.output, tuple(Part(p.input, p.matrix, p.norm, 0.1 * p.norm) for p in n.parts))
        if isinstance(n, Affine)
        else n
        for n in system.nodes
    ]
    bound = liplt(System(system.inputs, system.outputs, tuple(rough), system.sizes))
    assert bound is not None
    for _ in range(50):
        moved = []
        for n in system.nodes:
            if isinstance(n, Affine):
                noise = [rng.standard_normal(p.matrix.shape) for p in n.parts]
                parts = (
                    Part(p.input, p.matrix * (1 - 0.1) + 0.1 * p.norm * e / norm(e), p.norm)
                    for p, e in zip(n.parts, noise, strict=True)
                )
                moved.append(Affine(n.output, tuple(parts)))
            else:
                moved.append(n)
        other = System(system.inputs, system.outputs, tuple(moved), system.sizes)
        operators = [operator(n.relation, rng, True) for n in system.nonlinear]
        assert norm(jacobian(other, operators)) <= bound


def test_the_order_and_the_units_of_neurons_do_not_matter(rng: Rng) -> None:
    a, b, c = gaussian(rng, 4, 6, 6, 3)
    order = rng.permutation(6)
    plain = liplt(layered([a, b, c]))
    shuffled = liplt(layered([a[order], b[:, order], c]))
    assert plain is not None
    assert shuffled == pytest.approx(plain, rel=1e-11)
    for factor in (2.0**200, 2.0**-200):
        scaled = liplt(layered([a * factor, b, c / factor]))
        assert scaled == pytest.approx(plain, rel=1e-11)
        assert liplt(layered([a * factor, b, c])) == pytest.approx(plain * factor, rel=1e-11)


def test_numbers_beyond_the_range_leave_autolip(rng: Rng) -> None:
    for size in (1e200, 1e-200):
        system = layered([w * size for w in gaussian(rng, 3, 4, 4, 2)])
        bound = liplt(system)
        assert bound is not None
        assert bound <= system.bound
    assert liplt(layered([np.full((2, 2), 1e200)] * 3)) == math.inf


def test_late_leaves_what_is_not_done_to_autolip(rng: Rng) -> None:
    system = layered(gaussian(rng, 4, 6, 6, 6, 3))
    assert liplt(system, lambda: True) is None
    calls = itertools.count()
    whole = liplt(system, lambda: next(calls) < 0)
    total = next(calls)
    assert whole is not None
    for allowed in range(total):
        asked = itertools.count()
        bound = liplt(system, lambda n=allowed, k=asked: next(k) >= n)  # type: ignore[misc]
        assert bound is None or whole <= bound <= system.bound


def test_cost_grows_as_the_cube_of_the_width_and_the_square_of_the_depth(rng: Rng) -> None:
    narrow, wide = (cost(layered(gaussian(rng, *[n] * 5))) for n in (10, 40))
    assert wide == pytest.approx(64 * narrow, rel=0.05)
    short, long = (cost(layered(gaussian(rng, *[8] * n))) for n in (10, 40))
    assert 10 < long / short < 40
