"""What multipliers prove, by eliminating a system's tensors one by one from its outputs back.

The form ‖y‖² + Σ_k q_k(T_k) of all tensors is carried as a quadratic form over those that are
live, blocks by pairs of tensors, and the nodes are walked in reverse: an affine node substitutes
its output, a nonlinear one maximises over its output u. With P = Q_uu, W = diag(T_group), s what
`relations` calls the centre's image of z, and o the other live tensors,

    max_u uᵀPu + 2uᵀQ_uo o − (u − s)ᵀW(u − s) = bᵀ(W − P)⁻¹b − sᵀWs,   b = Ws + Q_uo o,

where W − P ≻ 0, else there is no maximum. What is left at the inputs is ρ(T) = λmax:
‖y‖² ≤ ρ‖x‖². This is the Schur complement of the matrix of LipSDP (`implicit`; Fazlyab et al. 2019,
Theorem 2), with factorisations of the order of one node. Affine nodes that only one nonlinear node
reads are substituted into it, so that triangular solves are as wide as what is read in the end.

Gradient, by the envelope theorem: at the maximiser for the top eigenvector x, ∂ρ/∂T = q, the
bracket of `relations`. The same walk forward gives it for several vectors x at once; with white
noise added to every node's triangular solve, it gives ∂ log det too (`descent`).

All in floating point: estimates of bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from onnxlip.bounds.sdp.form import Form, dense, product, turned
from onnxlip.bounds.sdp.relations import Quadratic
from onnxlip.bounds.sdp.system import Affine, Floats, Matrix, Nonlinear, System, joined, split
from onnxlip.norms.krylov import lanczos, ritz
from onnxlip.norms.lapack import potrf, trsm

__all__ = ["Choice", "Eliminated", "Elimination", "gradient", "value"]

_EPS = float(np.finfo(np.float64).eps)
_DENSE = 1024  # order up to which the last form's eigenvalues are all computed
_STEPS = 200
_COLUMNS = 1.5  # columns per entry of what is live, from which on they are made fewer

Choice = Callable[[int, Quadratic, Matrix], Floats]
"""Multipliers of nonlinear node k, given its inequalities and P."""


def value(system: System, multipliers: Floats) -> float:
    """ρ(T), so that about ‖J‖ ≤ √ρ; ∞ where the multipliers are not feasible.

    multipliers: (system.multipliers,), node by node.
    """
    found = Elimination(system).given(multipliers)
    return math.inf if found is None else found.top()[0]


def gradient(system: System, multipliers: Floats) -> tuple[float, Floats]:
    """(ρ(T), ∂ρ/∂T); (∞, zeros) where the multipliers are not feasible. Where the top eigenvalue
    is a multiple one, it is a subgradient."""
    found = Elimination(system).given(multipliers)
    if found is None:
        return math.inf, np.zeros(system.multipliers)
    rho, x = found.top()
    return rho, found.rates(x[:, None], np.ones(1))


@dataclass(frozen=True, eq=False)
class _Term:
    """matrix · input, and the transpose in rows."""

    input: str
    matrix: Matrix
    turned: Matrix


@dataclass(frozen=True, eq=False)
class _Sum:
    """output = Σ terms."""

    output: str
    terms: tuple[_Term, ...]


@dataclass(frozen=True, eq=False)
class _Bend:
    """Nonlinear node `place`: z = Σ terms; centred: the terms of s."""

    output: str
    place: int
    quadratic: Quadratic
    terms: tuple[_Term, ...]
    centred: tuple[_Term, ...]


@dataclass(frozen=True, eq=False)
class _Factor:
    """RᵀR = W − P, and R⁻ᵀ of b's block of every tensor."""

    root: Floats
    solved: Mapping[str, Floats]


class Elimination:
    """What all multipliers of a system share: the order of steps, and transposed matrices."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.steps = _steps(system)

    def given(self, multipliers: Floats) -> Eliminated | None:
        """With these multipliers; None where they are not feasible."""
        parts = split(self.system, multipliers)
        return self.chosen(lambda k, _q, _p: parts[k])

    def chosen(self, choose: Choice, late: Callable[[], bool] = lambda: False) -> Eliminated | None:
        """With multipliers chosen as the walk comes to their node, the last one first; None also
        where it is late before the last step."""
        form = Form(self.system.sizes)
        for tensor in self.system.outputs:
            form.square(tensor, _eye(self.system.sizes[tensor]))
        factors: dict[int, _Factor] = {}
        parts: list[Floats] = [np.zeros(0)] * len(self.system.nonlinear)
        with np.errstate(all="ignore"):
            for step in reversed(self.steps):
                if late():
                    return None
                if isinstance(step, _Sum):
                    _substitute(form, step)
                    continue
                k = step.place
                p = form.pop(step.output)
                parts[k] = choose(k, step.quadratic, p.own)
                factor = _bend(form, step, parts[k], p.own, p.others)
                if factor is None:
                    return None
                factors[k] = factor
        last = form.whole(self.system.inputs)
        if not np.all(np.isfinite(last)):
            return None
        return Eliminated(self, joined(parts), factors, last)


@dataclass(frozen=True, eq=False)
class Eliminated:
    """The factors of all nodes, and the form `last` that is left over the inputs."""

    plan: Elimination
    multipliers: Floats
    factors: Mapping[int, _Factor]
    last: Floats

    def top(self) -> tuple[float, Floats]:
        """(ρ, a unit vector x that attains it)."""
        n = len(self.last)
        if n <= _DENSE:
            values, vectors = np.linalg.eigh(self.last)
            return max(0.0, float(values[-1])), vectors[:, -1]
        start = np.random.default_rng(n).standard_normal(n)
        rho, x = ritz(lambda v: self.last @ v, start, _STEPS, 1e-12)
        return rho, x

    def leading(self, count: int) -> tuple[Floats, Floats]:
        """(eigenvalues of `last`, ascending, eigenvectors as columns): all of them where the order
        is small, about `count` of the largest else."""
        n = len(self.last)
        if n <= _DENSE:
            values, vectors = np.linalg.eigh(self.last)
            return values, vectors
        start = np.random.default_rng(n).standard_normal((1, n))
        basis = lanczos(lambda v: v @ self.last, start, 1e-9, steps=_STEPS, leading=count).vectors.T
        q = np.linalg.qr(basis)[0]
        values, turn = np.linalg.eigh(q.T @ (self.last @ q))
        return values, q @ turn

    def log_det(self) -> float:
        """Σ_k log det(I − W^{−½}PW^{−½})."""
        total = 0.0
        parts = split(self.plan.system, self.multipliers)
        for k, node in enumerate(self.plan.system.nonlinear):
            weight = parts[k][node.relation.quadratic.group]
            root = np.einsum("ii->i", self.factors[k].root)
            total += 2.0 * float(np.log(root).sum()) - float(np.log(weight).sum())
        return total

    def rates(self, x: Floats, weights: Floats, noise: float = 0.0) -> Floats:
        """Σ_i weights_i q(x_i) − noise · ∂ log det(W − P)/∂T of all nodes together, for columns x
        (width, count), with every u its maximiser."""
        return _Forward(self, x, weights, noise).run()


class _Forward:
    """Columns from the inputs on. Noise ξ in u = (W − P)⁻¹b + R⁻¹ξ has as covariance the inverse
    of what the form takes from all u, so its expected q is the derivative of the log det; every
    entry of ξ is a column of its own, which makes it exact."""

    def __init__(self, of: Eliminated, x: Floats, weights: Floats, noise: float) -> None:
        self._of, self._noise = of, noise
        self._weights = weights
        self._values: dict[str, Floats] = {}
        begin = 0
        for tensor in of.plan.system.inputs:
            end = begin + of.plan.system.sizes[tensor]
            self._values[tensor] = x[begin:end]
            begin = end
        self._parts = list(split(of.plan.system, np.zeros(len(of.multipliers))))
        self._last_read = _last_reads(of.plan)
        self._last_bend = max(
            (j for j, s in enumerate(of.plan.steps) if isinstance(s, _Bend)), default=-1
        )

    def run(self) -> Floats:
        for j, step in enumerate(self._of.plan.steps[: self._last_bend + 1]):
            if isinstance(step, _Sum):
                self._values[step.output] = self._sum(step.terms, step.output)
            else:
                self._bend(step, last=j == self._last_bend)
                self._compress()
            for tensor in [t for t in self._values if self._last_read.get(t, -1) <= j]:
                del self._values[tensor]
        return joined(self._parts)

    def _sum(self, terms: tuple[_Term, ...], tensor: str) -> Floats:
        columns = len(self._weights)
        total = np.zeros((self._of.plan.system.sizes[tensor], columns))
        for term in terms:
            given = self._values[term.input]
            total[:, : given.shape[1]] += dense(product(term.matrix, given))
        return total

    def _bend(self, step: _Bend, last: bool) -> None:
        factor, q = self._of.factors[step.place], step.quadratic
        node = self._of.plan.system.nonlinear[step.place]
        z, s = self._sum(step.terms, node.input), self._sum(step.centred, step.output)
        u = np.zeros(s.shape, order="F")
        for tensor, solved in factor.solved.items():
            given = self._values[tensor]
            u[:, : given.shape[1]] += solved @ given
        trsm(factor.root, u, "L", "N")
        w = u - s
        weights = self._weights
        rates = q.reach @ ((z * z) @ weights)
        if q.back is not None:
            rates -= q.back * ((s * s) @ weights)
        squares = (w * w) @ weights
        if self._noise:
            own = _inverse(factor.root)
            squares += self._noise * np.einsum("ij,ij->i", own, own)
            if not last:
                u = np.hstack([u, own])
                self._weights = np.append(weights, np.full(len(u), self._noise))
        rates -= np.bincount(q.group, squares, minlength=len(rates))
        self._parts[step.place] = rates
        self._values[step.output] = u

    def _compress(self) -> None:
        """Only Σ weights v vᵀ of all live tensors together matters: no more columns than they have
        entries."""
        live, columns = list(self._values), len(self._weights)
        entries = sum(len(self._values[t]) for t in live)
        if not self._noise or columns <= _COLUMNS * entries:
            return
        whole = np.zeros((columns, entries))
        edges = np.cumsum([0, *(len(self._values[t]) for t in live)])
        for k, tensor in enumerate(live):
            given = self._values[tensor].T
            whole[: len(given), edges[k] : edges[k + 1]] = given
        whole *= np.sqrt(self._weights)[:, None]
        root = np.asarray(np.linalg.qr(whole, mode="r")).T
        self._weights = np.ones(root.shape[1])
        for k, tensor in enumerate(live):
            self._values[tensor] = root[edges[k] : edges[k + 1]]


def _inverse(root: Floats) -> Floats:
    """R⁻¹ of the upper triangle."""
    from scipy.linalg.lapack import dtrtri

    return np.triu(dtrtri(root, lower=0)[0])


# ── a system as steps ─────────────────────────────────────────────────────────────────────────


def _steps(system: System) -> tuple[_Sum | _Bend, ...]:
    """Nodes in order, an affine one within the nonlinear one that alone reads it where that makes
    solves narrower."""
    made = {n.output: n for n in system.nodes if isinstance(n, Affine)}
    readers: dict[str, int] = dict.fromkeys(system.outputs, 1)
    for node in system.nodes:
        for tensor in set(node.reads):
            readers[tensor] = readers.get(tensor, 0) + 1
    within = {
        n.input
        for n in system.nonlinear
        if n.input in made
        and readers[n.input] == 1
        and sum(system.sizes[t] for t in set(made[n.input].reads)) <= system.sizes[n.input]
    }
    steps: list[_Sum | _Bend] = []
    for node in system.nodes:
        if isinstance(node, Affine):
            if node.output not in within:
                steps.append(_Sum(node.output, _terms(node)))
        else:
            place = sum(isinstance(s, _Bend) for s in steps)
            terms = _terms(made[node.input]) if node.input in within else (_itself(node),)
            steps.append(_bent(node, place, terms))
    return tuple(steps)


def _terms(node: Affine) -> tuple[_Term, ...]:
    return tuple(_Term(p.input, p.matrix, turned(p.matrix)) for p in node.parts)


def _itself(node: Nonlinear) -> _Term:
    same = _eye(node.relation.columns)
    return _Term(node.input, same, same)


def _bent(node: Nonlinear, place: int, terms: tuple[_Term, ...]) -> _Bend:
    q = node.relation.quadratic
    centred = []
    for term in terms if q.centre.nnz else ():
        matrix = product(q.centre, term.matrix)
        centred.append(_Term(term.input, matrix, turned(matrix)))
    return _Bend(node.output, place, q, terms, tuple(centred))


def _last_reads(plan: Elimination) -> dict[str, int]:
    found: dict[str, int] = {}
    for j, step in enumerate(plan.steps):
        for term in step.terms:
            found[term.input] = j
    return found


def _eye(n: int) -> sp.csr_array:
    return sp.csr_array(sp.eye_array(n, format="csr"))


# ── backward ──────────────────────────────────────────────────────────────────────────────────


def _substitute(form: Form, step: _Sum) -> None:
    """t ← Σ terms."""
    old = form.pop(step.output)
    for j, a in enumerate(step.terms):
        pushed = product(a.turned, old.own)
        form.square(a.input, product(pushed, a.matrix))
        for b in step.terms[j + 1 :]:
            form.cross(a.input, b.input, product(pushed, b.matrix))
        for tensor, block in old.others.items():
            form.cross(a.input, tensor, product(a.turned, block))


def _bend(
    form: Form, step: _Bend, t: Floats, own: Matrix, others: Mapping[str, Matrix]
) -> _Factor | None:
    """Maximise over u; None where there is no maximum."""
    q = step.quadratic
    weight = t[q.group]
    root = np.array(-dense(own), order="F")
    np.einsum("ii->i", root)[...] += weight
    if not potrf(root) or not np.all(np.einsum("ii->i", root) > 0):
        return None
    linear = {tensor: np.array(dense(block), order="F") for tensor, block in others.items()}
    for term in step.centred:
        block = np.array((dense(term.turned) * weight).T, order="F")
        present = linear.get(term.input)
        linear[term.input] = block if present is None else present + block
    names = list(linear)
    for j, a in enumerate(names):
        trsm(root, linear[a], "L", "T")
        form.square(a, linear[a].T @ linear[a])
        for b in names[:j]:
            form.cross(a, b, linear[a].T @ linear[b])
    _add_direct(form, step, t, weight)
    return _Factor(root, linear)


def _add_direct(form: Form, step: _Bend, t: Floats, weight: Floats) -> None:
    """What q says of z without u: reach z² − back s² − weight s²."""
    q = step.quadratic
    reach = q.reach.T @ t
    rest = weight if q.back is None else weight + q.back * t
    entries = sp.coo_array(sp.diags_array(reach) - q.centre.T @ (sp.diags_array(rest) @ q.centre))
    rows, columns = entries.coords
    floor = 4 * _EPS * np.sqrt(reach[rows] * reach[columns])  # what rounding left of zero
    entries.data[np.abs(entries.data) <= floor] = 0.0
    entries.eliminate_zeros()
    if not entries.nnz:
        return
    direct = sp.csr_array(entries)
    for j, a in enumerate(step.terms):
        pushed = product(a.turned, direct)
        form.square(a.input, product(pushed, a.matrix))
        for b in step.terms[j + 1 :]:
            form.cross(a.input, b.input, product(pushed, b.matrix))
