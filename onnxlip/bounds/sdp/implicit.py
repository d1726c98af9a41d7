"""The implicit form v = [x; u], z = N v, y = C v of a system (theory.md, section 4), as matrices.

v has a segment for every input and for the output of every nonlinear node. A tensor is a sum over
segments: its `Rows` are matrices by segment, zero ones left out. The matrix of LipSDP is

    M(ρ, T) = ρE_x − CᵀC − Σ_k Q_k(T_k),

Q_k the quadratic form of relation k (`relations`) in terms of v: vᵀM v ≥ 0 and q ≥ 0 give
‖y‖² ≤ ρ‖x‖².
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from onnxlip.bounds.sdp.relations import Relation
from onnxlip.bounds.sdp.system import Affine, Floats, Matrix, System, is_sparse, segments

__all__ = ["Implicit", "Rows", "array", "forward", "implicit", "lipsdp_matrix", "slim", "weighted"]

Rows = Mapping[int, Matrix]  # by segment


@dataclass(frozen=True, eq=False)
class Implicit:
    """edges: where segments begin in v, and its size; the first `inputs` of them make up x. z[k]:
    the rows of N that relation k reads; own[k]: the segment of its u; y: the rows of C, stacked
    over all outputs in blocks."""

    edges: tuple[int, ...]
    inputs: int
    relations: tuple[Relation, ...]
    z: tuple[Rows, ...]
    y: tuple[Rows, ...]

    @property
    def size(self) -> int:
        """Entries of v."""
        return self.edges[-1]

    @property
    def width(self) -> int:
        """Entries of x."""
        return self.edges[self.inputs]

    def own(self, k: int) -> slice:
        """Where u of relation k stands in v."""
        return self.segment(self.inputs + k)

    def segment(self, s: int) -> slice:
        """Where a segment stands in v."""
        return slice(self.edges[s], self.edges[s + 1])

    def dense(self, rows: Rows, height: int) -> Floats:
        """(height, size): a tensor's rows as one matrix."""
        whole = np.zeros((height, self.size))
        for s, matrix in rows.items():
            whole[:, self.segment(s)] = array(matrix)
        return whole


def implicit(system: System) -> Implicit:
    """N and C by running forward through the system; in floating point (`proof` pays for that)."""
    known = forward(system)
    sizes = [size for _, size in segments(system)]
    edges = tuple(int(e) for e in np.cumsum([0, *sizes]))
    relations = tuple(node.relation for node in system.nonlinear)
    z = tuple(known[node.input] for node in system.nonlinear)
    y = tuple(known[t] for t in system.outputs)
    return Implicit(edges, len(system.inputs), relations, z, y)


def forward(system: System) -> dict[str, Rows]:
    """The rows of every tensor."""
    known: dict[str, Rows] = {}
    for s, (tensor, size) in enumerate(segments(system)):
        known[tensor] = {s: sp.csr_array(sp.eye_array(size, format="csr"))}
    for node in system.nodes:
        if isinstance(node, Affine):
            known[node.output] = _sum(node, known)
    return known


def _sum(node: Affine, known: Mapping[str, Mapping[int, Matrix]]) -> dict[int, Matrix]:
    total: dict[int, Matrix] = {}
    for part in node.parts:
        for s, inner in known[part.input].items():
            term = slim(part.matrix @ inner)
            total[s] = slim(total[s] + term) if s in total else term
    return total


_SPARSE = 0.2  # share of entries up to which a matrix is kept sparse


def slim(matrix: Any) -> Matrix:
    """Dense where it is not sparse."""
    if not is_sparse(matrix):
        return np.asarray(matrix)
    full = matrix.nnz > _SPARSE * matrix.shape[0] * matrix.shape[1]
    return matrix.toarray() if full else sp.csr_array(matrix)


def array(matrix: Any) -> Floats:
    """Dense."""
    return np.asarray(matrix.toarray() if is_sparse(matrix) else matrix)


def lipsdp_matrix(form: Implicit, rho: float, multipliers: tuple[Floats, ...]) -> Floats:
    """M(ρ, T), (size, size), dense and symmetric; multipliers: by relation."""
    m = np.zeros((form.size, form.size))
    np.einsum("ii->i", m)[: form.width] = rho
    for rows in form.y:
        _subtract_gram(m, form, rows, None)
    for k, (relation, rows, t) in enumerate(zip(form.relations, form.z, multipliers, strict=True)):
        q = relation.quadratic
        _subtract_gram(m, form, rows, q.reach.T @ t)
        s = {place: slim(q.centre @ matrix) for place, matrix in rows.items()}
        weight = t[q.group]
        rest = weight if q.back is None else weight + q.back * t
        _subtract_gram(m, form, s, -rest)
        own = form.own(k)
        np.einsum("ii->i", m)[own] += weight
        for place, matrix in s.items():  # − uᵀ weight s − sᵀ weight u
            cross = weight[:, None] * array(matrix)
            m[own, form.segment(place)] -= cross
            m[form.segment(place), own] -= cross.T
    return m


def _subtract_gram(m: Floats, form: Implicit, rows: Rows, weight: Floats | None) -> None:
    """m −= rowsᵀ diag(weight) rows."""
    if not rows:
        return
    for a, left in rows.items():
        for b, right in rows.items():
            if b < a:
                continue
            scaled = right if weight is None else weighted(right, weight)
            gram = array(left.T @ scaled)
            m[form.segment(a), form.segment(b)] -= gram
            if a != b:
                m[form.segment(b), form.segment(a)] -= gram.T


def weighted(matrix: Any, weight: Floats) -> Matrix:
    """diag(weight) matrix."""
    if is_sparse(matrix):
        return sp.csr_array(sp.diags_array(weight) @ matrix)
    scaled: Floats = weight[:, None] * matrix
    return scaled
