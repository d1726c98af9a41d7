"""Reports: the record, its JSON schema, and how it is shown."""

from typing import Any

from onnxlip.report.chains import ChainReport, PairReport
from onnxlip.report.record import BlockReport, Bound, Method, Pair, Report, norm_name

__all__ = [
    "BlockReport",
    "Bound",
    "ChainReport",
    "Method",
    "Pair",
    "PairReport",
    "Report",
    "json_schema",
    "norm_name",
]


def json_schema() -> dict[str, Any]:
    """The JSON schema that `Report.to_dict` follows."""
    import json
    from importlib.resources import files

    text = files("onnxlip.report").joinpath("schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
