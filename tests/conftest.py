"""Shared by all tests: models written as ONNX text, and other people's models where present."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

ROOT = Path(__file__).parent.parent
OTHERS = ROOT.parent / "shared" / "models"

MakeModel = Callable[..., onnx.ModelProto]


def make_model(
    text: str, opset: int = 21, domains: dict[str, int] | None = None, **weights: Any
) -> onnx.ModelProto:
    """A model from the text of its graph, `name (float[1,4] x) => (float[1,3] y) { … }`, with
    initializers given as arrays by name."""
    imports = ", ".join(f'"{d}" : {v}' for d, v in ({"": opset} | (domains or {})).items())
    model = parser.parse_model(f"<ir_version: 10, opset_import: [{imports}]>\n{text}")
    for name, array in weights.items():
        data = np.asarray(array)
        if data.dtype == np.float64:
            data = data.astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(data, name))
    return model


@pytest.fixture(name="make_model")
def _make_model() -> MakeModel:
    return make_model


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def other_models() -> list[Path]:
    """Real ONNX files of others; none where they are not at hand."""
    return sorted(OTHERS.rglob("*.onnx")) if OTHERS.is_dir() else []
