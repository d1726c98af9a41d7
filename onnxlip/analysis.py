"""From a model to a report: the one function that everything else calls."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from onnxlip.bounds.autolip import BlockNorm, largest_gain, measure, network_bound
from onnxlip.errors import NotLipschitzError, Refused, UsageError
from onnxlip.graph import Graph, build_graph
from onnxlip.model import Model, load
from onnxlip.network import AffineBlock, Block, Network, build_network
from onnxlip.operators import resolve
from onnxlip.parallel import Progress, side_by_side
from onnxlip.registry import RuleSet, rule_set
from onnxlip.report import BlockReport, Bound, Method, Pair, Report, norm_name
from onnxlip.rules import Rule

__all__ = ["Analysis", "Progress", "analyze"]

_SMALL = 256  # rows and columns below which threads cost more than they save


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

    def norms(self, progress: Progress | None = None) -> tuple[BlockNorm, ...]:
        """Brackets of all blocks, in the order of `network.blocks`."""
        from onnxlip.norms import bracket, joint

        lowerings, p = self.rule_set.lowerings, self.norm
        device, seed = self.device, self.seed

        def one(block: Block) -> BlockNorm:
            return measure(
                block,
                p,
                lambda a: bracket(a, lowerings, p, provider=device, seed=seed),
                lambda maps, each: joint(maps, each, lowerings, p, provider=device, seed=seed),
            )

        blocks = self.network.blocks
        shapes = [shape for b in blocks if isinstance(b, AffineBlock) for shape in b.shapes]
        small = all(max(shape) <= _SMALL for shape in shapes)
        return tuple(side_by_side(one, blocks, lambda b: b.name, progress, small))

    def report(self, progress: Progress | None = None) -> Report:
        """Run AutoLip and tell the result. Raises the errors of `analyze`."""
        from onnxlip import __version__

        start = time.perf_counter()
        network = self.network
        self._refuse_infinite()
        norms = self.norms(progress)
        upper, pairs, shares = network_bound(network, norms, self.norm)
        if not math.isfinite(upper):
            raise NotLipschitzError(
                f"{self.model.name}: the bound exceeds the largest float64: the network's layers "
                "multiply to more than 1e308"
            )
        seconds = time.perf_counter() - start
        return Report(
            model=self.model.name,
            sha256=self.model.sha256,
            norm=norm_name(self.norm),
            domain="global",
            inputs={v.name: v.shape for v in self.graph.inputs},
            outputs={v.name: v.shape for v in self.graph.outputs},
            upper=Bound(upper, "autolip"),
            lower=None,
            methods={"autolip": Method(upper, "certified", seconds)},
            blocks=tuple(
                _block_report(block, norm, share)
                for block, norm, share in zip(network.blocks, norms, shares, strict=True)
            ),
            pairs=tuple(Pair(i, o, value) for (i, o), value in pairs.items()),
            notes=(
                *self.graph.notes,
                *network.notes,
                *self._remarks(upper),
            ),
            rules=self._foreign_rules(),
            provider=self.device,
            seed=self.seed,
            version=__version__,
            seconds=seconds,
        )

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

    def _remarks(self, upper: float) -> list[str]:
        remarks = []
        if upper == 0:
            remarks.append("the output does not depend on the input: its Lipschitz constant is 0")
        if self.graph.held:
            names = ", ".join(f"'{v.name}'" for v in self.graph.held)
            remarks.append(f"held fixed, at any value: {names}")
        return remarks

    def _foreign_rules(self) -> dict[str, str]:
        used = {e.rule.op_type: e.origin for e in self.graph.rules.values()}
        return {op: origin for op, origin in used.items() if not origin.startswith("onnxlip.ops.")}


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
    ).report(progress)


def parse_norm(norm: float | str) -> float:
    """1, 2 or inf, from a number or from text. Raises UsageError for anything else."""
    known = {"1": 1.0, "2": 2.0, "inf": math.inf}
    text = str(norm).lower().removesuffix(".0")
    if text not in known:
        raise UsageError(f"unknown norm '{norm}': use 1, 2 or inf")
    return known[text]
