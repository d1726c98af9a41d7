"""The sides of SeqLip's pairs, and a proved bound of a pair whose sides are cut short.

Virmaux & Scaman 2018, Section 5: with M_k = U_k Σ_k V_kᵀ, layer k is split into U_k Σ̃_k, which
goes into the pair after it, and Σ̃_k V_kᵀ, into the pair before, Σ̃ = Σ at both ends of a chain and
Σ^½ within. What is computed is (`norms.factors`)

    M = U diag(s) Vᵀ + U' diag(s') V'ᵀ + E,   ‖E‖ ≤ slip, s' ≤ rest, ‖U U'‖, ‖V V'‖ ≤ growth,

so that a split which is exact has three parts on either side, E being √slip · (E/slip) · √slip:

    M = [U s^½, U' s'^½, √slip I] [s^½ Vᵀ; s'^½ V'ᵀ; √slip E/slip].

A pair of such sides is a 3 × 3 block matrix. Its first block is the pair of what was kept, at most
v by a certificate; block (a, b) is at most o_a g i_b, g the gate's gain and o, i the norms of the
parts. Hence the pair is at most the norm of the 3 × 3 matrix of these numbers: truncation costs
what theory demands, and no singular value decomposition is believed. At the ends of a chain,
where Σ is not split, E is added as a sum, and V (or U) costs a factor `growth`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxlip.norms.dense import dense_norm
from onnxlip.norms.enclosure import UNDERFLOW, euclid
from onnxlip.norms.factors import Factors
from onnxlip.rounding import UNIT, add_up, mul_up, norm_up, sqrt_up

__all__ = ["Side", "cut_short", "side"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Side:
    """One side of a pair: Ũ = U Σ̃ (n, k), or V Σ̃, of which a pair's outer side is the transpose.

    parts: proved norms of the three parts (of two at an end); whole: of all of them together;
    added, factor: at an end the slip, and what V or U costs; 0 and 1 within. Where nothing is
    proved of the factors, `parts` is empty and `whole` is that of an exact split.
    """

    matrix: Floats
    parts: tuple[float, ...]
    whole: float
    added: float = 0.0
    factor: float = 1.0

    @property
    def proved(self) -> bool:
        """Whether a certificate of the pair says something."""
        return bool(self.parts)


def side(found: Factors, norm: float, *, after: bool, end: bool) -> Side:
    """U Σ̃ if the pair comes `after` the layer, else V Σ̃; norm: proved ≥ ‖M‖₂."""
    vectors = found.left if after else found.right
    matrix = vectors * (found.values if end else np.sqrt(found.values))
    if not found.proved:
        return Side(matrix, (), norm if end else sqrt_up(norm))
    top = float(found.values[0]) if len(found.values) else 0.0
    sizes = [mul_up(found.growth, x if end else sqrt_up(x)) for x in (top, found.rest)]
    if end:
        return Side(matrix, tuple(sizes), norm, found.slip, found.growth)
    slip = sqrt_up(found.slip)
    return Side(matrix, (*sizes, slip), norm_up([max(sizes), slip], 2))


def cut_short(outer: Side, inner: Side, gain: float, kept: float) -> float:
    """≥ the pair of the whole sides, of which `kept` ≥ the pair of their first parts as computed.

    gain: the largest slope. Rounded up.
    """
    product = mul_up(outer.whole, gain, inner.whole)
    if not (outer.proved and inner.proved and math.isfinite(kept)):
        return product
    # Entries of the sides that were computed have up to two roundings (√ and a product) each.
    sizes = mul_up(euclid(outer.matrix).upper, euclid(inner.matrix).upper)
    first = add_up(kept, mul_up(4.1 * UNIT, gain, sizes), UNDERFLOW)
    blocks = np.array([[mul_up(o, gain, i) for i in inner.parts] for o in outer.parts])
    blocks[0, 0] = min(first, blocks[0, 0])
    value = mul_up(dense_norm(blocks[None]).upper, outer.factor, inner.factor)
    lost = (
        mul_up(outer.added, gain, inner.whole),
        mul_up(outer.whole, gain, inner.added),
    )
    return min(product, add_up(value, *lost))
