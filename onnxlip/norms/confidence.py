"""Upper ends that may fail, for blocks whose certified ones are loose: never in a `Bracket`.

δ is shared out among the maps whose certified bracket is looser than `_WORTH`. Which they are is
known before any random number is drawn, so all their bounds hold together with probability at
least 1 − δ (`probabilistic.shared`: the union bound).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxlip.lowering import Lowerings
from onnxlip.norms.brackets import probabilistic_bracket
from onnxlip.norms.probabilistic import shared
from onnxlip.norms.schedule import Effort, Item, Norms
from onnxlip.norms.structure import overlap
from onnxlip.norms.upper import meeting
from onnxlip.parallel import Progress, side_by_side

__all__ = ["Uppers", "probable_uppers"]

_WORTH = 1e-3  # relative slack of a certified bracket that is worth a share of δ


@dataclass(frozen=True)
class Uppers:
    """Upper ends of one block, the certified ones where those are less: all blocks' together hold
    with probability at least 1 − δ. random: whether any of these is not certified."""

    each: tuple[float, ...]
    whole: float
    random: bool


def probable_uppers(
    items: Sequence[Item],
    norms: Sequence[Norms],
    lowerings: Lowerings,
    delta: float,
    effort: Effort,
    progress: Progress | None = None,
) -> list[Uppers]:
    """p = 2. Raises UsageError for a δ outside [1e-12, 1)."""
    loose = [tuple(b.upper > (1 + _WORTH) * b.lower for b in n.each) for n in norms]
    share = shared(delta, sum(map(sum, loose)))

    def one(k: int) -> Uppers:
        item, norm = items[k], norms[k]
        certified = tuple(b.upper for b in norm.each)
        if not any(loose[k]):
            return Uppers(certified, norm.whole.upper, False)
        maps = item.maps()
        each = tuple(
            min(upper, probabilistic_bracket(a, lowerings, share, seed=effort.seed).upper)
            if is_loose
            else upper
            for a, upper, is_loose in zip(maps, certified, loose[k], strict=True)
        )
        whole = each[0] if len(each) == 1 else meeting(list(each), overlap(maps), 1)
        return Uppers(each, min(whole, norm.whole.upper), each != certified)

    needs = [item.memory(False) for item in items]
    return side_by_side(
        one,
        range(len(items)),
        lambda k: items[k].name,
        progress,
        needs=needs,
        room=effort.memory,
    )
