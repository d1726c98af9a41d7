"""What can go wrong, and the exit code that each failure owns.

    OnnxlipError
    ├── UsageError            2   the command or the call is wrong
    ├── ModelError            2   the file cannot be read as a model
    │   └── ShapeError        2   a dimension is open; the message shows how to fix it
    ├── UnsupportedError      3   ops without a rule, all of them at once
    ├── NotLipschitzError     3   no finite bound exists on this domain
    └── RuleError             2   a rule (built in or a user's) breaks its contract

Every message is one line: what, where, why, and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ModelError",
    "NotLipschitzError",
    "OnnxlipError",
    "Refused",
    "RuleError",
    "ShapeError",
    "UnsupportedError",
    "UsageError",
]


@dataclass(frozen=True)
class Refused:
    """One node that no bound passes through: which, and why (with the remedy)."""

    op_type: str
    node: str
    reason: str


class OnnxlipError(Exception):
    """Base of all errors that a user can cause; `exit_code` is the shell's."""

    exit_code = 2

    def __init__(self, message: str, refused: tuple[Refused, ...] = ()) -> None:
        super().__init__(" ".join(message.split()))
        self.refused = refused


class UsageError(OnnxlipError):
    """The command line or the arguments of a call make no sense."""


class ModelError(OnnxlipError):
    """The file is not a model that can be analysed."""


class ShapeError(ModelError):
    """A dimension of an input is open."""


class RuleError(OnnxlipError):
    """A rule returned something that its contract forbids."""


class UnsupportedError(OnnxlipError):
    """The model has ops for which no rule is known."""

    exit_code = 3


class NotLipschitzError(OnnxlipError):
    """The network has no finite Lipschitz constant on the chosen domain."""

    exit_code = 3
