"""Real networks of others, block by block against onnxruntime on the untouched file.

For two inputs x, y the file as it was exported is run with every block's tensors exposed. Then
each affine block's maps must carry the differences of its inputs to that of its output, each
elementwise block's quotients must lie in its slope interval, and no gain may be exceeded. That
holds reading, conversion, folding, fusion and rules to the truth at once.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxlip
from onnxlip import Analysis, OnnxlipError
from onnxlip.network import AffineBlock, Block, GainBlock, Network, SlopeBlock
from onnxlip.operators import Operator
from tests.conftest import OTHERS, other_models

MODELS = other_models()
pytestmark = pytest.mark.skipif(not MODELS, reason="other people's models are not at hand")

# What the issue that brought each refusal said of it; everything else must be analysed.
REFUSED = {
    "lstm/byte_sb_bidi_lstm.onnx": "open dimensions",
    "exports/keras_jax_att.onnx": "holds NaN or infinity",  # an attention mask of −∞
}
REFUSED_OPS = {"LSTM", "Attention", "Sign", "LinearClassifier", "SplitToSequence"}


def _name(path: Path) -> str:
    return path.relative_to(OTHERS).as_posix()


def _draw(analysis: Analysis, rng: np.random.Generator) -> dict[str, np.ndarray]:
    from onnx import helper

    feeds = {}
    for name, (shape, kind) in analysis.model.inputs.items():
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        feeds[name] = rng.standard_normal(shape).astype(dtype)
    return feeds


class Exposed:
    """The untouched file with interior tensors as outputs."""

    def __init__(self, path: Path, tensors: set[str]) -> None:
        proto = onnx.load(path)
        made = {name for node in proto.graph.node for name in node.output}
        known = {o.name for o in proto.graph.output}
        self.names = sorted(tensors & (made | known))
        for name in self.names:
            if name not in known:
                proto.graph.output.append(onnx.ValueInfoProto(name=name))
        del proto.graph.value_info[:]
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self.session = ort.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            pytest.skip(f"onnxruntime cannot run this file: {str(error)[:80]}")

    def __call__(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            values = self.session.run(self.names, feeds)
        except Exception as error:
            pytest.skip(f"onnxruntime cannot run this file: {str(error)[:80]}")
        return {k: v.astype(np.float64).ravel() for k, v in zip(self.names, values, strict=True)}


def _network(path: Path) -> tuple[Analysis, Network]:
    analysis = Analysis(path)
    try:
        return analysis, analysis.network
    except OnnxlipError as error:
        pytest.skip(f"refused: {str(error)[:80]}")


@pytest.mark.parametrize("path", MODELS, ids=_name)
def test_every_block_says_the_truth(path: Path) -> None:
    if path.stat().st_size < 5e5 and "light" in path.parts[-2]:
        pytest.skip("its weights are all equal and unfold to gigabytes")
    analysis, network = _network(path)
    tensors = {name for b in network.blocks for name in (*b.inputs, *b.outputs)}
    run = Exposed(path, tensors | set(network.outputs))
    rng = np.random.default_rng(0)
    for scale in (1.0, 0.05):
        x = _draw(analysis, rng)
        y = {k: (v + scale * rng.standard_normal(v.shape)).astype(v.dtype) for k, v in x.items()}
        at_x = run(x) | {k: v.astype(np.float64).ravel() for k, v in x.items()}
        at_y = run(y) | {k: v.astype(np.float64).ravel() for k, v in y.items()}
        for block in network.blocks:
            if set(block.inputs) <= at_x.keys() and set(block.outputs) <= at_x.keys():
                _check(block, at_x, at_y, analysis)


def _check(block: Block, x: dict, y: dict, analysis: Analysis) -> None:
    steps = [x[name] - y[name] for name in block.inputs]
    for output in block.outputs:
        rise = x[output] - y[output]
        noise = 2e-5 * max(np.abs(x[output]).max(), np.abs(y[output]).max(), 1e-6)
        noise += 2e-5 * max((np.abs(x[name]).max() for name in block.inputs), default=0)
        if isinstance(block, AffineBlock):
            lowerings = analysis.rule_set.lowerings
            told = np.zeros(rise.size)
            size = np.zeros(rise.size)
            for a, step, name in zip(block.maps, steps, block.inputs, strict=True):
                told += Operator(a, lowerings, np.float64).matvec(step)
                around = np.abs(x[name]) + np.abs(y[name])
                size += Operator(a, lowerings, np.float64, modulus=True).matvec(around)
            assert np.all(np.abs(told - rise) <= noise + 2e-5 * size), f"{block.name}: wrong map"
        elif isinstance(block, SlopeBlock):
            (step,) = steps
            alpha = np.broadcast_to(block.alpha, analysis.graph.values[output].shape).ravel()
            beta = np.broadcast_to(block.beta, analysis.graph.values[output].shape).ravel()
            up = rise * np.sign(step)
            if np.all(np.isfinite(alpha) & np.isfinite(beta)):  # else the network is refused
                assert np.all(up <= beta * np.abs(step) + noise), f"{block.name}: β exceeded"
                assert np.all(up >= alpha * np.abs(step) - noise), f"{block.name}: below α"
        else:
            _check_gain(block, steps, rise, noise)


def _check_gain(block: GainBlock, steps: list, rise: np.ndarray, noise: float) -> None:
    for p in (1.0, 2.0, np.inf):
        total = sum(
            block.gain(name, p) * np.linalg.norm(step, p)
            for name, step in zip(block.inputs, steps, strict=True)
        )
        slack = noise * rise.size ** (1 / p)
        assert np.linalg.norm(rise, p) <= total + slack, f"{block.name}: gain exceeded"


@pytest.mark.parametrize("path", MODELS, ids=_name)
def test_analysed_or_refused_for_the_right_reason(path: Path) -> None:
    """Every file is analysed down to its blocks, or the refusal names an op without a bound."""
    expected = REFUSED.get(_name(path), "")
    failure: OnnxlipError | None = None
    try:
        assert Analysis(path).network.blocks
    except OnnxlipError as error:
        failure = error
    if failure is not None and expected:
        assert expected in str(failure)
    elif failure is not None:
        assert {r.op_type for r in failure.refused} & REFUSED_OPS, str(failure)


SMALL = [p for p in MODELS if p.stat().st_size < 2e6 and "light" not in p.parts[-2]]


@pytest.mark.parametrize("path", SMALL, ids=_name)
def test_no_quotient_exceeds_the_bound(path: Path) -> None:
    try:
        report = onnxlip.analyze(path, lower="none", method="autolip")
    except OnnxlipError as error:
        pytest.skip(f"refused: {str(error)[:80]}")
    analysis = Analysis(path)
    run = Exposed(path, set(report.outputs))
    rng = np.random.default_rng(1)
    for _ in range(6):
        x = _draw(analysis, rng)
        scale = 10 ** rng.uniform(-2, 0)
        y = {k: (v + scale * rng.standard_normal(v.shape)).astype(v.dtype) for k, v in x.items()}
        step = np.sqrt(sum(np.sum((x[k].astype(float) - y[k]) ** 2) for k in report.inputs))
        fx, fy = run(x), run(y)
        rise = np.sqrt(sum(np.sum((fx[k] - fy[k]) ** 2) for k in report.outputs))
        noise = 1e-4 * sum(np.abs(fx[k]).max() for k in report.outputs)
        assert rise <= report.upper.value * step + noise


def test_the_manifest_is_the_one_these_tests_know() -> None:
    manifest = json.loads((OTHERS / "manifest.json").read_text())
    assert {entry["file"] for entry in manifest} <= {_name(p) for p in MODELS}
