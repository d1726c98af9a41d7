"""Maps side by side as one: it must have the norm of the stack."""

import numpy as np
import pytest

from onnxlip.linear import (
    Convolution,
    LinearMap,
    Matrix,
    Monomial,
    Product,
    Transposed,
    convolution,
    identity,
    selection,
)
from onnxlip.norms import bracket, joint, workspace
from onnxlip.norms.merging import side_by_side
from onnxlip.norms.upper import meeting

from .composed import (
    LOWERINGS,
    chosen_channels,
    gaussian,
    gaussian_conv,
    integers,
    neighbour,
    per_channel,
    point,
    small_conv,
    strided,
    written,
)
from .oracle import svd_norm


def _permuted(a: LinearMap) -> LinearMap:
    return Product((selection(np.random.default_rng(1).permutation(a.rows), a.rows), a))


BESIDE: dict[str, list[LinearMap]] = {
    "matrices": [point(3, 2, 4), point(3, 5, 4)],
    "matrices in a batch": [point(3, 2, 4, batch=2), point(3, 5, 4, batch=2)],
    "blocks": [point(2, 2, 4, blocks=3), point(2, 1, 4, blocks=3), point(6, 4, 4)],
    "ResNet-50": [point(3, 2, 6), Product((point(3, 4, 6), strided(4, (4, 6), 2)))],
    "ResNet-18": [
        small_conv((3, 3, 3, 3), (2, 3), pad=1),
        Product((point(3, 2, 6), strided(2, (4, 6), 2))),
    ],
    "in the other order": [point(3, 2, 6), small_conv((3, 3, 3, 3), (2, 3), pad=1)],
    "beside strides": [small_conv((3, 3, 3, 3), (4, 6), pad=1, stride=2), point(3, 2, 6)],
    "beside strides without a pad": [small_conv((3, 3, 2), (9,), stride=2), point(3, 2, 4)],
    "two windows": [small_conv((3, 2, 3), (9,), pad=1), small_conv((3, 1, 5), (9,), pad=2)],
    "dilations": [
        *(
            Product((point(4, 2, 9), small_conv((2, 3, 3), (9,), pad=d, dilation=d)))
            for d in (1, 2, 3)
        ),
        point(4, 5, 9),
    ],
    "groups": [
        small_conv((4, 2, 3), (9,), pad=1, groups=2),
        small_conv((4, 1, 3), (9,), pad=1, groups=4),
    ],
    "skips": [small_conv((3, 2, 3), (5,), pad=1), identity(15), per_channel([1, -2, 3], 5)],
    "rearranged": [
        _permuted(small_conv((3, 2, 3), (5,), pad=1)),
        _permuted(point(3, 4, 5)),
        _permuted(identity(15)).factors[0],  # type: ignore[attr-defined]
    ],
    "branches put in channels": [
        Product((chosen_channels([-1, 0, 1], 2, 5), small_conv((2, 2, 3), (5,), pad=1))),
        Product((chosen_channels([1, -1, 0], 2, 5), point(2, 4, 5))),
    ],
    "after a permutation": [
        point(3, 2, 6),
        Product((point(3, 2, 6), selection(np.random.default_rng(2).permutation(12), 12))),
    ],
    "after zeros": [
        point(3, 2, 6),
        Product((point(3, 2, 6), chosen_channels([-1, 0], 1, 6))),
    ],
    "adjoint": [Transposed(small_conv((2, 3, 3), (7,), pad=1)), point(3, 2, 7)],
}


@pytest.mark.parametrize("name", BESIDE)
def test_side_by_side_has_the_norm_of_the_stack(name: str) -> None:
    maps = BESIDE[name]
    found = side_by_side(maps)
    assert found is not None
    truth = svd_norm(np.hstack([written(a) for a in maps]))
    assert svd_norm(written(found.linear)) == pytest.approx(truth, rel=1e-13)
    assert found.error <= 1e-11 * truth


BESIDE_NOT: dict[str, list[LinearMap]] = {
    "other pixels": [point(3, 2, 4), point(4, 2, 3)],
    "other strides": [
        small_conv((3, 2, 3), (8,), stride=2, pad=1),
        small_conv((3, 2, 3), (4,), pad=1),
    ],
    "a scaling per pixel": [point(3, 2, 4), Monomial(12, None, np.arange(1.0, 13.0))],
    "an entry read twice": [
        point(3, 2, 4),
        Product((point(3, 2, 4), selection(np.array([0, 1, 1, 2, 3, 4, 5, 6]), 7))),
    ],
    "rearranged in two ways": [_permuted(point(3, 2, 4)), point(3, 2, 4)],
    "rearranged and doubled": [
        Product((Monomial(12, np.arange(12)[::-1].copy(), np.asarray(2.0)), point(3, k, 4)))
        for k in (2, 3)
    ],
    "skips alone": [identity(3), identity(3)],
    "beside strides that overrun": [
        Convolution(integers((3, 2, 3)), (5,), (4,), (2,), (1,), (1,)),
        point(3, 2, 4),
    ],
    "empty": [point(3, 2, 4), Matrix(np.ones((1, 12, 0)))],
}


@pytest.mark.parametrize("name", BESIDE_NOT)
def test_side_by_side_is_refused(name: str) -> None:
    maps = BESIDE_NOT[name]
    found = side_by_side(maps)
    if found is not None:
        truth = svd_norm(np.hstack([written(a) for a in maps]))
        assert svd_norm(written(found.linear)) == pytest.approx(truth, rel=1e-13)
    assert found is None


@pytest.mark.parametrize("seed", range(4))
def test_random_maps_side_by_side_are_refused_or_right(seed: int) -> None:
    rng = np.random.default_rng([seed, 6])
    count = 0
    for _ in range(40):
        pixels = (int(rng.integers(2, 6)),)
        maps = [neighbour(rng, 3, 1, pixels, last=True) for _ in range(2)]
        if rng.random() < 0.5:
            maps = [Product((point(2, 3, *pixels), a)) if rng.random() < 0.5 else a for a in maps]
            maps = maps if len({a.rows for a in maps}) == 1 else [maps[0]] * 2
        truth = svd_norm(np.hstack([written(a) for a in maps]))
        found = side_by_side(maps)
        if found is not None:
            count += 1
            assert svd_norm(written(found.linear)) == pytest.approx(truth, rel=1e-12, abs=1e-12)
    assert count > 10


@pytest.mark.parametrize("name", ["ResNet-50", "ResNet-18"])
def test_skips_of_resnets_are_tighter_than_meeting(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where two branches with the same gain meet, the meeting bound loses up to √2."""
    monkeypatch.setattr(workspace, "_SHORT", 0)
    skip = Product((gaussian(12, 10, 42, 2), strided(10, (12, 14), 2)))
    branch: LinearMap = gaussian(12, 10, 42, 3)
    if name == "ResNet-18":
        branch = gaussian_conv(small_conv((12, 10, 3, 3), (6, 7), pad=1))
        skip = Product((gaussian(12, 10, 42, 2, 3.0), strided(10, (12, 14), 2)))
    maps = [branch, skip]
    truth = svd_norm(np.hstack([written(a) for a in maps]))
    each = [bracket(a, LOWERINGS, 2.0) for a in maps]
    found = joint(maps, each, LOWERINGS, 2.0)
    assert found.lower <= truth * (1 + 1e-12)
    assert truth * (1 - 1e-12) <= found.upper <= found.lower * (1 + 5e-3)
    assert found.upper < 0.97 * meeting([b.upper for b in each], 2, 1)


@pytest.mark.parametrize("name", [*BESIDE, *BESIDE_NOT])
def test_joint_brackets_hold(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_SHORT", 0)
    maps = {**BESIDE, **BESIDE_NOT}[name]
    truth = svd_norm(np.hstack([written(a) for a in maps]))
    found = joint(maps, [bracket(a, LOWERINGS, 2.0) for a in maps], LOWERINGS, 2.0)
    assert found.lower <= truth * (1 + 1e-12)
    assert truth * (1 - 1e-12) <= found.upper


def test_a_strided_1x1_convolution_is_its_matrix() -> None:
    """What exporters write as a strided 1×1 convolution is a matrix after a slice: not lost."""
    conv = small_conv((3, 2, 1, 1), (5, 5), stride=2)
    maps = [point(3, 2, 9), convolution(conv)]
    assert isinstance(maps[1], Product)
    found = side_by_side(maps)
    assert found is not None
    assert isinstance(found.linear, Matrix)
    assert found.linear.blocks.shape == (1, 3, 4)
