"""Certificates: files that hold all that is needed to prove a bound anew, and nothing to believe.

`onnxlip MODEL --certificate FILE` writes one, `onnxlip verify FILE MODEL` proves it; what is proved
and how is said in `onnxlip.verify`, what the fields mean in docs/certificates.md. Numbers are
written as Python's shortest decimals, which are read back as the same float64.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from onnxlip.errors import UsageError
from onnxlip.files import write_whole

__all__ = ["FORMAT", "KINDS", "VERSION", "Certificate", "Claim", "Multipliers"]

FORMAT = "onnxlip-certificate"
VERSION = 1
KINDS = ("product", "direct", "transposed")


@dataclass(frozen=True)
class Claim:
    """‖A_i‖₂ ≤ each[i] for the parts of the affine block that makes `tensor`, and
    ‖[A_1 … A_m]‖₂ ≤ joint (None: nothing is said)."""

    tensor: str
    each: tuple[float, ...]
    joint: float | None = None


@dataclass(frozen=True)
class Multipliers:
    """The multipliers of one nonlinear block, in the order of its constraints (`onnxlip.verify`).

    scales: by which its inputs are multiplied before they are stacked, where it has several;
    empty: by 1.
    """

    block: str
    values: tuple[float, ...]
    scales: tuple[float, ...] = ()


@dataclass(frozen=True)
class Certificate:
    """‖f(a) − f(b)‖₂ ≤ bound · ‖a − b‖₂ for all a, b, and why.

    model: the file's name, for the reader; sha256: of that file. inputs, outputs: the tensors
    between which it holds; shapes: of the model's inputs; rules: where rules that are not built
    in came from, by op. kind: "product" (of norms), or the form whose matrix is positive
    semidefinite, "direct" or "transposed", with that matrix's rho and multipliers.
    """

    model: str
    sha256: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    kind: str
    bound: float
    rho: float | None = None
    norms: tuple[Claim, ...] = ()
    multipliers: tuple[Multipliers, ...] = ()
    rules: Mapping[str, str] = field(default_factory=dict)
    norm: str = "2"
    domain: str = "global"

    def to_json(self) -> str:
        """The text of the file (docs/certificates.md)."""
        data = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """What `to_json` wrote. Raises UsageError, with the reason, for anything else."""
        try:
            data = json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"no certificate: not JSON, or cut short ({error})") from None
        return _Reader(data).certificate()

    def save(self, path: str | Path) -> None:
        """Write it, whole or not at all. Raises UsageError where it cannot be written."""
        text = self.to_json().encode()
        write_whole(path, lambda file: file.write(text))

    @classmethod
    def load(cls, path: str | Path) -> Certificate:
        """What `save` wrote. Raises UsageError where it cannot be read."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise UsageError(f"{path}: no certificate: not text") from None
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


class _Reader:
    """Every field by name and type; what is missing, of another type or unknown is refused."""

    def __init__(self, data: Any, where: str = "") -> None:
        if not isinstance(data, dict):
            raise UsageError(f"no certificate: {where or 'the file'} is not an object")
        self._data, self._where, self._left = data, where, set(data)

    def certificate(self) -> Certificate:
        if self._take("format", str) != FORMAT:
            raise UsageError(f"no certificate: its format is not '{FORMAT}'")
        if self._take("version", int) != VERSION:
            raise UsageError(f"a certificate of another version; this reads version {VERSION}")
        shapes, rules = self._take("shapes", dict), self._take("rules", dict)
        made = Certificate(
            model=self._take("model", str),
            sha256=self._take("sha256", str),
            inputs=self._list("inputs", str),
            outputs=self._list("outputs", str),
            shapes={k: _all(v, int, f"shapes of {k}") for k, v in shapes.items()},
            kind=self._take("kind", str),
            bound=self.number("bound"),
            rho=self._optional("rho"),
            norms=tuple(_Reader(c, "an entry of norms").claim() for c in self._list("norms", dict)),
            multipliers=tuple(
                _Reader(m, "an entry of multipliers").multipliers()
                for m in self._list("multipliers", dict)
            ),
            rules=dict(zip(rules, _all(list(rules.values()), str, "rules"), strict=True)),
            norm=self._take("norm", str),
            domain=self._take("domain", str),
        )
        self._end()
        if made.kind not in KINDS:
            raise UsageError(f"no certificate: kind '{made.kind}' is none of {', '.join(KINDS)}")
        return made

    def claim(self) -> Claim:
        made = Claim(self._take("tensor", str), self._numbers("each"), self._optional("joint"))
        self._end()
        return made

    def multipliers(self) -> Multipliers:
        made = Multipliers(
            self._take("block", str), self._numbers("values"), self._numbers("scales")
        )
        self._end()
        return made

    def number(self, key: str) -> float:
        return _float(self._value(key), key)

    def _optional(self, key: str) -> float | None:
        return None if self._value(key) is None else self.number(key)

    def _numbers(self, key: str) -> tuple[float, ...]:
        return tuple(_float(x, key) for x in self._take(key, list))

    def _list(self, key: str, kind: type) -> tuple[Any, ...]:
        return _all(self._take(key, list), kind, key)

    def _take(self, key: str, kind: type) -> Any:
        (value,) = _all([self._value(key)], kind, key)
        return value

    def _value(self, key: str) -> Any:
        if key not in self._data:
            raise UsageError(f"no certificate: {self._where or 'the file'} lacks '{key}'")
        self._left.discard(key)
        return self._data[key]

    def _end(self) -> None:
        if self._left:
            raise UsageError(f"no certificate: '{min(self._left)}' is not a field of it")


def _all(values: Any, kind: type, what: str) -> tuple[Any, ...]:
    right = isinstance(values, Sequence) and all(
        isinstance(v, kind) and not isinstance(v, bool) for v in values
    )
    if not right:
        raise UsageError(f"no certificate: '{what}' is of the wrong type")
    return tuple(values)


def _float(value: Any, what: str) -> float:
    try:
        (number,) = map(float, _all([value], (int, float), what))  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise UsageError(f"no certificate: a number in '{what}' is too large")
    return number
