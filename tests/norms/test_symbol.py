"""Symbols and frequencies against mpmath."""

import mpmath
import numpy as np
import pytest

from onnxlip.norms import symbol as module
from onnxlip.norms.symbol import Grid, autocorrelation, roots, shifts


@pytest.mark.parametrize("m", [1, 2, 3, 4, 7, 16, 57, 225, 1001])
def test_roots_of_unity(m: int) -> None:
    with mpmath.workprec(150):
        worst = max(
            abs(mpmath.mpc(complex(z)) - mpmath.expjpi(mpmath.mpf(j) / m))
            for j, z in enumerate(roots(m))
        )
    assert worst <= 2.0**-53


@pytest.mark.parametrize("shape", [(7,), (5, 8), (3, 4, 5)])
def test_phases_err_by_4du(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    d = len(shape)
    for twist in ((0,) * d, (1,) * d):
        grid = Grid(shape, twist)
        sites, lags = grid.half()[:20], rng.integers(-6, 7, (9, d))
        cos, sin = grid.phases(sites, lags)
        with mpmath.workprec(120):
            for i, site in enumerate(sites):
                for j, lag in enumerate(lags):
                    turn = sum(
                        mpmath.mpf(int(2 * s + t) * int(q)) / m
                        for s, t, q, m in zip(site, twist, lag, shape, strict=True)
                    )
                    error = mpmath.mpc(cos[i, j], sin[i, j]) - mpmath.expjpi(turn)
                    assert abs(error) <= 4 * d * 2.0**-53


@pytest.mark.parametrize("shape", [(1,), (2,), (7,), (8,), (3, 4), (5, 5), (2, 3, 4)])
def test_half_of_the_frequencies_stand_for_all(shape: tuple[int, ...]) -> None:
    for twist in ((0,) * len(shape), (1,) * len(shape)):
        grid = Grid(shape, twist)
        half = {tuple(map(int, s)) for s in grid.half()}
        mirrored = {
            tuple((-j - t) % m for j, t, m in zip(s, twist, shape, strict=True)) for s in half
        }
        assert half | mirrored == set(np.ndindex(*shape))
        assert {grid.canonical(s) for s in half} == {grid.canonical(s) for s in mirrored}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [(3, 2), (2, 5)])
def test_the_gram_is_within_its_error(channels: tuple[int, int], stride: int) -> None:
    """Ĝ against 40 digits: its error is below the proved one, which is not wildly large."""
    rng = np.random.default_rng(1)
    kernel = rng.standard_normal((1, *channels, 3, 2)) * 10.0 ** rng.integers(
        -3, 4, (1, *channels, 1, 1)
    )
    shifted = shifts(kernel, (stride, 1), (1, 2))
    symbol = autocorrelation(shifted.places, shifted.parts[:, 0])
    grid = Grid((5, 4), (1, 0))
    sites = grid.half()
    grams = symbol.grams(grid, sites)
    assert np.array_equal(grams, grams.conj().transpose(0, 2, 1))
    parts = shifted.parts[:, 0]
    with mpmath.workdps(40):
        for site, gram in zip(sites, grams, strict=True):
            turns = [
                sum(
                    mpmath.mpf(int(q) * int(2 * s + t)) / m
                    for q, s, t, m in zip(place, site, grid.twist, grid.shape, strict=True)
                )
                for place in shifted.places
            ]
            hat = mpmath.zeros(*parts.shape[1:])
            for part, turn in zip(parts, turns, strict=True):
                hat += mpmath.matrix(part.tolist()) * mpmath.expjpi(turn)
            exact = hat * hat.H if parts.shape[1] <= parts.shape[2] else hat.T * hat.conjugate()
            if parts.shape[1] > parts.shape[2]:
                # the same symbol at −ω is the conjugate: either one has the same eigenvalues
                other = (hat.H * hat).apply(mpmath.conj)
                exact = min(
                    (exact, other), key=lambda e: mpmath.mnorm(e - mpmath.matrix(gram.tolist()))
                )
            gap = mpmath.mnorm(exact - mpmath.matrix(gram.tolist()), "f")
            assert gap <= symbol.error
            top = mpmath.mnorm(exact, "f") / mpmath.sqrt(exact.rows)
            assert symbol.cap >= top
    assert symbol.error <= 1e-12 * symbol.cap


def test_shifts_of_a_dilated_kernel_have_a_common_step() -> None:
    shifted = shifts(np.ones((1, 1, 1, 3, 4)), (1, 2), (2, 4))
    assert shifted.steps == (2, 2)
    assert shifted.degrees == (2, 3)
    assert shifted.parts.shape == (12, 1, 1, 1)


def test_strides_make_phases() -> None:
    shifted = shifts(np.arange(7.0).reshape(1, 1, 1, 7), (2,), (1,))
    assert shifted.places.tolist() == [[0], [1], [2], [3]]
    assert shifted.parts[:, 0, 0].tolist() == [[0, 1], [2, 3], [4, 5], [6, 0]]


@pytest.mark.parametrize("channels", [(3, 2), (2, 5)])
def test_the_error_is_that_of_the_docstring(
    channels: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a coarse unit: √2 γ_{rp+4d+T+1} ‖M‖₁‖M‖_∞, M = Σ|K_q|."""
    unit = 1e-6
    monkeypatch.setattr(module, "gamma", lambda k: k * unit)
    kernel = np.random.default_rng(2).standard_normal((1, *channels, 3, 2))
    shifted = shifts(kernel, (1, 1), (1, 1))
    symbol = autocorrelation(shifted.places, shifted.parts[:, 0])
    size = np.abs(kernel[0]).sum(axis=(2, 3))
    norms = size.sum(axis=0).max() * size.sum(axis=1).max()
    terms = max(channels) * 6 + 4 * 2 + len(symbol.lags) + 1
    assert len(symbol.lags) == (5 * 3 + 1) // 2
    assert symbol.error >= np.sqrt(2) * terms * unit * norms * (1 - 1e-12)
    assert symbol.cap >= norms
