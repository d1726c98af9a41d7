"""Leading singular triplets of a linear map, and what is proved about the rest.

    M = U diag(s) Vᵀ + U' diag(s') V'ᵀ + E,   ‖U U'‖, ‖V V'‖ ≤ growth,   s' ≤ rest,   ‖E‖ ≤ slip

U, s, V are what was computed. For a map that can be written out they come from a singular value
decomposition in float64, of which only this is taken for true: with Û, V̂ and ŝ as they are,
E is the computed M − Û diag(ŝ) V̂ᵀ plus its rounding, at most γ_{r+2} ‖|Û| diag(ŝ)|V̂ᵀ|‖_F ≤
γ_{r+2} ‖Û√ŝ‖_F ‖√ŝV̂ᵀ‖_F for r triplets, and ‖Û‖² ≤ 1 + ‖ÛᵀÛ − I‖_F.

Larger maps are searched by Lanczos: estimates, of which nothing is proved (`rest` is infinite).
Of a large matrix M − U diag(s) Vᵀ itself is E, whose norm is proved, if it is small beside s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.linear import LinearMap, Matrix
from onnxlip.norms.dense import dense_norm
from onnxlip.norms.enclosure import UNDERFLOW, euclid
from onnxlip.norms.workspace import Workspace, coefficient_error
from onnxlip.operators import NonFiniteError
from onnxlip.rounding import add_up, gamma, mul_up, sqrt_up

__all__ = ["Factors", "factors", "is_affordable"]

Floats = npt.NDArray[np.float64]

_OPERATIONS = 3e10  # of a singular value decomposition, at most
_MORE = 30  # Lanczos steps beyond two for each vector
_RANGE = 1e15  # norms within [1/_RANGE, _RANGE]: no product overflows, in float32 neither
_VECTORS = 50  # of a large map, unless told how many
_DENSE = 4096  # lesser side of a matrix up to which what is left of it gets a norm, …
_SMALL = 0.1  # … if that is at most so much of the whole
_TOGETHER = 8  # vectors that go through a large map together


@dataclass(frozen=True, eq=False)
class Factors:
    """left: (rows, k), values: (k,) descending, right: (columns, k); float64.

    rest, slip, growth: as in the module's docstring; `rest` is infinite where nothing is proved.
    """

    left: Floats
    values: Floats
    right: Floats
    rest: float = math.inf
    slip: float = math.inf
    growth: float = math.inf

    @property
    def proved(self) -> bool:
        """Whether the rest is bounded."""
        return math.isfinite(self.rest)


def is_affordable(a: LinearMap, work: Workspace) -> bool:
    """Whether the map is small enough to be written out and decomposed."""
    short, long = sorted((a.rows, a.columns))
    return float(short) ** 2 * long <= _OPERATIONS and short * long <= work.memory // 32


def factors(a: LinearMap, vectors: int | None, work: Workspace) -> Factors:
    """The `vectors` leading triplets (None: all of them, if the map can be written out).

    Deterministic in `work.seed`. Raises NonFiniteError for a map whose size leaves the range in
    which squares can be taken.
    """
    cap = a.cap()
    if cap and not 1 / _RANGE < cap < _RANGE:
        raise NonFiniteError(f"no singular vectors of a map whose norm is about {cap:.0e}")
    written = _written(a, work) if is_affordable(a, work) else None
    if written is None:
        found = _searched(a, vectors or _VECTORS, work)
        return _deflated(a, found) if _is_plain(a) else found
    matrix, error = written
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    kept = len(s) if vectors is None else min(vectors, len(s))
    rest = float(s[kept]) if kept < len(s) else 0.0
    slip = add_up(_residual(matrix, u, s, vt), error)
    growth = max(_growth(u), _growth(vt.T))
    return Factors(
        np.ascontiguousarray(u[:, :kept]),
        s[:kept],
        np.ascontiguousarray(vt[:kept].T),
        rest,
        slip,
        growth,
    )


def _is_plain(a: LinearMap) -> bool:
    return (
        isinstance(a, Matrix) and a.rows == a.blocks.shape[1] and min(a.rows, a.columns) <= _DENSE
    )


def _deflated(a: LinearMap, found: Factors) -> Factors:
    """With a proof of what is left, where that is worth its price."""
    assert isinstance(a, Matrix)
    if not len(found.values) or found.values[-1] > _SMALL * found.values[0]:
        return found  # and what is left is no smaller than what was kept last
    residual, rounding = _difference(
        a.blocks[0].astype(np.float64), found.left, found.values, found.right.T
    )
    slip = add_up(dense_norm(residual[None]).upper, rounding, coefficient_error(a))
    growth = max(_growth(found.left), _growth(found.right))
    return replace(found, rest=0.0, slip=slip, growth=growth)


def _written(a: LinearMap, work: Workspace) -> tuple[Floats, float] | None:
    """The matrix and ‖A − matrix‖₂ ≤ error; None where numbers leave a comfortable range."""
    found = work.written(a)
    return None if found is None else (found.matrix, found.error)


def _residual(matrix: Floats, u: Floats, s: Floats, vt: Floats) -> float:
    difference, rounding = _difference(matrix, u, s, vt)
    return add_up(euclid(difference).upper, rounding)


def _difference(matrix: Floats, u: Floats, s: Floats, vt: Floats) -> tuple[Floats, float]:
    """(matrix − u diag(s) vt, its rounding errors)."""
    root = np.sqrt(s)
    sizes = mul_up(euclid(u * root).upper, euclid(vt * root[:, None]).upper)
    rounding = mul_up(gamma(len(s) + 4), add_up(sizes, euclid(matrix).upper))
    return matrix - (u * s) @ vt, add_up(rounding, UNDERFLOW)


def _growth(q: Floats) -> float:
    """An upper bound of ‖q‖₂ for nearly orthonormal columns."""
    m, k = q.shape
    if not k:
        return 1.0
    off = euclid(q.T @ q - np.eye(k)).upper
    size = euclid(q).upper
    return sqrt_up(add_up(1.0, off, mul_up(gamma(m + 2), size, size)))


def _searched(a: LinearMap, vectors: int, work: Workspace) -> Factors:
    """By Lanczos on the shorter side, reorthogonalised, then Rayleigh and Ritz."""
    turned = a.rows < a.columns
    operator = work.single(a.adjoint if turned else a)
    n = min(a.rows, a.columns)
    rng = np.random.default_rng(work.seed)
    steps = min(n, 2 * vectors + _MORE)
    basis = np.empty((steps, n), np.float32)
    alpha, beta = np.zeros(steps), np.zeros(steps)
    vector: npt.NDArray[Any] = rng.standard_normal(n).astype(np.float32)
    vector /= np.linalg.norm(vector)
    used = 0
    for j in range(steps):
        basis[j], used = vector, j + 1
        vector = operator.gram(vector)
        alpha[j] = float(basis[j] @ vector)
        for _ in range(2):
            vector = vector - (basis[:used] @ vector) @ basis[:used]
        beta[j] = float(np.linalg.norm(vector))
        if not beta[j] > 1e-6 * max(alpha[:used].max(), 1e-300):
            break
        vector = vector / np.float32(beta[j])
    off = beta[: used - 1]
    _, ritz = np.linalg.eigh(np.diag(alpha[:used]) + np.diag(off, 1) + np.diag(off, -1))
    kept = min(vectors, used)
    short = ritz[:, ::-1][:, :kept].T.astype(np.float32) @ basis[:used]
    long = np.concatenate(
        [operator.matvec(short[i : i + _TOGETHER]) for i in range(0, kept, _TOGETHER)]
    )
    q, r = np.linalg.qr(long.T.astype(np.float64))
    x, s, yt = np.linalg.svd(r)
    far, near = q @ x, short.T.astype(np.float64) @ yt.T
    return Factors(near, s, far) if turned else Factors(far, s, near)
