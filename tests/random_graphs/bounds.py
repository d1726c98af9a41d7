"""Every bound of one random network, beside what was attained at points and by free patterns.

Points are sought by onnxlip's own search for even seeds, and evaluated by reference runtimes that
share no code with it for odd ones.

`python -m tests.random_graphs.bounds FIRST LAST` looks at networks FIRST to LAST − 1, tells those
whose bounds are exceeded, how many there were, and how near each bound was come to.
"""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxlip import Analysis
from onnxlip.bounds.sdp.build import system
from onnxlip.bounds.sdp.closed import closed_forms
from onnxlip.bounds.sdp.interior import minimised
from onnxlip.bounds.sdp.proof import Certifier
from onnxlip.bounds.sdp.system import Floats, System
from onnxlip.errors import NotLipschitzError, UnsupportedError
from onnxlip.norms.workspace import Workspace
from tests.random_graphs.maker import Maker
from tests.random_graphs.networks import random_network
from tests.random_graphs.patterns import largest_pattern
from tests.random_graphs.quotients import Function, quotients

STARTS = 6  # of free patterns
EVALUATIONS = 300  # points that the lower bound looks at
FEW = 4  # steps of an interior-point method that is stopped
TOLERANCE = 1e-5
BLIND = frozenset(("scaled autolip", "liplt", "closed-form multipliers", "lipsdp-neuron"))
Proof = tuple[Floats, float]  # multipliers, and ρ with them
_ROUNDED = 1 - 1e-10  # what computing ‖J(D)‖ may have added


@dataclass(frozen=True)
class Outcome:
    """What came of one network.

    bounds: by method, which must be at least `attained`, the steepest quotient; blind: those among
    them which must be at least `free`, too, the largest ‖J(D)‖ of any D that relations allow.
    """

    refusal: str = ""
    bounds: Mapping[str, float] = field(default_factory=dict)
    blind: frozenset[str] = frozenset()
    attained: float = 0.0
    free: float = 0.0
    kinds: frozenset[str] = frozenset()

    @property
    def exceeding(self) -> list[str]:
        """What is wrong, in words."""
        return [
            f"{name}: bound {bound:.12g}, {what} {value:.12g}"
            for name, bound in self.bounds.items()
            for what, value in (("attained", self.attained), ("free pattern", self.free))
            if (what == "attained" or name in self.blind) and not bound >= value * _ROUNDED
        ]


def check(seed: int) -> Outcome:
    """Bound the network of this seed by every method, and attack it from below."""
    made = random_network(seed)
    analysis = Analysis(
        made.model(made.outputs), provider="cpu", below="none", sequential="sign-power", seed=seed
    )
    try:
        report = analysis.report()
    except (NotLipschitzError, UnsupportedError) as error:
        return Outcome(f"{type(error).__name__}: {error}")
    assert report.upper is not None
    work = Workspace(analysis.rule_set.lowerings)
    written = system(analysis.network, analysis.norms(), work)
    blind = dict(_blind(written, seed))
    told = {n: m.value for n, m in report.methods.items() if m.kind == "certified"}
    bounds = {"portfolio": report.upper.value, **told, **blind}
    rng = np.random.default_rng(seed)
    free = largest_pattern(written, STARTS, rng)
    if seed % 2:
        attained = _steepest(made, min(bounds.values()), rng)
    else:
        methods = ("random", "evolution")
        attained = analysis.lower(evaluations=EVALUATIONS, methods=methods).value
    kinds = frozenset(type(node.relation).__name__ for node in written.nonlinear)
    return Outcome("", bounds, BLIND.union(blind), attained, free, kinds)


def _blind(written: System, seed: int) -> Iterator[tuple[str, float]]:
    """Bounds that know relations alone; those by multipliers are of Jᵀ for every other seed."""
    yield "norms", written.bound
    yield "norms of Jᵀ", written.transposed().bound
    of = written.transposed() if seed // 2 % 2 else written
    certifier = Certifier(of)
    forms = {name: (f.multipliers, f.rho) for name, f in closed_forms(of).items()}
    for name, (multipliers, rho) in {**forms, **_optimised(of, forms)}.items():
        yield name, certifier.proved(multipliers, rho)


def _optimised(of: System, forms: Mapping[str, Proof]) -> dict[str, Proof]:
    """What the interior-point method ends with, if it may and if it may not."""
    if not forms:
        return {}
    best, _ = min(forms.values(), key=lambda form: form[1])
    begun = iter(range(FEW))
    counts = [node.relation.count for node in of.nonlinear]
    layers = np.repeat(np.arange(len(counts)), counts)
    stop = {"late": lambda: next(begun, None) is None}
    searches = {
        f"LipSDP, {FEW} steps": minimised(of, best, TOLERANCE, **stop),
        "LipSDP": minimised(of, best, TOLERANCE),
    }
    if "scalar" in forms:
        searches["LipSDP-Layer"] = minimised(of, forms["scalar"][0], TOLERANCE, ties=layers)
    return {n: (found.multipliers, found.rho) for n, found in searches.items() if found is not None}


def _steepest(made: Maker, bound: float, rng: np.random.Generator) -> float:
    """The largest quotient that reference runtimes give, less what rounding may have added."""
    f = Function(made.runners, made.values, made.inputs, made.outputs)
    table = np.full((len(made.inputs), len(made.outputs)), bound)
    tried = quotients(f, {2.0: (bound, table)}, rng, points=1, climbs=2)
    whole = [q.value / (1 + 2e-6) - q.noise for q in tried if q.between == "all"]
    return max(whole, default=0.0)


class Tally:
    """What many networks came to."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.ratios: dict[str, list[tuple[float, float]]] = {}

    def add(self, outcome: Outcome) -> None:
        kind = outcome.refusal.partition(":")[0]
        self.seen[f"refused by {kind}" if kind else "bounded"] += 1
        self.seen.update(f"with {kind}" for kind in outcome.kinds)
        self.seen["bounds exceeded"] += bool(outcome.exceeding)
        for name, bound in outcome.bounds.items():
            if 0 < bound < math.inf:
                pair = (outcome.attained / bound, outcome.free / bound)
                self.ratios.setdefault(name, []).append(pair)
            self.seen[f"without a bound by {name}"] += bound == math.inf

    def __str__(self) -> str:
        lines = [", ".join(f"{what}: {count}" for what, count in self.seen.items() if count)]
        lines.append("")
        lines.append(
            "| bound | networks | attained/bound, largest | free/bound, largest | median |"
        )
        lines.append("|---|---|---|---|---|")
        for name, pairs in self.ratios.items():
            attained, free = np.array(pairs).T
            cells = f"{attained.max():.9f} | {free.max():.9f} | {np.median(free):.4f}"
            lines.append(f"| {name} | {len(pairs)} | {cells} |")
        return "\n".join(lines)


def main(first: int, last: int) -> int:
    tally, start = Tally(), time.perf_counter()
    for seed in range(first, last):
        if seed % 100 == 0:
            print(f"from seed {seed} on, {time.perf_counter() - start:.0f} s", flush=True)
        if seed % 1000 == 0 and seed > first:
            print(f"so far: {tally}", flush=True)
        try:
            outcome = check(seed)
        except Exception as error:
            tally.seen["crashes"] += 1
            print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
            traceback.print_exc(limit=-4)
            continue
        tally.add(outcome)
        for words in outcome.exceeding:
            print(f"seed {seed}: {words}", flush=True)
    print(tally)
    return int(bool(tally.seen["crashes"] or tally.seen["bounds exceeded"]))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
