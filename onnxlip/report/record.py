"""The report: frozen records that go to JSON and back without loss."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from onnxlip.certificate import Kind
from onnxlip.errors import Refused, UsageError
from onnxlip.report.chains import ChainReport, chain_from_dict
from onnxlip.report.classes import ClassReport, RadiiReport, classes_from_dict, radii_from_dict

__all__ = ["SCHEMA", "BlockReport", "Bound", "Kind", "Method", "Pair", "Report", "norm_name"]

SCHEMA = "1.2"


def norm_name(p: float) -> str:
    """ "1", "2" or "inf"."""
    return "inf" if p == math.inf else f"{p:.0f}"


@dataclass(frozen=True)
class Bound:
    """A bound of the Lipschitz constant, the method that gave it, and what kind of truth it is."""

    value: float
    method: str
    kind: Kind = "certified"


@dataclass(frozen=True)
class Method:
    """What one method gave, and the seconds that it took."""

    value: float
    kind: Kind
    seconds: float


@dataclass(frozen=True)
class BlockReport:
    """One block: its nodes, its norm's bracket and its share of the bound.

    lower is None where no lower end is known (nonlinear blocks). share: the block's part in the
    logarithm of the bound, negative where it contracts; absolute values sum to 1.
    """

    name: str
    kind: Literal["affine", "nonlinear"]
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    lower: float | None
    upper: float
    methods: tuple[str, str]
    share: float


@dataclass(frozen=True)
class Pair:
    """The bound from one input to one output, the other inputs held fixed."""

    input: str
    output: str
    upper: float


@dataclass(frozen=True)
class Report:
    """What `analyze` found out about one model.

    norm: "1", "2" or "inf", for inputs and outputs alike; domain: "global". upper is None only
    in a report of a refusal. All inputs are moved together and all outputs are stacked; `pairs`
    tells each of them apart; `classes` and `radii`: where differences of outputs were asked for.
    """

    model: str
    sha256: str
    norm: str
    domain: str
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]
    upper: Bound | None
    lower: Bound | None
    methods: Mapping[str, Method]
    blocks: tuple[BlockReport, ...]
    pairs: tuple[Pair, ...]
    refused: tuple[Refused, ...] = ()
    notes: tuple[str, ...] = ()
    rules: Mapping[str, str] = field(default_factory=dict)
    provider: str = "cpu"
    seed: int = 0
    version: str = ""
    seconds: float = 0.0
    chains: tuple[ChainReport, ...] = ()
    classes: ClassReport | None = None
    radii: RadiiReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data by the published schema (`onnxlip.report.json_schema()`)."""
        data = {"schema": SCHEMA, **asdict(self)}
        data["blocks"] = [_block_to_dict(b) for b in self.blocks]
        plain: dict[str, Any] = _plain(data)
        return plain

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The report that `to_dict` made this from. Raises UsageError for another schema."""
        found = str(data.get("schema", ""))
        if found.split(".")[0] != SCHEMA.split(".")[0]:
            raise UsageError(f"a report of schema '{found}' cannot be read; this reads {SCHEMA}")
        plain = {key: value for key, value in data.items() if key != "schema"}
        return cls(
            **plain
            | {
                "inputs": {k: tuple(v) for k, v in data["inputs"].items()},
                "outputs": {k: tuple(v) for k, v in data["outputs"].items()},
                "upper": Bound(**data["upper"]) if data["upper"] else None,
                "lower": Bound(**data["lower"]) if data["lower"] else None,
                "methods": {k: Method(**v) for k, v in data["methods"].items()},
                "blocks": tuple(_block_from_dict(b) for b in data["blocks"]),
                "pairs": tuple(Pair(**p) for p in data["pairs"]),
                "chains": tuple(chain_from_dict(c) for c in data.get("chains", ())),
                "classes": classes_from_dict(data.get("classes")),
                "radii": radii_from_dict(data.get("radii")),
                "refused": tuple(Refused(**r) for r in data["refused"]),
                "notes": tuple(data["notes"]),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `to_json` made this text from."""
        return cls.from_dict(json.loads(text))


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _block_to_dict(block: BlockReport) -> dict[str, Any]:
    data = asdict(block)
    lower, upper, methods = data.pop("lower"), data.pop("upper"), data.pop("methods")
    data["norm"] = {
        "lower": lower,
        "upper": upper,
        "lower_method": methods[0],
        "upper_method": methods[1],
    }
    return data


def _block_from_dict(data: Mapping[str, Any]) -> BlockReport:
    plain = {key: value for key, value in data.items() if key != "norm"}
    norm = data["norm"]
    for key in ("nodes", "ops", "inputs", "outputs"):
        plain[key] = tuple(plain[key])
    return BlockReport(
        **plain,
        lower=norm["lower"],
        upper=norm["upper"],
        methods=(norm["lower_method"], norm["upper_method"]),
    )
