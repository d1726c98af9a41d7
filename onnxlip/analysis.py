"""From a model to a report: the one function that everything else calls."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from onnxlip.bounds.autolip import (
    BlockNorm,
    largest_gain,
    network_bound,
    nonlinear_norm,
    pair_bounds,
)
from onnxlip.certificate import LATE, LIMITED
from onnxlip.errors import NotLipschitzError, Refused, UsageError
from onnxlip.graph import Graph, build_graph
from onnxlip.model import Model, let_go, load
from onnxlip.network import AffineBlock, Network, build_network
from onnxlip.operators import resolve
from onnxlip.parallel import Progress, give_back
from onnxlip.registry import RuleSet, rule_set
from onnxlip.report import BlockReport, Bound, Method, Pair, Report, norm_name
from onnxlip.report.chains import chain_reports
from onnxlip.rules import Rule

if TYPE_CHECKING:
    from onnxlip.bounds.lower.attained import Attained
    from onnxlip.bounds.seqlip import SeqLip
    from onnxlip.norms.confidence import Uppers
    from onnxlip.norms.schedule import Brackets, Effort, Item, Norms

__all__ = ["Analysis", "Progress", "analyze"]

SEARCHES = ("auto", "none", "sign-power", "greedy", "exact")  # of SeqLip
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
    def _items(self) -> tuple[Item, ...]:
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
    def _brackets(self) -> Brackets:
        return self._bracketed(None)

    def _bracketed(self, progress: Progress | None) -> Brackets:
        from onnxlip.norms.schedule import brackets

        def tell(done: int, total: int, name: str) -> None:
            let_go(self.model)
            if is_large:
                give_back()
            if progress is not None:
                progress(done, total, name)

        items = self._items
        is_large = any(item.weights > _LARGE for item in items)
        let_go(self.model)  # reading the graph has looked at all weights
        return brackets(items, self.rule_set.lowerings, self.norm, self.effort, tell)

    def norms(self, progress: Progress | None = None) -> tuple[BlockNorm, ...]:
        """Brackets of all blocks, in the order of `network.blocks`."""
        if "_brackets" not in self.__dict__:
            self.__dict__["_brackets"] = self._bracketed(progress)
        affine = iter(self._brackets.blocks)
        return tuple(
            _of_maps(next(affine))
            if isinstance(block, AffineBlock)
            else nonlinear_norm(block, self.norm)
            for block in self.network.blocks
        )

    def _probable(
        self, norms: tuple[BlockNorm, ...], progress: Progress | None
    ) -> tuple[BlockNorm, ...]:
        """The same with upper ends that all hold with probability ≥ 1 − `confidence`."""
        from onnxlip.norms.confidence import probable_uppers

        assert self.confidence is not None
        uppers = iter(
            probable_uppers(
                self._items,
                self._brackets.blocks,
                self.rule_set.lowerings,
                self.confidence,
                self.effort,
                progress,
            )
        )
        return tuple(
            _with_uppers(norm, next(uppers)) if isinstance(block, AffineBlock) else norm
            for block, norm in zip(self.network.blocks, norms, strict=True)
        )

    def report(self, progress: Progress | None = None) -> Report:
        """Run AutoLip and tell the result. Raises the errors of `analyze`."""
        from onnxlip import __version__

        start = time.perf_counter()
        network = self.network
        self._refuse_infinite()
        self._refuse_rows()
        norms = self.norms(progress)
        upper, pairs, shares = network_bound(network, norms, self.norm)
        seconds = time.perf_counter() - start
        methods = {"autolip": Method(upper, "certified", seconds)}
        bound = Bound(upper, "autolip")
        chains = self._sequential(norms, progress)
        if chains is not None and chains.chains:
            took = time.perf_counter() - start - seconds
            methods["seqlip"] = Method(chains.certified, "certified", took)
            methods["seqlip, estimate"] = Method(chains.estimate, "estimate", took)
            if chains.certified < upper:
                bound = Bound(chains.certified, "seqlip")
                pairs = pair_bounds(network, norms, self.norm, chains.shortcuts)
        if self.confidence is not None:
            probable = network_bound(network, self._probable(norms, progress), self.norm)[0]
            took = time.perf_counter() - start
            methods["autolip, probabilistic"] = Method(probable, "probabilistic", took)
            if probable < bound.value:
                bound = Bound(probable, "autolip", "probabilistic")
        if not math.isfinite(upper):
            raise NotLipschitzError(
                f"{self.model.name}: the bound exceeds the largest float64: the network's layers "
                "multiply to more than 1e308"
            )
        found = self._attained(progress)
        if found is not None:
            methods["attained"] = Method(found.value, "attained", found.seconds)
            methods |= self._free_pattern(found)
        seconds = time.perf_counter() - start
        return Report(
            model=self.model.name,
            sha256=self.model.sha256,
            norm=norm_name(self.norm),
            domain="global",
            inputs={v.name: v.shape for v in self.graph.inputs},
            outputs={v.name: v.shape for v in self.graph.outputs},
            upper=bound,
            lower=Bound(found.value, found.method, "attained") if found else None,
            methods=methods,
            blocks=tuple(
                _block_report(block, norm, share)
                for block, norm, share in zip(network.blocks, norms, shares, strict=True)
            ),
            pairs=tuple(Pair(i, o, value) for (i, o), value in pairs.items()),
            chains=chain_reports(chains.chains) if chains else (),
            notes=(
                *self.graph.notes,
                *network.notes,
                *self._remarks(upper),
                *self._costs(norms),
                *(chains.notes if chains else self._why_not_sequential()),
                *self._doubts(bound.value),
            ),
            rules=self._foreign_rules(),
            provider="+".join(self._brackets.devices) or self.device,
            seed=self.seed,
            version=__version__,
            seconds=seconds,
        )

    def _sequential(self, norms: tuple[BlockNorm, ...], progress: Progress | None) -> SeqLip | None:
        """SeqLip of the network's chains, for the 2-norm, if it is wanted and there is time."""
        if self.sequential not in SEARCHES:
            raise UsageError(f"unknown seqlip '{self.sequential}': use {', '.join(SEARCHES)}")
        if self.sequential == "none" or self.norm != 2:
            return None
        if self.timeout is not None and self.sequential == "auto":
            return None
        from onnxlip.bounds.seqlip import SeqLipEffort, seqlip
        from onnxlip.norms.workspace import Workspace

        work = Workspace(self.rule_set.lowerings, self.device, self.seed)
        effort = SeqLipEffort(self.sequential, self.vectors)
        if self.timeout is not None:
            effort = replace(effort, seconds=self.timeout)
        return seqlip(self.network, norms, work, effort, progress)

    def lower(self, **options: Any) -> Attained:
        """A pair of points with a large quotient: `onnxlip.bounds.lower.portfolio.lower_bound`,
        whose options these are; `data` is the analysis's own if none is given."""
        from onnxlip.bounds.lower.portfolio import lower_bound

        return lower_bound(self, **{"data": self.data} | options)

    @property
    def attained(self) -> Attained | None:
        """The pair of points that the last report's lower bound is attained at."""
        found: Attained | None = self.__dict__.get("_pair")
        return found

    def _attained(self, progress: Progress | None) -> Attained | None:
        """As `below` says; None where nothing is to be sought, or can be evaluated."""
        from onnxlip.bounds.lower.portfolio import by_choice

        self.__dict__["_pair"], self.__dict__["_why"] = by_choice(
            self, self.below, self.data, progress
        )
        return self.attained

    def _why_not_sequential(self) -> list[str]:
        asked = self.sequential not in ("auto", "none")
        return ["SeqLip is for the 2-norm, and left out"] if asked and self.norm != 2 else []

    def _free_pattern(self, found: Attained) -> dict[str, Method]:
        """Below which no bound can be that knows slopes by their intervals only."""
        from onnxlip.bounds.lower.portfolio import floor_of_blind_bounds

        start = time.perf_counter()
        value = floor_of_blind_bounds(self, self.below, found)
        if value is None:
            return {}
        return {"free pattern": Method(value, "estimate", time.perf_counter() - start)}

    def _doubts(self, upper: float) -> list[str]:
        """Why there is no lower bound, or what it says against the upper one."""
        remarks = [self.__dict__["_why"]] if self.__dict__.get("_why") else []
        if self.attained is not None and self.attained.value > upper:
            remarks.append(
                "warning: the quotient attained is above the upper bound: a rule is wrong, or a "
                "runtime computes something else; onnxlip.testing.check_rule tests rules"
            )
        return remarks

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

    def _refuse_infinite(self) -> None:
        """Before any norm is computed: nonlinear blocks that have no gain on this domain."""
        from onnxlip.graph import refuse
        from onnxlip.rules import Elementwise, Gain

        nodes = {n.name: n for n in self.graph.nodes}
        bad = []
        for block in self.network.blocks:
            if isinstance(block, AffineBlock) or math.isfinite(largest_gain(block, self.norm)):
                continue
            form = self.graph.rules[block.nodes[-1]].rule.form
            reason = form.reason if isinstance(form, (Gain, Elementwise)) else "it has no bound"
            bad.append((nodes[block.nodes[-1]], reason))
        if bad:
            raise refuse(self.model, bad)
        if self.confidence is not None and self.norm != 2:
            raise UsageError("--confidence is for the 2-norm; the others are exact or certified")

    def _refuse_rows(self) -> None:
        """Rows of a wrong shape, before they are waited for."""
        if self.data is not None and self.below != "none":
            from onnxlip.bounds.lower.data import rows_of

            rows_of(self.data, self.graph.inputs)

    def _remarks(self, upper: float) -> list[str]:
        remarks = []
        if upper == 0:
            remarks.append("the output does not depend on the input: its Lipschitz constant is 0")
        if self.graph.held:
            names = ", ".join(f"'{v.name}'" for v in self.graph.held)
            remarks.append(f"held fixed, at any value: {names}")
        return remarks

    def _costs(self, norms: tuple[BlockNorm, ...]) -> list[str]:
        """What memory, time or missing kernels made worse than it could be."""
        remarks = []
        ends = [(b.name, n.whole) for b, n in zip(self.network.blocks, norms, strict=True)]
        for mark, why in (
            (LIMITED, f"--memory ({self.effort.memory >> 20} MiB) is too small"),
            (LATE, "--timeout had passed"),
        ):
            names = [name for name, b in ends if b.upper_method.endswith(mark)]
            if names:
                shown = ", ".join(f"'{name}'" for name in names[:3])
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                remarks.append(f"{why}: cheaper bounds for {shown}{more}")
        if self._brackets.fallbacks:
            what = "; ".join(self._brackets.fallbacks)
            remarks.append(f"warning: without a CUDA kernel, run on the CPU: {what}")
        if self.confidence is not None:
            remarks.append(
                "the probabilistic bound fails with probability at most "
                f"{self.confidence:g}, over all blocks together (union bound)"
            )
        return remarks

    def _foreign_rules(self) -> dict[str, str]:
        used = {e.rule.op_type: e.origin for e in self.graph.rules.values()}
        return {op: origin for op, origin in used.items() if not origin.startswith("onnxlip.ops.")}


def _of_maps(norms: Norms) -> BlockNorm:
    return BlockNorm(norms.each, norms.whole, norms.disjoint)


def _with_uppers(norm: BlockNorm, uppers: Uppers) -> BlockNorm:
    """Only for the bound that is told as probabilistic."""
    each = tuple(replace(b, upper=u) for b, u in zip(norm.each, uppers.each, strict=True))
    return BlockNorm(each, replace(norm.whole, upper=uppers.whole), norm.disjoint)


def _block_report(block: Any, norm: BlockNorm, share: float) -> BlockReport:
    affine = isinstance(block, AffineBlock)
    return BlockReport(
        name=block.name,
        kind="affine" if affine else "nonlinear",
        nodes=block.nodes,
        ops=block.ops,
        inputs=block.inputs,
        outputs=block.outputs,
        lower=norm.whole.lower if affine else None,
        upper=norm.whole.upper,
        methods=(norm.whole.lower_method, norm.whole.upper_method),
        share=share,
    )


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
    timeout: seconds after which no bracket is sharpened any more
    confidence: δ of an additional bound that fails with probability at most δ (p = 2)
    search: how lower ends of brackets are searched for: "lanczos", or "power" (Algorithm 2)
    lower: how a lower bound of the network is sought: "none", "quick" (about as long as the upper
        bound takes), "portfolio", or one of "data", "random", "grid", "annealing", "ascent",
        "evolution"
    data: rows at which to look for it first: (rows, n), (rows, *shape), or by input name
    seqlip: "auto" (chains of small layers), "none", or all chains by "sign-power", "greedy" (the
        authors' method) or "exact" (branch and bound), each with its certified value (p = 2)
    vectors: singular vectors of each layer for SeqLip (default: all of small layers, else 50)
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
    ).report(progress)


def parse_norm(norm: float | str) -> float:
    """1, 2 or inf, from a number or from text. Raises UsageError for anything else."""
    known = {"1": 1.0, "2": 2.0, "inf": math.inf}
    text = str(norm).lower().removesuffix(".0")
    if text not in known:
        raise UsageError(f"unknown norm '{norm}': use 1, 2 or inf")
    return known[text]
