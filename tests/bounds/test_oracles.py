"""Networks whose constants others published: where their files are at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnxlip import Analysis
from onnxlip.bounds.seqlip import SeqLipEffort, seqlip
from onnxlip.norms.workspace import Workspace

SHARED = Path(__file__).parents[3] / "shared"


def _known(key: str) -> list[dict[str, Any]]:
    facts = SHARED / "facts.json"
    if not facts.is_file():
        return []
    rows = json.loads(facts.read_text())["networks_with_files"]
    return [row for row in rows if key in row and (SHARED / row["file"]).is_file()]


def _name(row: dict[str, Any]) -> str:
    return Path(row["file"]).stem


@pytest.mark.parametrize("row", _known("exact_seqlip"), ids=_name)
def test_one_hidden_layer(row: dict[str, Any]) -> None:
    analysis = Analysis(SHARED / row["file"])
    norms = analysis.norms()
    exact = row["exact_seqlip"]
    for search in ("sign-power", "exact"):
        work = Workspace(analysis.rule_set.lowerings)
        found = seqlip(analysis.network, norms, work, SeqLipEffort(search))
        assert found.estimate == pytest.approx(exact, rel=1e-5)
        assert exact * (1 - 1e-6) <= found.certified <= 1.03 * exact
        if search == "exact":
            assert found.certified == pytest.approx(exact, rel=2e-5)
    assert 0.9 * exact <= analysis.lower(seed=1).value <= found.certified


@pytest.mark.parametrize("row", _known("exact"), ids=_name)
def test_no_bound_is_below_the_true_constant(row: dict[str, Any]) -> None:
    analysis = Analysis(SHARED / row["file"])
    norms = analysis.norms()
    work = Workspace(analysis.rule_set.lowerings)
    found = seqlip(analysis.network, norms, work, SeqLipEffort("sign-power"))
    assert row["exact"] * (1 - 1e-6) <= found.certified <= row["product"] * 1.001
