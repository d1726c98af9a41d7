"""A proof that all eigenvalues of a Hermitian matrix lie below a number, by one Cholesky.

Let G be Hermitian of order n (its lower triangle is read), s² > 0, and A the computed s²I − G:
only the diagonal is rounded, so s²I − G = A + D with D diagonal, |D_ii| ≤ u|a_ii|.

Real A (Demmel 1989; Higham, Accuracy and Stability, 2nd ed., Theorems 10.3 and 10.5; Rump,
BIT 46 (2006)). If Cholesky runs to completion, R̂ᵀR̂ = A + E with |E| ≤ γ_{n+1} |R̂|ᵀ|R̂|: the
residual of entry (i, j), i ≤ j, is that of a sum of i products and a division or a square root,
in any order of summation (Higham, Lemma 8.4). A division by multiplication with the reciprocal
adds one rounding off the diagonal, where i ≤ n − 1, so γ_{n+1} still holds; we take γ_{n+3}.
Column j has ‖r̂_j‖² = a_jj + e_jj ≤ a_jj + c‖r̂_j‖², c = γ_{n+3}, hence
|e_ij| ≤ c‖r̂_i‖‖r̂_j‖ ≤ c/(1 − c) √(a_ii a_jj) and ‖E‖₂ ≤ c/(1 − c) trace A. As R̂ᵀR̂ ⪰ 0,

    λmax(G) ≤ s² + u max|a_ii| + c/(1 − c) trace A.

Complex A. The computed complex numbers are pairs of reals (Higham, Section 3.6). Re r_ij is a
real sum of 2(i − 1) products, Re(r̄_ki r_kj) = Re·Re + Im·Im, then a division by the real r_ii;
so its residual is at most γ_{2i} Σ_{k≤i} (|Re r_ki||Re r_kj| + |Im r_ki||Im r_kj|), reciprocals
included, and Im likewise with mixed products. For a, b ∈ ℂ

    (|Re a||Re b| + |Im a||Im b|)² + (|Re a||Im b| + |Im a||Re b|)²
        = |a|²|b|² + 4|Re a Im a||Re b Im b| ≤ 2|a|²|b|²,

so by the triangle inequality the complex residual is at most √2 γ_{2i} Σ_k |r_ki||r_kj|. A
diagonal entry is real: 2(j − 1) products, one square root: γ_{2j}. Hence the same bound with
c = √2 γ_{2n}; we take c = √2 γ_{2n+4}.

Underflow errs by less than `UNDERFLOW` in all, as the matrices come scaled (`enclosure`).
A LAPACK that lets a NaN pass is caught by looking at the factor's diagonal, which every entry
of its rows enters squared.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.norms.enclosure import UNDERFLOW
from onnxlip.norms.lapack import potrf
from onnxlip.rounding import UNIT, add_up, div_up, down, gamma, mul_up, up

__all__ = ["cholesky_margin", "factored", "factored_margin", "proved_margin"]

_LARGE = 64
_WORTH_SCIPY = 1e10  # operations
_ROOT2 = up(math.sqrt(2.0))


def cholesky_margin(order: int, trace: float, largest: float, is_complex: bool) -> float:
    """μ with λmax(G) ≤ s² + μ once the Cholesky factorisation of s²I − G has succeeded.

    trace: computed Σ|a_ii|; largest: max |a_ii| of the computed s²I − G.
    """
    c = mul_up(_ROOT2, gamma(2 * order + 4)) if is_complex else gamma(order + 3)
    if not c < 0.5:
        return math.inf
    exact_trace = mul_up(trace, up(1.0 + gamma(order)))
    return add_up(mul_up(UNIT, largest), mul_up(div_up(c, down(1.0 - c)), exact_trace), UNDERFLOW)


def proved_margin(grams: npt.NDArray[Any], square: float) -> float | None:
    """μ with λmax(G_j) ≤ square + μ for every matrix of the stack (b, n, n), or None.

    None says that some square·I − G_j is not (numerically) positive definite.
    """
    count, n, _ = grams.shape
    if count == 0:
        return 0.0
    shifted = -grams
    diagonal = np.einsum("bii->bi", shifted)
    diagonal += square
    real = diagonal.real
    if not np.all(real > 0):  # also refuses NaN
        return None
    trace, largest = float(real.sum(axis=1).max()), float(real.max())
    pivots = _pivots(shifted)
    if pivots is None or not np.all((pivots > 0) & (pivots < math.inf)):
        return None
    return cholesky_margin(n, trace, largest, np.iscomplexobj(grams))


def factored_margin(gram: npt.NDArray[np.float64], square: float) -> float | None:
    """As `proved_margin`, for one real matrix in Fortran order, of which the upper triangle is read
    and which is overwritten: no second copy."""
    gram *= -1.0
    diagonal = np.einsum("ii->i", gram)
    diagonal += square
    if not np.all(diagonal > 0):
        return None
    trace, largest = float(diagonal.sum()), float(diagonal.max())
    if not potrf(gram):
        return None
    pivots = np.einsum("ii->i", gram)
    if not np.all((pivots > 0) & (pivots < math.inf)):
        return None
    return cholesky_margin(len(gram), trace, largest, is_complex=False)


def _pivots(stack: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
    """The diagonals of the Cholesky factors of a stack, which is overwritten; None if one fails.

    numpy's loop copies every matrix and takes twice as long as LAPACK in place from order 64 on,
    but importing scipy for that takes as long as some 10¹⁰ operations.
    """
    count, n, _ = stack.shape
    work = count * n**3 * (4 if np.iscomplexobj(stack) else 1) / 3
    if n < _LARGE or work < _WORTH_SCIPY:
        try:
            factors = np.linalg.cholesky(stack)
        except np.linalg.LinAlgError:
            return None
        diagonal: npt.NDArray[np.float64] = np.einsum("bii->bi", factors).real
        return diagonal
    pivots = np.empty(stack.shape[:2])
    for j, matrix in enumerate(stack):  # the transpose is conjugate: just as definite
        if not potrf(matrix.T):
            return None
        pivots[j] = np.einsum("ii->i", matrix).real
    return pivots


def factored(matrix: npt.NDArray[Any]) -> bool:
    """Whether Cholesky of a Hermitian matrix in C's order succeeds. Its lower triangle is read and
    overwritten by L; what stands above it means nothing then."""
    # Fortran's order sees the transpose conj(A) = UᴴU, whose upper triangle is L = Uᵀ.
    return potrf(matrix.T)
