"""The frame P C F of a convolution, against the torus's operator written out from its symbol."""

import numpy as np
import pytest

from onnxlip.linear import Convolution
from onnxlip.norms.symbol import shifts

from .oracle import Floats, dense_convolution, random_convolution, svd_norm
from .written_torus import framed, written_out


def _one_group(conv: Convolution, group: int) -> Floats:
    o, i = conv.rows // conv.groups, conv.columns // conv.groups
    dense = dense_convolution(conv)
    return dense[group * o : (group + 1) * o, group * i : (group + 1) * i]


def _singular(matrix: Floats, count: int) -> Floats:
    values = np.linalg.svd(matrix, compute_uv=False) if matrix.size else np.zeros(0)
    return np.pad(values, (0, max(0, count - len(values))))[:count]


def _on_one_circle(conv: Convolution) -> bool:
    shifted = shifts(conv.grouped.astype(np.float64), conv.strides, conv.dilations)
    return all(g == 1 and d for g, d in zip(shifted.steps, shifted.degrees, strict=True))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_convolution_is_a_cut_of_its_torus(d: int) -> None:
    """Same singular values on one circle; on several the norm is that of the union of images."""
    rng = np.random.default_rng(d)
    alone = turned = 0
    for _ in range({1: 80, 2: 250, 3: 400}[d]):
        conv = random_convolution(rng, d, {1: 14, 2: 5, 3: 3}[d], channels=3)
        group = int(rng.integers(conv.groups))
        f = framed(conv, int(rng.integers(2)), group)
        torus, dense = written_out(f), _one_group(conv, group)
        size = svd_norm(dense)
        assert size <= svd_norm(torus.cut) * (1 + 1e-12) + 1e-12, conv
        assert svd_norm(torus.cut) <= svd_norm(torus.matrix) * (1 + 1e-12)
        if _on_one_circle(conv):
            count = min(dense.shape)
            assert _singular(torus.cut, count) == pytest.approx(
                _singular(dense, count), abs=1e-11 * (1 + size)
            ), conv
            alone += 1
            turned += conv.c_out // conv.groups > f.symbol.order
    assert alone >= 6
    assert turned >= 1


@pytest.mark.parametrize(
    ("kernel", "image", "out", "strides", "dilations", "begin"),
    [
        ((2, 3, 3), (8,), (8,), (1,), (2,), (2,)),  # two circles, the same image on both
        ((3, 2, 3), (8,), (8,), (1,), (2,), (2,)),
        ((2, 2, 3, 1), (5, 4), (5, 6), (1, 1), (1, 1), (1, 1)),  # no shifts along an axis
        ((3, 2, 1, 3), (4, 5), (6, 5), (1, 1), (1, 1), (1, 1)),
        ((3, 2, 3, 2), (5, 6), (5, 4), (1, 2), (1, 1), (1, 1)),  # … where windows see border
        ((2, 3, 3, 2), (5, 6), (5, 4), (1, 2), (1, 1), (1, 1)),
    ],
)
def test_circles_with_the_same_image(
    kernel: tuple[int, ...],
    image: tuple[int, ...],
    out: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    begin: tuple[int, ...],
) -> None:
    weights = np.random.default_rng(0).standard_normal(kernel)
    conv = Convolution(weights, image, out, strides, dilations, begin)
    truth = svd_norm(dense_convolution(conv))
    for twist in (0, 1):
        assert svd_norm(written_out(framed(conv, twist)).cut) == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("twist", [0, 1])
@pytest.mark.parametrize("channels", [(2, 3), (3, 2)])
def test_sites_and_weights_stand_for_all_frequencies(channels: tuple[int, int], twist: int) -> None:
    kernel = np.random.default_rng(1).standard_normal((*channels, 3, 2))
    for image in ((4, 4), (5, 3)):
        f = framed(Convolution(kernel, image, image, (1, 1), (1, 1), (1, 0)), twist)
        torus = written_out(f)
        assert f.weights.sum() == len(torus.symbols)
        index = np.ravel_multi_index(tuple(f.sites.T), f.grid.shape)
        every = slice(0, len(f.sites))
        assert f.symbols(every) == pytest.approx(torus.symbols[index], abs=1e-12)
        near = f.estimates(every) * f.symbol.unit
        assert near == pytest.approx(torus.symbols[index], abs=1e-5 * f.modulus)
        grams = f.symbol.grams(f.grid, f.sites)
        squares = torus.symbols @ torus.symbols.conj().transpose(0, 2, 1)
        assert grams == pytest.approx(squares[index], abs=1e-12 * f.modulus**2)
        for j in np.flatnonzero(f.own):
            assert np.abs(torus.symbols[index[j]].imag).max() <= 1e-12 * f.modulus
        assert np.linalg.norm(torus.symbols, axis=(1, 2)).max() <= f.modulus
