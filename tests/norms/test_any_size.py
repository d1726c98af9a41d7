"""One bound of a convolution for images of every size."""

import numpy as np
import pytest

from onnxlip.linear import Convolution
from onnxlip.norms import any_size_bound

from .oracle import dense_convolution, random_convolution, svd_norm


@pytest.mark.parametrize("d", [1, 2])
def test_no_size_exceeds_it(d: int) -> None:
    rng = np.random.default_rng(d)
    for _ in range(40):
        conv = random_convolution(rng, d, {1: 40, 2: 9}[d])
        found = any_size_bound(conv)
        assert found is not None
        assert svd_norm(dense_convolution(conv)) <= found * (1 + 1e-13)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("groups", [1, 3])
def test_large_images_come_close_to_it(stride: int, dilation: int, groups: int) -> None:
    kernel = np.random.default_rng(7).standard_normal((3, 3 // groups, 4))
    shape = ((400,), (390 // stride,), (stride,), (dilation,), (2,))
    conv = Convolution(kernel, *shape, groups=groups)
    found, truth = any_size_bound(conv), svd_norm(dense_convolution(conv))
    assert found is not None
    assert truth <= found * (1 + 1e-13)
    assert found <= truth * 1.01


def test_it_is_the_same_for_every_size() -> None:
    kernel = np.random.default_rng(8).standard_normal((4, 5, 3, 3)).astype(np.float32)
    bounds = {
        any_size_bound(Convolution(kernel, (n, n), (n, n), (1, 1), (1, 1), (1, 1)))
        for n in (1, 7, 224)
    }
    assert len(bounds) == 1


def test_nothing_and_zero() -> None:
    for kernel in (np.zeros((3, 2, 3)), np.zeros((0, 2, 3)), np.zeros((3, 0, 3))):
        assert any_size_bound(Convolution(kernel, (9,), (9,), (1,), (1,), (1,))) == 0.0
