"""A certificate from multipliers, rounding included: one Cholesky factorisation.

Theorem (LipSDP: Fazlyab et al. 2019, Theorem 2, for any system; theory.md, section 4). With v =
[x; u_1; …; u_K], z_k = N_k v, y = Cv and q_k(z_k, u_k) ≥ 0 for every true increment (`relations`),

    M(ρ, T) = ρE_x − CᵀC − Σ_k Q_k(T_k) ⪰ 0   ⇒   ‖y‖² ≤ ρ‖x‖²:

vᵀMv = ρ‖x‖² − ‖y‖² − Σ q_k ≥ 0 and every q_k ≥ 0.

Rounding. What is factored is a matrix M̃ computed from computed N̂ and Ĉ. Let B_t be proved with
‖t‖ ≤ B_t‖x‖ for every tensor (`System.bounds`), and let every u_k be measured in units of a power
of two b_k ≥ B_{u_k}, which is exact and changes neither M̃'s errors nor its definiteness but makes
‖u_k‖ ≤ ‖x‖ = 1. All that follows is in these units, for a true increment with ‖x‖ = 1.

1. If Cholesky of M̃ + εI succeeds, M̃ ⪰ −(ε + μ)I, μ from `definite.cholesky_margin`. With M̂ what M̃
   would be without rounding, but of N̂ and Ĉ, and ‖M̃ − M̂‖₂ ≤ η,  vᵀM̂v ≥ −(ε + μ + η)(1 + K),
   as ‖v‖² ≤ 1 + K. So  ‖ŷ‖² ≤ ρ + (ε + μ + η)(1 + K) − Σ q̂_k,  ŷ = Ĉv, q̂_k = q_k at ẑ_k = N̂_k v.
2. −q̂_k ≤ q_k − q̂_k. With ‖z − ẑ‖ ≤ d, ‖s − ŝ‖ ≤ f (ŝ being computed from ẑ) and the largest
   coefficients R of z², W of (u − s)² and H of s²,
       |q_k − q̂_k| ≤ R d(2B_z + d) + W f(2‖u − s‖ + f) + H f(2‖s‖ + f),
   and ‖s‖ ≤ ‖centre‖B_z, ‖u − s‖ ≤ B_u + ‖s‖.
3. ‖y‖ ≤ ‖ŷ‖ + ‖y − ŷ‖.

d, and ‖y − ŷ‖, by induction: for t = Σ_p A_p t_p, where Â_p is stored with ‖A_p‖ ≤ norm_p and
‖A_p − Â_p‖ ≤ error_p,

    ‖t − t̂‖ ≤ Σ_p [norm_p ‖t_p − t̂_p‖ + error_p (B_p + ‖t_p − t̂_p‖)] + Σ_s ‖F_s‖,

F_s the rounding errors of the computed sum over p of products Â_p R_ps, R_ps the rows of t_p in
segment s: with k products to an entry and P parts, |F_s| ≤ γ_{k+P} Σ_p |Â_p||R_ps|. Products with
a matrix that has one entry, 1, to a row or to a column are exact (a sequential network with
float32 weights has N̂ = N, Ĉ = C). ‖|A||R|‖₂ ≤ √(‖A‖₁‖A‖_∞) ‖R‖_F.

η: M̃ is a sum of Grams Xᵀ diag(w) X of the rows X of z_k, s_k and y, of cross terms −diag(w)X, and
of diagonals. Weights are sums of c products (c of `reach`), a Gram adds two roundings and those of
a sum over n rows, and J terms are added up: |error| ≤ γ_{n+c+J+8} |X|ᵀw|X| for a Gram, in norm at
most Σ_s ‖√w X_s‖_F², as the norms of its blocks are products of those; γ_{J+8} ‖wX_s‖_F for the
cross term of segment s, √ of the sum of their squares for all of a block row, which with its mirror
image has the norm of either; γ_{J+8} max(ρ, w) for diagonals.

Underflow: ρ ≈ 1 after scaling T and y; all units are within 2^±`_WIDEST`, so that at most 2⁵⁰
operations err by less than `_LOST` together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from onnxlip.bounds.sdp.implicit import Implicit, array, forward, implicit, slim, weighted
from onnxlip.bounds.sdp.relations import Relation
from onnxlip.bounds.sdp.system import Affine, Floats, Matrix, System, segments, split
from onnxlip.norms.definite import cholesky_margin
from onnxlip.norms.enclosure import euclid
from onnxlip.norms.krylov import ritz
from onnxlip.norms.lapack import potrf, trsm
from onnxlip.rounding import add_up, gamma, mul_up, sqrt_up, up

__all__ = ["Certifier", "ProofMatrix", "shifted"]

_WIDEST = 120  # binary exponents of units
_LOST = 2.0**-400
_FEW, _RAISES = 3, 12  # attempts at a larger ρ, each this many times further above the guess:
_FACTOR = 16.0
_BLOCK = 512
_NEARLY = 1.0 + 2.0**-48  # pays for a few roundings
_LARGEST = 20_000  # order of M


class Certifier:
    """Turns multipliers into bounds, for one system: what does not depend on them is kept."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.exponents = [0] * len(system.inputs)
        for node in system.nonlinear:
            bound = system.bounds[node.output]
            fits = 0.0 < bound < math.inf
            self.exponents.append(math.frexp(bound)[1] if fits else 0 if bound == 0 else 10**6)

    @cached_property
    def form(self) -> Implicit:
        """N̂ and Ĉ, in the system's own units."""
        return implicit(self.system)

    @cached_property
    def _slips(self) -> Mapping[str, float]:
        """‖t − t̂‖ of every tensor."""
        return _slips(self.system)

    @property
    def possible(self) -> bool:
        """Whether M is small enough, and units are within range."""
        size = self.system.width + self.system.neurons
        return size <= _LARGEST and all(abs(e) <= _WIDEST for e in self.exponents)

    def proved(self, multipliers: Floats, guess: float | None = None) -> float:
        """A theorem: ‖y‖₂ ≤ the value · ‖x‖₂, by these multipliers; ∞ where they prove nothing.

        multipliers: flat, in the order of `System.nonlinear`; guess: about the square of the value,
        if known (else it is computed).
        """
        if not self.system.height or not self.system.width:
            return 0.0
        t = np.asarray(multipliers, np.float64)
        if t.shape != (self.system.multipliers,):
            raise ValueError(f"{self.system.multipliers} multipliers needed, not {t.shape}")
        if not self.possible or not np.all((t >= 0) & (t < math.inf)):
            return math.inf
        with np.errstate(all="ignore"):
            if guess is None or not 0 < guess < math.inf:
                guess = self.guess(t)
            if not 0 < guess < math.inf:
                return math.inf
            unit = round(math.log2(guess) / 2)
            if abs(unit) > _WIDEST:
                return math.inf
            matrix = ProofMatrix(self, split(self.system, np.ldexp(t, -2 * unit)), unit)
            found = self._proved(matrix, math.ldexp(guess, -2 * unit), unit, _FEW)
            if not math.isfinite(found):  # the guess was too low
                found = self._proved(matrix, matrix.least(), unit, _RAISES)
        return found

    def guess(self, multipliers: Floats) -> float:
        """The least ρ that these multipliers allow, in floating point; ∞ where there is none."""
        m = ProofMatrix(self, split(self.system, multipliers), 0)
        return m.least()

    def _proved(self, matrix: ProofMatrix, rho: float, unit: int, raises: int) -> float:
        k = len(self.system.nonlinear)
        slack = matrix.margin(rho)
        for _ in range(raises):
            if not slack < rho < math.inf:
                break
            raised = rho + slack * (1 + k)
            margin = matrix.definite(raised, slack)
            if margin is not None:
                square = add_up(raised, mul_up(add_up(slack, margin), 1.0 + k), matrix.slip, _LOST)
                return add_up(math.ldexp(sqrt_up(square), unit), self.output_slip)
            slack *= _FACTOR
        return math.inf

    def along(self, multipliers: Floats, directions: Floats) -> list[float]:
        """A theorem for every column c of directions, (width, count): ‖Jc‖₂ ≤ its value.

        With a matrix R in the place of ρI, M ⪰ 0 says ‖y‖² ≤ xᵀRx: of these multipliers the least
        R is a Schur complement, and one factorisation serves all directions. Errors are those of
        `proved`, times ‖c‖². Infinite where the multipliers prove nothing.
        """
        guess = self.guess(multipliers) if self.possible else math.inf
        nothing = [math.inf] * directions.shape[1]
        if not 0 < guess < math.inf or abs(math.log2(guess)) > 2 * _WIDEST:
            return nothing
        with np.errstate(all="ignore"):
            unit = round(math.log2(guess) / 2)
            matrix = ProofMatrix(self, split(self.system, np.ldexp(multipliers, -2 * unit)), unit)
            schur = matrix.schur()
            if schur is None:
                return nothing
            rho, error = self._raised(matrix, schur, math.ldexp(guess, -2 * unit))
            found = []
            for c in directions.T:
                square, length = _quadratic(rho, c), euclid(c).upper
                off = mul_up(error, length, length)
                size = math.ldexp(sqrt_up(add_up(square, off)), unit)
                found.append(add_up(size, mul_up(self.output_slip, length)))
        return found

    def _raised(self, matrix: ProofMatrix, schur: Floats, scale: float) -> tuple[Floats, float]:
        """(R, e) with ‖ŷ‖² ≤ xᵀRx + e‖x‖², R just above the Schur complement."""
        k = len(self.system.nonlinear)
        slack = matrix.margin(scale)
        for _ in range(_RAISES):
            rho = schur.copy()
            np.einsum("ii->i", rho)[...] += slack * (1 + k)
            margin = matrix.definite(rho, slack)
            if margin is not None:
                error = add_up(mul_up(add_up(slack, margin), 1.0 + k), matrix.slip, _LOST)
                return rho, error
            slack *= _FACTOR
        return schur, math.inf

    @property
    def output_slip(self) -> float:
        """‖y − ŷ‖ for ‖x‖ = 1."""
        slips = [self._slips[t] for t in self.system.outputs]
        return add_up(*slips)


class ProofMatrix:
    """M̃ without ρ, in units of `unit` (T comes so scaled, y is scaled here), and its errors.

    Its upper triangle serves for factorisations, while the lower one and `_diagonal` keep it.
    """

    def __init__(self, of: Certifier, multipliers: tuple[Floats, ...], unit: int) -> None:
        self.form, self.exponents = of.form, of.exponents
        self.size, self.width = self.form.size, self.form.width
        self.entries = np.zeros((self.size, self.size), order="F")
        self._terms = 4 * len(multipliers) + len(self.form.y) + 4
        self.error, self.slip, self._top = 0.0, 0.0, 0.0
        for rows in self.form.y:
            scaled = {s: shifted(x, self.exponents[s] - unit) for s, x in rows.items()}
            self._subtract(scaled, None, 0)
        nodes = of.system.nonlinear
        for k, (node, t) in enumerate(zip(nodes, multipliers, strict=True)):
            self._relation(k, node.relation, t)
            bounds, slips = of.system.bounds, of._slips
            shown = bounds[node.input], bounds[node.output], slips[node.input]
            self.slip = add_up(self.slip, self._moved(k, node.relation, t, *shown))
        self._diagonal = np.einsum("ii->i", self.entries).copy()
        self._corner = np.tril(self.entries[: self.width, : self.width])

    # ── the entries ───────────────────────────────────────────────────────────────────────

    def _relation(self, k: int, relation: Relation, t: Floats) -> None:
        q = relation.quadratic
        own = self.form.inputs + k
        rows = {s: shifted(x, self.exponents[s]) for s, x in self.form.z[k].items()}
        few = max(_longest(q.reach, 0), 2)
        self._subtract(rows, q.reach.T @ t, few)
        weight = t[q.group]
        rest = weight if q.back is None else weight + q.back * t
        s = {place: slim(q.centre @ x) for place, x in rows.items()}
        self._subtract(s, rest, few, sign=1.0)
        place, exponent = self.form.segment(own), self.exponents[own]
        np.einsum("ii->i", self.entries)[place] += np.ldexp(weight, 2 * exponent)
        sizes = []
        for other, x in s.items():
            cross = array(weighted(x, np.ldexp(weight, exponent)))
            self.entries[self.form.segment(other), place] -= cross.T
            self.entries[place, self.form.segment(other)] -= cross
            sizes.append(_frobenius(cross))
        rounded = gamma(self._terms + 8)
        largest = math.ldexp(float(weight.max(initial=0.0)), 2 * exponent)
        crossed = sqrt_up(add_up(*(mul_up(x, x) for x in sizes)))
        self.error = add_up(self.error, mul_up(rounded, add_up(crossed, largest)))

    def _subtract(
        self, rows: Mapping[int, Matrix], weight: Floats | None, count: int, sign: float = -1.0
    ) -> None:
        """M̃ ∓= rowsᵀ diag(weight) rows, and the error of that."""
        height, total = 0, 0.0
        root = None if weight is None else np.sqrt(weight)
        for a, left in rows.items():
            height = left.shape[0]
            size = mul_up(_frobenius(left if root is None else weighted(left, root)), _NEARLY)
            total = add_up(total, mul_up(size, size))
            for b, right in rows.items():
                if b < a:
                    continue
                scaled = right if weight is None else weighted(right, weight)
                gram = sign * array(left.T @ scaled)
                self.entries[self.form.segment(a), self.form.segment(b)] += gram
                if a != b:
                    self.entries[self.form.segment(b), self.form.segment(a)] += gram.T
        self.error = add_up(self.error, mul_up(gamma(height + count + self._terms + 8), total))

    def _moved(
        self, k: int, relation: Relation, t: Floats, z: float, u: float, slip: float
    ) -> float:
        """|q − q̂| of step 2."""
        q = relation.quadratic
        rounded = self._centre_error(k, relation)
        size = _spread(q.centre)
        f = add_up(mul_up(size, slip), rounded)
        if slip == 0 and f == 0:
            return 0.0
        few = up(1.0 + gamma(relation.count + 8))
        reach = mul_up(float((q.reach.T @ t).max(initial=0.0)), few)
        weight = float(t.max(initial=0.0))
        back = 0.0 if q.back is None else mul_up(float((q.back * t).max(initial=0.0)), few)
        s = mul_up(size, z)
        return add_up(
            mul_up(reach, slip, add_up(2 * z, slip)),
            mul_up(weight, f, add_up(2 * add_up(u, s), f)),
            mul_up(back, f, add_up(2 * s, f)),
        )

    def _centre_error(self, k: int, relation: Relation) -> float:
        """‖ŝ − centre·ẑ‖ for ‖x‖ = 1: of the products of `centre` with the rows of z."""
        centre = relation.quadratic.centre
        error = gamma(_longest(centre, 1) + 2)
        spread = _spread(centre)
        rows = self.form.z[k].items()
        sizes = [_frobenius(shifted(x, self.exponents[s])) for s, x in rows]
        return mul_up(error, spread, add_up(*sizes))

    # ── factorisations ────────────────────────────────────────────────────────────────────

    def _reset(self) -> None:
        """The upper triangle from the lower one, where a factorisation has overwritten it."""
        for i in range(0, self.size, _BLOCK):
            j = i + _BLOCK
            self.entries[i:j, j:] = self.entries[j:, i:j].T
            corner = self.entries[i:j, i:j]
            lower = np.tril(corner, -1)
            corner[...] = lower + lower.T
        np.einsum("ii->i", self.entries)[...] = self._diagonal

    def margin(self, rho: float) -> float:
        """About the errors that M̃ has anyway."""
        trace = float(np.abs(self._diagonal).sum()) + rho * self.width
        return self.error + cholesky_margin(self.size, trace, rho, is_complex=False) + 1e-15 * rho

    def definite(self, rho: float | Floats, shift: float) -> float | None:
        """μ + η with M̂(ρ) ⪰ −(shift + μ + η), or None. rho: a number, or a symmetric matrix."""
        self._reset()
        diagonal = np.einsum("ii->i", self.entries)
        extra = 0.0
        if isinstance(rho, np.ndarray):
            corner = self.entries[: self.width, : self.width]
            corner[...] = np.triu(corner) + np.triu(rho) + np.tril(self._corner, -1)
            sizes = np.abs(corner).sum(axis=1).max() + np.abs(rho).sum(axis=1).max()
            extra = mul_up(gamma(self.width + 8), float(sizes))
        else:
            diagonal[: self.width] += rho
        diagonal += shift
        if not np.all(diagonal > 0):
            return None
        trace, largest = float(diagonal.sum()), float(diagonal.max())
        if not potrf(self.entries):
            return None
        pivots = np.einsum("ii->i", self.entries)
        if not np.all((pivots > 0) & (pivots < math.inf)):
            return None
        margin = cholesky_margin(self.size, trace, largest, is_complex=False)
        rounded = add_up(mul_up(gamma(4), largest), extra)
        return add_up(margin, self.error, rounded)

    def schur(self) -> Floats | None:
        """M_xu M_uu⁻¹ M_ux − M_xx, an estimate; None where M_uu is not definite."""
        w = self.width
        inner = self._corner + np.tril(self._corner, -1).T
        if w == self.size:
            return -inner
        self._reset()
        corner = np.array(self.entries[w:, w:], order="F")
        if not potrf(corner):
            return None
        rest = np.array(self.entries[w:, :w], order="F")
        trsm(corner, rest, "L", "T")
        found: Floats = rest.T @ rest - inner
        return found

    def least(self) -> float:
        """The least ρ, an estimate; ∞ where there is none."""
        small = self.schur()
        if small is None:
            return math.inf
        try:
            if self.width <= 300:
                return max(0.0, float(np.linalg.eigvalsh(small)[-1]))
            start = np.random.default_rng(self.width).standard_normal(self.width)
            return ritz(lambda x: small @ x, start, 300, 1e-12)[0]
        except np.linalg.LinAlgError:
            return math.inf


def _quadratic(matrix: Floats, c: Floats) -> float:
    """cᵀRc, rounded up, of a symmetric matrix of which the upper triangle counts."""
    whole = np.triu(matrix) + np.triu(matrix, 1).T
    terms = c[:, None] * whole * c
    size = float(np.abs(terms).sum())
    return max(0.0, up(float(terms.sum()) + mul_up(gamma(terms.size + 8), size)))


def _slips(system: System) -> dict[str, float]:
    """‖t − t̂‖ of every tensor, for ‖x‖ = 1, by the induction above."""
    rows, bounds = forward(system), system.bounds
    names = [tensor for tensor, _ in segments(system)]
    slips = dict.fromkeys(names, 0.0)
    for node in system.nodes:
        if not isinstance(node, Affine):
            continue
        terms = []
        for part in node.parts:
            slip = slips[part.input]
            terms.append(mul_up(part.norm, slip))
            terms.append(mul_up(part.error, add_up(bounds[part.input], slip)))
            for s, inner in rows[part.input].items():
                rounded = _product_error(part.matrix, inner, len(node.parts))
                terms.append(mul_up(rounded, bounds[names[s]]))
        slips[node.output] = add_up(*terms)
    return slips


def _product_error(left: Matrix, right: Matrix, parts: int) -> float:
    """‖F‖₂ of one product that is added to others: 0 where nothing is rounded."""
    k = min(_longest(left, 1), _longest(right, 0))
    if k <= 1 and (_is_choice(left, 1) or _is_choice(right, 0)):
        k = 0
        if parts == 1:
            return 0.0
    return mul_up(gamma(k + parts), _spread(left), _frobenius(right), _NEARLY)


def _longest(matrix: Matrix, axis: int) -> int:
    """Entries that may be summed along an axis: 1 of a row, 0 of a column."""
    if not sp.issparse(matrix):
        return int(matrix.shape[axis])
    indices = sp.csr_array(matrix).nonzero()[1 - axis]
    return int(np.bincount(indices, minlength=1).max(initial=0))


def _is_choice(matrix: Matrix, axis: int) -> bool:
    """Whether every row (1) or column (0) has one entry at most, which is 1."""
    if not sp.issparse(matrix):
        return False
    return _longest(matrix, axis) <= 1 and bool(np.all(sp.csr_array(matrix).data == 1))


def _entries(matrix: Matrix) -> Floats:
    return np.asarray(sp.csr_array(matrix).data if sp.issparse(matrix) else matrix)


def _frobenius(matrix: Matrix) -> float:
    return euclid(_entries(matrix)).upper


def _spread(matrix: Any) -> float:
    """‖|A|‖₂ ≤ √(‖A‖₁‖A‖_∞), rounded up."""
    sizes = abs(matrix)
    sums = [float(np.asarray(sizes.sum(axis=axis)).max(initial=0.0)) for axis in (0, 1)]
    few = up(1.0 + gamma(max(matrix.shape) + 2))
    return mul_up(sqrt_up(mul_up(*sums)), few)


def shifted(matrix: Matrix, exponent: int) -> Matrix:
    """matrix · 2^exponent, exactly."""
    if sp.issparse(matrix):
        moved = sp.csr_array(matrix)
        return sp.csr_array(
            (np.ldexp(moved.data, exponent), moved.indices, moved.indptr), moved.shape
        )
    return np.ldexp(matrix, exponent)
