"""Multipliers for the pair problem by closed forms; `interior` improves them.

For multipliers T = τt of a given shape t the bound of `proof` is, with M = outer diag(c) inner,
F = (t^½ r inner) and I·w the eigenvalues of outer t⁻¹ outerᵀ = V diag(w) Vᵀ,

    ρ(τ) = λmax(τ FᵀF + (VᵀM)ᵀ diag(1/(1 − w/τ)) (VᵀM)),   τ > max w:

one eigenvalue problem for the shape and one per τ. ρ is convex in τ, so τ is found by
golden sections of log τ. With t = 1 this is at most (‖M‖ + ‖outer‖‖r inner‖)², the triangle
inequality: ρ(τ) ≤ τ‖F‖² + ‖M‖²/(1 − ‖w‖/τ), whose least value that is.

Shapes, with a_j the columns of outer and b_j the rows of r·inner: 1 (ECLipsE-Fast, Xu & Sivaranjani
2024, is one choice of τ there), ‖a_j‖², ‖outerᵀa_j‖ (rows of outerᵀouter, "seq-l2"),
Σ_k |a_kᵀa_j| (row sums). The problem is the same for the transposed pair with T ← ρ/(r²T): hence
also the reciprocals of the same figures of b, and the geometric means of both, which no rescaling
of neurons changes.

What this module computes are candidates, in plain floating point: only `proof` makes theorems.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from onnxlip.bounds.pairs.problem import Floats, Pair
from onnxlip.bounds.pairs.proof import largest_eigenvalue, slopes
from onnxlip.bounds.pairs.scaling import Places
from onnxlip.norms.lapack import potrf, trsm

__all__ = ["Candidate", "Relaxation", "closed_form", "relaxation", "value_at"]

_GOLDEN = (math.sqrt(5.0) - 1) / 2
_ALL_SHAPES = 400  # beyond this many neurons three shapes are tried: starts for a search
_SEARCH = 12  # golden sections of log τ
_SMALL = 1e-140


@dataclass(frozen=True, eq=False)
class Relaxation:
    """The problem over the free neurons, m of them, reduced to what norms depend on.

    outer: (p, m) and inner: (m, q), which is r·inner; mixed: (p, q), which is outer diag(c) inner
    over all neurons. p and q are at most the number of all neurons; free: (m,), their places.
    """

    outer: Floats
    inner: Floats
    mixed: Floats
    free: Places


@dataclass(frozen=True, eq=False)
class Candidate:
    """multipliers: (m,), T on the free neurons; rho: what they give for the squared norm."""

    multipliers: Floats
    rho: float


def relaxation(pair: Pair) -> Relaxation:
    """The relaxation of a scaled pair (`scaling.balanced`)."""
    outer, inner = pair.outer, pair.inner
    if outer.shape[0] > pair.size:  # ‖outer x‖ = ‖Rx‖ for outer = QR
        outer = _triangle(outer)
    if inner.shape[1] > pair.size:
        inner = _triangle(inner.T).T
    centre, radius = slopes(pair)
    free = np.flatnonzero(radius > 0)
    mixed = (outer * centre) @ inner
    return Relaxation(outer[:, free], radius[free, None] * inner[free], mixed, free)


def _triangle(matrix: Floats) -> Floats:
    return np.asarray(np.linalg.qr(matrix)[1])


def closed_form(problem: Relaxation, late: Callable[[], bool] = lambda: False) -> Candidate | None:
    """The best of the shapes; None without free neurons, or where nothing could be computed."""
    best: Candidate | None = None
    with np.errstate(all="ignore"):  # what is not finite is refused
        for shape in _shapes(problem):
            found = _scaled(problem, shape)
            if found and (best is None or found.rho < best.rho):
                best = found
            if late():
                break
    return best


def value_at(problem: Relaxation, multipliers: Floats) -> float:
    """ρ for multipliers T (m,); infinite where I − outer T⁻¹ outerᵀ is not positive definite."""
    if not (np.all(multipliers > 0) and np.all(np.isfinite(multipliers))):
        return math.inf
    root = np.sqrt(multipliers)
    scaled, last = problem.outer / root, problem.inner * root[:, None]
    first, pulled = np.asfortranarray(-(scaled @ scaled.T)), np.array(problem.mixed, order="F")
    np.einsum("ii->i", first)[...] += 1.0
    if not potrf(first):
        return math.inf
    trsm(first, pulled, "L", "T")
    try:
        return largest_eigenvalue(last.T @ last + pulled.T @ pulled)
    except np.linalg.LinAlgError:
        return math.inf


def _shapes(problem: Relaxation) -> Iterator[Floats]:
    outer, inner = problem.outer, problem.inner
    m = len(problem.free)
    if not m:
        return
    a, b = np.einsum("ij,ij->j", outer, outer), np.einsum("ij,ij->i", inner, inner)
    a_rows = np.sqrt(np.einsum("ij,ij->j", outer, (outer @ outer.T) @ outer))
    b_rows = np.sqrt(np.einsum("ij,ij->i", inner, inner @ (inner.T @ inner)))
    yield _geometric(a_rows, b_rows)
    yield a_rows
    yield np.ones(m)
    if m > _ALL_SHAPES:
        return
    yield 1.0 / np.maximum(b_rows, _SMALL)
    yield _geometric(a, b)
    yield a
    a_sums, b_sums = np.abs(outer.T @ outer).sum(axis=1), np.abs(inner @ inner.T).sum(axis=1)
    yield a_sums
    yield _geometric(a_sums, b_sums)


def _geometric(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.sqrt(a / np.maximum(b, _SMALL)))


def _scaled(problem: Relaxation, shape: Floats) -> Candidate | None:
    """The best τ for a shape."""
    if not (np.all(shape > 0) and np.all(np.isfinite(shape))):
        return None
    root = np.sqrt(shape)
    scaled = problem.outer / root
    last = problem.inner * root[:, None]
    try:
        w, v = np.linalg.eigh(scaled @ scaled.T)
        gram, mixed, top = last.T @ last, v.T @ problem.mixed, float(w[-1])
        w = np.clip(w, 0.0, top)

        def rho(log: float) -> float:
            """ρ at τ = top (1 + e^log)."""
            tau = top * (1.0 + math.exp(log))
            pulled = mixed / np.sqrt(1.0 - w / tau)[:, None]
            return largest_eigenvalue(tau * gram + pulled.T @ pulled)

        log, value = _golden(rho, -4.0, 4.0)
    except np.linalg.LinAlgError:
        return None
    if not (0 < value < math.inf):
        return None
    return Candidate(top * (1.0 + math.exp(log)) * shape, value)


def _golden(f: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """(argument, value) of a unimodal function's minimum, by golden sections."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    f_left, f_right = f(left), f(right)
    for _ in range(_SEARCH):
        if f_left <= f_right:
            high, right, f_right = right, left, f_left
            left = high - _GOLDEN * (high - low)
            f_left = f(left)
        else:
            low, left, f_left = left, right, f_right
            right = low + _GOLDEN * (high - low)
            f_right = f(right)
    return (left, f_left) if f_left <= f_right else (right, f_right)
