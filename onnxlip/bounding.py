"""All bounds of one analysed network, put together in a report."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnxlip.bounds.autolip import BlockNorm, largest_gain, network_bound, pair_bounds
from onnxlip.certificate import LATE, LIMITED
from onnxlip.choices import METHODS, SEARCHES
from onnxlip.errors import NotLipschitzError, UsageError
from onnxlip.network import AffineBlock
from onnxlip.parallel import Progress
from onnxlip.report import BlockReport, Bound, Method, Pair, Report, norm_name
from onnxlip.report.chains import chain_reports
from onnxlip.report.classes import ClassReport, RadiiReport
from onnxlip.rules import Elementwise, Gain

if TYPE_CHECKING:
    from onnxlip.analysis import Analysis
    from onnxlip.bounds.lower.attained import Attained
    from onnxlip.bounds.portfolio import Portfolio
    from onnxlip.bounds.seqlip import SeqLip
    from onnxlip.norms.confidence import Uppers

__all__ = ["Bounding"]


class Bounding:
    """One run over an analysis: the upper bounds, cheapest first, then the lower one."""

    def __init__(self, of: Analysis, progress: Progress | None) -> None:
        self._of, self._progress = of, progress
        self._begun = time.perf_counter()
        self.methods: dict[str, Method] = {}
        self._why = ""
        self._rows: Any = None

    def report(self) -> Report:
        """The bounds of this network. Raises the errors of `analyze`."""
        from onnxlip import __version__

        self._refuse_wrong_use()
        self._refuse_infinite()
        self._refuse_rows()
        of, network = self._of, self._of.network
        norms = of.norms(self._progress)
        upper, pairs, shares = network_bound(network, norms, of.norm)
        if not math.isfinite(upper):
            raise NotLipschitzError(
                f"{of.model.name}: the bound exceeds the largest float64: the network's layers "
                "multiply to more than 1e308"
            )
        self.methods["autolip"] = Method(upper, "certified", time.perf_counter() - self._begun)
        beyond = self._beyond(norms)
        chains = self._sequential(norms)
        if chains is not None and chains.chains:
            pairs = pair_bounds(network, norms, of.norm, chains.shortcuts)
        bound = self._best()
        if bound.kind == "certified":  # one input and one output move no more than all do
            pairs = {ends: min(value, bound.value) for ends, value in pairs.items()}
        if of.confidence is not None:
            bound = self._with_confidence(norms, bound)
        classes, radii = self._compared(norms, bound)
        found = self._attained(beyond.reached if beyond else None)
        return Report(
            model=of.model.name,
            sha256=of.model.sha256,
            norm=norm_name(of.norm),
            domain="global",
            inputs={v.name: v.shape for v in of.graph.inputs},
            outputs={v.name: v.shape for v in of.graph.outputs},
            upper=bound,
            lower=Bound(found.value, found.method, "attained") if found else None,
            methods=self.methods,
            blocks=tuple(
                _block_report(block, norm, share)
                for block, norm, share in zip(network.blocks, norms, shares, strict=True)
            ),
            pairs=tuple(Pair(i, o, value) for (i, o), value in pairs.items()),
            chains=chain_reports(chains.chains) if chains else (),
            classes=classes,
            radii=radii,
            notes=(
                *of.graph.notes,
                *network.notes,
                *self._remarks(upper),
                *self._costs(norms),
                *(beyond.notes if beyond else ()),
                *(chains.notes if chains else self._why_not_sequential()),
                *self._doubts(bound.value),
            ),
            rules=self._foreign_rules(),
            provider="+".join(of.brackets.devices) or of.device,
            seed=of.seed,
            version=__version__,
            seconds=time.perf_counter() - self._begun,
        )

    # ── upper bounds ──────────────────────────────────────────────────────────────────────

    def _left(self) -> float | None:
        """Seconds of the timeout that are left; None where there is none."""
        if self._of.timeout is None:
            return None
        return max(0.0, self._of.timeout - (time.perf_counter() - self._begun))

    def _best(self) -> Bound:
        """The least certified bound, and the cheapest method that gave it."""
        name, method = min(
            ((n, m) for n, m in self.methods.items() if m.kind == "certified"),
            key=lambda item: item[1].value,
        )
        return Bound(method.value, name)

    def _beyond(self, norms: tuple[BlockNorm, ...]) -> Portfolio | None:
        """What else the method asks for and the budget allows, of the 2-norm."""
        of = self._of
        if of.norm != 2 or of.method in ("autolip", "seqlip"):
            return None
        from onnxlip.bounds.portfolio import Effort, portfolio
        from onnxlip.norms.workspace import Workspace

        work = Workspace(of.rule_set.lowerings, seed=of.seed)
        effort = Effort(of.method, self._left())
        found = portfolio(of, norms, work, effort, self._progress)
        for attempt in found.attempts:
            known = self.methods.get(attempt.method)
            if attempt.value < (known.value if known else math.inf):
                told = Method(attempt.value, attempt.kind, attempt.seconds)
                self.methods[attempt.method] = told
        of.__dict__["_multipliers"] = found.best
        return found

    def _sequential(self, norms: tuple[BlockNorm, ...]) -> SeqLip | None:
        """SeqLip of the network's chains, for the 2-norm, if it is wanted and there is time."""
        of, left = self._of, self._left()
        search = of.sequential
        if of.method == "seqlip" and search in ("auto", "none"):
            search = "sign-power"
        if search == "none" or of.norm != 2 or left == 0:
            return None
        if search == "auto" and of.method != "auto":
            return None
        from onnxlip.bounds.seqlip import SeqLipEffort, seqlip
        from onnxlip.norms.workspace import Workspace

        start = time.perf_counter()
        work = Workspace(of.rule_set.lowerings, of.device, of.seed)
        effort = SeqLipEffort(search, of.vectors)
        if left is not None:
            effort = replace(effort, seconds=left)
        found = seqlip(of.network, norms, work, effort, self._progress)
        took = time.perf_counter() - start
        if found.chains:
            self.methods["seqlip"] = Method(found.certified, "certified", took)
            self.methods["seqlip, estimate"] = Method(found.estimate, "estimate", took)
        return found

    def _compared(
        self, norms: tuple[BlockNorm, ...], bound: Bound
    ) -> tuple[ClassReport | None, RadiiReport | None]:
        """Differences of every two outputs, and radii of the rows of data, if asked for."""
        of = self._of
        if not of.pairs:
            return None, None
        from onnxlip.bounds.comparing import class_constants
        from onnxlip.bounds.radius import certified_radii

        certified = self._best() if bound.kind != "certified" else bound
        found = class_constants(
            of, norms, certified.value, of.multipliers, lambda: self._left() == 0, self._progress
        )
        upper = tuple(tuple(map(float, row)) for row in found.upper)
        which = tuple(tuple(map(int, row)) for row in found.which)
        told = ClassReport(upper, found.methods, which)
        if of.data is None:
            return told, None
        rows = certified_radii(of, of.data, found.upper)
        radii = tuple(r if math.isfinite(r) else None for r in rows.radii.tolist())
        predictions = tuple(map(int, rows.predictions))
        return told, RadiiReport(radii, predictions, rows.table, rows.labelled, rows.allowance)

    def _with_confidence(self, norms: tuple[BlockNorm, ...], bound: Bound) -> Bound:
        start = time.perf_counter()
        value = network_bound(self._of.network, self._probable(norms), self._of.norm)[0]
        took = time.perf_counter() - start
        self.methods["autolip, probabilistic"] = Method(value, "probabilistic", took)
        return Bound(value, "autolip", "probabilistic") if value < bound.value else bound

    def _probable(self, norms: tuple[BlockNorm, ...]) -> tuple[BlockNorm, ...]:
        """The same with upper ends that all hold with probability ≥ 1 − `confidence`."""
        from onnxlip.norms.confidence import probable_uppers

        assert self._of.confidence is not None
        uppers = iter(
            probable_uppers(
                self._of.items,
                self._of.brackets.blocks,
                self._of.rule_set.lowerings,
                self._of.confidence,
                self._of.effort,
                self._progress,
            )
        )
        return tuple(
            _with_uppers(norm, next(uppers)) if isinstance(block, AffineBlock) else norm
            for block, norm in zip(self._of.network.blocks, norms, strict=True)
        )

    # ── lower bounds ──────────────────────────────────────────────────────────────────────

    def _attained(self, reached: Attained | None) -> Attained | None:
        """As `below` says; None where nothing is to be sought, or can be evaluated."""
        from onnxlip.bounds.lower.portfolio import by_choice

        of = self._of
        found, self._why = by_choice(of, of.below, self._rows, self._progress)
        if of.below != "none" and reached is not None and reached.value > _value(found):
            found, self._why = reached, ""
        of.__dict__["_pair"] = found
        if found is not None:
            self.methods["attained"] = Method(found.value, "attained", found.seconds)
            self._free_pattern(found)
        return found

    def _why_not_sequential(self) -> list[str]:
        asked = self._of.sequential not in ("auto", "none")
        return ["SeqLip is for the 2-norm, and left out"] if asked and self._of.norm != 2 else []

    def _free_pattern(self, found: Attained) -> None:
        """Below which no bound can be that knows slopes by their intervals only."""
        from onnxlip.bounds.lower.portfolio import floor_of_blind_bounds

        start = time.perf_counter()
        value = floor_of_blind_bounds(self._of, self._of.below, found)
        if value is not None:
            took = time.perf_counter() - start
            self.methods["free pattern"] = Method(value, "estimate", took)

    # ── what is told besides, or refused ──────────────────────────────────────────────────

    def _doubts(self, upper: float) -> list[str]:
        """Why there is no lower bound, or what it says against the upper one."""
        remarks = [self._why] if self._why else []
        if self._of.attained is not None and self._of.attained.value > upper:
            remarks.append(
                "warning: the quotient attained is above the upper bound: a rule is wrong, or a "
                "runtime computes something else; onnxlip.testing.check_rule tests rules"
            )
        return remarks

    def _refuse_wrong_use(self) -> None:
        of = self._of
        if of.method not in METHODS:
            raise UsageError(f"unknown method '{of.method}': use {', '.join(METHODS)}")
        if of.sequential not in SEARCHES:
            raise UsageError(f"unknown seqlip '{of.sequential}': use {', '.join(SEARCHES)}")
        if of.method not in ("auto", "autolip") and of.norm != 2:
            raise UsageError(f"method '{of.method}' is for the 2-norm")

    def _refuse_infinite(self) -> None:
        """Before any norm is computed: nonlinear blocks that have no gain on this domain."""
        from onnxlip.graph import refuse

        nodes = {n.name: n for n in self._of.graph.nodes}
        bad = []
        for block in self._of.network.blocks:
            if isinstance(block, AffineBlock) or math.isfinite(largest_gain(block, self._of.norm)):
                continue
            form = self._of.graph.rules[block.nodes[-1]].rule.form
            reason = form.reason if isinstance(form, (Gain, Elementwise)) else "it has no bound"
            bad.append((nodes[block.nodes[-1]], reason))
        if bad:
            raise refuse(self._of.model, bad)
        if self._of.confidence is not None and self._of.norm != 2:
            raise UsageError("--confidence is for the 2-norm; the others are exact or certified")

    def _refuse_rows(self) -> None:
        """Rows of a wrong shape, before they are waited for."""
        if self._of.data is not None and (self._of.below != "none" or self._of.pairs):
            from onnxlip.bounds.radius import labelled

            self._rows = labelled(self._of.data, self._of.graph.inputs)[0]

    def _remarks(self, upper: float) -> list[str]:
        remarks = []
        if upper == 0:
            remarks.append("the output does not depend on the input: its Lipschitz constant is 0")
        if self._of.graph.held:
            names = ", ".join(f"'{v.name}'" for v in self._of.graph.held)
            remarks.append(f"held fixed, at any value: {names}")
        return remarks

    def _costs(self, norms: tuple[BlockNorm, ...]) -> list[str]:
        """What memory, time or missing kernels made worse than it could be."""
        remarks = []
        ends = [(b.name, n.whole) for b, n in zip(self._of.network.blocks, norms, strict=True)]
        for mark, why in (
            (LIMITED, f"--memory ({self._of.effort.memory >> 20} MiB) is too small"),
            (LATE, "--timeout had passed"),
        ):
            names = [name for name, b in ends if b.upper_method.endswith(mark)]
            if names:
                shown = ", ".join(f"'{name}'" for name in names[:3])
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                remarks.append(f"{why}: cheaper bounds for {shown}{more}")
        if self._of.brackets.fallbacks:
            what = "; ".join(self._of.brackets.fallbacks)
            remarks.append(f"warning: without a CUDA kernel, run on the CPU: {what}")
        if self._of.confidence is not None:
            remarks.append(
                "the probabilistic bound fails with probability at most "
                f"{self._of.confidence:g}, over all blocks together (union bound)"
            )
        return remarks

    def _foreign_rules(self) -> dict[str, str]:
        used = {e.rule.op_type: e.origin for e in self._of.graph.rules.values()}
        return {op: origin for op, origin in used.items() if not origin.startswith("onnxlip.ops.")}


def _value(found: Attained | None) -> float:
    return found.value if found else 0.0


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
