"""The fixtures are what their README says."""

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

FIXTURES = Path(__file__).parent.parent / "fixtures"
MODELS = sorted((FIXTURES / "models").glob("*.onnx"))
README = (FIXTURES / "README.md").read_text(encoding="utf-8")


def run(name: str, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    path = str(FIXTURES / "models" / f"{name}.onnx")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (first, *_) = session.get_inputs()
    return np.asarray(session.run(None, {first.name: x})[0])


def test_readme_lists_every_model_and_script():
    listed = set(re.findall(r"^\| `(\w+)` \|.*`make_\w+\.py` \|$", README, re.MULTILINE))
    assert listed == {path.stem for path in MODELS}
    scripts = set(re.findall(r"`(make_\w+\.py)`", README))
    assert scripts == {path.name for path in FIXTURES.glob("make_*.py")}


def test_fixtures_stay_small():
    assert sum(path.stat().st_size for path in MODELS) < 1_500_000


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_models_are_valid_and_tell_nothing_of_the_machine_that_made_them(path):
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert b"/root/" not in path.read_bytes()
    assert b"site-packages" not in path.read_bytes()


def test_the_papers_graph_computes_the_papers_function():
    for x in (-7.0, 0.0, 0.3, 11.0):
        exact = np.log1p(np.exp(x / 2)) + abs(x / 2 - 3 * np.sin(x))
        for name in ("paper_graph", "paper_graph_log_exp"):
            y = run(name, np.full((1, 1), x, np.float32))
            np.testing.assert_allclose(y, exact, rtol=1e-5)


def test_both_exporters_wrote_one_function(rng):
    for _ in range(5):
        x = rng.random((1, 1, 8, 8)).astype(np.float32)
        a, b = run("exported_dynamo", x), run("exported_legacy", x)
        np.testing.assert_allclose(a, b, atol=2e-4)
        assert np.abs(a).max() > 0.1


def test_exporters_wrote_it_differently():
    ops = [
        {node.op_type for node in onnx.load(FIXTURES / "models" / f"{name}.onnx").graph.node}
        for name in ("exported_dynamo", "exported_legacy")
    ]
    assert {"Gelu", "HardSwish", "GroupNormalization"} <= ops[0]
    assert {"Erf", "HardSigmoid", "InstanceNormalization"} <= ops[1]


def test_residual_network_keeps_its_batch_normalization():
    ops = [node.op_type for node in onnx.load(FIXTURES / "models" / "residual_cnn.onnx").graph.node]
    assert ops.count("BatchNormalization") == ops.count("Conv") == 6
    assert ops.count("Add") == 2
