"""The torus and the size-free supremum, against SVDs of matrices built entry by entry."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from onnxlip.linear import Convolution
from onnxlip.norms import torus
from onnxlip.norms.torus import Effort, TorusBound, torus_bound, torus_shape

from .oracle import dense_convolution, exactly_bounds, random_convolution, svd_norm


def _plain(kernel: np.ndarray, side: int, stride: int = 1, dilation: int = 1) -> Convolution:
    """ "Same" padding on a square plane (or a line, or a cube)."""
    d, k = kernel.ndim - 2, kernel.shape[2]
    begin = dilation * (k - 1) // 2
    out = (side + 2 * begin - dilation * (k - 1) - 1) // stride + 1
    return Convolution(
        kernel, (side,) * d, (out,) * d, (stride,) * d, (dilation,) * d, (begin,) * d
    )


def _upper(conv: Convolution) -> float:
    found = torus_bound(conv)
    assert found is not None
    return found.upper


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_sound_on_any_geometry(d: int, seed: int) -> None:
    rng = np.random.default_rng([d, seed])
    for _ in range(30):
        conv = random_convolution(rng, d, {1: 30, 2: 9, 3: 4}[d])
        truth = svd_norm(dense_convolution(conv))
        assert truth <= _upper(conv) * (1 + 1e-13), conv


@pytest.mark.parametrize("d", [1, 2])
def test_the_supremum_is_sound_on_any_geometry(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torus, "_BUDGET", 0.0)
    monkeypatch.setattr(torus, "_LOSSES", (0.05,))
    rng = np.random.default_rng(d)
    replaced = 0
    for _ in range(60):
        conv = random_convolution(rng, d, {1: 60, 2: 14}[d])
        found = torus_bound(conv)
        assert found is not None
        replaced += found.method == "supremum over all sizes"
        assert svd_norm(dense_convolution(conv)) <= found.upper * (1 + 1e-13), conv
    assert replaced >= 15


@pytest.mark.parametrize("channels", [(1, 1), (3, 2), (2, 6), (8, 8)])
@pytest.mark.parametrize("side", [8, 12])
@pytest.mark.parametrize("stride", [1, 2])
def test_within_five_percent_from_eight_pixels_on(
    channels: tuple[int, int], side: int, stride: int
) -> None:
    rng = np.random.default_rng(side)
    conv = _plain(rng.standard_normal((*channels, 3, 3)), side * stride, stride)
    truth = svd_norm(dense_convolution(conv))
    assert truth * (1 - 1e-13) <= _upper(conv) <= 1.05 * truth


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 40])
def test_binomial_kernels_are_exact_at_every_size(size: int) -> None:
    """[1 2 1] on n entries is 2I + J + Jᵀ: its norm is 2 + 2cos(π/(n + 1)), and so is that of the
    twisted torus of n + 1 sites at θ = ½. So for products of it."""
    line = 2 + 2 * math.cos(math.pi / (size + 1))
    row = np.array([1.0, 2.0, 1.0])
    one = _plain(row.reshape(1, 1, 3), size)
    assert line * (1 - 1e-14) <= _upper(one) <= line * (1 + 1e-13)
    plane = _plain(np.outer(row, row).reshape(1, 1, 3, 3), size)
    assert line**2 * (1 - 1e-14) <= _upper(plane) <= line**2 * (1 + 1e-13)
    mixed = np.array([[3.0, 1.0], [1.0, -2.0]])  # K ⊗ [1 2 1]: channels by a matrix
    both = _plain(mixed[:, :, None] * row, size)
    truth = svd_norm(mixed) * line
    assert truth * (1 - 1e-14) <= _upper(both) <= truth * (1 + 1e-11)


def test_a_kernel_that_attains_the_bernstein_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """|1 + e^{iω}| = 2cos(ω/2) is extremal: the supremum from any grid at θ = ½ is exactly 2."""
    monkeypatch.setattr(torus, "_BUDGET", 0.0)
    for channels in (np.eye(1), np.eye(2), np.array([[1.0, 1.0], [1.0, -1.0]])):
        kernel = channels[:, :, None] * np.ones(2)
        found = torus_bound(_plain(kernel, 5000))
        assert found is not None
        assert found.method == "supremum over all sizes"
        truth = svd_norm(channels) * 2 * math.cos(math.pi / (2 * 5001))
        assert truth <= found.upper <= truth * (1 + 1e-4)
        # θ = 0 has ω = 0 on the grid, and pays the whole factor.
        assert found.upper >= svd_norm(channels) * 2 * (1 - 1e-12)


def test_every_axis_pays_its_bernstein_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """[1 1] ⊗ [1 1] on a large plane: from a coarse grid at θ = ½ the supremum is exactly 4."""
    monkeypatch.setattr(torus, "_BUDGET", 0.0)
    monkeypatch.setattr(torus, "_LOSSES", (0.05,))
    for channels in (np.eye(1), np.array([[1.0, 1.0], [1.0, -1.0]])):
        found = torus_bound(_plain(channels[:, :, None, None] * np.ones((2, 2)), 300))
        assert found is not None
        assert found.method == "supremum over all sizes"
        truth = svd_norm(channels) * (2 * math.cos(math.pi / (2 * 301))) ** 2
        assert truth <= found.upper <= truth * 1.2


def test_the_supremum_serves_every_size_and_is_close(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    kernel = rng.standard_normal((4, 3, 3, 3))
    exact = _upper(_plain(kernel, 150))
    monkeypatch.setattr(torus, "_BUDGET", 0.0)
    found = torus_bound(_plain(kernel, 150))
    assert found is not None
    assert found.method == "supremum over all sizes"
    assert exact * (1 - 1e-3) <= found.upper <= exact * 1.01
    for side in (3, 8, 20):
        assert svd_norm(dense_convolution(_plain(kernel, side))) <= found.upper


def test_dilation_decouples() -> None:
    """A dilated convolution is several plain ones on every second pixel."""
    rng = np.random.default_rng(6)
    kernel = rng.standard_normal((3, 3, 3))
    plain, dilated = _plain(kernel, 12), _plain(kernel, 24, dilation=2)
    truth = svd_norm(dense_convolution(plain))
    assert svd_norm(dense_convolution(dilated)) == pytest.approx(truth, rel=1e-12)
    assert _upper(dilated) == pytest.approx(_upper(plain), rel=1e-9)


def test_groups_are_as_large_as_the_largest() -> None:
    rng = np.random.default_rng(7)
    kernel = rng.standard_normal((6, 2, 3, 3))
    kernel[2:4] *= 3.0
    conv = replace(_plain(kernel, 9), groups=3)
    found = torus_bound(conv)
    assert found is not None
    assert found.group == 1
    alone = [_upper(_plain(kernel[2 * j : 2 * j + 2], 9)) for j in range(3)]
    assert found.upper == pytest.approx(max(alone), rel=1e-9)


def test_depthwise_and_single_channels() -> None:
    rng = np.random.default_rng(8)
    for shape, groups in (
        ((12, 1, 3, 3), 12),
        ((6, 1, 3, 3), 1),
        ((1, 6, 3, 3), 1),
        ((8, 1, 3, 3), 4),
    ):
        conv = replace(_plain(rng.standard_normal(shape), 10), groups=groups)
        truth = svd_norm(dense_convolution(conv))
        assert truth * (1 - 1e-13) <= _upper(conv) <= 1.05 * truth


def test_windows_that_do_not_overlap_are_a_matrix() -> None:
    rng = np.random.default_rng(9)
    kernel = rng.standard_normal((5, 3, 4, 4))
    conv = Convolution(kernel, (12, 12), (3, 3), (4, 4), (1, 1), (0, 0))
    truth = svd_norm(kernel.reshape(5, -1))
    assert truth * (1 - 1e-14) <= _upper(conv) <= truth * (1 + 1e-11)


def test_the_torus_has_room_for_all_that_is_read() -> None:
    kernel = np.zeros((1, 1, 3))
    assert torus_shape(Convolution(kernel, (10,), (10,), (1,), (1,), (1,))) == (11,)
    assert torus_shape(Convolution(kernel, (10,), (8,), (1,), (1,), (0,))) == (10,)
    assert torus_shape(Convolution(kernel, (10,), (12,), (1,), (1,), (2,))) == (12,)
    assert torus_shape(Convolution(kernel, (10,), (5,), (2,), (1,), (1,))) == (6,)
    assert torus_shape(Convolution(kernel, (4,), (9,), (1,), (1,), (0,))) == (6,)


def test_a_search_that_misses_costs_time_but_not_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(10)
    conv = _plain(rng.standard_normal((3, 4, 3, 3)), 9)
    right = _upper(conv)
    for wrong in (0.0, 0.5, 0.99):
        monkeypatch.setattr(
            torus.Search, "best_grid", lambda self, grids, w=wrong: (grids[0], w * right**2)
        )
        assert svd_norm(dense_convolution(conv)) <= _upper(conv) <= right * 1.1


def test_degenerate_kernels() -> None:
    conv = _plain(np.zeros((2, 2, 3, 3)), 5)
    assert _upper(conv) == 0
    assert _upper(replace(conv, kernel=np.full((2, 2, 3, 3), np.nan))) == math.inf
    assert _upper(replace(conv, kernel=np.zeros((0, 2, 3, 3)))) == 0
    assert _upper(replace(conv, in_spatial=(0, 5))) == 0


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e200, 1e307])
@pytest.mark.parametrize("channels", [(2, 3), (1, 3)])
def test_kernels_of_any_size_of_number(scale: float, channels: tuple[int, int]) -> None:
    rng = np.random.default_rng(11)
    kernel = rng.standard_normal((*channels, 3)) * scale
    e = math.frexp(float(np.abs(kernel).max()))[1]
    truth = svd_norm(dense_convolution(_plain(np.ldexp(kernel, -e), 9)))
    found = (
        float(np.ldexp(_upper(_plain(kernel, 9)), -e))
        if scale < 1e300
        else _upper(_plain(kernel, 9))
    )
    if scale < 1e300:
        assert truth * (1 - 1e-13) <= found <= truth * 1.2
    else:
        assert found >= 1e307


def test_a_kernel_too_large_for_its_correlations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torus, "_MEMORY", 10)
    assert torus_bound(_plain(np.ones((2, 2, 3, 3)), 5)) is None


def test_all_that_was_rounded_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = _plain(np.random.default_rng(12).standard_normal((2, 2, 3)), 9)
    plain = _upper(conv)
    monkeypatch.setattr(torus, "proved_margin", lambda grams, square: 0.5)
    assert _upper(conv) ** 2 >= (plain**2 + 0.5) * (1 - 1e-9)
    monkeypatch.undo()
    real = torus.autocorrelation
    monkeypatch.setattr(torus, "autocorrelation", lambda *a: replace(real(*a), error=0.5))
    assert _upper(conv) ** 2 >= (plain**2 + 0.5) * (1 - 1e-9)


@pytest.mark.parametrize("unit", [1e-6, 1e-3])
@pytest.mark.parametrize("channels", [(1, 1), (1, 3), (4, 1)])
def test_roundings_of_single_channels_show_in_a_coarse_unit(
    channels: tuple[int, int], unit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = np.random.default_rng(13).standard_normal((*channels, 3, 3))
    conv, r = _plain(kernel, 9), max(channels)
    plain = _upper(conv)
    monkeypatch.setattr(torus, "gamma", lambda k: k * unit)
    size = float(np.linalg.norm(np.abs(kernel).reshape(r, 9).sum(axis=1)))
    least = plain * math.sqrt(1 + 2 * r * unit) + math.sqrt(2) * unit * (9 + 4 * 2) * size
    assert _upper(conv) >= least * (1 - 1e-12)


def test_the_supremum_pays_for_the_rounding_of_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torus, "_BUDGET", 0.0)
    conv = _plain(np.random.default_rng(14).standard_normal((1, 1, 3)), 5000)
    plain = _upper(conv)
    monkeypatch.setattr(torus, "UNIT", 1e-3)
    assert _upper(conv) >= plain * (1 + 1e-3)


def _once(value: float | None, then: float) -> Callable[..., float | None]:
    """A function that gives `value` once, and `then` ever after."""
    left = [value]
    return lambda *a, **k: left.pop() if left else then


def test_the_largest_of_all_margins_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the last one: of chunks of frequencies, of halves of a stack, of groups of channels."""
    rng = np.random.default_rng(15)
    conv = _plain(rng.standard_normal((2, 2, 3)), 9)
    plain = _upper(conv)
    monkeypatch.setattr(torus, "proved_margin", _once(0.5, 0.0))
    monkeypatch.setattr(torus, "_CHUNK", 8)
    monkeypatch.setattr(torus, "_unproved", lambda grams, square: grams)
    assert _upper(conv) ** 2 >= (plain**2 + 0.5) * (1 - 1e-9)
    answers = [0.0, 0.5, None]
    monkeypatch.setattr(torus, "proved_margin", lambda *a: answers.pop() if answers else 0.0)
    monkeypatch.setattr(torus, "_CHUNK", 1 << 20)
    assert _upper(conv) ** 2 >= (plain**2 + 0.5) * (1 - 1e-9)
    monkeypatch.undo()
    twice = np.concatenate([conv.kernel, conv.kernel[:, ::-1]])
    groups = replace(conv, kernel=twice, groups=2)
    monkeypatch.setattr(torus, "proved_margin", _once(0.5, 0.0))
    assert _upper(groups) ** 2 >= (plain**2 + 0.5) * (1 - 1e-9)
    monkeypatch.undo()
    real, errors = torus.autocorrelation, _once(0.5, 0.0)
    monkeypatch.setattr(torus, "autocorrelation", lambda *a: replace(real(*a), error=errors()))
    assert _upper(groups) ** 2 >= (plain**2 + 0.5) * (1 - 1e-9)


def test_subnormal_bounds_are_rounded_up() -> None:
    rng = np.random.default_rng(16)
    for channels in ((1, 1), (1, 2), (2, 2)):
        for _ in range(6):
            kernel = rng.integers(-9, 10, (*channels, 3)) * 5e-324
            conv = _plain(kernel, 3)
            assert exactly_bounds(_upper(conv), dense_convolution(conv))


@pytest.mark.parametrize("channels", [(2, 2), (1, 1)])
def test_a_torus_that_is_close_enough_adds_all_that_was_rounded(
    channels: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As does one that `border` did not sharpen."""
    conv = _plain(np.random.default_rng(17).standard_normal((*channels, 3)), 9)
    plain = _upper(conv)
    real = torus.autocorrelation
    for known in (plain * 0.9995, plain * 0.9):
        effort = Effort(1e-3, lambda x=known: x, 1000)
        monkeypatch.setattr(torus, "border_square", lambda *a: math.inf)
        for name, planted in (
            ("proved_margin", lambda *a: 0.5),
            ("autocorrelation", lambda *a: replace(real(*a), error=0.5)),
        ):
            if channels == (1, 1) and known > 0.99 * plain:
                continue  # the sum of squares itself was close enough
            with monkeypatch.context() as patch:
                patch.setattr(torus, name, planted)
                found = torus_bound(conv, effort)
            assert found is not None
            assert found.upper**2 >= (plain**2 + 0.5) * (1 - 1e-9)


def test_groups_that_need_no_sharpening_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    line = np.random.default_rng(18).standard_normal((1, 1, 3))
    kernel = line * np.array([3, 1, 2])[:, None, None]
    conv = replace(_plain(kernel, 9), groups=3)
    truth = svd_norm(dense_convolution(conv))
    monkeypatch.setattr(
        torus._Sharper, "bound", lambda self, group, symbol: TorusBound(0.0, group, "none")
    )
    found = torus_bound(conv, Effort(1e-6, lambda: 0.99 * truth, 1000))
    assert found is not None
    assert 2 / 3 * truth * (1 - 1e-13) <= found.upper < truth
