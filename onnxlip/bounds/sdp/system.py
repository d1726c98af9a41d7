"""A network as linear algebra: affine maps as matrices, nonlinear blocks as quadratic relations.

It speaks of increments: every tensor t stands for t(a) − t(b), so biases are gone. What AutoLip
runs over (`Network`) in the form that LipLT and LipSDP need; the same form turned around,
`transposed`, bounds the transposed Jacobian, which has the same norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from onnxlip.bounds.sdp.relations import Relation
from onnxlip.rounding import add_up, mul_up, norm_up

__all__ = [
    "Affine",
    "Floats",
    "Matrix",
    "Node",
    "Nonlinear",
    "Part",
    "System",
    "is_sparse",
    "joined",
    "segments",
    "split",
]

Floats = npt.NDArray[np.float64]
Matrix = Floats | sp.csr_array


def is_sparse(matrix: Any) -> TypeGuard[sp.csr_array]:
    """Whether it is stored as such."""
    return bool(sp.issparse(matrix))


@dataclass(frozen=True, eq=False)
class Part:
    """The summand matrix · (the tensor `input`) of an affine node.

    norm ≥ ‖A‖₂ and ‖A − matrix‖₂ ≤ error, of the true map A; all entries are finite.
    """

    input: str
    matrix: Matrix
    norm: float
    error: float = 0.0

    def transposed(self, input: str) -> Part:  # noqa: A002 (as the field is called)
        """Aᵀ, applied to another tensor."""
        turned = self.matrix.T
        return Part(
            input, sp.csr_array(turned) if sp.issparse(turned) else turned, self.norm, self.error
        )


@dataclass(frozen=True, eq=False)
class Affine:
    """output = Σ parts."""

    output: str
    parts: tuple[Part, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """The tensors that it reads."""
        return tuple(p.input for p in self.parts)


@dataclass(frozen=True, eq=False)
class Nonlinear:
    """output = u, input = z of a relation. name: of the block that it is."""

    output: str
    input: str
    relation: Relation
    name: str

    @property
    def reads(self) -> tuple[str, ...]:
        """The one tensor that it reads."""
        return (self.input,)


Node = Affine | Nonlinear


@dataclass(frozen=True, eq=False)
class System:
    """nodes in topological order; sizes: entries of every tensor. inputs are stacked into x,
    outputs into y. No two nodes have one output, and none has an input of the system."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    sizes: Mapping[str, int]

    @property
    def nonlinear(self) -> tuple[Nonlinear, ...]:
        """The nonlinear nodes, in order: multipliers come by these."""
        return tuple(n for n in self.nodes if isinstance(n, Nonlinear))

    @property
    def neurons(self) -> int:
        """Entries of all u."""
        return sum(n.relation.rows for n in self.nonlinear)

    @property
    def multipliers(self) -> int:
        """Entries of T."""
        return sum(n.relation.count for n in self.nonlinear)

    @property
    def width(self) -> int:
        """Entries of x."""
        return sum(self.sizes[t] for t in self.inputs)

    @property
    def height(self) -> int:
        """Entries of y."""
        return sum(self.sizes[t] for t in self.outputs)

    @cached_property
    def bounds(self) -> Mapping[str, float]:
        """‖t‖₂ ≤ bounds[t] ‖x‖₂ for every tensor: the sum form of AutoLip, rounded up."""
        found = dict.fromkeys(self.inputs, 1.0)
        for node in self.nodes:
            if isinstance(node, Affine):
                terms = [mul_up(p.norm, found[p.input]) for p in node.parts]
                found[node.output] = add_up(*terms) if terms else 0.0
            else:
                found[node.output] = mul_up(node.relation.gain, found[node.input])
        return found

    @property
    def bound(self) -> float:
        """‖y‖₂ ≤ bound · ‖x‖₂, by `bounds`."""
        return norm_up([self.bounds[t] for t in self.outputs], 2)

    def transposed(self) -> System:
        """The system of Jᵀ: its inputs are this one's outputs, and so on; tensors get a ᵀ.

        The multipliers of every relation stand for the same inequalities in another form, so they
        are not those of this system.
        """
        return _Turned(self).system()


class _Turned:
    """Cotangents from the outputs back: c(t) = Σ over all that reads t."""

    def __init__(self, of: System) -> None:
        self._of = of
        self._sizes: dict[str, int] = {}
        self._nodes: list[Node] = []
        self._terms: dict[str, list[Part]] = {}

    def system(self) -> System:
        of = self._of
        inputs = tuple(f"{t}·{k}ᵀ" for k, t in enumerate(of.outputs))
        for name, t in zip(inputs, of.outputs, strict=True):
            self._sizes[name] = of.sizes[t]
            self._add(t, _identity(name, of.sizes[t]))
        for node in reversed(of.nodes):
            if node.output not in self._terms:
                continue  # nothing that matters reads it
            cotangent = self._sum(node.output)
            if isinstance(node, Affine):
                for part in node.parts:
                    self._add(part.input, part.transposed(cotangent))
            else:
                self._bend(node, cotangent)
        outputs = tuple(self._sum(t) for t in of.inputs)
        return System(inputs, outputs, tuple(self._nodes), self._sizes)

    def _add(self, tensor: str, part: Part) -> None:
        self._terms.setdefault(tensor, []).append(part)

    def _sum(self, tensor: str) -> str:
        """The tensor's cotangent, as a tensor of the new system."""
        parts = self._terms.get(tensor, [])
        name = f"{tensor}ᵀ"
        self._sizes[name] = self._of.sizes[tensor]
        self._nodes.append(Affine(name, tuple(parts)))
        return name

    def _bend(self, node: Nonlinear, cotangent: str) -> None:
        relation, gather = node.relation.transposed()
        output = f"{node.output}→{node.input}ᵀ"
        self._sizes[output] = relation.rows
        self._nodes.append(Nonlinear(output, cotangent, relation, node.name))
        if gather is None:
            self._add(node.input, _identity(output, relation.rows))
        else:
            most = int(np.diff(gather.indptr).max(initial=0))
            self._add(node.input, Part(output, gather, norm_up([1.0] * most, 2)))


def _identity(tensor: str, size: int) -> Part:
    return Part(tensor, sp.csr_array(sp.eye_array(size, format="csr")), 1.0)


def segments(system: System) -> Iterator[tuple[str, int]]:
    """(tensor, entries) of v = [x; u]: the inputs, then the outputs of all nonlinear nodes."""
    for tensor in system.inputs:
        yield tensor, system.sizes[tensor]
    for node in system.nonlinear:
        yield node.output, node.relation.rows


def split(system: System, values: Floats) -> tuple[Floats, ...]:
    """A vector of all multipliers, node by node."""
    counts = [n.relation.count for n in system.nonlinear]
    return tuple(np.split(values, np.cumsum(counts)[:-1])) if counts else ()


def joined(values: Sequence[Floats]) -> Floats:
    """The opposite of `split`."""
    return np.concatenate([*values, np.zeros(0)])
