"""One random graph put to the test: what onnxlip says of it, beside the steepest quotients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

import onnxlip
from onnxlip.errors import ModelError, NotLipschitzError, UnsupportedError
from tests.random_graphs.graphs import random_graph
from tests.random_graphs.quotients import Function, Quotient, quotients
from tests.random_graphs.runner import Array

NORMS = (1.0, 2.0, math.inf)


@dataclass(frozen=True)
class Outcome:
    """What came of one graph. bounds: by p, where there are any; refusal: why, where not."""

    model: onnx.ModelProto
    bounds: dict[float, tuple[float, Array]]
    refusal: str = ""
    quotients: Sequence[Quotient] = field(default=(), repr=False)

    @property
    def exceeding(self) -> list[str]:
        """Quotients that no certified bound may be below."""
        return [str(q) for q in self.quotients if q.exceeds]

    @property
    def reached(self) -> float:
        """The largest quotient of all inputs and outputs together, as a part of its bound."""
        whole = [q for q in self.quotients if q.between == "all" and q.bound]
        return max((q.value / q.bound for q in whole), default=0.0)


def check(seed: int) -> Outcome:
    """Analyse the graph of this seed and seek quotients above its bounds.

    A refusal with a reason is an answer too. A RuleError is none: it says that a rule errs.
    """
    made = random_graph(seed)
    model = made.model(made.outputs)
    chosen = () if made.sources is made.inputs else made.sources
    bounds: dict[float, tuple[float, Array]] = {}
    refusal = ""
    for p in NORMS:
        try:
            report = onnxlip.analyze(model, norm=p, inputs=chosen, provider="cpu", lower="none")
        except (ModelError, NotLipschitzError, UnsupportedError) as error:
            refusal = f"{type(error).__name__}: {error}"
            continue
        pairs = {(pair.input, pair.output): pair.upper for pair in report.pairs}
        # An input that is left out has no way to the outputs: a claim that is put to the test too.
        table = np.array([[pairs.get((i, o), 0.0) for o in made.outputs] for i in made.sources])
        assert report.upper is not None
        bounds[p] = (report.upper.value, table)
    f = Function(made.runners, made.values, made.sources, made.outputs)
    return Outcome(model, bounds, refusal, quotients(f, bounds, np.random.default_rng(seed)))
