"""Largest eigenvalues by Lanczos: estimates, which proofs use as guesses.

`lanczos` searches for a vector (real, float32, block, bounded memory); `ritz` and `ritz_values`
serve small Hermitian matrices, real or complex.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Ritz", "is_outside", "lanczos", "ritz", "ritz_values", "start_mass"]

Array = npt.NDArray[Any]

_ALL = 1 << 15  # vectors up to this length are made orthogonal to the whole basis,
_LONG = 64  # and so are all where fewer blocks than this fit in memory
_KEPT = 4  # blocks of Ritz vectors that a restart keeps
_EVERY = 16  # up to this many vectors the Ritz pair is looked at after every product, then


class Ritz(NamedTuple):
    """The largest Ritz value, the vectors of the leading ones (the largest first, orthonormal but
    for rounding), and how many products AᵀA v it took."""

    value: float
    vectors: Array
    products: int


def lanczos(
    product: Callable[[Array], Array],
    start: Array,
    tolerance: float,
    *,
    doubt: float = 0.0,
    steps: int = 300,
    memory: int = 1 << 26,
    leading: int = 1,
) -> Ritz:
    """The top of a symmetric positive semidefinite operator by block Lanczos from `start` (b, n).

    It stops once the estimated relative error of √value has been below `tolerance` twice in a
    row, and the value has not grown by more in between. The estimate is ½ residual²/(gap · value),
    the gap to the second Ritz value being taken as at least the residual. Twice, as the first
    time may be on the plateau where two close eigenvalues are still one.

    A small residual only says that some eigenvalue is near. With `doubt` δ > 0 (one Gaussian
    start, no restart) it goes on until the top one is within 3 tolerances with probability
    1 − δ, by the Christoffel function (`probabilistic`; rounding is not regarded here).

    Orthogonality. New vectors are made orthogonal to the whole basis where that is short. For
    long ones this would cost more than the products, and only the two last blocks are regarded:
    orthogonality is lost only once a Ritz value has converged to √u (Paige 1980), which is beyond
    where the search stops. A basis that would take more than `memory` bytes is replaced by its
    leading Ritz vectors (thick restart, Wu & Simon 2000); orthogonality is full where that is
    to be expected, and from then on.
    """
    b, n = start.shape
    size = _capacity(n, b, start.itemsize, memory)
    basis = np.empty((size, n), start.dtype)
    projected = np.zeros((size, size))  # basis · AᵀA · basisᵀ, all of it
    block, length = _orthonormal(start)
    if not np.any(length):
        return Ritz(0.0, start[:1], 0)
    basis[:b] = block
    used, full, steady = b, b > 1 or n <= _ALL or size < _LONG * b, False
    previous, eps = 0.0, float(np.finfo(start.dtype).eps)
    limit = start_mass(float(length[0, 0]), doubt) if doubt and b == 1 else 0.0
    for count in range(1, max(1, steps // b) + 1):
        fresh = slice(used - b, used)
        block = product(basis[fresh])
        near = slice(0 if full else max(0, used - 2 * b), used)
        for _ in range(2 if full else 1):
            overlap = basis[near] @ block.T
            projected[near, fresh] += overlap
            block = block - overlap.T @ basis[near]
        projected[fresh, near] = projected[near, fresh].T
        block, left = _orthonormal(block)
        value, estimate = _top(projected[:used, :used], left)
        exhausted = used + b > n or not float(np.linalg.norm(left)) > 64 * eps * value
        last = exhausted or count == max(1, steps // b)
        if last or used <= _EVERY * b or count % 3 == 0:
            good = estimate <= tolerance and (
                not limit or _is_likely(projected[:used, :used], left, value, tolerance, limit)
            )
            if last or (good and steady and value - previous <= 2 * tolerance * value):
                break
            steady, previous = good, value
        if used + b > size:
            used = _restart(basis, projected, used, b)
            for _ in range(2):
                block, _ = _orthonormal(block - (block @ basis[:used].T) @ basis[:used])
            full, limit = True, 0.0
        elif b > 1 and np.abs(np.diagonal(left)).min() < 1e-2 * np.abs(left).max():
            # What QR made of nearly dependent vectors lies in no particular direction.
            block, _ = _orthonormal(block - (block @ basis[:used].T) @ basis[:used])
        basis[used : used + b] = block
        used += b
    chosen = np.linalg.eigh(projected[:used, :used])[1][:, ::-1][:, :leading]
    vectors = chosen.T.astype(start.dtype) @ basis[:used]
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return Ritz(value, vectors / np.where(norms > 0, norms, 1), count)


def _capacity(n: int, b: int, itemsize: int, memory: int) -> int:
    """Vectors of length n that the basis may hold, a few blocks at least."""
    return b * max(2 * _KEPT, min(-(-n // b), memory // (b * n * itemsize)))


def _orthonormal(block: Array) -> tuple[Array, npt.NDArray[np.float64]]:
    """(Q, R) with rows of Q orthonormal and block = Rᵀ Q."""
    if len(block) > 1:
        q, r = np.linalg.qr(block.T)
        return np.ascontiguousarray(q.T), r.astype(np.float64)
    size = math.sqrt(float(np.einsum("ij,ij->", block, block, dtype=np.float64)))
    return (block / block.dtype.type(size) if size else block), np.array([[size]])


def _top(projected: Array, left: Array) -> tuple[float, float]:
    """(largest Ritz value, estimated relative error of its root)."""
    values, vectors = np.linalg.eigh(projected)
    value = float(values[-1])
    if not value > 0:
        return 0.0, math.inf
    residual = float(np.linalg.norm(left @ vectors[-len(left) :, -1]))
    gap = value - float(values[-2]) if len(values) > 1 else value
    return value, 0.5 * residual**2 / (max(gap, residual, 1e-300) * value)


def _is_likely(projected: Array, left: Array, value: float, tolerance: float, limit: float) -> bool:
    beta = [*np.diagonal(projected, 1).tolist(), float(left[0, 0])]
    return is_outside(
        np.diagonal(projected).tolist(), beta, value * (1 + 3 * tolerance) ** 2, limit
    )


def start_mass(length: float, delta: float) -> float:
    """ρ² such that a standard Gaussian vector G of that length has (v·G)²/‖G‖² ≥ 1/ρ² with
    probability at least 1 − δ, v any unit vector chosen without regard to G.

    v·G is standard normal, of density at most 1/√(2π): P(|v·G| < t) < t √(2/π) = δ.
    """
    t = delta * math.sqrt(math.pi / 2)
    return (length / t) ** 2 if t else math.inf


def is_outside(alpha: list[float], beta: list[float], x: float, limit: float) -> bool:
    """Whether Σ_{j≤k} φ_j(x)² > limit, φ_j the orthonormal polynomials of a Lanczos run:
    φ_0 = 1, β_j φ_{j+1} = (x − α_j) φ_j − β_{j−1} φ_{j−1}; x above all their zeros.

    k products have α_0 … α_{k−1} and β_0 … β_{k−1}.
    """
    before, phi, total = 0.0, 1.0, 1.0
    for j, (a, b) in enumerate(zip(alpha, beta, strict=True)):
        if not b > 0:  # the space is exhausted: its Ritz values are all there is
            return True
        before, phi = phi, ((x - a) * phi - (beta[j - 1] * before if j else 0.0)) / b
        total += phi * phi
        if not total <= limit:
            return True
    return False


def _restart(basis: Array, projected: Array, used: int, b: int) -> int:
    """Replace the basis by its leading Ritz vectors, in place; how many they are."""
    values, vectors = np.linalg.eigh(projected[:used, :used])
    kept = min(_KEPT, used // b - 1) * b
    basis[:kept] = vectors[:, -kept:].T.astype(basis.dtype) @ basis[:used]
    projected[:] = 0.0
    projected[:kept, :kept] = np.diag(values[-kept:])
    return kept


def ritz(
    product: Callable[[Array], Array], start: Array, steps: int, tolerance: float
) -> tuple[float, Array]:
    """(largest Ritz value, its unit vector) of a Hermitian positive semidefinite operator.

    Lanczos with full reorthogonalisation. It stops where the estimated error of the value,
    residual²/gap, is below `tolerance` times the value, or the Krylov space is exhausted.
    """
    n = start.size
    steps = min(steps, n)
    basis = np.empty((steps, n), start.dtype)
    alpha, beta = np.zeros(steps), np.zeros(steps)
    size = float(np.linalg.norm(start))
    if not size:
        return 0.0, start
    vector = start / size
    used = 0
    for j in range(steps):
        basis[j], used = vector, j + 1
        vector = product(vector)
        for _ in range(2):  # twice is enough
            overlap = basis[:used].conj() @ vector
            alpha[j] += overlap[j].real
            vector = vector - overlap @ basis[:used]
        beta[j] = np.linalg.norm(vector)
        exhausted = not beta[j] > 1e-15 * np.abs(alpha[:used]).max()
        if exhausted or j % 5 == 4:
            values, vectors = _tridiagonal(alpha, beta, used)
            residual = beta[j] * abs(vectors[-1, -1])
            gap = values[-1] - values[-2] if used > 1 else values[-1]
            if exhausted or residual**2 <= tolerance * values[-1] * max(gap, residual):
                break
        vector = vector / beta[j]
    values, vectors = _tridiagonal(alpha, beta, used)
    top = vectors[:, -1] @ basis[:used]
    return float(values[-1]), top / np.linalg.norm(top)


def _tridiagonal(alpha: Array, beta: Array, used: int) -> tuple[Array, Array]:
    off = beta[: used - 1]
    values, vectors = np.linalg.eigh(np.diag(alpha[:used]) + np.diag(off, 1) + np.diag(off, -1))
    return values, vectors


def ritz_values(stack: Array, steps: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Estimates of the largest eigenvalue of every matrix of a Hermitian stack (b, n, n)."""
    b, n, _ = stack.shape
    if n <= 32 or steps >= n:
        return np.linalg.eigvalsh(stack)[:, -1].astype(np.float64)
    basis = np.zeros((b, steps, n), stack.dtype)
    projected = np.zeros((b, steps, steps))
    start = rng.standard_normal(n) + (1j * rng.standard_normal(n) if stack.dtype.kind == "c" else 0)
    vector = np.broadcast_to(start / np.linalg.norm(start), (b, n))
    for j in range(steps):
        basis[:, j] = vector
        vector = (stack @ vector[:, :, None])[:, :, 0]
        for _ in range(2):
            overlap = basis[:, : j + 1].conj() @ vector[:, :, None]
            projected[:, j, j] += overlap[:, j, 0].real
            vector = vector - (overlap.transpose(0, 2, 1) @ basis[:, : j + 1])[:, 0]
        size = np.linalg.norm(vector, axis=1)
        if j + 1 < steps:
            projected[:, j, j + 1] = projected[:, j + 1, j] = size
        vector = vector / np.maximum(size, 1e-300)[:, None]
    return np.linalg.eigvalsh(projected)[:, -1].astype(np.float64)
