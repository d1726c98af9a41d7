"""Relations hold for all that they speak of; a system's forms say the same."""

import numpy as np
import pytest

from onnxlip.bounds.sdp.implicit import implicit, lipsdp_matrix
from onnxlip.bounds.sdp.relations import Gain, Quadratic, Relation, Windows
from onnxlip.bounds.sdp.system import Affine, Floats, System, joined, split
from onnxlip.bounds.sdp.written import sparse
from onnxlip.norms.workspace import Workspace
from onnxlip.registry import built_in

from ...norms.oracle import random_convolution
from .systems import KINDS, Rng, jacobian, operator, slopes


def relations(rng: Rng) -> list[Relation]:
    picks = rng.permuted(np.tile(np.arange(9), (5, 1)), axis=1)[:, :4]
    picks[1, 2:] = -1
    picks[2, 1:] = -1
    windows = Windows(picks, 9)
    return [slopes(rng, 6), windows, windows.transposed()[0], Gain(1.5, 3, 4)]


def form(q: Quadratic, t: Floats, z: Floats, u: Floats) -> float:
    s = q.centre @ z
    back = 0.0 if q.back is None else t @ (q.back * s**2)
    return float(t @ (q.reach @ z**2) - back - t[q.group] @ (u - s) ** 2)


@pytest.mark.parametrize("which", range(4))
def test_a_relation_holds_for_all_that_it_speaks_of(which: int, rng: Rng) -> None:
    for trial in range(300):
        relation = relations(rng)[which]
        d = operator(relation, rng, extreme=trial % 2 == 0)
        z = rng.standard_normal(relation.columns)
        z = np.ones_like(z) if trial % 5 == 0 else z
        t = rng.uniform(0, 1, relation.count) ** 4
        scale = t.sum() * (z @ z)
        assert form(relation.quadratic, t, z, d @ z) >= -1e-15 * scale
        assert np.linalg.norm(d @ z) <= relation.gain * np.linalg.norm(z) * (1 + 1e-14)


def test_the_relation_of_windows_is_sharp_and_stronger_than_the_plain_one(rng: Rng) -> None:
    windows = Windows(np.array([[0, 1, 2, 3]]), 4)
    q = windows.quadratic
    for z in (np.ones(4), np.eye(4)[0]):  # the largest u that it allows is the true maximum
        assert abs(form(q, np.ones(1), z, np.array([z.max()]))) < 1e-13
        assert form(q, np.ones(1), z, np.array([z.max() + 1e-3])) < 0
    for _ in range(200):
        z, u = rng.standard_normal(4), rng.standard_normal(1)
        if form(q, np.ones(1), z, u) >= 0:
            assert u[0] ** 2 <= z @ z * (1 + 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_transposed_system_has_the_transposed_jacobian(kind, rng: Rng) -> None:  # type: ignore[no-untyped-def]
    system = kind(rng)
    turned = system.transposed()
    operators = [operator(n.relation, rng) for n in system.nonlinear]
    mirrored = []
    for node, d in zip(reversed(system.nonlinear), reversed(operators), strict=True):
        if isinstance(node.relation, Windows):
            outputs, columns = np.nonzero(node.relation.picks >= 0)
            entries = node.relation.picks[outputs, columns]
            spread = np.zeros((len(outputs), node.relation.rows))
            spread[np.arange(len(outputs)), outputs] = d[outputs, entries]
            mirrored.append(spread)
        else:
            mirrored.append(d.T)
    j = jacobian(system, operators)
    np.testing.assert_allclose(jacobian(turned, mirrored), j.T, atol=1e-13)
    assert np.linalg.norm(j, 2) <= system.bound
    assert np.linalg.norm(j, 2) <= turned.bound
    assert (turned.width, turned.height) == (system.height, system.width)


def increments(system: System, operators: list[Floats], x: Floats) -> tuple[Floats, Floats, float]:
    """(v, y, Σ q for T = 1, 2, 3, …) of one true increment."""
    known, begin = {}, 0
    for t in system.inputs:
        known[t] = x[begin : begin + system.sizes[t]]
        begin += system.sizes[t]
    remaining, inner = iter(operators), [x]
    multipliers = split(system, np.arange(1.0, system.multipliers + 1))
    total, k = 0.0, 0
    for node in system.nodes:
        if isinstance(node, Affine):
            zero = np.zeros(system.sizes[node.output])
            known[node.output] = sum((p.matrix @ known[p.input] for p in node.parts), zero)
        else:
            z = known[node.input]
            known[node.output] = next(remaining) @ z
            inner.append(known[node.output])
            total += form(node.relation.quadratic, multipliers[k], z, inner[-1])
            k += 1
    return np.concatenate(inner), np.concatenate([known[t] for t in system.outputs]), total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", [False, True])
def test_the_implicit_form_says_what_the_system_does(kind, turned: bool, rng: Rng) -> None:  # type: ignore[no-untyped-def]
    system = kind(rng).transposed() if turned else kind(rng)
    found = implicit(system)
    t = np.arange(1.0, system.multipliers + 1)
    m = lipsdp_matrix(found, 7.0, split(system, t))
    np.testing.assert_allclose(m, m.T, atol=1e-13 * np.abs(m).max())
    np.testing.assert_array_equal(joined(split(system, t)), t)
    for _ in range(5):
        x = rng.standard_normal(system.width)
        operators = [operator(n.relation, rng) for n in system.nonlinear]
        v, y, q = increments(system, operators, x)
        whole = np.concatenate(
            [
                found.dense(rows, system.sizes[o])
                for rows, o in zip(found.y, system.outputs, strict=True)
            ]
        )
        np.testing.assert_allclose(whole @ v, y, atol=1e-12)
        np.testing.assert_allclose(v @ m @ v, 7 * x @ x - y @ y - q, rtol=1e-9, atol=1e-9)


def test_a_convolution_is_written_out_as_its_kernel_says(rng: Rng) -> None:
    work = Workspace(built_in().lowerings)
    for _ in range(60):
        a = random_convolution(rng, int(rng.integers(1, 4)), 5)
        for linear in (a, a.adjoint):
            found = sparse(linear, 1 << 20)
            assert found is not None
            written = work.written(linear)
            assert written is not None
            np.testing.assert_allclose(found.toarray(), written.matrix, atol=1e-12)
    assert sparse(a, 0) is None
