"""What flipping one slope does to the norm, for all n slopes at once.

Flipping d_j between its two ends adds a rank-one matrix, M' = M + δ a bᵀ with a = outer e_j,
b = innerᵀ e_j, δ = α_j + β_j − 2 d_j. Let M = Σ_i σ_i u_i v_iᵀ, a_i = ⟨u_i, a⟩, b_i = ⟨v_i, b⟩.
M'M'ᵀ is MMᵀ plus a matrix of rank two and inertia (1, 1), so by Sylvester's law of inertia at most
one of its eigenvalues exceeds λ > σ₁², and one does if and only if

    λ g h > (1/δ − c)²,
    g = Σ a_i²/(λ − σ_i²),   h = Σ b_i²/(λ − σ_i²),   c = Σ σ_i a_i b_i/(λ − σ_i²)

(sums over complete bases, σ_i = 0 where M has no more). With the terms of i = 1 taken out of the
sums, and multiplied by δ²(λ − σ₁²), that is

    (λ − σ₁²) [(1 − δc')² − δ²λ g'h'] < δ²{λ(a₁²h' + b₁²g') + a₁²b₁²} + 2δ(1 − δc') σ₁a₁b₁.

At λ = σ₁² the right side's sign decides whether the flip raises the norm at all, and the quotient
of both tells by how much the square grows, but for terms of higher order. It costs one set of
singular vectors and their products with both sides in place of n norms. First-order terms are
2δσ₁a₁b₁: sign power stops where all of these are ≤ 0, and what a flip can still gain is of second
order.

With all triplets the decision is exact, but for rounding; with the leading ones the others are
taken to have one mean square, and c' to be without them. It is a guess then, which a norm confirms.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.pairs.leading import Place, Triplets

__all__ = ["growth"]

Floats = npt.NDArray[np.float64]

_GAP = 1e-9  # the least λ − σ_i² that is told from 0, relative to λ


def growth(place: Place, top: Triplets) -> Floats:
    """(n,): by how much the norm's square is likely to grow where slope j alone is flipped.

    Positive where it is believed to grow, −∞ where α_j = β_j. top: of place.matrix, all or some.
    """
    sides = place.sides
    delta = sides.alpha + sides.beta - 2 * place.d
    free = sides.alpha < sides.beta
    if not len(top.values) or not top.values[0] > 0:
        gain = delta**2 * sides.squares[0] * sides.squares[1]
        return np.where(free, gain, -np.inf)
    a, b = sides.left @ top.left, sides.right @ top.right
    square = float(top.values[0]) ** 2
    weights = 1 / np.maximum(square - top.values[1:] ** 2, _GAP * square)
    others = 1 / max(square - top.rest, _GAP * square)
    first = a[:, 0] * b[:, 0]
    g = _sum(a, sides.squares[0], weights, others)
    h = _sum(b, sides.squares[1], weights, others)
    c = (a[:, 1:] * b[:, 1:]) @ (weights * top.values[1:])
    linear = 2 * delta * (1 - delta * c) * float(top.values[0]) * first
    gain = delta**2 * (square * (a[:, 0] ** 2 * h + b[:, 0] ** 2 * g) + first**2) + linear
    damping = (1 - delta * c) ** 2 - delta**2 * square * g * h
    # Where the denominator is tiny the flip is no small change: no growth beyond |δ|‖a‖‖b‖.
    jump = np.abs(delta) * np.sqrt(sides.squares[0] * sides.squares[1])
    limit = jump * (2 * float(top.values[0]) + jump)
    large = (gain > 0) & (damping * limit <= gain)
    gain = np.where(large, limit, gain / np.where(large | (damping <= 0), 1.0, damping))
    return np.where(free, gain, -np.inf)


def _sum(parts: Floats, squares: Floats, weights: Floats, others: float) -> Floats:
    """Σ_{i≥2} parts_i²/(λ − σ_i²), what lies outside of the triplets included."""
    known = parts**2
    outside = np.maximum(squares - known.sum(axis=1), 0.0)
    return np.asarray(known[:, 1:] @ weights + outside * others)
