"""Better multipliers where the interior-point method would take too long: first order, in log T.

With θ = log T, ρ_μ = τ log Σ e^{λ_i/τ} over the eigenvalues of what is left at the inputs
(`elimination`), τ = μρ, it minimises

    log ρ_μ − (μ/n) Σ_k log det(I − W^{−½}PW^{−½}),

n the rows of all u, for falling μ, by L-BFGS: ρ has kinks where eigenvalues meet, and without the
barrier steps end where W − P is nearly singular, up to a factor 2 away (theory.md, section 4).
Its gradient is exact and takes about as long as the value: a walk forward of as many columns as
tensors are wide, the noise of `elimination`.

First the multipliers of a node, and those tied by the caller, only scale together: far fewer
variables come close in few steps. Every T that it looks at is feasible; the best one is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from onnxlip.bounds.lbfgs import Value, path
from onnxlip.bounds.sdp.elimination import Elimination
from onnxlip.bounds.sdp.relations import Places
from onnxlip.bounds.sdp.system import Floats, System, joined

__all__ = ["Descent", "cost", "minimised"]

_STAGES = (0.1, 0.01, 0.001, 0.0003)  # μ
_MARGIN = 1.02  # the start may be at the edge
_TIED, _FREE = 12, 100  # steps
_LONGEST = 1.5  # the largest change of an entry of θ in a step
_LEAST = 1e-9  # weights of eigenvectors that are left out
_GAIN = 0.005  # of μ: a stage ends with a step that gains less
_MOST = 8  # eigenvectors, where not all of them are computed


@dataclass(frozen=True, eq=False)
class Descent:
    """multipliers: the best seen, feasible; rho: what they prove, in floating point; steps: of the
    search."""

    multipliers: Floats
    rho: float
    steps: int


def cost(system: System) -> float:
    """Floating-point operations of one evaluation, roughly: for each node of n rows, read together
    with m entries, n³ (factor and inverse) and 2n²m + 2nm² there and back."""
    total, behind = 0.0, float(system.width)
    for node in system.nonlinear:
        n = float(node.relation.rows)
        total += n**3 + 4.0 * n * behind * (n + behind)
        behind = n
    return total


def minimised(
    system: System,
    start: Floats,
    *,
    ties: Places | None = None,
    tolerance: float = 1e-4,
    late: Callable[[], bool] = lambda: False,
    progress: Callable[[int, float], None] | None = None,
) -> Descent:
    """Multipliers at least as good as `start`, which is feasible, (system.multipliers,).

    ties: numbers of groups, (system.multipliers,), whose multipliers first scale together. It ends
    where a stage gains less than the relative tolerance (of √ρ), or when late() says so, of which
    it asks after every step. progress(steps, ρ). ρ = ∞ where the start is not feasible.
    """
    search = _Search(system, late, progress)
    with np.errstate(all="ignore"):
        first = search.plan.given(start)
        if first is None:
            return Descent(start, math.inf, 0)
        search.best = Descent(start, first.top()[0], 0)
        del first
        if system.multipliers and search.best.rho > 0:
            search.run(np.log(start * _MARGIN), ties, tolerance)
    return search.best


class _Search:
    def __init__(
        self,
        system: System,
        late: Callable[[], bool],
        progress: Callable[[int, float], None] | None,
    ) -> None:
        self.plan = Elimination(system)
        self.best = Descent(np.zeros(0), math.inf, 0)
        self._late, self._progress = late, progress
        self._rows = joined(
            [
                np.bincount(n.relation.quadratic.group, minlength=n.relation.count).astype(float)
                for n in system.nonlinear
            ]
        )

    def run(self, theta: Floats, ties: Places | None, tolerance: float) -> None:
        """All stages from θ on."""
        counts = [n.relation.count for n in self.plan.system.nonlinear]
        for groups in (np.repeat(np.arange(len(counts)), counts), ties):
            if groups is not None and not self._late():
                theta = self._stage(theta, groups, _STAGES[0], _TIED)
        free = np.arange(len(theta))
        for mu in _STAGES:
            before = self.best.rho
            if self._late():
                return
            theta = self._stage(theta, free, mu, _FREE)
            if mu < _STAGES[1] and before - self.best.rho < 2 * tolerance * self.best.rho:
                return

    def _stage(self, theta: Floats, groups: Places, mu: float, steps: int) -> Floats:
        """θ at the end of L-BFGS over shifts that the entries of each group share."""
        tau, shift = mu * self.best.rho, np.zeros(int(groups.max()) + 1)
        points = path(
            lambda x: self._value(theta + x[groups], groups, tau, mu),
            shift,
            steps=steps,
            longest=_LONGEST,
            least_gain=_GAIN * mu,
        )
        for shift, rho in points:
            count = self.best.steps + 1
            if rho < self.best.rho:
                self.best = Descent(np.exp(theta + shift[groups]), rho, count)
            else:
                self.best = replace(self.best, steps=count)
            if self._progress is not None:
                self._progress(count, self.best.rho)
            if self._late():
                break
        return theta + shift[groups]

    def _value(self, theta: Floats, groups: Places, tau: float, mu: float) -> Value | None:
        """None where the multipliers are not feasible."""
        t = np.exp(theta)
        found = self.plan.given(t)
        if found is None:
            return None
        values, vectors = found.leading(_MOST)
        rho, log_det = float(values[-1]), found.log_det()
        if not (0 < rho < math.inf and math.isfinite(log_det)):
            return None
        shares = np.exp((values - rho) / tau)
        smooth = rho + tau * math.log(float(shares.sum()))
        shares /= shares.sum()
        kept = shares > _LEAST
        nu = mu / self.plan.system.neurons
        rates = found.rates(vectors[:, kept], shares[kept] / smooth, noise=nu)
        slopes = t * rates + nu * self._rows
        gradient = np.zeros(int(groups.max()) + 1)
        np.add.at(gradient, groups, slopes)
        return Value(math.log(smooth) - nu * log_det, gradient, rho)
