"""Where effort goes: sound whatever it is, to the slack that was asked for, the same every time."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from onnxlip import parallel
from onnxlip.certificate import LATE, LIMITED
from onnxlip.errors import ModelError
from onnxlip.linear import Convolution, LinearMap, Matrix, Monomial, Product
from onnxlip.norms import schedule
from onnxlip.norms.schedule import Brackets, Effort, Item, brackets
from onnxlip.registry import rule_set

from .oracle import dense_convolution, svd_norm

LOWERINGS = rule_set().lowerings
RNG = np.random.default_rng(11)


def item(name: str, *maps: LinearMap, weights: int = 1000) -> Item:
    return Item(name, lambda: maps, [(a.rows, a.columns) for a in maps], weights)


def plane(channels: tuple[int, int], side: int, seed: int = 0) -> Convolution:
    kernel = np.random.default_rng(seed).standard_normal((*channels, 3, 3))
    kernel /= math.sqrt(9 * channels[1])
    return Convolution(kernel.astype(np.float32), (side,) * 2, (side,) * 2, (1, 1), (1, 1), (1, 1))


def diagonal(n: int, seed: int) -> Monomial:
    return Monomial(n, None, np.random.default_rng(seed).uniform(0.5, 1.5, n))


@pytest.fixture(scope="module")
def planes() -> list[tuple[Convolution, float]]:
    """Too large to be written out, small enough for an SVD in the test (1,100 to 1,800 rows)."""
    chosen = [((12, 12), 10), ((9, 16), 12), ((20, 12), 10)]
    made = [plane(c, side, k) for k, (c, side) in enumerate(chosen)]
    return [(a, svd_norm(dense_convolution(a))) for a in made]


def run(maps: Sequence[LinearMap], **effort: object) -> Brackets:
    items = [item(str(k), a, weights=10_000 - k) for k, a in enumerate(maps)]
    return brackets(items, LOWERINGS, 2, Effort(**effort))  # type: ignore[arg-type]


def slack(found: Brackets) -> float:
    return math.prod(b.upper / b.lower for norms in found.blocks for b in norms.each)


@pytest.mark.parametrize("tolerance", [0.2, 0.02, 0.004])
def test_the_product_is_as_close_as_was_asked_for(
    planes: list[tuple[Convolution, float]], tolerance: float
) -> None:
    found = run([a for a, _ in planes], tolerance=tolerance)
    assert slack(found) <= 1 + tolerance
    for norms, (_, truth) in zip(found.blocks, planes, strict=True):
        (b,) = norms.each
        assert b.lower <= truth * (1 + 1e-13)
        assert truth * (1 - 1e-13) <= b.upper
        assert norms.whole == b


def test_nothing_is_sharpened_that_need_not_be(planes: list[tuple[Convolution, float]]) -> None:
    maps = [a for a, _ in planes]
    loose, tight = run(maps, tolerance=1.0), run(maps, tolerance=1e-3)
    assert {n.whole.upper_method for n in loose.blocks} == {"twisted torus"}
    assert {n.whole.upper_method for n in tight.blocks} == {"torus, border released"}
    gains = [a.whole.upper / b.whole.upper for a, b in zip(loose.blocks, tight.blocks, strict=True)]
    middle = run(maps, tolerance=slack(loose) / max(gains) - 1 + 2e-3)
    sharp = [n.whole.upper_method != "twisted torus" for n in middle.blocks]
    assert any(sharp)
    assert not all(sharp)


def test_the_same_figures_on_any_number_of_cores(
    planes: list[tuple[Convolution, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = [a for a, _ in planes] + [Matrix(RNG.standard_normal((1, 30, 700)))]
    found = []
    for cores in (1, 3):
        monkeypatch.setattr(parallel, "cores", lambda cores=cores: cores)
        found.append(run(maps, seed=5))
    assert found[0] == found[1] == run(maps, seed=5)


def test_a_convolution_within_isometries_is_drafted_as_one() -> None:
    a, n = plane((12, 12), 10), 1200
    scale = Monomial(n, None, np.full((), 2.0))
    turned = Product((Monomial(n, np.arange(n)[::-1].copy()), a))
    truth = svd_norm(dense_convolution(a))
    for b, factor in ((turned, 1.0), (Product((scale, a)), 2.0), (a.adjoint, 1.0)):
        (norms,) = run([b], tolerance=2e-3).blocks
        assert norms.whole.upper_method == "torus, border released"
        assert norms.whole.lower <= factor * truth * (1 + 1e-13)
        assert factor * truth * (1 - 1e-13) <= norms.whole.upper <= factor * truth * 1.002


def test_a_composed_map_is_never_left_at_an_estimate() -> None:
    a = plane((12, 12), 10)
    b = Product((diagonal(1200, 1), a, diagonal(1200, 2)))
    dense = dense_convolution(a)
    truth = svd_norm(b.factors[0].weight[:, None] * dense * b.factors[2].weight)  # type: ignore[attr-defined, index]
    (norms,) = run([b], tolerance=1.0).blocks
    assert truth * (1 - 1e-13) <= norms.whole.upper


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_several_maps_into_one_output(p: float) -> None:
    a, b = Matrix(RNG.standard_normal((1, 6, 5))), Matrix(RNG.standard_normal((1, 6, 9)))
    found = brackets([item("both", a, b)], LOWERINGS, p).blocks[0]
    matrix = np.hstack((a.blocks[0], b.blocks[0]))
    truth = float(np.linalg.norm(matrix, p))
    assert found.whole.lower <= truth * (1 + 1e-13) <= found.whole.upper * (1 + 1e-12)
    assert not found.disjoint


def test_too_little_memory_costs_tightness_and_is_told() -> None:
    wide = Matrix(RNG.standard_normal((1, 3000, 3000)).astype(np.float32))
    items = [item("wide", wide, weights=9_000_000)]
    poor = brackets(items, LOWERINGS, 2, Effort(memory=1 << 20)).blocks[0].whole
    rich = brackets(items, LOWERINGS, 2, Effort(memory=1 << 28)).blocks[0].whole
    assert poor.upper_method.endswith(LIMITED)
    assert not rich.upper_method.endswith(LIMITED)
    assert rich.upper <= poor.upper
    assert poor.lower <= rich.upper


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_no_time_at_all_still_gives_a_theorem(p: float) -> None:
    matrices = [RNG.standard_normal((400, 300)) for _ in range(2)]
    maps = [Matrix(w[None]) for w in matrices]
    found = brackets([item("late", *maps)], LOWERINGS, p, Effort(seconds=0.0)).blocks[0]
    for b, w in zip(found.each, matrices, strict=True):
        assert b.upper_method.endswith(LATE)
        assert np.linalg.norm(w, p) <= b.upper
    assert np.linalg.norm(np.hstack(matrices), p) <= found.whole.upper


def test_time_that_ends_between_draft_and_sharpening(
    planes: list[tuple[Convolution, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0] * 4 + [100.0] * 50)
    monkeypatch.setattr(schedule.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    found = run([a for a, _ in planes], tolerance=1e-3, seconds=10.0)
    for norms, (_, truth) in zip(found.blocks, planes, strict=True):
        assert norms.whole.upper_method == "twisted torus"
        assert truth <= norms.whole.upper * (1 + 1e-13)


def test_a_coefficient_that_is_no_number_is_named() -> None:
    bad = Matrix(np.array([[[1.0, math.nan]]]))
    with pytest.raises(ModelError, match=r"block 'fc7': .*not finite"):
        brackets([item("fc7", bad)], LOWERINGS, 2)


@pytest.mark.parametrize(
    ("matrix", "truth"),
    [
        (np.zeros((3, 4)), 0.0),
        (np.full((1, 1), -2.5), 2.5),
        (np.zeros((0, 4)), 0.0),
        (np.zeros((4, 0)), 0.0),
        (np.full((2, 2), 1e-45, np.float32), 2 * float(np.float32(1e-45))),
        (np.full((2, 2), 3e38, np.float32), 2 * float(np.float32(3e38))),
        (np.full((2, 2), 1e300), 2e300),
        (np.full((2, 2), 5e-324), 1e-323),
    ],
)
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_extreme_blocks(matrix: np.ndarray, truth: float, p: float) -> None:
    (norms,) = brackets([item("odd", Matrix(matrix[None]))], LOWERINGS, p).blocks
    assert norms.whole.lower <= truth <= norms.whole.upper
    assert norms.whole.upper <= truth * (1 + 1e-6) + 1e-300
