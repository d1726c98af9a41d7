"""A network as a linear map with feedback: what `onnxlip.verify` proves things of.

Increments t(a) − t(b) of all tensors; for every nonlinear block

    u = S z + P w,   ‖w_j‖ ≤ ‖g_j‖ for groups j of entries,   g = R z,

Slopes in [α, β]: c = (α + β)/2 rounded, r ≥ max(β − c, c − α): S = diag c, R = diag r, P = I, the
    last two without fixed slopes, α = β. By the mean value theorem |u_i − c_i z_i| ≤ r_i |z_i|.
A maximum over windows of m entries: u = Σ d_i z_i with d in the simplex. With s the entries' mean,
    u − s = Σ (d_i − 1/m)(z_i − s) and ‖d − 1/m‖² = ‖d‖² − 1/m ≤ 1 − 1/m; so S takes means, and
    R z = √(1 − 1/m) (z_i − s)_i; a window is a group.
Any other op: ‖u‖ ≤ Σ γ_i‖z_i‖ ≤ √Σ(γ_i/s_i)² ‖(s_i z_i)_i‖ for all s_i > 0; or its joint gain over
    the least s_i. S = 0, R = gain · (s_i)_i, P = I, one group.

and (y, g) = H (x, w) for the rest, which is linear. Every block of H comes with its error
(`enclosed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.sparse as sp

from onnxlip.enclosed import (
    Enclosed,
    Floats,
    VerificationError,
    float_up,
    gamma,
    proved_norm,
    root,
    written,
)
from onnxlip.lowering import Lowerings
from onnxlip.network import AffineBlock, Block, GainBlock, Network, SlopeBlock
from onnxlip.proofs import Claim

__all__ = ["Form", "Segment"]

Rows = dict[int, Enclosed]  # of one tensor, by columns of H


@dataclass(eq=False)
class Segment:
    """Entries of y or g (rows of H), or of x or w (columns): how many, of which nonlinear block
    (None: of y or x), their groups, and β."""

    size: int
    block: int | None
    group: Any
    reach: Fraction


class Form:
    """H of a network, with bounds of all tensors.

    claims: norms to be proved, of every affine block that matters; scales: of nonlinear blocks with
    several inputs; whole: whether H is wanted, and not bounds alone. groups: (name, groups) of
    each nonlinear block; radii: of its groups, ‖w_j‖ ≤ radius · ‖what group j reads‖. Raises
    VerificationError where a claim is false, or something too large.
    """

    def __init__(
        self,
        network: Network,
        lowerings: Lowerings,
        claims: Sequence[Claim],
        scales: Mapping[str, Sequence[float]],
        whole: bool,
    ) -> None:
        self._network, self._lowerings, self._whole = network, lowerings, whole
        self._claims, self._scales = {c.tensor: c for c in claims}, scales
        self.bounds = dict.fromkeys(network.inputs, Fraction(1))
        self.groups: list[tuple[str, int]] = []
        self.radii: list[Floats] = []
        self.rows: list[Segment] = []
        self.columns = [Segment(network.sizes[t], None, None, Fraction(1)) for t in network.inputs]
        self.blocks: dict[tuple[int, int], Enclosed] = {}
        units = [Enclosed(sp.eye_array(c.size, format="csr")) for c in self.columns]
        self._known = {t: {k: units[k]} for k, t in enumerate(network.inputs)}
        self._steps: list[tuple[str, str, Fraction]] = []  # (output, input, norm), for the adjoint
        self._ends: list[str] = []  # the output of each nonlinear block
        for block in _needed(network):
            for target in block.outputs:
                if target in network.inputs:
                    continue  # an interior tensor that was chosen as an input stays one
                if isinstance(block, AffineBlock):
                    self._affine(block)
                elif isinstance(block, SlopeBlock):
                    self._slopes(block)
                else:
                    self._gain(block, target)
        for t in network.outputs:
            self._row(network.sizes[t], None, None, self._known.get(t, {}))
        self._adjoint_bounds()

    @property
    def product(self) -> Fraction:
        """‖y‖² for ‖x‖ = 1, by bounds of tensors."""
        found = (self.bounds.get(t, Fraction(0)) ** 2 for t in self._network.outputs)
        return sum(found, Fraction(0))

    def _affine(self, block: AffineBlock) -> None:
        claim, maps = self._claims.get(block.output), block.maps
        if claim is None or len(claim.each) != len(maps):
            raise VerificationError(f"the certificate lacks norms of block '{block.name}'")
        if min((*claim.each, claim.joint or 0.0)) < 0:
            raise VerificationError(f"a norm claimed of block '{block.name}' is negative")
        parts = [written(a, self._lowerings, block.name) for a in maps]
        norms = [proved_norm([p], c, block.name) for p, c in zip(parts, claim.each, strict=True)]
        inner = [self.bounds[t] for t in block.inputs]
        terms = [n * b for n, b in zip(norms, inner, strict=True)]
        ways = [sum(terms, Fraction(0))]
        if len(parts) > 1:
            if claim.joint is not None:
                joint = proved_norm(parts, claim.joint, block.name)
                ways.append(joint * root(sum((b * b for b in inner), Fraction(0))))
            used = sum((abs(p.matrix).sum(axis=1) != 0).astype(int) for p in parts)
            if np.max(used, initial=0) <= 1:  # they write to entries of their own
                slips = sum((p.error * b for p, b in zip(parts, inner, strict=True)), Fraction(0))
                ways.append(root(sum((t * t for t in terms), Fraction(0))) + slips)
        self.bounds[block.output] = min(ways)
        self._sum(block.output, list(zip(parts, norms, block.inputs, strict=True)))

    def _slopes(self, block: SlopeBlock) -> None:
        (source,), (target,), (alpha, beta) = block.inputs, block.outputs, block.flat()
        top = max(np.max(np.abs(alpha), initial=0.0), np.max(np.abs(beta), initial=0.0))
        if not np.isfinite(top):
            raise VerificationError(f"block '{block.name}' has no finite slope")
        centre = np.where(alpha < beta, 0.5 * (alpha + beta), alpha)
        radius = np.nextafter(np.maximum(beta - centre, centre - alpha), np.inf)
        free = np.flatnonzero(alpha < beta)
        choose = sp.eye_array(len(centre), format="csr")[free]
        straight = Enclosed(sp.csr_array(sp.diags_array(centre)))
        reach = Enclosed(sp.csr_array(sp.diags_array(radius))[free])
        self.bounds[target] = Fraction(float(top)) * self.bounds[source]
        bent = [(source, reach)] if len(free) else []
        self._bend(block, target, straight, bent, choose.T, np.arange(len(free)), radius[free])

    def _gain(self, block: GainBlock, target: str) -> None:
        sizes, bounds = self._network.sizes, [self.bounds[t] for t in block.inputs]
        gains = [block.gain(t, 2.0) for t in block.inputs]
        joint = block.joint(2.0)
        if not all(map(np.isfinite, gains)):
            raise VerificationError(f"block '{block.name}' has no finite gain")
        exact = [*map(Fraction, gains)]
        ways = [sum((g * b for g, b in zip(exact, bounds, strict=True)), Fraction(0))]
        if np.isfinite(joint):
            ways.append(Fraction(joint) * root(sum((b * b for b in bounds), Fraction(0))))
        self.bounds[target] = min(ways)
        if len(block.inputs) == len(block.outputs) == 1 and block.form.picks is not None:
            self._windows(block, block.form.picks(block.node))
            return
        scales = [*map(Fraction, self._scales.get(block.name, [1.0] * len(gains)))]
        if len(scales) != len(gains) or min(scales) <= 0:
            raise VerificationError(f"block '{block.name}' needs {len(gains)} positive scales")
        shares = ((g / s) ** 2 for g, s in zip(exact, scales, strict=True))
        gain = root(sum(shares, Fraction(0))) if len(gains) > 1 else exact[0] / scales[0]
        if np.isfinite(joint):
            gain = min(gain, Fraction(joint) / min(scales))
        bent = []
        for t, scale in zip(block.inputs, scales, strict=True):
            near = float_up(gain * scale)
            bent.append((t, Enclosed(sp.csr_array(sp.eye_array(sizes[t]) * near))))
        choose = sp.eye_array(sizes[target], format="csr")
        group = np.zeros(sizes[target], int)
        self._bend(block, target, None, bent, choose, group, np.array([float_up(gain)]))

    def _windows(self, block: GainBlock, picks: Any) -> None:
        n, outputs = self._network.sizes[block.inputs[0]], len(picks)
        pairs = np.unique([(k, i) for k, row in enumerate(picks) for i in row if i >= 0], axis=0)
        window, entry = pairs.reshape(-1, 2).T
        m = np.maximum(np.bincount(window, minlength=outputs), 1).astype(float)
        means = sp.csr_array((1.0 / m[window], (window, entry)), shape=(outputs, n))
        ones = np.ones(len(entry))
        each = sp.csr_array((ones, (np.arange(len(entry)), entry)), shape=(len(entry), n))
        around = each - means[window]
        apart = sp.csr_array(sp.diags_array(np.sqrt(1.0 - 1.0 / m[window])) @ around)
        straight = Enclosed(means, gamma(1) * Enclosed(means).size)
        slips = gamma(8) * (Enclosed(each).size + Enclosed(means[window]).size)
        bent = [(block.inputs[0], Enclosed(apart, slips))]
        choose = sp.eye_array(outputs, format="csr")
        group, radius = np.arange(outputs), np.sqrt(1.0 - 1.0 / m)
        self._bend(block, block.outputs[0], straight, bent, choose, group, radius, window)

    def _bend(
        self,
        block: Block,
        target: str,
        straight: Enclosed | None,
        bent: Sequence[tuple[str, Enclosed]],
        choose: Any,
        group: Any,
        radius: Floats,
        outer: Any = None,
    ) -> None:
        """u = straight z + choose w, groups of w; ‖w_j‖ ≤ ‖(bent z)_j‖, groups `outer` of its rows
        (None: those of w, or one for all)."""
        parts = []
        if straight is not None:
            parts.append((straight, straight.size + straight.error, block.inputs[0]))
        squares = Fraction(0)
        for t, r in bent:
            norm = r.size + r.error
            squares += (norm * self.bounds[t]) ** 2
            self._steps.append((target, t, norm))
            if outer is None:
                rows = group if straight is not None else np.zeros(r.matrix.shape[0], int)
            else:
                rows = outer
            if self._whole:
                inner = {s: r @ known for s, known in self._known[t].items()}
                self._row(r.matrix.shape[0], len(self.groups), rows, inner)
        extra = None
        if bent:
            index = len(self.groups)
            self.columns.append(Segment(choose.shape[1], index, group, root(squares)))
            self.groups.append((block.name, len(radius)))
            self.radii.append(radius)
            self._ends.append(target)
            extra = Enclosed(sp.csr_array(choose))
        self._sum(target, parts)
        if extra is not None and self._whole:
            self._known[target][len(self.columns) - 1] = extra

    def _sum(self, target: str, parts: Sequence[tuple[Enclosed, Fraction, str]]) -> None:
        """target = Σ A t over the parts (A, norm, t)."""
        total: Rows = {}
        for a, norm, t in parts:
            self._steps.append((target, t, norm))
            for s, known in self._known[t].items() if self._whole else ():
                term = a @ known
                total[s] = total[s] + term if s in total else term
        self._known[target] = total

    def _row(self, size: int, block: int | None, group: Any, rows: Rows) -> None:
        self.blocks |= {(len(self.rows), s): matrix for s, matrix in rows.items()}
        self.rows.append(Segment(size, block, group, Fraction(1)))

    def _adjoint_bounds(self) -> None:
        """β of g̃: at most ‖w̃‖, which is at most the norm of ỹ ↦ ũ; 1 for ỹ."""
        norms = dict.fromkeys(self._network.outputs, Fraction(1))
        for target, source, norm in reversed(self._steps):
            found = norms.get(target, Fraction(0))
            norms[source] = norms.get(source, Fraction(0)) + norm * found
        for row in self.rows:
            if row.block is not None:
                row.reach = norms.get(self._ends[row.block], Fraction(0))


def _needed(network: Network) -> list[Block]:
    """The blocks that an output depends on, in order."""
    needed, found = set(network.outputs), []
    for block in reversed(network.blocks):
        if needed.intersection(block.outputs) - set(network.inputs):
            needed.update(block.inputs)
            found.append(block)
    return found[::-1]
