"""Top modes confined to the image: sound on any geometry, sharper than the torus, and every error
that the docstring names is added."""

import math
from dataclasses import replace

import numpy as np
import pytest

from onnxlip.linear import Convolution
from onnxlip.norms import confined, torus
from onnxlip.norms.confined import _kernel, _Modes, _restricted, confined_square
from onnxlip.norms.enclosure import float64
from onnxlip.norms.symbol import Grid, Symbol, autocorrelation, shifts
from onnxlip.norms.torus import Effort, torus_bound

from .oracle import dense_convolution, random_convolution, svd_norm


def _bound(conv: Convolution, columns: int = 60) -> torus.TorusBound:
    found = torus_bound(conv, Effort(0.0, lambda: 0.0, columns))
    assert found is not None
    return found


def _plane(seed: int, channels: tuple[int, int], side: int) -> Convolution:
    kernel = np.random.default_rng(seed).standard_normal((*channels, 3, 3))
    return Convolution(kernel, (side,) * 2, (side,) * 2, (1, 1), (1, 1), (1, 1))


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("columns", [6, 40, 400])
def test_sound_on_any_geometry(d: int, columns: int) -> None:
    rng = np.random.default_rng([d, columns])
    used = 0
    for _ in range(60):
        conv = random_convolution(rng, d, {1: 24, 2: 8, 3: 4}[d])
        truth = svd_norm(dense_convolution(conv))
        found = _bound(conv, columns)
        used += found.method == "confined modes"
        assert truth * (1 - 1e-13) <= found.upper, conv
    assert used >= 6


@pytest.mark.parametrize(("side", "part"), [(4, 0.5), (7, 0.5), (12, 0.8)])
@pytest.mark.parametrize("channels", [(8, 8), (6, 9), (9, 6)])
def test_much_of_the_torus_slack_goes(channels: tuple[int, int], side: int, part: float) -> None:
    conv = _plane(side, channels, side)
    truth = svd_norm(dense_convolution(conv))
    plain = torus_bound(conv)
    assert plain is not None
    found = _bound(conv, 8 * side * side)
    assert truth <= found.upper <= truth + part * (plain.upper - truth)
    assert found.method == "confined modes"


def test_it_stops_when_the_torus_is_close_enough() -> None:
    conv = _plane(0, (4, 5), 9)
    truth = svd_norm(dense_convolution(conv))
    found = torus_bound(conv, Effort(0.2, lambda: truth, 100))
    assert found is not None
    assert found.method == "twisted torus"
    few, many = _bound(conv, 20).upper, _bound(conv, 200).upper
    assert truth <= many < few


def _symbol(conv: Convolution) -> Symbol:
    shifted = shifts(float64(conv.grouped, 0), conv.strides, conv.dilations)
    return autocorrelation(shifted.places, shifted.parts[:, 0])


@pytest.mark.parametrize("twist", [(0, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("shape", [(5, 6), (6, 6)])
def test_inner_products_of_modes(twist: tuple[int, int], shape: tuple[int, int]) -> None:
    """𝓦ᴴP𝓦 in closed form against modes written out entry by entry, mirrored frequencies included:
    the eigenvalues are those of the restricted operator 𝓦𝓦ᴴ of all frequencies."""
    symbol, grid = _symbol(_plane(1, (3, 4), 4)), Grid(shape, twist)
    lengths = (4, 3)
    sites = grid.half()
    cut, chosen = _Modes.top(symbol, grid, sites, 40).above(40)
    closed = np.linalg.eigvalsh(_restricted(chosen, grid, lengths))
    box = np.stack(np.meshgrid(*map(np.arange, lengths), indexing="ij"), -1).reshape(-1, 2)
    operator = np.zeros((3 * len(box),) * 2, complex)
    for column, place in zip(chosen.w.T, chosen.places, strict=True):
        omega = 2 * np.pi * (sites[place] + np.array(twist) / 2) / np.array(shape)
        wave = np.exp(1j * box @ omega) / math.sqrt(math.prod(shape))
        mode = np.kron(wave, column)
        operator += np.outer(mode, mode.conj())
        if not np.array_equal((-sites[place] - twist) % shape, sites[place]):
            operator += np.outer(mode.conj(), mode)
    exact = np.linalg.eigvalsh(operator.real)
    size = min(len(exact), len(closed))
    assert cut > 0
    assert closed[-size:] == pytest.approx(exact[-size:], abs=1e-12)


def test_the_kernel_of_an_interval() -> None:
    for m, length in ((7, 5), (8, 3), (1, 1)):
        direct = [
            sum(math.cos(math.pi * r * (2 * x - length + 1) / m) for x in range(length)) / m
            for r in range(2 * m)
        ]
        assert _kernel(m, length) == pytest.approx(direct, abs=1e-14)
    assert _kernel(7, 7)[0] == pytest.approx(1.0, abs=1e-15)


def test_bad_modes_cost_tightness_but_not_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eigenvectors are estimates: wrong ones are found out by the Cholesky of every frequency."""
    conv = _plane(2, (5, 6), 6)
    truth = svd_norm(dense_convolution(conv))
    real = _Modes.top
    for wrong in (0.3, 0.9, 1.0, 1.2):
        rng = np.random.default_rng(3)

        def spoiled(*a: object, w: float = wrong, rng: np.random.Generator = rng) -> _Modes:
            modes = real(*a)  # type: ignore[arg-type]
            noise = rng.standard_normal(modes.vectors.shape).astype(np.float32)
            return replace(modes, values=modes.values * w, vectors=modes.vectors + 0.02 * noise)

        monkeypatch.setattr(_Modes, "top", staticmethod(spoiled))
        assert truth * (1 - 1e-13) <= _bound(conv).upper
    monkeypatch.undo()
    guess = confined.ritz
    monkeypatch.setattr(confined, "ritz", lambda *a: (guess(*a)[0] * 0.9, None))
    assert truth * (1 - 1e-13) <= _bound(conv).upper


def test_all_that_was_rounded_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = _plane(4, (4, 4), 6)
    symbol, grid = _symbol(conv), Grid((7, 7), (1, 1))

    def square(of: Symbol = symbol) -> float:
        return confined_square(of, grid, (6, 6), 0.0, 60)

    plain = square()
    assert svd_norm(dense_convolution(conv)) ** 2 <= plain
    assert square(replace(symbol, error=0.5)) >= plain + 0.5 * (1 - 1e-9)
    monkeypatch.setattr(confined, "gamma", lambda k: 1e-3)
    assert square() >= plain * (1 + 1e-4)
    monkeypatch.undo()
    for name in ("proved_margin", "factored_margin"):
        real = getattr(confined, name)

        def wider(*a: object, real: object = real) -> float | None:
            found: float | None = real(*a)  # type: ignore[operator]
            return None if found is None else found + 0.25

        monkeypatch.setattr(confined, name, wider)
        assert square() >= plain + 0.25 * (1 - 1e-9)
        monkeypatch.undo()


def test_kernels_of_any_size_of_number() -> None:
    for scale in (1e-200, 1e-30, 1e30, 1e200):
        conv = _plane(5, (3, 3), 5)
        large = replace(conv, kernel=conv.kernel * scale)
        assert _bound(large).upper == pytest.approx(_bound(conv).upper * scale, rel=1e-5)


def test_the_error_of_inner_products_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    symbol, grid = _symbol(_plane(6, (4, 4), 6)), Grid((7, 7), (1, 1))
    monkeypatch.setattr(confined, "_dominated", lambda *a: 0.0)
    monkeypatch.setattr(confined, "_top", lambda *a: 0.0)
    monkeypatch.setattr(confined, "gamma", lambda k: k * 1e-6)
    _, chosen = _Modes.top(symbol, grid, grid.half(), 30).above(30)
    sizes = float((np.abs(chosen.w) ** 2).sum())
    g = (2 * 4 + 12 + 16 + 8) * 1e-6
    monkeypatch.setattr(confined, "_LEVELS", (1.0,))
    assert confined_square(symbol, grid, (6, 6), 0.0, 60) >= 4 * g * sizes * (1 - 1e-9)
