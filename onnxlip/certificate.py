"""What is proved about one number: frozen records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["LATE", "LIMITED", "Bracket", "Kind"]

Kind = Literal["certified", "probabilistic", "estimate", "attained"]

# What ends the name of a method that stood in for a better one.
LIMITED = " (memory limit)"
LATE = " (no time left)"


@dataclass(frozen=True)
class Bracket:
    """lower ≤ ‖A‖_p ≤ upper, both ends theorems (rounding included), and how each was found."""

    lower: float
    upper: float
    lower_method: str
    upper_method: str
