"""What is known of an increment u = f(a) − f(b), given z = a − b, in quadratic inequalities.

Every relation of m multipliers says, for all T ≥ 0 and every pair of points a, b,

    q_T(z, u) = Σ_j T_j [ Σ_i reach_ji z_i² − back_j s_j² − Σ_{i: group_i = j} (u_i − s_i)² ] ≥ 0,

s = centre · z, where all of reach and back are ≥ 0 (back needs group_i = i). LipSDP adds such terms
(Fazlyab et al. 2019, Theorem 2, generalised), and every one of these holds for the transposed
Jacobian too: `transposed`.

* `Slopes`: u_i = d_i z_i, d_i ∈ [α_i, β_i] (mean value): (u_i − c_i z_i)² ≤ r_i² z_i².
* `Windows`: u_k is one of the entries z_i, i ∈ W_k, at every point (a maximum over windows), so
  that u_k = Σ d_i z_i with d in the simplex. With m entries and their mean s,
  u − s = Σ (d_i − 1/m)(z_i − s), ‖d − 1/m‖² ≤ 1 − 1/m, so by Cauchy and Schwarz
      (u_k − s_k)² ≤ (1 − 1/m) (Σ_{i∈W_k} z_i² − m s_k²),
  which implies u_k² ≤ Σ z_i² (theory.md, section 4) and is exact where all z_i are equal.
* `Spread`: its transpose. From one z_k, entries u_ki = d_i z_k, d in the simplex:
      Σ_i (u_ki − z_k/m)² = (‖d‖² − 1/m) z_k² ≤ (1 − 1/m) z_k².
* `Gain`: ‖u‖ ≤ g‖z‖, of any op. There is D of norm ≤ g with u = Dz (rank one will do), and Dᵀ has
  that norm too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from onnxlip.rounding import mul_up, up

__all__ = ["Gain", "Places", "Quadratic", "Relation", "Slopes", "Spread", "Windows"]

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Quadratic:
    """q_T in numbers: centre (rows, columns), reach (count, columns), both sparse; back (count,)
    or None for zeros; group (rows,): the multiplier of every row. As stored they are valid:
    rounded so that q_T is not smaller than the true one."""

    centre: sp.csr_array
    reach: sp.csr_array
    back: Floats | None
    group: Places


class Relation(Protocol):
    """rows: of u; columns: of z; count: multipliers; gain: ‖u‖₂ ≤ gain ‖z‖₂, rounded up."""

    @property
    def rows(self) -> int: ...

    @property
    def columns(self) -> int: ...

    @property
    def count(self) -> int: ...

    @property
    def gain(self) -> float: ...

    @property
    def quadratic(self) -> Quadratic:
        """Its inequalities."""

    def transposed(self) -> tuple[Relation, sp.csr_array | None]:
        """What z̃ ↦ Dᵀ z̃ satisfies: a relation, and a 0/1 matrix to apply to its u (None: none)."""


def _diagonal(values: Floats) -> sp.csr_array:
    return sp.csr_array(sp.diags_array(values, format="csr"))


@dataclass(frozen=True, eq=False)
class Slopes:
    """centre, radius: (n,), radius > 0: every slope is within centre ± radius."""

    centre: Floats
    radius: Floats

    @property
    def rows(self) -> int:
        return len(self.centre)

    columns = count = rows

    @property
    def gain(self) -> float:
        sums = np.abs(self.centre) + self.radius
        return up(float(sums.max(initial=0.0)))

    @cached_property
    def quadratic(self) -> Quadratic:
        squares = np.nextafter(self.radius * self.radius, math.inf)
        places = np.arange(self.rows)
        return Quadratic(_diagonal(self.centre), _diagonal(squares), None, places)

    def transposed(self) -> tuple[Slopes, None]:
        return self, None


@dataclass(frozen=True, eq=False)
class Windows:
    """picks: (outputs, k), entries of z that an output may be, each at most once, −1 for none."""

    picks: Places
    columns: int

    @property
    def rows(self) -> int:
        return len(self.picks)

    count = rows

    @property
    def gain(self) -> float:
        """u_k² ≤ Σ z_i² over its window; an entry is in so many windows at most."""
        used = self.picks[self.picks >= 0]
        most = int(np.bincount(used, minlength=1).max(initial=0))
        return up(math.sqrt(most))

    @cached_property
    def quadratic(self) -> Quadratic:
        outputs, entries = self._entries
        sizes = np.bincount(outputs, minlength=self.rows).astype(np.float64)
        m = np.maximum(sizes, 1.0)
        shape = (self.rows, self.columns)
        centre = sp.csr_array((1.0 / m[outputs], (outputs, entries)), shape)
        reach, back = _variance(m)
        return Quadratic(
            centre,
            sp.csr_array((reach[outputs], (outputs, entries)), shape),
            back,
            np.arange(self.rows),
        )

    @property
    def _entries(self) -> tuple[Places, Places]:
        outputs, columns = np.nonzero(self.picks >= 0)
        return outputs, self.picks[outputs, columns]

    def transposed(self) -> tuple[Spread, sp.csr_array]:
        outputs, entries = self._entries
        ones = np.ones(len(outputs))
        gather = sp.csr_array((ones, (entries, np.arange(len(outputs)))), (self.columns, len(ones)))
        return Spread(outputs, self.rows), gather


@dataclass(frozen=True, eq=False)
class Spread:
    """source: (rows,), the entry of z that each u_i is a share of, shares of one being ≥ 0 with
    sum 1."""

    source: Places
    columns: int

    @property
    def rows(self) -> int:
        return len(self.source)

    @property
    def count(self) -> int:
        return self.columns

    gain = 1.0

    @cached_property
    def quadratic(self) -> Quadratic:
        m = np.maximum(np.bincount(self.source, minlength=self.columns), 1).astype(np.float64)
        rows = np.arange(self.rows)
        centre = sp.csr_array(
            (1.0 / m[self.source], (rows, self.source)), (self.rows, self.columns)
        )
        return Quadratic(centre, _diagonal(_variance(m)[0]), None, self.source)

    def transposed(self) -> tuple[Relation, sp.csr_array | None]:
        raise NotImplementedError("only what a network has is transposed, and that once")


def _variance(m: Floats) -> tuple[Floats, Floats]:
    """(1 − 1/m, m − 1) with room for a centre ŝ = (1 + δ)s, |δ| ≤ 2⁻⁵³, 1/m being rounded.

    With a = u − s, R = Σ z_i² and η = 2⁻⁵¹, and as m s² ≤ R,
    (u − ŝ)² + bŝ² = a² − 2aδs + δ²s² + b(1 + δ)²s² ≤ (1 + η)(a² + bs²) + ηs² ≤ (1 − 1/m)R + 2ηR.
    So 2⁻⁴⁸ on top of the coefficient of R pays for this, and for its own rounding; a window of
    one entry has s = ŝ and u = z, and needs none. (Spread: the sum is off by δ²z²/m only.)
    """
    reach = (1.0 - 1.0 / m) + np.where(m > 1, 2.0**-48, 0.0)
    return reach, m - 1.0


@dataclass(frozen=True, eq=False)
class Gain:
    """‖u‖ ≤ gain ‖z‖."""

    gain: float
    rows: int
    columns: int

    count = 1

    @cached_property
    def quadratic(self) -> Quadratic:
        square = np.full((1, self.columns), mul_up(self.gain, self.gain))
        centre = sp.csr_array((self.rows, self.columns))
        return Quadratic(centre, sp.csr_array(square), None, np.zeros(self.rows, np.int64))

    def transposed(self) -> tuple[Gain, None]:
        return Gain(self.gain, self.columns, self.rows), None
