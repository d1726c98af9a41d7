"""The ideal scenario: how far SeqLip falls below AutoLip with depth, for random singular vectors.

    MLP(2, 1, [100]·x), singular values (1, r, r, …), U_k and V_k uniformly random orthogonal

AutoLip is 1 by construction, so SeqLip is the product of its x pairs' values. Nothing is trained,
and pairs are searched with all singular vectors. The networks of one seed share their first layers,
so that a pair within is searched once for all depths; each depth has a last layer of its own.

Two conventions: the paper's Σ̃ = Σ at both ends, Σ^½ within; and the authors' code, Σ^½ everywhere
(and √(s_first s_last) in front, which is 1 here). They differ in the first pair alone, as the
last layer's one singular value is 1. The code also has V where the formula has Vᵀ, a slip which
changes nothing here, since Vᵀ is as random as V.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from benchmarks.paper import figures
from benchmarks.paper.published import IDEAL
from benchmarks.paper.tables import number, table
from onnxlip.bounds.pairs.problem import Pair
from onnxlip.bounds.pairs.search import estimate

__all__ = ["measure", "part"]

Floats = npt.NDArray[np.float64]

_WIDTH = 100
_DEPTHS = range(1, 11)
_RATIOS = (0.5, 0.1, 0.01)
_SEEDS = 30
_STARTS = 6  # of each search; 32 found nothing better in trials
_CONVENTIONS = ("paper", "code")


def measure(options: Any) -> dict[str, Any]:
    """ratios[r][convention] = one row for each seed: SeqLip/AutoLip at every depth."""
    seeds = range(2 if options.quick else _SEEDS)
    depths = range(1, 4) if options.quick else _DEPTHS
    found: dict[str, Any] = {}
    with threadpool_limits(limits=1, user_api="blas"):
        for r in _RATIOS:
            rows = [_networks(r, seed, len(depths)) for seed in seeds]
            found[str(r)] = {key: [row[key] for row in rows] for key in rows[0]}
            options.tell(f"ideal: r = {r}")
    return {"depths": list(depths), "seeds": len(seeds), "ratios": found}


def _networks(r: float, seed: int, depth: int) -> dict[str, list[float]]:
    """SeqLip of the networks with 1 … depth hidden layers, by convention, with the last pair and
    without it."""
    rng = np.random.default_rng([seed, 2018])
    values = np.full(_WIDTH, r)
    values[0] = 1.0
    root = np.sqrt(values)
    inner = {
        "paper": _orthogonal(rng)[:, :2] * values[:2],
        "code": np.zeros((_WIDTH, 2)),
    }
    inner["code"] = inner["paper"] / values[:2] * root[:2]
    product = dict.fromkeys(_CONVENTIONS, 1.0)
    found: dict[str, list[float]] = {}
    for _ in range(depth):
        last = rng.standard_normal((1, _WIDTH))
        last /= np.linalg.norm(last)
        outer, following = root[:, None] * _orthogonal(rng), _orthogonal(rng) * root
        for key in _CONVENTIONS:
            found.setdefault(f"{key}, less one", []).append(product[key])
            found.setdefault(key, []).append(product[key] * _value(last, inner[key]))
        if len(found["paper"]) < depth:
            product = _grown(product, outer, inner)
        inner = dict.fromkeys(_CONVENTIONS, following)
    return found


def _grown(product: dict[str, float], outer: Floats, inner: dict[str, Floats]) -> dict[str, float]:
    same = inner["paper"] is inner["code"]
    paper = _value(outer, inner["paper"])
    code = paper if same else _value(outer, inner["code"])
    return {"paper": product["paper"] * paper, "code": product["code"] * code}


def _value(outer: Floats, inner: Floats) -> float:
    n = outer.shape[1]
    pair = Pair(outer, np.ascontiguousarray(inner), np.zeros(n), np.ones(n))
    return estimate(pair, starts=_STARTS).value


def _orthogonal(rng: np.random.Generator) -> Floats:
    """Uniformly distributed: QR with the signs of R's diagonal (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((_WIDTH, _WIDTH)))
    return np.asarray(q * np.sign(np.diag(r)))


def part(result: dict[str, Any], folder: Any) -> str:
    """This experiment's section of the page; with a folder, its figure too."""
    depths, lines = result["depths"], []
    for r, kinds in result["ratios"].items():
        for x in depths:
            every, fewer = (np.array(kinds[k])[:, x - 1] for k in ("paper", "paper, less one"))
            code = np.array(kinds["code, less one"])[:, x - 1]
            lines.append(
                [
                    r,
                    str(x),
                    _band(every),
                    _band(fewer),
                    _band(code),
                    number(IDEAL[float(r)][x - 1]),
                    number(math.pi ** -(x - 1)),
                ]
            )
    if folder is not None:
        figures.ideal(result, folder / "ideal.svg")
    head = ["r", "x", "all x pairs", "x − 1 pairs", "x − 1 pairs, Σ^½ at the ends too"]
    return _TEXT.format(
        seeds=result["seeds"], table=table([*head, "paper", "π^−(x−1)"], lines), **_facts(result)
    )


def _band(values: Floats) -> str:
    low, high = np.quantile(values, (0.1, 0.9))
    return f"{number(values.mean())} ({number(low)}–{number(high)})"


def _facts(result: dict[str, Any]) -> dict[str, str]:
    """What the text says of the numbers."""
    first = [np.mean(kinds["paper"], axis=0)[0] for kinds in result["ratios"].values()]
    inside = total = 0
    for r, kinds in result["ratios"].items():
        low, high = np.quantile(kinds["code, less one"], (0.1, 0.9), axis=0)
        for k, x in enumerate(result["depths"][1:], 1):
            total += 1
            inside += bool(low[k] <= IDEAL[float(r)][x - 1] <= high[k])
    last = {
        r: np.mean(np.array(k["paper"]) / np.array(k["paper, less one"]), axis=0)[-1]
        for r, k in result["ratios"].items()
    }
    rate = {
        r: np.mean(np.log(k["paper, less one"]), axis=0)[-1] for r, k in result["ratios"].items()
    }
    steps = max(1, result["depths"][-1] - 1)
    factors = ", ".join(f"{math.exp(v / steps):.3f} for r = {r}" for r, v in rate.items())
    return {
        "first": f"{min(first):.3f} to {max(first):.3f}",
        "inside": str(inside),
        "total": str(total),
        "factors": factors,
        "last": ", ".join(f"{v:.2f} (r = {r})" for r, v in last.items()),
    }


_TEXT = """\
## 1. Ideal scenario

MLP(2, 1, [100]·x) with singular values (1, r, r, …) and random orthogonal singular vectors: AutoLip
is 1, and the table has SeqLip (the estimate: sign power with one-flip polish), as mean and 10–90 %
band of {seeds} seeds. A network with x hidden layers has x pairs.

![SeqLip/AutoLip against depth](paper/ideal.svg)

{table}

**What differs.** With one hidden layer there is one pair, and its value is near 1/π = 0.318 (here
{first} on average), whatever r may be, because the last layer has but one singular value. The
paper's curve is 1 there, and from x = 2 on it is what the first x − 1 pairs give, without the one
before the last layer; the limit that it is drawn with, π^−(x−1), counts the same way. So the
columns with x − 1 pairs are to be compared with it; the whole network, which the theorem speaks of,
has one pair more, a further factor of {last}. The paper shows single draws: {inside} of its {total}
values from x = 2 on lie within the 10–90 % band of our {seeds}, which would hold for four in five
of them if the draws were alike; those outside lie on both sides. The convention of the authors'
code moves the first pair only (its second singular value becomes √r instead of r), by less than the
third digit; V for Vᵀ, a slip of the same code, changes nothing in distribution. Each pair within
multiplies by about {factors}; 1/π would be reached for r → 0 and infinite width only: with 100
neurons the larger of the two signs' parts is taken, and it is above the mean.
"""
