"""SeqLip (Virmaux & Scaman 2018, Section 5) on every chain of a network.

    ‖M_K D_{K−1} M_{K−1} … D_1 M_1‖₂ ≤ ∏_k max_{D_k} ‖Σ̃_{k+1} V_{k+1}ᵀ D_k U_k Σ̃_k‖₂

with Σ̃ = Σ at both ends of the chain and Σ^½ within (`sides`). Every factor is a pair problem, of
which there are three figures, which are never mixed up:

* its AutoLip value, the product of norms: certified;
* its certified SeqLip (`pairs.certified`, or the proved end of branch and bound);
* its SeqLip estimate: the best slopes that a search found, for the leading singular vectors. A
  search for a maximum ends below it, so this bounds nothing.

What a chain has instead of the product of its norms goes into AutoLip (`autolip.Shortcut`) at the
chain's end; everything else of the network stays as it is there.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from onnxlip.bounds.autolip import BlockNorm, Shortcut, network_bound
from onnxlip.bounds.chains import Chain, Gate, Leg, chains
from onnxlip.bounds.gates import choice, gate_gain
from onnxlip.bounds.pairs.branching import branch_and_bound
from onnxlip.bounds.pairs.certified import certified
from onnxlip.bounds.pairs.picking import PickedPair, picked_estimate
from onnxlip.bounds.pairs.problem import Pair
from onnxlip.bounds.pairs.search import estimate, greedy
from onnxlip.bounds.sides import cut_short, side
from onnxlip.network import AffineBlock, Network
from onnxlip.norms.factors import Factors, factors
from onnxlip.norms.workspace import Workspace
from onnxlip.operators import NonFiniteError
from onnxlip.parallel import one_blas_thread
from onnxlip.rounding import mul_up, sqrt_up

__all__ = ["ChainBound", "PairBound", "SeqLip", "SeqLipEffort", "seqlip"]

Progress = Callable[[int, int, str], None]

_EXACT = 256  # slopes of a pair up to which branch and bound is tried
_QUICK = 1.3e8  # what `_Walk.cost` may come to in all where nobody asked: some seconds


@dataclass(frozen=True)
class SeqLipEffort:
    """search: "auto" (small chains only, a few seconds in all), "sign-power", "greedy" (the
    authors' method) or "exact" (branch and bound). vectors: singular vectors kept of each layer,
    None: all of small maps and 50 of others. certify: also the certified values. seconds: that each
    pair's search may take, and its proof as well; results are the same on every run unless that
    ends one of them, and never ended so where `search` is "auto".
    """

    search: str = "auto"
    vectors: int | None = None
    certify: bool = True
    seconds: float = 60.0


@dataclass(frozen=True)
class PairBound:
    """One pair: between blocks `before` and `after`, with `size` slopes to choose.

    vectors: singular vectors kept on both sides; gap: how far the proved maximum may lie above the
    estimate, relative, where it was searched for exactly; method: what proved `certified`.
    """

    before: str
    after: str
    size: int
    vectors: tuple[int, int]
    autolip: float
    certified: float
    estimate: float
    method: str
    search: str
    gap: float | None
    seconds: float


@dataclass(frozen=True)
class ChainBound:
    """blocks: their names, the first one applied first; the values are products over the pairs."""

    blocks: tuple[str, ...]
    pairs: tuple[PairBound, ...]
    autolip: float
    certified: float
    estimate: float


@dataclass(frozen=True)
class SeqLip:
    """certified ≥ the network's Lipschitz constant; estimate: the same with the chains' estimates,
    no bound; left: how many chains were too large for the effort."""

    certified: float
    estimate: float
    chains: tuple[ChainBound, ...]
    shortcuts: Mapping[tuple[int, int], Shortcut]
    left: int = 0
    notes: tuple[str, ...] = ()


def seqlip(
    network: Network,
    norms: Sequence[BlockNorm],
    work: Workspace,
    effort: SeqLipEffort = SeqLipEffort(),
    progress: Progress | None = None,
) -> SeqLip:
    """SeqLip of all chains, combined over the network; for the 2-norm.

    work: a fresh one; its seed and memory are used.
    """
    found = chains(network)
    budget = _Budget(_QUICK)
    bounds: list[tuple[Chain, ChainBound]] = []
    for k, chain in enumerate(found):
        walk = _Walk(network, norms, work, effort, chain)
        if effort.search != "auto" or budget.takes(walk.cost()):
            # What leaves the range of numbers keeps the product of its norms.
            with one_blas_thread(), np.errstate(all="ignore"), suppress(NonFiniteError):
                bounds.append((chain, walk.run()))
        if progress is not None:
            progress(k + 1, len(found), network.blocks[chain.end.index].name)
    proved = {_place(chain): Shortcut(chain.source, b.certified) for chain, b in bounds}
    guessed = {_place(chain): Shortcut(chain.source, b.estimate) for chain, b in bounds}
    upper = network_bound(network, norms, 2.0, proved)[0]
    guess = network_bound(network, norms, 2.0, guessed)[0]
    left = len(found) - len(bounds)
    notes = _notes(tuple(b for _, b in bounds), effort, left)
    return SeqLip(upper, min(guess, upper), tuple(b for _, b in bounds), proved, left, notes)


def _notes(bounds: tuple[ChainBound, ...], effort: SeqLipEffort, left: int) -> tuple[str, ...]:
    """What was asked for and not done."""
    if effort.search == "auto":
        more = f"SeqLip: larger chains left as in AutoLip: {left}; --seqlip sign-power takes them"
        return (more,) if left else ()
    told = []
    if not bounds and not left:
        told.append("SeqLip: there is no chain of two layers or more, so it is AutoLip")
    if left:
        told.append(f"SeqLip: chains out of range, left as in AutoLip: {left}")
    large = [pair for chain in bounds for pair in chain.pairs if pair.size > _EXACT]
    if effort.search == "exact" and large:
        told.append(
            f"SeqLip: {large[0].size} slopes between '{large[0].before}' and '{large[0].after}' "
            f"are too many for an exact search (at most {_EXACT}): estimate and certificate there"
        )
    return tuple(told)


def _place(chain: Chain) -> tuple[int, int]:
    return chain.end.index, chain.end.position


class _Budget:
    """What is left for chains that nobody asked for."""

    def __init__(self, cost: float) -> None:
        self.left = cost

    def takes(self, cost: float) -> bool:
        fits = cost <= self.left
        self.left -= cost if fits else 0.0
        return fits


class _Walk:
    """Along one chain, with the factors of two layers in memory at a time."""

    def __init__(
        self,
        network: Network,
        norms: Sequence[BlockNorm],
        work: Workspace,
        effort: SeqLipEffort,
        chain: Chain,
    ) -> None:
        self._network, self._norms, self._work = network, norms, work
        self._effort, self._chain = effort, chain

    def cost(self) -> float:
        """Roughly how long it takes: slopes by the square of the sides, and their cube."""
        shapes = [self._block(leg).shapes[leg.position] for leg in self._chain.legs]
        sides = [float(min(shape)) for shape in shapes]
        widths = [float(rows) for rows, _ in shapes[:-1]]
        pairs = zip(widths, itertools.pairwise(sides), strict=True)
        total = sum(n * max(side) ** 2 + 0.8 * n**3 for n, side in pairs)
        return total + sum(min(shape) ** 2 * max(shape) for shape in shapes) / 20

    def run(self) -> ChainBound:
        legs, gates = self._chain.legs, self._chain.gates
        pairs: list[PairBound] = []
        inner = self._factors(legs[0])
        for k, gate in enumerate(gates):
            outer = self._factors(legs[k + 1])
            pairs.append(self._pair(k, inner, gate, outer))
            inner = outer
        gains = [self._norm(leg) for leg in legs] + [gate_gain(gate) for gate in gates]
        product = mul_up(*gains)
        proved = min(product, mul_up(*(pair.certified for pair in pairs)))
        guess = min(proved, math.prod(pair.estimate for pair in pairs))
        names = tuple(self._block(leg).name for leg in legs)
        return ChainBound(names, tuple(pairs), product, proved, guess)

    def _block(self, leg: Leg) -> AffineBlock:
        block = self._network.blocks[leg.index]
        assert isinstance(block, AffineBlock)
        return block

    def _norm(self, leg: Leg) -> float:
        return self._norms[leg.index].each[leg.position].upper

    def _factors(self, leg: Leg) -> Factors:
        linear = self._block(leg).maps[leg.position]
        found = factors(linear, self._effort.vectors, self._work)
        self._work.forget()
        return found

    def _pair(self, k: int, inner: Factors, gate: Gate, outer: Factors) -> PairBound:
        start = time.perf_counter()
        legs, gain = self._chain.legs, gate_gain(gate)
        first, last = k == 0, k == len(legs) - 2
        below = side(inner, self._norm(legs[k]), after=True, end=first)
        above = side(outer, self._norm(legs[k + 1]), after=False, end=last)
        product = mul_up(
            gain,
            self._norm(legs[k]) if first else sqrt_up(self._norm(legs[k])),
            self._norm(legs[k + 1]) if last else sqrt_up(self._norm(legs[k + 1])),
        )
        slopes = choice(gate)
        answer = _Answer(product=math.inf)
        if slopes.picks is not None:
            picked = PickedPair(
                above.matrix.T, below.matrix, slopes.picks, slopes.alpha, slopes.beta
            )
            seconds = None if self._effort.search == "auto" else self._effort.seconds
            answer.estimate = picked_estimate(picked, self._work.seed, seconds=seconds)
            answer.search, answer.method = "sign power with picks", "product"
        else:
            alpha, beta = (np.ascontiguousarray(x) for x in (slopes.alpha, slopes.beta))
            pair = Pair(np.ascontiguousarray(above.matrix.T), below.matrix, alpha, beta)
            answer.solve(pair, self._effort, self._work.seed, above.proved and below.proved)
        proved = cut_short(above, below, gain, answer.product)
        if proved >= product:
            answer.method = "product"
        proved = min(proved, max(product, mul_up(above.whole, gain, below.whole)))
        return PairBound(
            self._block(legs[k]).name,
            self._block(legs[k + 1]).name,
            len(below.matrix),
            (below.matrix.shape[1], above.matrix.shape[1]),
            product,
            proved,
            min(answer.estimate, proved),
            answer.method,
            answer.search,
            answer.gap,
            time.perf_counter() - start,
        )


@dataclass
class _Answer:
    """product: what is proved of the pair of the sides as computed; estimate: what was found."""

    product: float
    estimate: float = 0.0
    method: str = ""
    search: str = ""
    gap: float | None = None

    def solve(self, pair: Pair, effort: SeqLipEffort, seed: int, worth: bool) -> None:
        if effort.search == "exact" and pair.size <= _EXACT:
            found = branch_and_bound(pair, seconds=effort.seconds)
            self.product, self.estimate = found.upper, found.lower
            self.gap = found.upper / found.lower - 1 if found.lower > 0 else 0.0
            self.method = self.search = "branch and bound"
            return
        seconds = None if effort.search == "auto" else effort.seconds
        if effort.search == "greedy":
            found_by = greedy(pair, seconds=seconds)
            self.search = "greedy" if found_by.complete else "greedy, stopped early"
        else:
            found_by, self.search = estimate(pair, seed, seconds=seconds), "sign power"
        self.estimate = found_by.value
        if effort.certify and worth:
            proof = certified(pair, seconds=seconds)
            self.product, self.method = proof.upper, proof.method
