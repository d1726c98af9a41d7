"""Scaled AutoLip: what scales prove, and that the best ones are found."""

import itertools

import numpy as np
import pytest

from onnxlip.bounds.liplt import liplt
from onnxlip.bounds.scaled import _Problem, balanced, rescaled, scaled_autolip
from onnxlip.bounds.sdp.build import layered
from onnxlip.bounds.sdp.system import Affine, Floats, Part, System

from .sdp.systems import KINDS, Rng, jacobian, operator, residual


def norm(matrix: Floats) -> float:
    return float(np.linalg.norm(matrix, 2))


def gaussian(rng: Rng, *widths: int) -> list[Floats]:
    return [rng.standard_normal((m, n)) / np.sqrt(n) for n, m in itertools.pairwise(widths)]


@pytest.mark.parametrize("kind", KINDS)
def test_no_operators_that_the_relations_allow_exceed_it(kind, rng: Rng) -> None:  # type: ignore[no-untyped-def]
    for _ in range(5):
        system = kind(rng)
        bound, other = scaled_autolip(system), balanced(system)
        if other is None:
            assert bound is None
            continue
        assert bound is not None
        assert bound <= system.bound
        deeper = liplt(other)
        assert deeper is not None
        assert deeper <= other.bound
        for trial in range(40):
            operators = [operator(n.relation, rng, trial % 2 == 0) for n in system.nonlinear]
            j = jacobian(system, operators)
            assert norm(j) <= min(bound, deeper) * (1 + 1e-14)
            assert np.allclose(jacobian(other, operators), j, rtol=1e-9, atol=1e-12)


def test_any_scales_leave_the_network_and_its_norms_what_they_are(rng: Rng) -> None:
    system = residual(rng)
    s = {f"{t}{k}": np.exp(rng.standard_normal(5)) for k in range(2) for t in "zu"}
    s |= {"u0": s["z0"], "u1": s["z1"], "h0": np.exp(rng.standard_normal(4))}
    other = rescaled(system, s)
    for node, old in zip(other.nodes, system.nodes, strict=True):
        if not (isinstance(node, Affine) and isinstance(old, Affine)):
            continue
        for part, before in zip(node.parts, old.parts, strict=True):
            after = np.diag(s.get(node.output, np.ones(other.sizes[node.output])))
            true = after @ before.matrix / s.get(part.input, np.ones(other.sizes[part.input]))
            stored = part.matrix if isinstance(part.matrix, np.ndarray) else part.matrix.toarray()
            assert norm(stored - true) <= max(part.error, 1e-300) * 2
            assert norm(true) <= part.norm * (1 + 1e-15)


def test_hidden_scales_are_found_and_undone(rng: Rng) -> None:
    """Orthogonal layers of norm one, in bad units: the bound is one again."""
    q = [np.linalg.qr(rng.standard_normal((6, 6)))[0] for _ in range(4)]
    s = [np.ones(6), *(np.exp(rng.uniform(-3, 3, 6)) for _ in range(3)), np.ones(6)]
    weights = [b[:, None] * w / a for w, (a, b) in zip(q, itertools.pairwise(s), strict=True)]
    system = layered(weights)
    bound = scaled_autolip(system)
    assert bound is not None
    assert system.bound > 100
    assert 1 - 1e-12 <= bound <= 1.02


def test_no_other_scales_are_much_better(rng: Rng) -> None:
    """The problem is convex: a random search around the end finds nothing."""
    system = layered(gaussian(rng, 4, 6, 5, 3))
    best = balanced(system)
    assert best is not None
    for size in (0.3, 0.03):
        for _ in range(100):
            s = [np.exp(size * rng.standard_normal(n)) for n in (6, 5)]
            scales = {f"{t}{k}": s[k] for k in range(2) for t in "zu"}
            assert rescaled(best, scales).bound >= best.bound * (1 - 0.02)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [8.0, 64.0])
def test_the_gradient_is_that_of_finite_differences(kind, p: float, rng: Rng) -> None:  # type: ignore[no-untyped-def]
    problem = _Problem(kind(rng))
    x = 0.3 * rng.standard_normal(problem.size)
    _, gradient = problem.value(x, p)
    for k in range(problem.size):
        step = np.eye(problem.size)[k] * 1e-6
        slope = (problem.value(x + step, p)[0] - problem.value(x - step, p)[0]) / 2e-6
        assert gradient[k] == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_errors_of_the_maps_grow_with_the_scales(rng: Rng) -> None:
    a, b = gaussian(rng, 3, 4, 2)
    plain = layered([a, b])
    nodes = tuple(
        Affine(n.output, tuple(Part(p.input, p.matrix, p.norm + 0.1, 0.1) for p in n.parts))
        if isinstance(n, Affine)
        else n
        for n in plain.nodes
    )
    system = System(plain.inputs, plain.outputs, nodes, plain.sizes)
    s = np.array([1.0, 2.0, 4.0, 8.0])
    first, _, last = rescaled(system, {"z0": s, "u0": s}).nodes
    assert isinstance(first, Affine)
    assert isinstance(last, Affine)
    assert first.parts[0].error >= 0.8
    assert last.parts[0].error >= 0.1
    for _ in range(50):
        noise = rng.standard_normal((4, 3))
        moved = s[:, None] * (a + 0.1 * noise / norm(noise))
        assert norm(moved) <= first.parts[0].norm


def test_late_and_what_has_no_scales_give_none(rng: Rng) -> None:
    system = layered(gaussian(rng, 4, 6, 3))
    assert scaled_autolip(system, lambda: True) is None
    whole = scaled_autolip(system)
    assert whole is not None
    for allowed in range(2, 40, 5):
        asked = itertools.count()
        bound = scaled_autolip(system, lambda n=allowed, k=asked: next(k) >= n)  # type: ignore[misc]
        assert bound is None or whole * (1 - 1e-9) <= bound <= system.bound
        assert bound is not None or allowed < 10
    assert scaled_autolip(layered(gaussian(rng, 4, 3))) is None
    assert scaled_autolip(layered([np.zeros((3, 4)), np.ones((2, 3))])) is None
    assert scaled_autolip(layered([np.full((2, 2), 1e200)] * 3)) is None


def test_scales_that_do_not_commute_are_refused(rng: Rng) -> None:
    system = layered(gaussian(rng, 4, 6, 3))
    s = np.full(6, 2.0)
    for wrong in (
        {"z0": s},
        {"z0": s, "u0": 2 * s},
        {"x": np.ones(4)},
        {"z1": np.ones(3)},
        {"z0": -s, "u0": -s},
        {"z0": s * np.nan, "u0": s * np.nan},
    ):
        with pytest.raises(ValueError, match=r"scale"):
            rescaled(system, wrong)
