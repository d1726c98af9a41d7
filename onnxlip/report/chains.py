"""SeqLip in the report: three figures per pair, per chain and in total, each called what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from onnxlip.report.figures import columns, shown_down, shown_up

if TYPE_CHECKING:
    from onnxlip.bounds.seqlip import ChainBound

__all__ = ["ChainReport", "PairReport", "chain_from_dict", "chain_lines", "chain_reports"]

_SHOWN = 8  # pairs listed without --verbose, those that SeqLip lowers most


@dataclass(frozen=True)
class PairReport:
    """What lies between two layers of a chain.

    size: slopes to choose; vectors: singular vectors kept before and after. autolip and certified
    are proved; estimate is what a search found, no bound. gap: relative, where the maximum was
    searched for exactly.
    """

    before: str
    after: str
    size: int
    vectors: tuple[int, int]
    autolip: float
    certified: float
    estimate: float
    method: str
    search: str
    gap: float | None
    seconds: float


@dataclass(frozen=True)
class ChainReport:
    """A sequential stretch: its blocks, the first one applied first, and its pairs."""

    blocks: tuple[str, ...]
    pairs: tuple[PairReport, ...]
    autolip: float
    certified: float
    estimate: float


def chain_reports(chains: Sequence[ChainBound]) -> tuple[ChainReport, ...]:
    """The records of what was computed."""
    return tuple(
        ChainReport(
            chain.blocks,
            tuple(PairReport(**asdict(pair)) for pair in chain.pairs),
            chain.autolip,
            chain.certified,
            chain.estimate,
        )
        for chain in chains
    )


def chain_from_dict(data: Mapping[str, Any]) -> ChainReport:
    """The record that `asdict` and JSON made this from."""
    pairs = [PairReport(**p | {"vectors": tuple(p["vectors"])}) for p in data["pairs"]]
    return ChainReport(**{**data, "blocks": tuple(data["blocks"]), "pairs": tuple(pairs)})


def chain_lines(chains: Sequence[ChainReport], room: int | None, verbose: bool) -> list[str]:
    """The table of pairs; `room`: columns for a block's name, None for all of it."""
    pairs = [pair for chain in chains for pair in chain.pairs]
    if not pairs:
        return []
    chosen = sorted(pairs, key=lambda p: p.certified / p.autolip if p.autolip else 1.0)
    shown = set(map(id, pairs if verbose else chosen[:_SHOWN]))
    rows = [_row(pair, room, verbose) for pair in pairs if id(pair) in shown]
    headings = ["SeqLip, pair by pair", "slopes", "AutoLip", "certified", "estimate"]
    lines = columns(rows, headings + (["vectors", "proof", "search"] if verbose else []))
    if len(rows) < len(pairs):
        lines.append(f"and {len(pairs) - len(rows)} more pairs that SeqLip lowers less")
    return lines


def _row(pair: PairReport, room: int | None, verbose: bool) -> list[str]:
    before, after = (_fit(name, room) for name in (pair.before, pair.after))
    row = [
        f"{before} → {after}",
        str(pair.size),
        shown_up(pair.autolip, 5),
        shown_up(pair.certified, 5),
        f"≈ {shown_down(pair.estimate, 5)}",
    ]
    if verbose:
        gap = "" if pair.gap is None else f" (gap {pair.gap:.1e})"
        row += [f"{pair.vectors[0]}, {pair.vectors[1]}", pair.method, pair.search + gap]
    return row


def _fit(text: str, room: int | None) -> str:
    return text if room is None or len(text) <= room else "…" + text[1 - room :]
