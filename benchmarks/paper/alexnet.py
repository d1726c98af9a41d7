"""AlexNet at full size: SeqLip's estimate over all seven pairs, and what it costs.

torchvision's weights cannot be had here, so the network has seeded weights of two kinds
(`benchmarks.norms.weights`): random ones, and ones whose singular values fall like a power, as
trained ones do. Max-pools lie between three pairs of layers: their overlapping windows multiply by
2 each, and a pair whose slopes are picks has them inside.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks.paper import child
from benchmarks.paper.published import ALEXNET, ALEXNET_NORMS
from benchmarks.paper.tables import number, table

__all__ = ["job", "measure", "part"]

_KINDS = ("power-law", "random")
_VECTORS = (50, 200)
_TIMEOUT = 1800.0  # seconds for one of them


def measure(options: Any) -> dict[str, Any]:
    """runs = one record for each kind of weights and number of singular vectors."""
    runs: list[dict[str, Any]] = []
    for vectors in (10,) if options.quick else _VECTORS:
        for kind in _KINDS[:1] if options.quick else _KINDS:
            path = child.run("build", kind=kind, seed=0, cache=str(options.cache))["path"]
            options.tell(f"alexnet: {kind} weights, {vectors} vectors")
            try:
                found = child.run("alexnet", timeout=_TIMEOUT, model=path, vectors=vectors)
            except child.JobError as error:
                found = {"failed": str(error)}
            runs.append({"kind": kind, "vectors": vectors, **found})
            options.keep({"runs": runs})
    return {"runs": runs}


def job(model: str, vectors: int) -> dict[str, Any]:
    """The job of a process of its own."""
    from benchmarks.paper import measure as measured
    from onnxlip import Analysis
    from onnxlip.bounds.autolip import network_bound
    from onnxlip.bounds.seqlip import SeqLipEffort

    analysis = Analysis(Path(model))
    product = network_bound(analysis.network, analysis.norms(), 2.0)[0]
    effort = SeqLipEffort("sign-power", vectors=vectors, certify=False)
    found, seconds = measured.chains(analysis, effort)
    pairs = [
        {
            "before": pair.before,
            "after": pair.after,
            "size": pair.size,
            "vectors": list(pair.vectors),
            "autolip": pair.autolip,
            "estimate": pair.estimate,
            "search": pair.search,
            "seconds": pair.seconds,
        }
        for chain in found.chains
        for pair in chain.pairs
    ]
    return {
        "autolip": product,
        "estimate": found.estimate,
        "pairs": pairs,
        "left": found.left,
        "seqlip seconds": seconds,
    }


def part(result: dict[str, Any], folder: Any) -> str:
    """This experiment's section of the page."""
    runs = [run for run in result["runs"] if "failed" not in run]
    first = [
        [
            run["kind"],
            str(run["vectors"]),
            number(run["autolip"]),
            number(run["estimate"]),
            number(run["autolip"] / run["estimate"], 3),
            f"{run['seconds']:.0f}",
            f"{run['processor_s']:.0f}",
            f"{run['peak_mib'] / 1024:.1f}",
        ]
        for run in runs
    ]
    theirs = ALEXNET["autolip"], ALEXNET["greedy"]
    first.append(
        ["paper", "200", *map(number, theirs), number(theirs[0] / theirs[1], 3), "–", "–", "–"]
    )
    head = ["weights", "vectors", "AutoLip", "SeqLip, estimate", "AutoLip / SeqLip"]
    head += ["s", "processor s", "peak GiB"]
    pairs = [
        [f"{p['before']} – {p['after']}", str(p["size"])]
        + [number(p["estimate"] / p["autolip"], 3) for p in _same(runs, k)]
        for k, p in enumerate(runs[0]["pairs"] if runs else [])
    ]
    kinds = [f"{run['kind']}, {run['vectors']}" for run in runs]
    failed = [run for run in result["runs"] if "failed" in run]
    lost = "".join(f"\n{r['kind']}, {r['vectors']} vectors: {r['failed']}.\n" for r in failed)
    return _TEXT.format(
        table=table(head, first),
        pairs=table(["pair", "slopes", *kinds], pairs) + "\n" + lost,
        product=number(math.prod(ALEXNET_NORMS)),
        pooled=number(8 * math.prod(ALEXNET_NORMS)),
        over=number(math.prod(ALEXNET_NORMS) / ALEXNET["autolip"], 2),
        gain=number(theirs[0] / theirs[1], 2),
    )


def _same(runs: list[dict[str, Any]], k: int) -> list[dict[str, Any]]:
    return [run["pairs"][k] for run in runs]


_TEXT = """\
## 4. AlexNet

At 224×224, all seven pairs, pools included; seeded weights (`benchmarks/norms/weights.py`), as
torchvision's cannot be had offline. Estimates by sign power; a pair
may take 60 s (the three runs before random weights with 200 vectors had no such limit for pools).
Seconds and memory are those of a process of its own that reads the file, proves the norms and
searches the pairs, on a machine of two cores that may have had other work to do:

{table}

Each pair's estimate over its AutoLip value, by weights and vectors:

{pairs}

**What differs.** The weights: absolute values say nothing, and what SeqLip takes off depends on how
singular vectors of neighbours lie to each other. In seeded weights they are independent, so that a
pair of dense layers comes to about 1/π; in trained ones they need not be, and the paper's whole
factor over seven pairs is {gain}, 1.3 for each. Pools: each of the three overlapping max-pools
doubles AutoLip here (a factor of 8, which the paper leaves out), and a pair with a pool searches
the picks too, and finds little use for the overlap. The paper's own AutoLip cannot be right for
torchvision's weights: the product of their eight spectral norms is {product}, {over} times the
published 3.62e7, and with the pools {pooled}; so neither published figure is to be taken as sound.
All of SeqLip here is an estimate, and twice from below: a search for a maximum, over the leading
singular vectors only, which matters most for random weights, whose singular values hardly fall;
more vectors raise it. What is certified for such a network is AutoLip.
"""
