"""What is proved of multipliers is true, in rational arithmetic, and close to what they allow."""

import math
from fractions import Fraction

import numpy as np
import pytest

from onnxlip.bounds.sdp import proof
from onnxlip.bounds.sdp.build import layered
from onnxlip.bounds.sdp.proof import Certifier
from onnxlip.bounds.sdp.relations import Slopes
from onnxlip.bounds.sdp.system import Affine, Floats, Nonlinear, Part, System

from .systems import KINDS, Rng, feasible, jacobian, operator, weights

Exact = list[list[Fraction]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", [False, True])
def test_no_operators_that_the_relations_allow_exceed_it(kind, turned: bool, rng: Rng) -> None:  # type: ignore[no-untyped-def]
    for _ in range(5):
        system = kind(rng).transposed() if turned else kind(rng)
        bound = Certifier(system).proved(feasible(system))
        assert bound < math.inf
        for trial in range(40):
            operators = [operator(n.relation, rng, trial % 2 == 0) for n in system.nonlinear]
            assert np.linalg.norm(jacobian(system, operators), 2) <= bound


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_as_near_to_what_multipliers_allow_as_rounding_lets_it(kind, rng: Rng) -> None:  # type: ignore[no-untyped-def]
    system = kind(rng)
    certifier = Certifier(system)
    t = feasible(system) * rng.uniform(1, 2, system.multipliers)
    least = certifier.guess(t)
    value = certifier.proved(t)
    assert math.sqrt(least) * (1 - 1e-12) <= value <= math.sqrt(least) * (1 + 1e-9)
    assert certifier.proved(t, least) == pytest.approx(value, rel=1e-9)
    assert certifier.proved(t, least / 4) == pytest.approx(value, rel=1e-6)  # a wrong guess


def exactly(matrix: Floats) -> Exact:
    return [[Fraction(float(x)) for x in row] for row in matrix]


def least_pivot(m: Exact) -> Fraction:
    """The smallest pivot of LDLᵀ: negative, or 0, where the matrix is not positive definite."""
    m = [row[:] for row in m]
    least = None
    for k in range(len(m)):
        pivot = m[k][k]
        least = pivot if least is None else min(least, pivot)
        if pivot <= 0:
            return pivot
        for i in range(k + 1, len(m)):
            factor = m[i][k] / pivot
            for j in range(k + 1, len(m)):
                m[i][j] -= factor * m[k][j]
    assert least is not None
    return least


def exact_matrix(system: System, t: Floats, rho: Fraction) -> Exact:
    """M(ρ, T) of W_3 D W_2 D W_1, rows and columns (x, u_1, u_2), for slopes c ± r."""
    maps = [exactly(np.asarray(n.parts[0].matrix)) for n in system.nodes if isinstance(n, Affine)]
    laws = [n.relation for n in system.nonlinear]
    n = [len(maps[0][0]), len(maps[0]), len(maps[1])]
    edges = [0, n[0], n[0] + n[1], sum(n)]
    m = [[Fraction(0)] * sum(n) for _ in range(sum(n))]
    for i in range(n[0]):
        m[i][i] += rho
    for row in maps[2]:
        for i, a in enumerate(row):
            for j, b in enumerate(row):
                m[edges[2] + i][edges[2] + j] -= a * b
    begin = 0
    for k, law in enumerate(laws):
        assert isinstance(law, Slopes)
        for j, row in enumerate(maps[k]):
            c, r = Fraction(float(law.centre[j])), Fraction(float(law.radius[j]))
            weight = Fraction(float(t[begin + j]))
            z = {edges[k] + i: a for i, a in enumerate(row)}
            rest = {i: -c * a for i, a in z.items()} | {edges[k + 1] + j: Fraction(1)}
            for form, factor in ((z, -(r * r)), (rest, Fraction(1))):
                for a, x in form.items():
                    for b, y in form.items():
                        m[a][b] += weight * factor * x * y
        begin += law.count
    return m


def test_in_rational_arithmetic_it_never_accepts_what_is_not_definite(
    rng: Rng, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the proved value M is positive semidefinite, and just below the least ρ it is not."""
    near = []
    for trial in range(60):
        system = layered(weights(rng, 2, 3, 3, 2), alpha=[0.0, -0.25][trial % 2])
        certifier = Certifier(system)
        t = feasible(system) * rng.uniform(0.5, 2, system.multipliers)
        value = certifier.proved(t)
        if value == math.inf:
            continue
        square = Fraction(value) ** 2
        assert least_pivot(exact_matrix(system, t, square)) >= 0
        below = Fraction(math.sqrt(certifier.guess(t)) * (1 - 1e-9)) ** 2
        assert least_pivot(exact_matrix(system, t, below)) < 0
        near.append(value / math.sqrt(certifier.guess(t)) - 1)
    assert len(near) > 40
    assert max(near) < 1e-10


def singular(rng: Rng) -> tuple[System, Floats]:
    """Multipliers at which M_uu is singular, or off by a few units in the last place of one."""
    w = weights(rng, 2, 3, 2)
    top = np.linalg.eigvalsh(w[1].T @ w[1])[-1]
    ulps = rng.integers(-3, 4)
    return layered(w), np.full(3, top * (1 + ulps * 2.0**-52))


def test_multipliers_at_the_edge_of_what_is_feasible(rng: Rng) -> None:
    """T − WᵀW singular: either nothing is proved, or what is proved holds in rationals."""
    accepted = 0
    for _ in range(200):
        system, t = singular(rng)
        value = Certifier(system).proved(t)
        if value < math.inf:
            accepted += 1
            maps = [n.parts[0].matrix for n in system.nodes if isinstance(n, Affine)]
            best = max(
                np.linalg.norm(maps[1] @ np.diag(d) @ maps[0], 2) for d in np.ndindex(2, 2, 2)
            )
            assert best <= value
    assert accepted < 200


def inexact(system: System, relative: float) -> System:
    """The same with maps that are known up to an error."""
    nodes = [
        Affine(n.output, tuple(Part(p.input, p.matrix, p.norm, relative * p.norm) for p in n.parts))
        if isinstance(n, Affine)
        else Nonlinear(n.output, n.input, n.relation, n.name)
        for n in system.nodes
    ]
    return System(system.inputs, system.outputs, tuple(nodes), system.sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_of_the_maps_are_paid_for(kind, rng: Rng) -> None:  # type: ignore[no-untyped-def]
    """A perturbation of every map by its error stays below the bound, which grows with it."""
    system = kind(rng)
    t = feasible(system)
    plain = Certifier(system).proved(t)
    rough = inexact(system, 1e-3)
    bound = Certifier(rough).proved(t)
    assert bound > plain * (1 + 1e-4)
    for _ in range(30):
        moved = []
        for n in system.nodes:
            if isinstance(n, Affine):
                parts = []
                for p in n.parts:
                    noise = rng.standard_normal(p.matrix.shape)
                    noise *= 1e-3 * p.norm / np.linalg.norm(noise, 2)
                    parts.append(Part(p.input, p.matrix + noise, p.norm))
                moved.append(Affine(n.output, tuple(parts)))
            else:
                moved.append(n)
        other = System(system.inputs, system.outputs, tuple(moved), system.sizes)
        operators = [operator(n.relation, rng, True) for n in system.nonlinear]
        assert np.linalg.norm(jacobian(other, operators), 2) <= bound


def test_bad_multipliers_prove_nothing(rng: Rng) -> None:
    system = KINDS[0](rng)
    certifier = Certifier(system)
    t = feasible(system)
    assert certifier.proved(t * 1e-6) == math.inf
    for bad in (-1.0, math.nan, math.inf):
        t[3] = bad
        assert certifier.proved(t) == math.inf
    with pytest.raises(ValueError, match="multipliers needed"):
        certifier.proved(t[:-1])


def test_scaling_weights_by_powers_of_two_scales_the_bound_exactly(rng: Rng) -> None:
    w = weights(rng, 3, 5, 4, 2)
    system = layered(w)
    t = feasible(system)
    value = Certifier(system).proved(t)
    large = Certifier(layered([w[0], w[1], w[2] * 2.0**40])).proved(t * 2.0**80)
    assert large == value * 2.0**40


def test_deep_networks_of_large_norms_lose_little(rng: Rng) -> None:
    """Twelve layers: AutoLip is far above, the units of v keep the errors small."""
    w = [rng.standard_normal((8, 8)) for _ in range(12)]
    system = layered(w)
    certifier = Certifier(system)
    t = feasible(system)
    assert certifier.proved(t) == pytest.approx(math.sqrt(certifier.guess(t)), rel=1e-6)
    assert proof.Certifier(system).possible


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", [False, True])
def test_directions_from_one_factorisation(kind, turned: bool, rng: Rng) -> None:  # type: ignore[no-untyped-def]
    """‖Jc‖ ≤ value for all that the relations allow; the largest value over all c is the bound."""
    system = kind(rng).transposed() if turned else kind(rng)
    certifier, t = Certifier(system), feasible(system)
    c = rng.standard_normal((system.width, 200))
    values = np.array(certifier.along(t, c))
    lengths = np.linalg.norm(c, axis=0)
    assert np.all(values <= certifier.proved(t) * lengths * (1 + 1e-8))
    for trial in range(40):
        operators = [operator(n.relation, rng, trial % 2 == 0) for n in system.nonlinear]
        assert np.all(np.linalg.norm(jacobian(system, operators) @ c, axis=0) <= values)
    assert certifier.along(t * 1e-6, c) == [math.inf] * 200
