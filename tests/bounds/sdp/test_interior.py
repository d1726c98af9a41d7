"""The interior-point method: brackets, known optima, and what no bound may depend on."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp

from onnxlip.bounds.pairs import interior as pairs
from onnxlip.bounds.pairs.relaxation import Relaxation
from onnxlip.bounds.sdp.atoms import Moments
from onnxlip.bounds.sdp.build import intervals, layered
from onnxlip.bounds.sdp.closed import closed_forms
from onnxlip.bounds.sdp.implicit import implicit, lipsdp_matrix
from onnxlip.bounds.sdp.interior import Optimum, minimised
from onnxlip.bounds.sdp.proof import Certifier
from onnxlip.bounds.sdp.reduction import reduced, smaller
from onnxlip.bounds.sdp.relations import Slopes, Windows
from onnxlip.bounds.sdp.system import Affine, Floats, Nonlinear, System, joined, split
from tests.bounds.sdp.systems import (
    KINDS,
    Rng,
    branched,
    feasible,
    jacobian,
    operator,
    part,
    sequential,
    weights,
)

Maker = Callable[[Rng], System]
TOLERANCE = 1e-7


def best(system: System, tolerance: float = TOLERANCE) -> Optimum:
    found = minimised(system, feasible(system), tolerance)
    assert found is not None
    assert not found.stalled
    return found


@pytest.fixture(params=KINDS, ids=lambda k: k.__name__)
def system(request: pytest.FixtureRequest, rng: Rng) -> System:
    made: System = request.param(rng)
    return made


def test_the_bracket_closes_and_the_upper_end_is_a_certificate(system: System) -> None:
    found = best(system)
    assert found.lower <= found.rho <= found.lower * (1 + 2 * TOLERANCE)
    proved = Certifier(system).proved(found.multipliers)
    assert proved <= np.sqrt(found.rho) * (1 + 1e-9)
    assert proved >= np.sqrt(found.lower) * (1 - 1e-9)


def test_every_iterate_is_a_bracket(system: System) -> None:
    told: list[tuple[float, float]] = []
    found = minimised(
        system, feasible(system), 1e-6, progress=lambda _, rho, low: told.append((rho, low))
    )
    assert found is not None
    least = min(rho for rho, _ in told)
    assert all(low <= least * (1 + 1e-10) for _, low in told)
    lows = [low for _, low in told]
    assert lows == sorted(lows)


def test_no_multipliers_give_less(system: System, rng: Rng) -> None:
    found = best(system)
    form = implicit(system)
    for scale in (0.01, 0.1, 1.0):
        t = found.multipliers * np.exp(scale * rng.standard_normal(system.multipliers))
        m = lipsdp_matrix(form, found.lower * (1 - 1e-6), split(system, t))
        assert np.linalg.eigvalsh(m)[0] < 0


def test_it_is_above_what_relations_allow(system: System, rng: Rng) -> None:
    rho = best(system).rho
    for _ in range(200):
        d = [operator(n.relation, rng, extreme=True) for n in system.nonlinear]
        assert np.linalg.norm(jacobian(system, d), 2) ** 2 <= rho * (1 + 1e-9)


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not branched], ids=lambda k: k.__name__)
def test_the_transposed_system_has_the_same_optimum(kind: Maker, rng: Rng) -> None:
    system = kind(rng)
    turned = system.transposed()
    assert best(turned).rho == pytest.approx(best(system).rho, rel=1e-6)
    assert best(branched(rng).transposed()).rho > 0


def test_one_hidden_layer_is_the_pair_problem(rng: Rng) -> None:
    inner, outer = weights(rng, 9, 7, 5)
    alpha, beta = -0.25, 1.0
    centre, radius = np.full(7, 0.375), np.full(7, 0.625)
    problem = Relaxation(
        outer, radius[:, None] * inner, (outer * centre) @ inner, np.arange(7, dtype=np.int64)
    )
    norm = float(np.linalg.norm(outer, 2))
    known = pairs.minimised(problem, np.full(7, 4 * norm * norm), TOLERANCE)
    assert known is not None
    assert best(layered([inner, outer], alpha, beta)).rho == pytest.approx(known.rho, rel=1e-6)


def test_tied_multipliers_give_more_and_keep_their_ratio(system: System) -> None:
    start = feasible(system)
    ties = joined([np.full(n.relation.count, k) for k, n in enumerate(system.nonlinear)])
    found = minimised(system, start, 1e-6, ties=ties.astype(np.int64))
    assert found is not None
    free = best(system)
    assert found.rho >= free.lower * (1 - 1e-9)
    ratios = found.multipliers / start
    for k in range(len(system.nonlinear)):
        assert np.ptp(ratios[ties == k]) <= 1e-12 * ratios.max()
    apart = minimised(system, start, 1e-6, ties=np.arange(len(start)))
    assert apart is not None
    assert apart.rho == pytest.approx(free.rho, rel=1e-5)


def _free_patterns(system: System) -> float:
    """max ‖J‖² over all slopes at their ends."""
    relations = [n.relation for n in system.nonlinear]
    assert all(isinstance(r, Slopes) for r in relations)
    best_square = 0.0
    for signs in itertools.product((-1.0, 1.0), repeat=system.neurons):
        cut = np.split(np.array(signs), np.cumsum([r.rows for r in relations])[:-1])
        d = [
            np.diag(r.centre + s * r.radius)
            for r, s in zip(relations, cut, strict=True)
            if isinstance(r, Slopes)
        ]
        best_square = max(best_square, float(np.linalg.norm(jacobian(system, d), 2)) ** 2)
    return best_square


@pytest.mark.parametrize("alpha", [0.0, -0.25])
def test_never_below_any_pattern(alpha: float, rng: Rng) -> None:
    system = layered(weights(rng, 3, 4, 4, 2), alpha, 1.0)
    rho, true = best(system).rho, _free_patterns(system)
    assert true * (1 - 1e-9) <= rho <= 2 * true


def test_what_is_forced_is_no_variable(rng: Rng) -> None:
    """A neuron that reads nothing, a window of one entry and one of equal entries."""
    w = weights(rng, 4, 6)[0]
    w[2] = 0.0
    w[5] = w[4]
    picks = np.array([[0, 1], [3, -1], [4, 5]])
    v = weights(rng, 9, 3)[0]
    place = sp.csr_array(sp.eye_array(9, 6, format="csr"))
    beside = sp.csr_array(sp.eye_array(9, 3, k=-6, format="csr"))
    nodes = (
        Affine("z", (part("x", w),)),
        Nonlinear("a", "z", Slopes(*intervals(np.zeros(6), np.ones(6))), "φ"),
        Nonlinear("b", "z", Windows(picks, 6), "pool"),
        Affine("c", (part("a", place), part("b", beside))),
        Affine("y", (part("c", v),)),
    )
    sizes = {"x": 4, "z": 6, "a": 6, "b": 3, "c": 9, "y": 3}
    system = System(("x",), ("y",), nodes, sizes)
    found = best(system)
    program = reduced(system, feasible(system))
    assert program is not None
    assert program.alive.tolist() == [True, True, False, True, True, True, True, False, False]
    assert Certifier(system).proved(found.multipliers) == pytest.approx(
        np.sqrt(found.lower), rel=1e-4
    )
    assert found.lower <= found.rho


@pytest.mark.parametrize("size", [1e-12, 1e-25, 1e-40])
def test_dying_neurons_take_no_proof_away(size: float, rng: Rng) -> None:
    """Weight decay leaves weights like these; what multipliers of theirs cost is told by none."""
    first, second, third = weights(rng, 6, 8, 8, 4)
    first[:3] *= size
    second[:, :3] *= size
    second[2] *= size
    system = layered([first, second, third])
    for form in closed_forms(system).values():
        found = minimised(system, form.multipliers, TOLERANCE)
        assert found is not None
        assert not found.stalled
        bound = Certifier(system).proved(found.multipliers)
        assert bound == pytest.approx(np.sqrt(found.lower), rel=3e-6)


def test_systems_entries_are_traces(system: System, rng: Rng) -> None:
    """O_jk = tr G_jXG_kK, and all else that the method computes, by dense matrices."""
    made = reduced(system, feasible(system))
    assert made is not None
    program = made.program
    n, m = program.order, program.variables

    def symmetric(lower: Floats) -> Floats:
        return np.tril(lower) + np.tril(lower, -1).T

    unit = [symmetric(program.linear(0.0, row)) for row in np.eye(m)]
    unit.append(symmetric(program.linear(1.0, np.zeros(m))))
    x, k = (a @ a.T for a in rng.standard_normal((2, n, n)))
    first, second = program.moments(x), program.moments(k)
    assert isinstance(first, Moments)
    dense = np.array([[np.trace(g @ x @ h @ k) for h in unit] for g in unit])
    upper = np.triu(dense)
    assert np.allclose(np.triu(program.system(first, second)), upper, atol=1e-9 * abs(dense).max())
    assert np.allclose(program.traces(first), [np.trace(g @ x) for g in unit])
    d = rng.standard_normal(m + 1)
    step = sum(t * g for t, g in zip(d, unit, strict=True))
    assert np.allclose(program.after(d, x, first.z), step @ x)
    product = rng.standard_normal((n, n))
    mixed = [np.trace(g @ product.T @ k) for g in unit]
    assert np.allclose(program.mixed(product, second), mixed)
    start = program.traces(program.moments(made.moments))
    assert np.allclose(start, np.append(np.zeros(m), 1.0), atol=1e-9)
    assert np.linalg.eigvalsh(made.moments)[0] > 0


def test_it_can_be_stopped_and_still_proves(system: System) -> None:
    for stop in (0, 2):
        calls = itertools.count()
        found = minimised(system, feasible(system), 1e-9, late=lambda c=calls, s=stop: next(c) >= s)
        assert found is not None
        assert not found.stalled
        assert Certifier(system).proved(found.multipliers) <= np.sqrt(found.rho) * (1 + 1e-9)
    early = minimised(system, feasible(system), 1e-9, enough=lambda rho, low: low > 0.5 * rho)
    assert early is not None
    assert early.lower > 0.5 * early.rho


def test_a_start_that_is_far_away(rng: Rng) -> None:
    best(layered([rng.standard_normal((8, 8)) / np.sqrt(8) for _ in range(7)]), 1e-5)


def test_starts_that_prove_nothing(rng: Rng) -> None:
    system = sequential(rng)
    for bad in (1e-6, 0.0, -1.0, np.inf, np.nan):
        assert minimised(system, np.full(system.multipliers, bad), 1e-6) is None


def test_without_a_nonlinearity_it_is_the_norm(rng: Rng) -> None:
    w = weights(rng, 5, 3)[0]
    found = minimised(layered([w]), np.zeros(0), 1e-6)
    assert found is not None
    assert found.rho == pytest.approx(float(np.linalg.norm(w, 2)) ** 2)


def test_the_smaller_orientation(rng: Rng) -> None:
    wide = layered(weights(rng, 40, 30, 3))
    system, turned = smaller(wide)
    assert turned
    assert system.width == 3
    assert smaller(system)[1] is False


def test_many_inputs_that_are_read_in_few_directions(rng: Rng) -> None:
    """x of 40 entries, of which 3 directions count: the order is not that of x."""
    u, v = weights(rng, 40, 3, 6)
    system = layered([v @ u, weights(rng, 6, 2)[0]])
    program = reduced(system, feasible(system))
    assert program is not None
    assert program.program.order == 3 + 6
    assert not best(system).stalled
