"""Verified 2-norm of dense matrices (Rump 2006).

‖W‖₂² = λmax(WWᵀ). Let G be WWᵀ computed in float64: entries are sums of k products, so
|G − WWᵀ| ≤ γ_k |W||W|ᵀ entrywise (Higham, Section 3.5; products of float32 numbers are even exact,
those of float64 are counted in γ_k), and symmetric matrices with |E| ≤ F have ‖E‖₂ ≤ ‖F‖₂:

    ‖W‖₂² ≤ λmax(G) + γ_k ‖|W|‖₂²,    ‖|W|‖₂² ≤ min(‖|W||W|ᵀ‖_∞, ‖W‖_F²).

λmax(G) ≤ s² + μ is proved by a Cholesky factorisation (`definite`), with s² just above the
largest eigenvalue as an eigenvalue solver or Lanczos tells it: that is a guess, and a wrong one
fails the factorisation, whereupon s² grows.

From below: ‖W‖₂ ≥ ‖Wᵀu‖₂/‖u‖₂ for the computed eigenvector u, where
‖fl(Wᵀu) − Wᵀu‖₂ ≤ γ_m ‖|W|‖₂ ‖u‖₂.

The float64 weights never exist as a whole: columns are converted in chunks, whose Grams add up
(the order of a sum does not matter to γ_k).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.norms.definite import factored_margin, proved_margin
from onnxlip.norms.enclosure import UNDERFLOW, Enclosure, euclid, exponent_of, float64, rescaled
from onnxlip.norms.krylov import ritz
from onnxlip.norms.lapack import symv, syrk
from onnxlip.rounding import add_up, down, gamma, mul_up, sqrt_up, up

__all__ = ["dense_norm"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

_ENTRIES = 1 << 21  # float64 entries converted at a time (16 MiB)
_STACK = 1 << 24  # float64 entries of all Grams of one stack (128 MiB)
_IN_PLACE = 1500  # from this order on the Gram is factored in place by scipy
_DIRECT = 128  # up to this order eigenvalues are computed by an eigenvalue solver
_LARGEST = 16384  # beyond this order a Gram (2 GiB) is not formed

_SLACKS = tuple(2.0**e for e in range(-46, 3, 4))  # how far s² lies above the guess


def dense_norm(blocks: Array, largest: int | None = None) -> Enclosure:
    """max_j ‖W_j‖₂ of a stack (b, m, k) of real matrices of any floating type.

    Beyond the order `largest` no Gram is formed: (0, largest Frobenius norm).
    """
    b, m, k = blocks.shape
    if not (b and m and k):
        return Enclosure(0.0, 0.0)
    top = max(float(blocks.max()), -float(blocks.min()))
    if not math.isfinite(top):
        return Enclosure(0.0, math.inf)
    if top == 0:
        return Enclosure(0.0, 0.0)
    exponent = exponent_of(top)
    if m > k:
        blocks, m, k = blocks.transpose(0, 2, 1), k, m
    if m == 1:
        return rescaled(_vectors(blocks, exponent), exponent)
    if m > (_LARGEST if largest is None else min(largest, _LARGEST)):
        return rescaled(Enclosure(0.0, _frobenius(blocks, exponent)), exponent)
    at_once = max(1, _STACK // (m * m)) if m <= _IN_PLACE else 1
    best = Enclosure(0.0, 0.0)
    for i in range(0, b, at_once):
        part = blocks[i : i + at_once]
        found = _stack(part, exponent) if m <= _IN_PLACE else _single(part, exponent)
        best = Enclosure(max(best.lower, found.lower), max(best.upper, found.upper))
    return rescaled(best, exponent)


def _vectors(blocks: Array, exponent: int) -> Enclosure:
    """Rows (b, 1, k): a sum of squares each; the longest one is summed once more, sharply."""
    k = blocks.shape[2]
    step = max(1, _ENTRIES // k)
    squares = np.empty(len(blocks))
    for i in range(0, len(blocks), step):
        part = float64(blocks[i : i + step, 0], exponent)
        squares[i : i + step] = np.einsum("bk,bk->b", part, part)
    j = int(squares.argmax())
    sharp = euclid(float64(blocks[j, 0], exponent))
    rest = float(np.delete(squares, j).max(initial=0.0))
    others = sqrt_up(add_up(mul_up(rest, up(1.0 + gamma(k))), UNDERFLOW)) if rest else 0.0
    return Enclosure(sharp.lower, max(sharp.upper, others))


def _frobenius(blocks: Array, exponent: int) -> float:
    worst = 0.0
    for block in blocks:
        step = max(1, _ENTRIES // block.shape[1])
        parts = (block[i : i + step] for i in range(0, len(block), step))
        squares = (mul_up(n, n) for n in (euclid(float64(p, exponent)).upper for p in parts))
        worst = max(worst, sqrt_up(add_up(*squares)))
    return worst


def _gram(blocks: Array, exponent: int) -> tuple[Floats, float]:
    """Computed Grams (b, m, m), and an upper bound of every ‖|W_j|‖₂²."""
    b, m, k = blocks.shape
    gram, rows = np.zeros((b, m, m)), np.zeros((b, m))
    step = max(1, _ENTRIES // (b * m))
    for i in range(0, k, step):
        part = float64(blocks[:, :, i : i + step], exponent)
        gram += part @ part.transpose(0, 2, 1)
        np.abs(part, out=part)
        rows += (part @ part.sum(axis=1)[:, :, None])[:, :, 0]
    traces = np.einsum("bii->b", gram)
    size = float(np.minimum(rows.max(axis=1), traces).max())
    return gram, add_up(mul_up(size, up(1.0 + gamma(m + k))), UNDERFLOW)


def _stack(blocks: Array, exponent: int) -> Enclosure:
    _, m, k = blocks.shape
    gram, size = _gram(blocks, exponent)
    traces = np.einsum("bii->b", gram) * up(1.0 + gamma(m + k))  # ≥ ‖W_j‖_F²
    best, guess, u = _top(gram)
    lower = _quotient(blocks[best], u, size, exponent)
    for slack in _SLACKS:
        square = max(guess, 0.0) * (1.0 + slack) + UNDERFLOW
        margin = proved_margin(gram[traces > square], square)
        if margin is not None:
            return Enclosure(lower, _upper(square, margin, size, k))
    return Enclosure(lower, sqrt_up(add_up(float(traces.max()), UNDERFLOW)))


def _upper(square: float, margin: float, size: float, k: int) -> float:
    return sqrt_up(add_up(square, margin, mul_up(gamma(k), size), UNDERFLOW))


def _top(gram: Floats) -> tuple[int, float, Floats]:
    """(which matrix of the stack has the largest eigenvalue, that, its vector): estimates."""
    b, m, _ = gram.shape
    if m <= _DIRECT:
        values = np.linalg.eigvalsh(gram)[:, -1]
        best = int(values.argmax())
        vectors = np.linalg.eigh(gram[best])[1]
        return best, float(values[best]), np.ascontiguousarray(vectors[:, -1])
    start = np.random.default_rng(m).standard_normal((m,))
    found = [ritz(partial(np.matmul, g), start, 300, 1e-13) for g in gram]
    best = max(range(b), key=lambda j: found[j][0])
    value, vector = found[best]
    return best, value, vector


def _quotient(block: Array, u: Floats, size: float, exponent: int) -> float:
    """‖Wᵀu‖/‖u‖ rounded down."""
    m, k = block.shape
    step = max(1, _ENTRIES // m)
    y = np.concatenate([u @ float64(block[:, i : i + step], exponent) for i in range(0, k, step)])
    length = euclid(u).upper
    if not (math.isfinite(length) and length > 0):
        return 0.0
    error = add_up(mul_up(gamma(m), sqrt_up(size), length), UNDERFLOW)
    return max(0.0, down(down(euclid(y).lower - error) / length))


def _single(blocks: Array, exponent: int) -> Enclosure:
    """One large matrix (1, m, k): one triangle of the Gram, factored in place."""
    block = blocks[0]
    k = block.shape[1]
    gram, size = _triangle(block, exponent)
    guess, u = _lanczos(gram)
    lower = _quotient(block, u, size, exponent)
    for slack in (1e-8, 1e-6, 1e-4, 1e-2):
        square = max(guess, 0.0) * (1.0 + slack) + UNDERFLOW
        margin = factored_margin(gram, square)
        if margin is not None:
            return Enclosure(lower, _upper(square, margin, size, k))
        gram, size = _triangle(block, exponent)  # the factorisation was in place
    return Enclosure(lower, _frobenius(blocks, exponent))


def _triangle(block: Array, exponent: int) -> tuple[Floats, float]:
    """Upper triangle of the Gram in Fortran order, and an upper bound of ‖|W|‖₂²."""
    m, k = block.shape
    gram, rows = np.zeros((m, m), order="F"), np.zeros(m)
    step = max(1, _ENTRIES // m)
    for i in range(0, k, step):
        part = np.asfortranarray(float64(block[:, i : i + step], exponent))
        syrk(part, gram)
        np.abs(part, out=part)
        rows += part @ part.sum(axis=0)
    size = min(float(rows.max()), float(np.trace(gram)))
    return gram, add_up(mul_up(size, up(1.0 + gamma(m + k))), UNDERFLOW)


def _lanczos(gram: Floats) -> tuple[float, Floats]:
    start = np.random.default_rng(len(gram)).standard_normal(len(gram))
    return ritz(partial(symv, gram), start, steps=300, tolerance=1e-9)
