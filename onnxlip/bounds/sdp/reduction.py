"""A system as a program of unit size: what no bound depends on is taken away, the rest is scaled.

* x is replaced by its coordinates in the space of all rows that read it: M is ρI across it.
* Where E q_j = 0 for x of covariance I (and hence for all x: q_j ≥ 0), u_j = s_j holds for every
  moment matrix, T_j is best infinite, and u_j is no variable: neurons with z = 0, windows of
  equal entries. Their T_j are `FORCED` times the start's in the end. Neurons that die, with
  T_j E q_j next to nothing, are treated alike: they would keep all others from moving.
* Units of u in which the start's multipliers, some margin wider, are 1; units of x in which their
  ρ is 1.

The moments to start from, by running forward: x of the covariance that it has in M⁻¹, for a ρ near
the least of the start, scaled to trace 1; u = s + noise, independent and of a variance that makes
E q_j = 0, q_j's slack being shared among its rows (theory.md, section 4, with N(0, I/n)).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse as sp

from onnxlip.bounds.sdp.atoms import Piece
from onnxlip.bounds.sdp.blocks import Band, Blocks
from onnxlip.bounds.sdp.implicit import Implicit, Rows, array, implicit, slim, weighted
from onnxlip.bounds.sdp.program import Program, complement
from onnxlip.bounds.sdp.relations import Quadratic, Slopes
from onnxlip.bounds.sdp.system import Floats, Matrix, System, is_sparse

__all__ = ["FORCED", "Reduced", "reduced", "smaller"]

FORCED = 1e6
_FORCED = 1e-12  # of E Σ reach z², what is left of it by u
_NOTHING = 1e-290
_NEGLIGIBLE = 1e-20  # of what the start's multiplier of another neuron is worth
_RANK = 1e-13
_TILE = 256
_NEAR = 1.05  # ρ of which M⁻¹ gives the covariance of x to start from, per least ρ


@dataclass(frozen=True, eq=False)
class Reduced:
    """program: in its units; moments: X to start from; alive: places of its multipliers among all;
    square: ρ of the system per ρ of the program."""

    program: Program
    moments: Floats
    alive: npt.NDArray[np.bool_]
    square: float


def smaller(system: System) -> tuple[System, bool]:
    """The system or its transpose, whichever has the smaller M, and whether it is the latter."""
    turned = system.transposed()
    return (turned, True) if _order(turned) < _order(system) else (system, False)


def _order(system: System) -> int:
    """Of M, if all rows that read x are independent."""
    sizes, reading = system.sizes, set()
    for node in system.nodes:
        if set(node.reads).intersection(system.inputs):
            reading.add(node.output)
    rows = sum(sizes[t] for t in reading)
    return min(system.width, rows) + system.neurons


def reduced(
    system: System, wide: Floats, ties: npt.NDArray[np.int64] | None = None
) -> Reduced | None:
    """None where the multipliers prove nothing. ties: a number for each, equal ones for those
    that keep their ratio."""
    form = implicit(system)
    basis = _row_space(form)
    width = basis.shape[1]
    forward = _Forward(form, wide, basis, np.eye(width) / max(1, width))
    alive = np.concatenate([*forward.alive, np.zeros(0, bool)])
    tied = None
    if ties is not None:
        _, group = np.unique(ties[alive], return_inverse=True)
        group = group.ravel()
        ones = np.ones(len(group))
        shape = (len(group), int(group.max(initial=-1)) + 1)
        tied = sp.csr_array((ones, (np.arange(len(group)), group)), shape)
    program = forward.program(1.0, tied)
    m = program.matrix(0.0, np.ones(program.variables))
    rest = complement(m, program.width)
    if rest is None:
        return None
    w, v = np.linalg.eigh(rest)
    square = float(w[-1]) if len(w) else 0.0
    if not 0 < square < math.inf:
        return None
    shares = 1.0 / (_NEAR * square - w)
    nearer = (v * (shares / shares.sum())) @ v.T
    forward = _Forward(form, wide, basis, nearer, forward.alive)
    unit = math.sqrt(square)
    scale = np.concatenate([np.ones(program.width), *(a / unit for a in forward.scales)])
    moments = forward.moments * scale
    moments *= scale[:, None]
    return Reduced(forward.program(unit, tied), moments, alive, square)


class _Forward:
    """Segments of the smaller v: x, then u of every relation of which some is a variable."""

    def __init__(
        self,
        form: Implicit,
        wide: Floats,
        basis: Matrix,
        covariance: Floats,
        alive: Sequence[npt.NDArray[np.bool_]] | None = None,
    ) -> None:
        self._form, self._given = form, alive
        width = basis.shape[1]
        self.edges = [0, width]
        self.moments = np.zeros((form.size, form.size))
        self.moments[:width, :width] = covariance
        self.alive: list[npt.NDArray[np.bool_]] = []
        self.scales: list[Floats] = []
        self._pieces: list[Piece] = []
        self._rows: list[Rows] = []
        self._known: list[Rows] = []
        for s in range(form.inputs):
            self._known.append({0: basis[form.segment(s)]})
        begin = 0
        for k, relation in enumerate(form.relations):
            end = begin + relation.count
            self._relation(k, wide[begin:end], isinstance(relation, Slopes))
            begin = end
        order = self.edges[-1]
        self.moments = np.ascontiguousarray(self.moments[:order, :order])

    def _relation(self, k: int, t: Floats, entrywise: bool) -> None:
        q = self._form.relations[k].quadratic
        rows = self._replaced(self._form.z[k])
        zx, zz = self._seen(rows, q.reach.shape[1])
        sx, ss = q.centre @ zx, (q.centre @ (q.centre @ zz).T).T
        reached = q.reach @ np.diagonal(zz)
        slack = reached if q.back is None else reached - q.back * np.diagonal(ss)
        count = np.bincount(q.group, minlength=len(t))
        worth = slack * t
        free = (count > 0) & (slack > _FORCED * reached) & (slack > _NOTHING)
        free &= worth > _NEGLIGIBLE * worth.max(initial=0.0)
        if self._given is not None:
            free = self._given[k]
        self.alive.append(free)
        chosen = free[q.group]
        n, begin = int(chosen.sum()), self.edges[-1]
        if not n:
            self._known.append(_through(q.centre, rows))
            return
        end = begin + n
        noise = slack[q.group[chosen]] / count[q.group[chosen]]
        self.moments[begin:end, :begin] = sx[chosen]
        self.moments[:begin, begin:end] = sx[chosen].T
        self.moments[begin:end, begin:end] = ss[np.ix_(chosen, chosen)] + np.diag(noise)
        segment = len(self.edges) - 1
        self.edges.append(end)
        columns = np.flatnonzero(chosen)
        place = sp.csr_array((np.ones(n), (columns, np.arange(n))), (len(chosen), n))
        known = dict(_through(_only(q.centre, ~chosen), rows)) if n < len(chosen) else {}
        self._known.append({**known, segment: place})
        self._piece(q, rows, free, chosen, t, entrywise)

    def _piece(
        self,
        q: Quadratic,
        rows: Rows,
        free: npt.NDArray[np.bool_],
        chosen: npt.NDArray[np.bool_],
        t: Floats,
        entrywise: bool,
    ) -> None:
        """The relation in units of u where T = 1."""
        scale = np.sqrt(t[q.group[chosen]])
        self.scales.append(scale)
        z, places = self._pieces[-1].z.stop if self._pieces else 0, self._places
        own = slice(self.edges[-2], self.edges[-1])
        centre = weighted(q.centre[chosen], scale)
        reach = weighted(q.reach[free], t[free])
        back = None if q.back is None else q.back[free]
        if entrywise:
            n = len(scale)
            self._rows.append({s: slim(matrix[chosen]) for s, matrix in rows.items()})
            diagonals = q.centre.diagonal()[chosen] * scale, q.reach.diagonal()[chosen] * t[free]
            self._pieces.append(
                Piece(own, slice(z, z + n), slice(places, places + n), *diagonals, None, None)
            )
            return
        height, count = q.reach.shape[1], int(free.sum())
        number = np.cumsum(free) - 1
        group = sp.csr_array(
            (np.ones(len(scale)), (number[q.group[chosen]], np.arange(len(scale)))),
            (count, len(scale)),
        )
        self._rows.append(rows)
        self._pieces.append(
            Piece(
                own,
                slice(z, z + height),
                slice(places, places + count),
                sp.csr_array(centre),
                sp.csr_array(reach),
                group,
                back,
            )
        )

    @property
    def _places(self) -> int:
        return self._pieces[-1].places.stop if self._pieces else 0

    def _replaced(self, rows: Rows) -> Rows:
        """A tensor's rows in terms of the smaller v."""
        total: dict[int, Matrix] = {}
        for s, matrix in rows.items():
            for place, inner in self._known[s].items():
                term = slim(matrix @ inner)
                total[place] = slim(total[place] + term) if place in total else term
        return total

    def _seen(self, rows: Rows, height: int) -> tuple[Floats, Floats]:
        """(E z vᵀ, E z zᵀ) of what stands in v so far."""
        size = self.edges[-1]
        zx, zz = np.zeros((height, size)), np.zeros((height, height))
        for s, matrix in rows.items():
            zx += matrix @ self.moments[self.edges[s] : self.edges[s + 1], :size]
        for s, matrix in rows.items():
            zz += (matrix @ zx[:, self.edges[s] : self.edges[s + 1]].T).T
        return zx, zz

    # ── the program ───────────────────────────────────────────────────────────────────────

    def program(self, unit: float, ties: sp.csr_array | None) -> Program:
        """In units of x, and of u, that are `unit` times smaller."""
        pieces = _tiles(self._pieces)
        columns = [
            np.full(self.edges[1], 1.0 / unit),
            *(1.0 / scale for scale in self.scales),
        ]
        bands = []
        ends = [p.z.stop for p in pieces]
        for piece, rows in zip(self._pieces, self._rows, strict=True):
            scaled = {self._columns(s): _scaled(a, columns[s]) for s, a in rows.items()}
            if not piece.diagonal:
                bands.append(Band.of(piece.z, scaled))
                continue
            cuts = [e for e in ends if piece.z.start < e < piece.z.stop]
            for a, b in itertools.pairwise([piece.z.start, *cuts, piece.z.stop]):
                some = slice(a - piece.z.start, b - piece.z.start)
                bands.append(
                    Band.of(slice(a, b), {place: matrix[some] for place, matrix in scaled.items()})
                )
        n = Blocks(ends[-1] if ends else 0, tuple(bands))
        outputs, begin = [], 0
        for y in self._form.y:
            height = max((matrix.shape[0] for matrix in y.values()), default=0)
            scaled = {
                self._columns(s): _scaled(a, columns[s]) for s, a in self._replaced(y).items()
            }
            outputs.append(Band.of(slice(begin, begin + height), scaled))
            begin += height
        c = Blocks(begin, tuple(outputs))
        return Program(self.edges[1], self.edges[-1], n, c, pieces, ties)

    def _columns(self, s: int) -> tuple[int, int]:
        return self.edges[s], self.edges[s + 1]


def _through(centre: sp.csr_array, rows: Rows) -> Rows:
    return {s: slim(centre @ matrix) for s, matrix in rows.items()}


def _only(matrix: sp.csr_array, chosen: npt.NDArray[np.bool_]) -> sp.csr_array:
    return sp.csr_array(sp.diags_array(chosen.astype(np.float64)) @ matrix)


def _scaled(matrix: Matrix, columns: Floats) -> Matrix:
    if is_sparse(matrix):
        return sp.csr_array(matrix @ sp.diags_array(columns))
    return np.asarray(matrix * columns)


def _row_space(form: Implicit) -> Matrix:
    """Orthonormal columns whose span all rows that read x are in."""
    reading = [
        np.hstack(
            [
                array(rows[s]) if s in rows else np.zeros((height, _size(form, s)))
                for s in range(form.inputs)
            ]
        )
        for rows in (*form.z, *form.y)
        if any(s < form.inputs for s in rows)
        for height in [max(matrix.shape[0] for matrix in rows.values())]
    ]
    whole = sp.csr_array(sp.eye_array(form.width, format="csr"))
    if not reading:
        return whole[:, :0]
    stacked = np.concatenate(reading)
    norms = np.sqrt(np.einsum("ij,ij->i", stacked, stacked))
    stacked = stacked[norms > 0] / norms[norms > 0, None]
    if not stacked.size:
        return whole[:, :0]
    q, r, _ = scipy.linalg.qr(stacked.T, mode="economic", pivoting=True)
    pivots = np.abs(np.diagonal(r))
    rank = int((pivots > _RANK * pivots[0]).sum())
    return whole if rank == form.width else np.ascontiguousarray(q[:, :rank])


def _size(form: Implicit, s: int) -> int:
    return form.edges[s + 1] - form.edges[s]


def _tiles(pieces: Sequence[Piece]) -> list[Piece]:
    """Entrywise pieces joined and cut so that a tile of the system is neither small nor large."""
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        if last is not None and last.diagonal and piece.diagonal:
            joined = piece.z.stop - last.z.start
            if joined <= _TILE:
                found[-1] = Piece(
                    slice(last.own.start, piece.own.stop),
                    slice(last.z.start, piece.z.stop),
                    slice(last.places.start, piece.places.stop),
                    np.concatenate([last.centre, piece.centre]),
                    np.concatenate([last.reach, piece.reach]),
                    None,
                    None,
                )
                continue
        n = piece.z.stop - piece.z.start
        if not piece.diagonal or n <= _TILE:
            found.append(piece)
            continue
        parts = -(-n // _TILE)
        cuts = [n * i // parts for i in range(parts + 1)]
        found.extend(_part(piece, a, b) for a, b in itertools.pairwise(cuts))
    return found


def _part(piece: Piece, begin: int, end: int) -> Piece:
    def some(whole: slice) -> slice:
        return slice(whole.start + begin, whole.start + end)

    assert isinstance(piece.centre, np.ndarray)
    assert isinstance(piece.reach, np.ndarray)
    return replace(
        piece,
        own=some(piece.own),
        z=some(piece.z),
        places=some(piece.places),
        centre=piece.centre[begin:end],
        reach=piece.reach[begin:end],
    )
