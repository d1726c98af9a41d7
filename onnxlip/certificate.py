"""What is proved about one number: frozen records."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Bracket"]


@dataclass(frozen=True)
class Bracket:
    """lower ≤ ‖A‖_p ≤ upper, both ends theorems (rounding included), and how each was found."""

    lower: float
    upper: float
    lower_method: str
    upper_method: str
