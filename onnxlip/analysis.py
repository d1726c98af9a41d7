"""From a model to a report: the one function that everything else calls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from onnxlip.bounds.autolip import (
    BlockNorm,
    nonlinear_norm,
)
from onnxlip.errors import Refused, UsageError
from onnxlip.graph import Graph, build_graph
from onnxlip.model import Model, let_go, load
from onnxlip.network import AffineBlock, Network, build_network
from onnxlip.operators import resolve
from onnxlip.parallel import Progress, give_back, one_heap
from onnxlip.registry import RuleSet, rule_set
from onnxlip.report import Report, norm_name
from onnxlip.rules import Rule

if TYPE_CHECKING:
    from onnxlip.bounds.lower.attained import Attained
    from onnxlip.bounds.portfolio import Multipliers
    from onnxlip.norms.schedule import Brackets, Effort, Item, Norms

__all__ = ["Analysis", "Progress", "analyze"]

_LARGE = 1 << 16  # entries of a block's constants from which on its memory matters
_MEMORY = 1 << 27  # bytes for norms, at least, if the user does not say


@dataclass(frozen=True)
class Analysis:
    """The stations between a file and its bounds, each computed when first asked for.

    The library's way in: `.model`, `.graph` (networkx), `.network` (blocks) and `.report()`.
    """

    source: Any
    norm: float = 2.0
    shapes: Mapping[str, Sequence[int]] | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    rules: RuleSet | None = None
    provider: str = "auto"
    seed: int = 0
    tolerance: float = 1e-2
    memory: int | None = None
    timeout: float | None = None
    confidence: float | None = None
    search: str = "lanczos"
    below: str = "quick"
    data: Any = None
    sequential: str = "auto"
    vectors: int | None = None
    method: str = "auto"
    pairs: bool = False

    @cached_property
    def rule_set(self) -> RuleSet:
        """The rules and lowerings in use."""
        return self.rules or rule_set()

    @cached_property
    def model(self) -> Model:
        """The file made plain."""
        return load(self.source, self.shapes, self.rule_set.amendments)

    @cached_property
    def graph(self) -> Graph:
        """The ops between the chosen tensors; `.network` of it is the networkx graph."""
        return build_graph(self.model, self.rule_set, self.inputs, self.outputs)

    @cached_property
    def network(self) -> Network:
        """Affine and nonlinear blocks, with their linear maps and slopes."""
        return build_network(self.model, self.graph, self.rule_set)

    @cached_property
    def device(self) -> str:
        """What `provider` comes to on this machine: "cpu" or "cuda"."""
        return resolve(self.provider)

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """The affine blocks, as the brackets' schedule wants them."""
        from onnxlip.norms.schedule import Item

        blocks = [b for b in self.network.blocks if isinstance(b, AffineBlock)]
        return tuple(Item(b.name, b.compose, b.shapes, b.weights) for b in blocks)

    @cached_property
    def effort(self) -> Effort:
        """What the brackets may cost, with the defaults filled in."""
        from onnxlip.norms.schedule import Effort

        memory = self.memory
        if memory is None:  # of the order of the model itself
            weights = sum(a.nbytes for a in self.model.constants.values())
            memory = max(_MEMORY, weights + weights // 2)
        return Effort(self.tolerance, memory, self.timeout, self.device, self.seed, self.search)

    @cached_property
    def brackets(self) -> Brackets:
        """Of the norms of all affine blocks."""
        return self._bracketed(None)

    def _bracketed(self, progress: Progress | None) -> Brackets:
        from onnxlip.norms.schedule import brackets as bracketed

        def tell(done: int, total: int, name: str) -> None:
            let_go(self.model)
            if is_large:
                give_back()
            if progress is not None:
                progress(done, total, name)

        items = self.items
        is_large = any(item.weights > _LARGE for item in items)
        if is_large:
            one_heap()
        let_go(self.model)  # reading the graph has looked at all weights
        return bracketed(items, self.rule_set.lowerings, self.norm, self.effort, tell)

    def norms(self, progress: Progress | None = None) -> tuple[BlockNorm, ...]:
        """Brackets of all blocks, in the order of `network.blocks`."""
        if "brackets" not in self.__dict__:
            self.__dict__["brackets"] = self._bracketed(progress)
        affine = iter(self.brackets.blocks)
        return tuple(
            _of_maps(next(affine))
            if isinstance(block, AffineBlock)
            else nonlinear_norm(block, self.norm)
            for block in self.network.blocks
        )

    def report(self, progress: Progress | None = None) -> Report:
        """Run all bounds and tell the result. Raises the errors of `analyze`."""
        from onnxlip.bounding import Bounding

        return Bounding(self, progress).report()

    def lower(self, **options: Any) -> Attained:
        """A pair of points with a large quotient: `onnxlip.bounds.lower.portfolio.lower_bound`,
        whose options these are; `data` is the analysis's own if none is given."""
        from onnxlip.bounds.lower.portfolio import lower_bound

        return lower_bound(self, **{"data": self.data} | options)

    @property
    def multipliers(self) -> Multipliers | None:
        """What proved the last report's best bound that multipliers prove."""
        found: Multipliers | None = self.__dict__.get("_multipliers")
        return found

    @property
    def attained(self) -> Attained | None:
        """The pair of points that the last report's lower bound is attained at."""
        found: Attained | None = self.__dict__.get("_pair")
        return found

    def refusal(self, refused: tuple[Refused, ...], seconds: float) -> Report:
        """The report of a model that has no bound: `upper` is None, `refused` says why."""
        from onnxlip import __version__

        return Report(
            model=self.model.name,
            sha256=self.model.sha256,
            norm=norm_name(self.norm),
            domain="global",
            inputs={name: shape for name, (shape, _) in self.model.inputs.items()},
            outputs={},
            upper=None,
            lower=None,
            methods={},
            blocks=(),
            pairs=(),
            refused=refused,
            provider=self.provider,
            seed=self.seed,
            version=__version__,
            seconds=seconds,
        )


def _of_maps(norms: Norms) -> BlockNorm:
    return BlockNorm(norms.each, norms.whole, norms.disjoint)


def analyze(
    model: Any,
    *,
    norm: float | str = 2,
    shapes: Mapping[str, Sequence[int]] | None = None,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    rules: Iterable[Rule] = (),
    rule_modules: Iterable[str] = (),
    provider: str = "auto",
    seed: int = 0,
    tolerance: float = 1e-2,
    memory: int | None = None,
    timeout: float | None = None,
    confidence: float | None = None,
    search: str = "lanczos",
    lower: str = "quick",
    data: Any = None,
    seqlip: str = "auto",
    vectors: int | None = None,
    method: str = "auto",
    pairs: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Bound the Lipschitz constant of an ONNX model, over its whole input space.

    model: a path or an onnx.ModelProto
    norm: 1, 2 or inf (math.inf or "inf"), of inputs and outputs alike
    shapes: full shapes of inputs with open dimensions, by name; a batch dimension becomes 1
    inputs, outputs: names of tensors between which to bound (interior ones too)
    rules, rule_modules: more rules; they win over built-in ones
    provider: "auto", "cpu" or "cuda", for onnxruntime
    seed: of the random starts of norm estimates; the same seed gives the same figures
    tolerance: slack of the product of all blocks' brackets that is good enough
    memory: bytes that the brackets may take besides the weights (default: 1.5 times the weights,
        at least 128 MiB); where a block needs more, a cheaper bound is proved and told
    timeout: seconds after which nothing but AutoLip is begun; LipSDP then ends with the best so far
    confidence: δ of an additional bound that fails with probability at most δ (p = 2)
    search: how lower ends of brackets are searched for: "lanczos", or "power" (Algorithm 2)
    lower: how a lower bound of the network is sought: "none", "quick" (about as long as the upper
        bound takes), "portfolio", or one of "data", "random", "grid", "annealing", "ascent",
        "evolution"
    data: rows at which to look for it first: (rows, n), (rows, *shape), or by input name
    seqlip: "auto" (chains of small layers), "none", or all chains by "sign-power", "greedy" (the
        authors' method) or "exact" (branch and bound), each with its certified value (p = 2)
    vectors: singular vectors of each layer for SeqLip (default: all of small layers, else 50)
    method: how upper bounds are sought: "auto" (all that the budget allows, the best one kept), or
        one of "autolip", "scaled", "liplt", "closed", "seqlip", "lipsdp-layer", "lipsdp", "exact"
    pairs: also bound every difference of two outputs, and with data certify a radius of each row:
        labels are an array `y` beside the inputs
    progress: called with (blocks done, blocks in all, name of the block)

    Raises UsageError and ModelError (wrong use, unreadable model), ShapeError (open dimension),
    UnsupportedError (ops without a rule, all at once), NotLipschitzError (no finite bound).
    """
    return Analysis(
        model,
        parse_norm(norm),
        shapes,
        tuple(inputs),
        tuple(outputs),
        rule_set(rules, rule_modules),
        provider,
        seed,
        tolerance,
        memory,
        timeout,
        confidence,
        search,
        lower,
        data,
        seqlip,
        vectors,
        method,
        pairs,
    ).report(progress)


def parse_norm(norm: float | str) -> float:
    """1, 2 or inf, from a number or from text. Raises UsageError for anything else."""
    known = {"1": 1.0, "2": 2.0, "inf": math.inf}
    text = str(norm).lower().removesuffix(".0")
    if text not in known:
        raise UsageError(f"unknown norm '{norm}': use 1, 2 or inf")
    return known[text]
