"""The quadratic inequalities of LipSDP as sums of squares with signs, and their products.

Of every multiplier T_j the matrix has G_j = Σ_a σ_a ℓ_aℓ_aᵀ (`relations`, negated), ℓ_a the rows
of w = u − s (σ = 1 for those of group j), of z (σ = −reach_j) and of s (σ = back_j). For symmetric
X and K,

    tr G_jXG_kK = Σ_{a,b} σ_aσ_b (ℓ_aᵀXℓ_b)(ℓ_aᵀKℓ_b),

so the system of an interior-point method takes the rows of X and K that u has, which are there,
and their products with N; the rest is entrywise, and done in tiles that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from onnxlip.bounds.sdp.system import Floats

__all__ = ["Moments", "Piece", "Weights", "joint", "tile"]

Weights = Floats | sp.csr_array | None  # a diagonal, a matrix, or the identity

_NOTHING = 2.0**-50  # what rounding of r² and c² leaves of r² − c² = 0, relatively


@dataclass(frozen=True, eq=False)
class Moments:
    """Of a symmetric matrix X of order n: X, z = N X, and zz = N X Nᵀ where a piece's rows of z
    are not after its columns'."""

    whole: Floats
    z: Floats
    zz: Floats


@dataclass(frozen=True, eq=False)
class Piece:
    """Multipliers whose atoms read the same rows of z. own: entries of v that are its u; z: its
    rows of N; places: its multipliers. centre: (u, z); reach: (multipliers, z), group:
    (multipliers, u), back: (multipliers,), as in `relations`. All but `back` may be diagonals."""

    own: slice
    z: slice
    places: slice
    centre: Floats | sp.csr_array
    reach: Floats | sp.csr_array
    group: Weights
    back: Floats | None

    @property
    def diagonal(self) -> bool:
        """Whether every u_i depends on its own z_i alone."""
        return isinstance(self.centre, np.ndarray)

    def atoms(self, u: Floats, z: Floats) -> list[Floats]:
        """(w, z) of these rows, and s where that counts."""
        s = _times(self.centre, z)
        return [u - s, z] if self.back is None else [u - s, z, s]

    @property
    def signs(self) -> list[tuple[float, Weights]]:
        """σ of w, z and s: a sign, and (multipliers, atoms)."""
        both: list[tuple[float, Weights]] = [(1.0, self.group), (-1.0, self.reach)]
        return both if self.back is None else [*both, (1.0, self.back)]

    def squares(self, t: Floats) -> list[Floats]:
        """Σ_j t_j σ_a of w, z and s."""
        return [sign * _pulled(weight, t[self.places]) for sign, weight in self.signs]

    def own_square(self, t: Floats) -> Any:
        """What is left of Σ t_j G_j when u = 0, in terms of z: less this matrix, or diagonal."""
        w, z, *s = self.squares(t)
        outer = w + s[0] if s else w
        if isinstance(self.centre, np.ndarray):
            rest = outer * self.centre * self.centre
            left = -z - rest
            return np.where(np.abs(left) <= _NOTHING * np.abs(z), 0.0, left)
        inner = self.centre.T @ sp.diags_array(outer) @ self.centre
        return sp.csr_array(sp.diags_array(-z) - inner)

    def pulled(self, t: Floats, u: Floats, z: Floats) -> tuple[Floats, Floats]:
        """(rows for u, rows for −z) of Σ t_j G_j times a matrix that has these rows."""
        atoms, (w, reach, *back) = self.atoms(u, z), self.squares(t)
        own = w[:, None] * atoms[0]
        centre = own - back[0][:, None] * atoms[2] if back else own
        turned = self.centre if isinstance(self.centre, np.ndarray) else self.centre.T
        return own, _times(turned, centre) - reach[:, None] * z

    def rows(self, x: Moments, width: int | None = None) -> list[Floats]:
        """ℓ_aᵀX of its atoms, the first columns of them."""
        return self.atoms(x.whole[self.own, :width], x.z[self.z, :width])

    def gathered(self, values: Sequence[Floats]) -> Floats:
        """Σ_a σ_a times a value for each w, z and s: (multipliers,)."""
        terms = [
            sign * _times(weight, value[:, None])[:, 0]
            for (sign, weight), value in zip(self.signs, values, strict=True)
        ]
        return np.asarray(sum(terms[1:], terms[0]))

    def traces(self, x: Moments) -> Floats:
        """tr G_jX."""
        forms = joint(self, self, x)
        return self.gathered([np.diagonal(forms[a][a]) for a in range(len(forms))])


def joint(left: Piece, right: Piece, x: Moments) -> list[list[Floats]]:
    """ℓ_aᵀXℓ_b by kinds of atoms of two pieces, the left one not after the right one."""
    over_u = left.atoms(x.whole[left.own, right.own], x.z[left.z, right.own])
    over_z = left.atoms(x.z[right.z, left.own].T, x.zz[left.z, right.z])
    return [[form.T for form in right.atoms(u.T, z.T)] for u, z in zip(over_u, over_z, strict=True)]


def tile(left: Piece, right: Piece, x: Moments, k: Moments) -> Floats:
    """tr G_jXG_kK for j of the left and k of the right piece."""
    total: Floats | None = None
    for (sign, weight), xs, ks in zip(
        left.signs, joint(left, right, x), joint(left, right, k), strict=True
    ):
        inner: Floats | None = None
        for (other, columns), a, b in zip(right.signs, xs, ks, strict=True):
            term = _times(columns, (a * b).T).T
            inner = term if inner is None else inner + term if other > 0 else inner - term
        assert inner is not None
        term = _times(weight, inner)
        total = term if total is None else total + term if sign > 0 else total - term
    assert total is not None
    return total


def _times(weight: Any, y: Floats) -> Floats:
    if weight is None:
        return y
    if isinstance(weight, np.ndarray):
        return weight[:, None] * y
    return np.asarray(weight @ y)


def _pulled(weight: Any, t: Floats) -> Floats:
    """weightᵀ t."""
    if weight is None:
        return t
    if isinstance(weight, np.ndarray):
        return weight * t
    return np.asarray(weight.T @ t)
