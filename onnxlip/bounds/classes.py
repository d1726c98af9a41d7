"""Certified constants of the difference of every two outputs, y_i − y_j.

From multipliers (one factorisation for all pairs). Let A(ρ) = ρE_x − Σ_k Q_k(T_k), LipSDP's matrix
without CᵀC (`sdp.proof`), and A(ρ) ≻ 0. A true increment v with ‖x‖ = 1 has vᵀAv = ρ − Σ q_k ≤ ρ,
as q_k ≥ 0, so by Cauchy and Schwarz in the metric of A every row functional c obeys

    (cᵀv)² ≤ (cᵀA⁻¹c)(vᵀAv) ≤ ρ cᵀA(ρ)⁻¹c.

Scaling (ρ, T) changes nothing; ρ alone may be chosen for every pair: with u eliminated and
λ_i the eigenvalues of what remains of −A(0) on x, cᵀA⁻¹c = k + Σ w_i²/(ρ − λ_i). If T proves
‖y‖ ≤ √ρ‖x‖, no pair's value is above √(2ρ).

Rounding, in the units of `sdp.proof`, where ‖v‖² ≤ 1 + K: A as computed is taken as it stands, so

* vᵀAv ≤ ρ + slip + η(1 + K) =: ρ', η and slip as there;
* A(ρ) ⪰ A(ρ_min) ⪰ δI > 0 by one Cholesky factorisation of A(ρ_min) − δI;
* for any vector s, with r = c − As,  cᵀA⁻¹c = cᵀs + sᵀr + rᵀA⁻¹r ≤ cᵀs + ‖s‖‖r‖ + ‖r‖²/δ, and r as
  computed is off by γ_{N+2}(‖c‖ + ‖A‖_F‖s‖), cᵀs by γ_N‖c‖‖s‖;
* computed rows c = ĉ_i − ĉ_j are off by u‖c‖, that is (‖v‖ ≤ √(1 + K)) u‖c‖√(1 + K), and the
  outputs themselves by √2 · ‖y − ŷ‖.

From products of norms (every network, p = 1, 2, ∞). The last affine block's rows a_i give
|y_i − y_j| ≤ Σ_k ‖a_ki − a_kj‖_q L_k, L_k AutoLip's bounds of what it reads, q dual to p.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxlip.bounds.autolip import BlockNorm, autolip
from onnxlip.bounds.sdp.implicit import array
from onnxlip.bounds.sdp.proof import Certifier, ProofMatrix, shifted
from onnxlip.bounds.sdp.system import Affine, Floats, Part, System, split
from onnxlip.network import AffineBlock, Network
from onnxlip.norms.definite import factored_margin
from onnxlip.norms.enclosure import euclid
from onnxlip.norms.workspace import Workspace, coefficient_error, product_error
from onnxlip.rounding import UNIT, add_up, gamma, mul_up, norm_up, sqrt_up, up

__all__ = ["Classes", "by_multipliers", "by_products", "by_transpose", "difference", "least"]

Refine = Callable[[System, Floats], Floats]

_DELTAS = tuple(2.0**-e for e in (8, 16, 24, 32, 40))  # of the least diagonal entry
_BATCH = 1 << 22  # entries of all right-hand sides at a time
_DUAL = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}


@dataclass(frozen=True, eq=False)
class Classes:
    """|(y_i − y_j)(a) − (y_i − y_j)(b)| ≤ upper[i, j] ‖a − b‖_p: (m, m), symmetric, 0 on the
    diagonal; methods: names, and which of them gave each: (m, m)."""

    upper: Floats
    methods: tuple[str, ...]
    which: Floats


def least(*found: Classes) -> Classes:
    """The least value of every pair."""
    stack = np.stack([c.upper for c in found])
    best = stack.argmin(axis=0)
    names = tuple(dict.fromkeys(name for c in found for name in c.methods))
    which = np.zeros(best.shape)
    for k, c in enumerate(found):
        places = np.array([names.index(n) for n in c.methods], float)
        which = np.where(best == k, places[c.which.astype(int)], which)
    return Classes(stack.min(axis=0), names, which)


def _filled(m: int, pairs: Sequence[tuple[int, int]], values: Sequence[float], how: str) -> Classes:
    upper = np.zeros((m, m))
    for (i, j), value in zip(pairs, values, strict=True):
        upper[i, j] = upper[j, i] = value
    return Classes(upper, (how,), np.zeros((m, m)))


def _pairs(m: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(m) for j in range(i + 1, m)]


# ── products of norms ─────────────────────────────────────────────────────────────────────


def by_products(
    network: Network,
    norms: Sequence[BlockNorm],
    work: Workspace,
    p: float = 2.0,
    bounds: Mapping[str, float] | None = None,
) -> Classes:
    """AutoLip of all pairs; outputs stacked. norms: for this p; bounds: better ones of tensors
    that the last block reads, where they are known. An infinite value says that nothing is."""
    q = _DUAL[p]
    known, _ = autolip(network, norms, p, dict.fromkeys(network.inputs, 1.0))
    for name, value in (bounds or {}).items():
        known[name] = min(known.get(name, math.inf), value)
    m = sum(network.sizes[t] for t in network.outputs)
    pairs = _pairs(m)
    two = norm_up([1.0, 1.0], q)
    whole = norm_up([known.get(t, 0.0) for t in network.outputs], p)
    values = np.full(len(pairs), mul_up(two, whole))
    last = _last(network)
    if last is not None and last.output not in network.inputs:
        total = [0.0] * len(pairs)
        for name, a in zip(last.inputs, last.maps, strict=True):
            rows = np.asarray(work.double(a).rmatvec(np.eye(a.rows)))
            slip = add_up(*product_error(a), coefficient_error(a))
            for k, (i, j) in enumerate(pairs):
                size = mul_up(_vector_norm(rows[i] - rows[j], q), 1.0 + 4 * UNIT)
                total[k] = add_up(total[k], mul_up(add_up(size, mul_up(two, slip)), known[name]))
        values = np.minimum(values, total)
    return _filled(m, pairs, [float(v) for v in values], "autolip")


def _last(network: Network) -> AffineBlock | None:
    if len(network.outputs) != 1:
        return None
    for block in network.blocks:
        if isinstance(block, AffineBlock) and block.output == network.outputs[0]:
            return block
    return None


def _vector_norm(v: Floats, q: float) -> float:
    if not np.isfinite(v).all():
        return math.inf
    if q == 2:
        return euclid(v).upper
    return norm_up([float(x) for x in np.abs(v)], q)


# ── multipliers ───────────────────────────────────────────────────────────────────────────


def difference(system: System, i: int, j: int) -> System:
    """The system whose only output is y_i − y_j, outputs being stacked."""
    row = np.zeros(system.height)
    row[i], row[j] = 1.0, -1.0
    parts, begin = [], 0
    for t in dict.fromkeys(system.outputs):
        n = system.sizes[t]
        piece = row[begin : begin + n][None]
        parts.append(Part(t, piece, float(np.ceil(euclid(piece).upper * 16) / 16)))
        begin += n
    name = f"{'+'.join(system.outputs)}:{i}−{j}"
    node = Affine(name, tuple(parts))
    sizes = {**system.sizes, name: 1}
    return System(system.inputs, (name,), (*system.nodes, node), sizes)


def by_multipliers(system: System, multipliers: Floats, refine: Refine | None = None) -> Classes:
    """Values of all pairs from multipliers of the whole system (flat, as `sdp.proof` takes them).

    refine(system of one pair, multipliers) → better multipliers of that pair, each proved by
    itself. For the 2-norm. Infinite where the multipliers prove nothing.
    """
    m = system.height
    pairs = _pairs(m)
    t = np.asarray(multipliers, np.float64)
    values = _Shared(system, t).values(pairs) if pairs else []
    found = _filled(m, pairs, values, "shared multipliers")
    if refine is None:
        return found
    better = []
    for i, j in pairs:
        one = difference(system, i, j)
        better.append(Certifier(one).proved(refine(one, t)))
    return least(found, _filled(m, pairs, better, "multipliers of the pair"))


def by_transpose(turned: System, multipliers: Floats) -> Classes:
    """Values of all pairs from multipliers of the transposed system, whose x is y: of Jᵀ along
    every e_i − e_j (`Certifier.along`), from one factorisation."""
    pairs = _pairs(turned.width)
    directions = np.zeros((turned.width, len(pairs)))
    for k, (i, j) in enumerate(pairs):
        directions[i, k], directions[j, k] = 1.0, -1.0
    t = np.asarray(multipliers, np.float64)
    values = Certifier(turned).along(t, directions) if pairs else []
    return _filled(turned.width, pairs, values, "shared multipliers")


class _Shared:
    """A(0) in the units of the proof, and its factors."""

    def __init__(self, system: System, t: Floats) -> None:
        self._system = system
        self._of = Certifier(system)
        self._t = t

    def values(self, pairs: Sequence[tuple[int, int]]) -> list[float]:
        nothing = [math.inf] * len(pairs)
        if not self._of.possible or not np.all((self._t >= 0) & (self._t < math.inf)):
            return nothing
        guess = self._of.guess(self._t)
        if not 0 < guess < math.inf:
            return nothing
        unit = round(math.log2(guess) / 2)
        bare = Certifier(replace(self._system, outputs=()))
        scaled = split(self._system, np.ldexp(self._t, -2 * unit))
        matrix = ProofMatrix(bare, scaled, unit)
        solver = _Solver(np.array(matrix.entries), matrix.width, math.ldexp(guess, -2 * unit))
        if not solver.possible:
            return nothing
        spread = 1.0 + len(self._system.nonlinear)
        rows, slip = self._rows(), self._of.output_slip
        step, found = max(1, _BATCH // solver.size), list[float]()
        chosen = [(slice(k, k + step), pairs[k : k + step]) for k in range(0, len(pairs), step)]
        targets = [np.stack([rows[i] - rows[j] for i, j in part]) for _, part in chosen]
        rhos = [solver.best(c) for c in targets]
        least_rho = min(float(r.min()) for r in rhos)
        delta = solver.definite(least_rho)
        if delta is None:
            return nothing
        for c, rho in zip(targets, rhos, strict=True):
            for value, r, row in zip(solver.bounds(c, rho, delta), rho, c, strict=True):
                off = mul_up(add_up(matrix.error, mul_up(gamma(4), float(r))), spread)
                square = mul_up(float(value), add_up(float(r), matrix.slip, off))
                lost = mul_up(UNIT, 2.0 * euclid(row).upper, sqrt_up(spread))
                found.append(add_up(sqrt_up(square), lost, mul_up(1.5, slip)))
        return found

    def _rows(self) -> Floats:
        """Ĉ, (m, N), in these units."""
        form, parts = self._of.form, []
        for tensor, rows in zip(self._system.outputs, form.y, strict=True):
            whole = np.zeros((self._system.sizes[tensor], form.size))
            for s, matrix in rows.items():
                whole[:, form.segment(s)] = array(shifted(matrix, self._of.exponents[s]))
            parts.append(whole)
        return np.concatenate(parts)


class _Solver:
    """A(ρ)⁻¹ for many ρ, by eliminating u and the eigenvectors of what is left."""

    def __init__(self, a: Floats, width: int, rho: float) -> None:
        self.a, self.width, self.size, self.rho = a, width, len(a), rho
        w = width
        try:
            self._corner = np.linalg.inv(np.linalg.cholesky(a[w:, w:]))
        except np.linalg.LinAlgError:
            self.possible = False
            return
        self.possible = True
        half = self._corner @ a[w:, :w]
        self._lambda, self._vectors = np.linalg.eigh(half.T @ half - a[:w, :w])
        self._half = half

    def best(self, c: Floats) -> Floats:
        """For every row the ρ of least ρ cᵀA⁻¹c, by bisection in log(ρ/λmax − 1)."""
        w = self.width
        behind = c[:, w:] @ self._corner.T
        k = np.einsum("ij,ij->i", behind, behind)
        weight = ((c[:, :w] - behind @ self._half) @ self._vectors) ** 2
        top = max(float(self._lambda[-1]), 1e-3 * self.rho)
        low, high = np.full(len(c), math.log(1e-7)), np.full(len(c), math.log(1e4))

        def value(s: Floats) -> Floats:
            rho = top * (1.0 + np.exp(s))
            return np.asarray(rho * (k + (weight / (rho[:, None] - self._lambda)).sum(axis=1)))

        for _ in range(60):
            a, b = low + (high - low) / 3, high - (high - low) / 3
            left = value(a) < value(b)
            low, high = np.where(left, low, a), np.where(left, b, high)
        return np.asarray(top * (1.0 + np.exp(0.5 * (low + high))))

    def definite(self, rho: float) -> float | None:
        """δ > 0 with A(ρ) ⪰ δI, proved; None where it is not."""
        diagonal = np.einsum("ii->i", self.a) + rho * (np.arange(self.size) < self.width)
        for share in _DELTAS:
            delta = share * float(diagonal.min())
            gram = np.array(-self.a, order="F")
            np.einsum("ii->i", gram)[: self.width] -= rho
            margin = factored_margin(gram, -delta) if delta > 0 else None
            if margin is not None and margin < delta / 2:
                return delta / 2
        return None

    def bounds(self, c: Floats, rho: Floats, delta: float) -> Floats:
        """At least cᵀA(ρ)⁻¹c for every row."""
        w, n = self.width, self.size
        solution = np.zeros_like(c)
        rest = c
        for _ in range(2):
            solution = solution + self._solved(rest, rho)
            rest = c - solution @ self.a
            rest[:, :w] -= rho[:, None] * solution[:, :w]
        sizes = up(euclid(self.a).upper)
        found = []
        for row, s, r, x in zip(c, solution, rest, rho, strict=True):
            row_size, s_size = euclid(row).upper, euclid(s).upper
            whole = add_up(sizes, mul_up(float(x), sqrt_up(float(w))))
            off = mul_up(gamma(n + 4), add_up(row_size, mul_up(2.0, whole, s_size)))
            r_size = add_up(euclid(r).upper, off)
            product = add_up(max(0.0, float(row @ s)), mul_up(gamma(n), row_size, s_size))
            found.append(add_up(product, mul_up(s_size, r_size), mul_up(r_size, r_size) / delta))
        return np.array([up(up(v)) for v in found])

    def _solved(self, c: Floats, rho: Floats) -> Floats:
        w = self.width
        behind = c[:, w:] @ self._corner.T
        front = (c[:, :w] - behind @ self._half) @ self._vectors
        x = (front / (rho[:, None] - self._lambda)) @ self._vectors.T
        u = (behind - x @ self._half.T) @ self._corner
        return np.concatenate([x, u], axis=1)
