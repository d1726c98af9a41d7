"""The report: printed figures stay bounds, and records go to JSON and back."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxlip import Report, UsageError
from onnxlip.errors import Refused
from onnxlip.report import BlockReport, Bound, ChainReport, Method, Pair, PairReport
from onnxlip.report.text import columns, report_lines, shown_down, shown_up

POSITIVE = st.floats(1e-300, 1e300)


@given(POSITIVE, st.integers(2, 9))
def test_printed_bounds_are_bounds(value: float, digits: int) -> None:
    up, down = Fraction(shown_up(value, digits)), Fraction(shown_down(value, digits))
    assert down <= Fraction(value) <= up
    assert up - down <= Fraction(value) * Fraction(10) ** (2 - digits)


def test_columns_align_by_what_is_seen() -> None:
    assert columns([["a", "bb"], ["ccc", "d"]]) == ["a    bb", "ccc  d"]
    styled = columns([["\x1b[1ma\x1b[0m", "b"], ["cc", "d"]])
    assert styled[0] == "\x1b[1ma\x1b[0m   b"


@pytest.fixture
def report() -> Report:
    block = BlockReport(
        "conv", "affine", ("conv",), ("Op",), ("x",), ("y",), 1.5, 1.50001, ("l", "u"), 1.0
    )
    pair = PairReport("conv", "fc", 5, (2, 3), 9.0, 8.0, 7.0, "proof", "search", None, 0.1)
    return Report(
        "model.onnx",
        "00",
        "inf",
        "global",
        {"x": (1, 3)},
        {"y": ()},
        Bound(2.0000001, "autolip"),
        Bound(1.9999999, "data"),
        {"autolip": Method(2.0000001, "certified", 0.5)},
        (block,),
        (Pair("x", "y", 2.0), Pair("z", "y", 0.0)),
        (Refused("Op", "node", "why"),),
        ("a note",),
        {"Mine": "module"},
        chains=(ChainReport(("conv", "fc"), (pair,), 9.0, 8.0, 7.0),),
    )


def test_json_and_back(report: Report) -> None:
    assert Report.from_json(report.to_json()) == report


def test_another_schema_is_refused(report: Report) -> None:
    with pytest.raises(UsageError, match=r"schema .2\.0."):
        Report.from_dict(report.to_dict() | {"schema": "2.0"})


def test_lines_tell_everything(report: Report) -> None:
    text = "\n".join(report_lines(report))
    for part in (
        "2.00001",
        "1.99999",
        "1.5 … 1.5001",
        "ℓ∞",
        "a note",
        "Mine from module",
        "scalar",
        "conv → fc",
        "≈ 7",
    ):
        assert part in text


def test_lines_fit_a_terminal(report: Report) -> None:
    long = BlockReport(
        "n" * 99, "affine", ("n",), ("Op",) * 3, ("x",), ("y",), 1.0, 1.0, ("", ""), 0.5
    )
    wide = Report(**{**vars(report), "blocks": (long,)})
    table = [line for line in report_lines(wide, 80) if "nnn" in line and "costliest" not in line]
    assert table
    assert all(len(line) <= 80 for line in table)
