"""Chains: the sequential stretches of a network that SeqLip is about.

A *leg* (k, i) is input i of affine block k. It follows on an affine block j if what lies between
them is a *gate*: elementwise functions, and ops that hand entries on (max-pools), each read by
nobody else. A chain is a leg and all that it follows on,

    M_K ∘ gate_{K−1} ∘ M_{K−1} ∘ … ∘ gate_1 ∘ M_1,

back to the first block that is not alone: one with several inputs, or whose tensor others read too.
Every leg of a sum that ends a residual branch has a chain of its own, the branch's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from onnxlip.network import AffineBlock, GainBlock, Network, SlopeBlock

__all__ = ["Chain", "Gate", "Leg", "chains"]

Gate = tuple[SlopeBlock | GainBlock, ...]


@dataclass(frozen=True)
class Leg:
    """Input `position` of the affine block at `index` in the network's order."""

    index: int
    position: int


@dataclass(frozen=True, eq=False)
class Chain:
    """legs: K of them, the first one applied first; gates[k] lies between legs k and k + 1."""

    legs: tuple[Leg, ...]
    gates: tuple[Gate, ...]
    source: str  # the tensor that the first leg reads

    @property
    def end(self) -> Leg:
        """The last leg, which stands for the whole."""
        return self.legs[-1]


def chains(network: Network) -> tuple[Chain, ...]:
    """All chains of two legs or more that are no part of a longer one, in the network's order."""
    before = _Walk(network).steps()
    inner = {previous for previous, _ in before.values()}
    return tuple(_chain(network, leg, before) for leg in before if leg not in inner)


def _chain(network: Network, end: Leg, before: dict[Leg, tuple[Leg, Gate]]) -> Chain:
    legs, gates = [end], []
    while legs[-1] in before:
        leg, gate = before[legs[-1]]
        legs.append(leg)
        gates.append(gate)
    first = network.blocks[legs[-1].index].inputs[legs[-1].position]
    return Chain(tuple(reversed(legs)), tuple(reversed(gates)), first)


class _Walk:
    """Upstream from every leg to the one that it follows on."""

    def __init__(self, network: Network) -> None:
        self._network = network
        chosen = set(network.inputs)  # an interior tensor that was chosen as an input is one
        self._makers = {
            y: k for k, block in enumerate(network.blocks) for y in block.outputs if y not in chosen
        }
        self._readers = Counter(name for block in network.blocks for name in block.inputs)
        self._readers.update(network.outputs)

    def steps(self) -> dict[Leg, tuple[Leg, Gate]]:
        found = {leg: self._before(leg) for leg in self._legs()}
        return {leg: step for leg, step in found.items() if step is not None}

    def _legs(self) -> Iterator[Leg]:
        for k, block in enumerate(self._network.blocks):
            if isinstance(block, AffineBlock):
                yield from (Leg(k, i) for i in range(len(block.inputs)))

    def _before(self, leg: Leg) -> tuple[Leg, Gate] | None:
        tensor = self._network.blocks[leg.index].inputs[leg.position]
        gate: list[SlopeBlock | GainBlock] = []
        while tensor in self._makers and self._readers[tensor] == 1:
            block = self._network.blocks[self._makers[tensor]]
            if isinstance(block, AffineBlock):
                if len(block.inputs) == 1 and gate:
                    return Leg(self._makers[tensor], 0), tuple(reversed(gate))
                return None
            if not _hands_on(block):
                return None
            gate.append(block)
            tensor = block.inputs[0]
        return None


def _hands_on(block: SlopeBlock | GainBlock) -> bool:
    """Whether it is elementwise or picks entries, of one tensor for one tensor."""
    if len(block.inputs) != 1 or len(block.outputs) != 1:
        return False
    return isinstance(block, SlopeBlock) or block.form.picks is not None
