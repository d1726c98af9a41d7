"""Scaled AutoLip: the product of norms in the neurons' best units.

A diagonal S > 0 commutes with every diagonal D: W₂DW₁ = (W₂S⁻¹) D (SW₁), so the entries of each
tensor may be measured in units of their own, as long as z and u = Dz have the same, and inputs and
outputs keep theirs. No bound of the network changes, but AutoLip's, of which we take the least:

    t = Σ_i A_i t_i   becomes   S_t t = Σ_i (S_t A_i S_i⁻¹) S_i t_i.

log‖e^{X}Ae^{−Y}‖₂ is convex in the diagonals X, Y (the norm interpolates between weighted ℓ₂
spaces: Hadamard's three lines theorem; cf. Sezginer & Overton 1990), and so is the log of sums of
products of such norms: there are no local minima. It has kinks where singular values meet, so what
is minimised is the same with Schatten norms, (Σσᵖ)^{1/p} ≥ ‖·‖₂, for growing p, by L-BFGS.
With π_k = σ_kᵖ/Σσᵖ the derivatives are Σπ_k u_k² for X and −Σπ_k v_k² for Y (entrywise squares).

The scales count for nothing: any of them prove what they prove. An entry of S_tAS_i⁻¹ takes two
roundings, |M̂ − M| ≤ γ_2|M| ≤ γ_4|M̂|, and the map's own error grows by max S_t / min S_i.

Units stay 1 where tensors meet what is not diagonal (pools, ops that are known by a gain) and at
maps too large for dense singular values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.optimize import minimize

from onnxlip.bounds.sdp.relations import Slopes
from onnxlip.bounds.sdp.system import Affine, Floats, Matrix, Node, Part, System
from onnxlip.bounds.sdp.tracked import LOST, Tracked, is_monomial, matrix_norm
from onnxlip.rounding import add_up, div_up, gamma, mul_up

__all__ = ["balanced", "cost", "rescaled", "scaled_autolip"]

Late = Callable[[], bool]
Scales = Mapping[str, Floats]

_POWERS = (8.0, 32.0, 128.0, 512.0)
_ITERATIONS = 40  # of L-BFGS, for each
_WIDEST = 30.0  # log of scales
_SIDE, _ENTRIES = 1500, 4_000_000  # of maps that are rescaled
_NEVER: Late = lambda: False  # noqa: E731


def scaled_autolip(system: System, late: Late = _NEVER) -> float | None:
    """‖y‖₂ ≤ the value · ‖x‖₂: a theorem, and at most `system.bound`. None where no tensor can be
    rescaled, or late() said so before anything was gained."""
    found = balanced(system, late)
    return None if found is None else min(found.bound, system.bound)


def balanced(system: System, late: Late = _NEVER) -> System | None:
    """The system in units in which AutoLip's bound is least, as far as the search came; None as
    above. Its inputs and outputs are the same, and so is what is true of them."""
    problem = _Problem(system)
    if not problem.size or not 0 < system.bound < math.inf:
        return None
    best: System | None = None
    theta: Floats = np.zeros(problem.size)
    with np.errstate(all="ignore"):
        for p in _POWERS:
            moved = _minimised(problem, p, theta, late)
            if moved is None and late():
                break
            theta = theta if moved is None else moved
            found = rescaled(system, problem.scales(theta))
            if best is None or found.bound < best.bound:
                best = found
            if late():
                break
    return best


class _LateError(Exception):
    pass


def _minimised(problem: _Problem, p: float, theta: Floats, late: Late) -> Floats | None:
    """Where the search ended, or where it was when it was late; None if it had not begun."""
    passed: list[Floats] = []

    def value(x: Floats) -> tuple[float, Floats]:
        if late():
            raise _LateError
        return problem.value(x, p)

    def passing(x: Floats) -> None:
        passed[:] = [np.array(x)]

    limits = [(-_WIDEST, _WIDEST)] * problem.size
    options: Any = {"maxiter": _ITERATIONS, "maxcor": 15, "ftol": 1e-7}
    start: Any = theta
    keep: Any = passing
    with suppress(_LateError, np.linalg.LinAlgError):
        minimize(
            value, start, jac=True, method="L-BFGS-B", bounds=limits, callback=keep, options=options
        )
    found = passed[0] if passed else None
    return found if found is not None and np.isfinite(found).all() else None


def cost(system: System) -> float:
    """Multiplications that `balanced` takes, roughly and at most."""
    problem, total = _Problem(system), 0.0
    for node in system.nodes:
        for part in node.parts if isinstance(node, Affine) else ():
            if problem.moves(part, node.output) and not is_monomial(part.matrix):
                short, long = sorted(part.matrix.shape)
                total += short**2 * (10.0 * short + long)
    return total * len(_POWERS) * (1.2 * _ITERATIONS)


def rescaled(system: System, scales: Scales) -> System:
    """The same system with S_t t for every tensor t; scales: S_t, positive, 1 where there is none.

    Tensors on both sides of a relation need equal ones, which a relation that is not of slopes
    must not have; inputs and outputs have none. Raises ValueError where that is not so.
    """
    _check(system, scales)
    nodes: list[Node] = []
    for node in system.nodes:
        if isinstance(node, Affine):
            s = scales.get(node.output)
            parts = tuple(_rescaled(p, s, scales.get(p.input)) for p in node.parts)
            nodes.append(Affine(node.output, parts))
        else:
            nodes.append(node)
    return System(system.inputs, system.outputs, tuple(nodes), system.sizes)


def _check(system: System, scales: Scales) -> None:
    if not all(np.all((s > 0) & (s < math.inf)) for s in scales.values()):
        raise ValueError("scales must be positive and finite")
    if any(t in scales for t in (*system.inputs, *system.outputs)):
        raise ValueError("inputs and outputs keep their scale")
    for node in system.nonlinear:
        before, after = scales.get(node.input), scales.get(node.output)
        if before is None and after is None:
            continue
        is_diagonal = isinstance(node.relation, Slopes)
        if before is None or after is None or not (is_diagonal and np.array_equal(before, after)):
            raise ValueError(f"'{node.name}' does not commute with these scales")


def _rescaled(part: Part, after: Floats | None, before: Floats | None) -> Part:
    if after is None and before is None:
        return part
    matrix = _weighed(part.matrix, after, before)
    size = Tracked(matrix).size
    top = 1.0 if after is None else float(after.max(initial=0.0))
    least = 1.0 if before is None else float(before.min(initial=math.inf))
    error = add_up(mul_up(gamma(4), size), div_up(mul_up(part.error, top), least), LOST)
    return Part(part.input, matrix, add_up(matrix_norm(matrix), error), error)


def _weighed(matrix: Matrix, after: Floats | None, before: Floats | None) -> Matrix:
    """fl(fl(s_i a_ij) / t_j)."""
    if sp.issparse(matrix):
        data = matrix.data.copy()
        if after is not None:
            data *= np.repeat(after, np.diff(matrix.indptr))
        if before is not None:
            data /= before[matrix.indices]
        return sp.csr_array((data, matrix.indices, matrix.indptr), matrix.shape)
    found = matrix if after is None else after[:, None] * matrix
    return found if before is None else found / before


@dataclass(frozen=True, eq=False)
class _Norm:
    """log of a Schatten norm, and its derivatives by the log of both scales (the right: minus)."""

    log: float
    left: Floats
    right: Floats


def _schatten(matrix: Matrix, p: float) -> _Norm:
    if is_monomial(matrix):
        return _of_monomial(sp.csr_array(matrix), p)
    dense = np.asarray(matrix.toarray() if sp.issparse(matrix) else matrix)
    is_wide = dense.shape[0] <= dense.shape[1]
    m = dense if is_wide else dense.T
    values, vectors = np.linalg.eigh(m @ m.T)
    if not values[-1] > 0:
        return _Norm(-math.inf, np.zeros(dense.shape[0]), np.zeros(dense.shape[1]))
    shares = np.maximum(values / values[-1], 0.0) ** (p / 2)
    total = float(shares.sum())
    kept = shares > 1e-12
    u, weights = vectors[:, kept], shares[kept] / total
    v = (m.T @ u) ** 2 / values[kept]
    log = 0.5 * math.log(values[-1]) + math.log(total) / p
    short, long = (u * u) @ weights, v @ weights
    return _Norm(log, short, long) if is_wide else _Norm(log, long, short)


def _of_monomial(matrix: sp.csr_array, p: float) -> _Norm:
    sizes = np.abs(matrix.data)
    top = float(sizes.max(initial=0.0))
    left, right = np.zeros(matrix.shape[0]), np.zeros(matrix.shape[1])
    if not top > 0:
        return _Norm(-math.inf, left, right)
    shares = (sizes / top) ** p
    total = float(shares.sum())
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    left[rows] = shares / total
    right[matrix.indices] = shares / total
    return _Norm(math.log(top) + math.log(total) / p, left, right)


class _Problem:
    """log of AutoLip's bound as a function of the logs of all free scales, in one vector."""

    def __init__(self, system: System) -> None:
        self._system = system
        groups = _groups(system)
        fixed = {groups[t] for t in _fixed(system)}
        self._places: dict[str, slice] = {}
        begins: dict[str, slice] = {}
        self.size = 0
        for tensor, group in groups.items():
            if group in fixed:
                continue
            if group not in begins:
                n = system.sizes[tensor]
                begins[group] = slice(self.size, self.size + n)
                self.size += n
            self._places[tensor] = begins[group]

    def moves(self, part: Part, output: str) -> bool:
        """Whether the part is not the same for all scales."""
        return part.input in self._places or output in self._places

    def scales(self, theta: Floats) -> Scales:
        found = np.exp(theta)
        return {t: found[place] for t, place in self._places.items()}

    def value(self, theta: Floats, p: float) -> tuple[float, Floats]:
        scales = self.scales(theta)
        logs = dict.fromkeys(self._system.inputs, 0.0)
        norms: dict[str, list[_Norm]] = {}
        for node in self._system.nodes:
            if isinstance(node, Affine):
                found = [self._norm(part, node.output, scales, p) for part in node.parts]
                norms[node.output] = found
                terms = [n.log + logs[q.input] for n, q in zip(found, node.parts, strict=True)]
                logs[node.output] = float(np.logaddexp.reduce([-math.inf, *terms]))
            else:
                gain = node.relation.gain
                logs[node.output] = logs[node.input] + (math.log(gain) if gain else -math.inf)
        outputs = self._system.outputs
        total = 0.5 * float(np.logaddexp.reduce([2 * logs[t] for t in outputs]))
        weights: dict[str, float] = {}
        for t in outputs:
            weights[t] = weights.get(t, 0.0) + math.exp(2 * (logs[t] - total))
        return total, self._gradient(weights, logs, norms)

    def _gradient(
        self, weights: dict[str, float], logs: Mapping[str, float], norms: Mapping[str, list[_Norm]]
    ) -> Floats:
        """weights: the derivatives of the value by the logs of the tensors' bounds."""
        gradient = np.zeros(self.size)
        for node in reversed(self._system.nodes):
            weight = weights.get(node.output, 0.0)
            if not weight:
                continue
            if not isinstance(node, Affine):
                weights[node.input] = weights.get(node.input, 0.0) + weight
                continue
            for part, norm in zip(node.parts, norms[node.output], strict=True):
                share = weight * math.exp(norm.log + logs[part.input] - logs[node.output])
                weights[part.input] = weights.get(part.input, 0.0) + share
                if node.output in self._places:
                    gradient[self._places[node.output]] += share * norm.left
                if part.input in self._places:
                    gradient[self._places[part.input]] -= share * norm.right
        return gradient

    def _norm(self, part: Part, output: str, scales: Scales, p: float) -> _Norm:
        after, before = scales.get(output), scales.get(part.input)
        if after is None and before is None:
            rows, columns = part.matrix.shape
            log = math.log(part.norm) if part.norm else -math.inf
            return _Norm(log, np.zeros(rows), np.zeros(columns))
        return _schatten(_weighed(part.matrix, after, before), p)


def _groups(system: System) -> dict[str, str]:
    """Tensors that share their scales have the same name here."""
    group = {t: t for t in (*system.inputs, *(n.output for n in system.nodes))}
    for node in system.nonlinear:
        if isinstance(node.relation, Slopes):
            old, new = group[node.output], group[node.input]
            group = {t: new if g == old else g for t, g in group.items()}
    return group


def _fixed(system: System) -> Iterable[str]:
    yield from system.inputs
    yield from system.outputs
    for node in system.nodes:
        if not isinstance(node, Affine):
            if not isinstance(node.relation, Slopes):
                yield from (node.input, node.output)
        elif any(_is_large(part.matrix) for part in node.parts):
            yield node.output
            yield from node.reads


def _is_large(matrix: Matrix) -> bool:
    rows, columns = matrix.shape
    return not is_monomial(matrix) and (min(rows, columns) > _SIDE or rows * columns > _ENTRIES)
