"""BLAS and LAPACK without the interpreter's lock: the same as numpy, and really without it."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from onnxlip.norms import lapack
from onnxlip.norms.lapack import gemm, potrf, potri, symv, syrk, trsm

Array = npt.NDArray[Any]
KINDS = [np.float32, np.float64, np.complex64, np.complex128]
REAL = KINDS[:2]


@pytest.fixture(params=["by address", "by scipy"], autouse=True)
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "by scipy":
        monkeypatch.setattr(lapack, "_routine", lambda *_: None)
    return str(request.param)


def _random(rng: np.random.Generator, kind: Any, *shape: int) -> Array:
    x = rng.standard_normal(shape)
    if np.issubdtype(kind, np.complexfloating):
        x = x + 1j * rng.standard_normal(shape)
    return np.asarray(x, kind, order="F")


def _close(kind: Any) -> float:
    return 1e-4 if np.dtype(kind).char in "fF" else 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 33])
def test_potrf(kind: Any, n: int, rng: np.random.Generator) -> None:
    x = _random(rng, kind, n, n + 3)
    gram = np.asfortranarray(x @ x.conj().T)
    factor = gram.copy(order="F")
    factor[np.tril_indices(n, -1)] = np.nan  # only the upper triangle is read
    assert potrf(factor)
    upper = np.triu(factor)
    assert np.allclose(upper.conj().T @ upper, gram, rtol=0, atol=_close(kind) * np.abs(gram).max())
    assert not potrf(np.asfortranarray(-gram))


@pytest.mark.parametrize("kind", KINDS)
def test_potri(kind: Any, rng: np.random.Generator) -> None:
    x = _random(rng, kind, 7, 20)
    gram = np.asfortranarray(x @ x.conj().T)
    factor = gram.copy(order="F")
    assert potrf(factor)
    potri(factor)
    inverse = np.triu(factor) + np.triu(factor, 1).conj().T
    assert np.allclose(inverse @ gram, np.eye(7), atol=10 * _close(kind))


@pytest.mark.parametrize("kind", REAL)
@pytest.mark.parametrize(
    "shape", [(5, 3, 4), (1, 3, 4), (5, 1, 4), (5, 3, 1), (1, 1, 1), (2, 0, 3)]
)
@pytest.mark.parametrize("turned", range(8))
def test_gemm(kind: Any, shape: tuple[int, ...], turned: int, rng: np.random.Generator) -> None:
    m, k, n = shape
    a, b, total = (
        _random(rng, kind, 8, 8).T[:i, :j]
        if turned >> bit & 1
        else _random(rng, kind, 8, 8)[:i, :j]
        for bit, (i, j) in enumerate([(m, k), (k, n), (m, n)])
    )
    right = total - 0.5 * (a @ b)
    gemm(a, b, total, -0.5)
    assert np.allclose(total, right, atol=10 * _close(kind))


def test_gemm_needs_rows_or_columns_in_one_piece() -> None:
    apart, total = np.ones((6, 6))[::2, ::2], np.zeros((3, 3))
    with pytest.raises(ValueError, match="order"):
        gemm(apart, apart, total)


@pytest.mark.parametrize("kind", REAL)
def test_syrk_and_symv(kind: Any, rng: np.random.Generator) -> None:
    part, gram = _random(rng, kind, 7, 4), _random(rng, kind, 7, 7)
    before = gram.copy(order="F")
    syrk(part, gram)
    assert np.allclose(np.triu(gram), np.triu(before + part @ part.T), atol=10 * _close(kind))
    assert np.array_equal(np.tril(gram, -1), np.tril(before, -1))
    x = _random(rng, kind, 7)
    whole = np.triu(gram) + np.triu(gram, 1).T
    assert np.allclose(symv(gram, x), whole @ x, atol=10 * _close(kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["L", "R"])
@pytest.mark.parametrize("trans", ["N", "T", "C"])
def test_trsm(kind: Any, side: str, trans: str, rng: np.random.Generator) -> None:
    factor = _random(rng, kind, 5, 5) + 4 * np.eye(5, dtype=kind, order="F")
    upper = np.triu(factor)
    op = {"N": upper, "T": upper.T, "C": upper.conj().T}[trans]
    y = _random(rng, kind, 5, 3) if side == "L" else _random(rng, kind, 3, 5)
    wanted = y.copy()
    trsm(factor, y, side, trans)
    assert np.allclose(op @ y if side == "L" else y @ op, wanted, atol=_close(kind) * 10)


def test_columns_may_lie_apart(rng: np.random.Generator) -> None:
    big = _random(rng, np.float64, 9, 9)
    gram = big[:4, :4]
    gram[...] = 10 * np.eye(4) + 0.1 * (gram + gram.T)
    before = gram.copy()
    assert potrf(gram)
    assert np.allclose(np.triu(gram).T @ np.triu(gram), before)


def test_no_other_order_is_taken_for_fortrans(route: str) -> None:
    if route == "by address":
        frozen = np.eye(3, order="F")
        frozen.flags.writeable = False
        for wrong in (np.ones((3, 3))[:, ::-1], np.ones((6, 6))[::2, ::2], frozen):
            with pytest.raises(ValueError, match="Fortran"):
                potrf(wrong)


def test_other_threads_go_on(route: str) -> None:
    """While a factorisation of a second or so runs, a thread that needs the lock advances."""
    if route == "by scipy":
        pytest.skip("scipy keeps the lock")
    gram = np.asfortranarray(np.eye(2500) * 2500 + 1.0)
    done = threading.Event()
    thread = threading.Thread(target=lambda: (potrf(gram), done.set()))
    thread.start()
    turns = 0
    while not done.is_set():
        time.sleep(1e-4)
        turns += 1
    thread.join()
    assert turns > 5
