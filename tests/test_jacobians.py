"""No Jacobian norm exceeds the bound: ‖J(x)‖₂ by power iterations on derivative graphs that
onnx-ad, a differentiator that shares nothing with us, makes of the untouched file. Each is
attained, so a bound below one would be refuted. And chains are not bounded by more than the
product of their layers' exact norms."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxlip
from onnxlip import Analysis, OnnxlipError, Report
from onnxlip.linear import Convolution, Product, Transposed
from onnxlip.network import AffineBlock, Network
from onnxlip.operators import Operator
from tests.conftest import OTHERS, ROOT, other_models

onnx_ad = pytest.importorskip("onnx_ad")

OURS = sorted((ROOT / "fixtures" / "models").glob("*.onnx"))
SMALL = [p for p in other_models() if p.stat().st_size < 1.5e6 and "light" not in p.parts[-2]]

_SMALL = 100_000  # bytes of a file


def _name(path: Path) -> str:
    return path.relative_to(OTHERS if OTHERS in path.parents else ROOT / "fixtures").as_posix()


@lru_cache
def _report(path: Path) -> tuple[Analysis, Report | None, str]:
    # Small ones by all methods, each of which has to stay above what is sampled.
    method = "auto" if path.stat().st_size < _SMALL else "autolip"
    analysis = Analysis(path, below="none", sequential="none", method=method)
    try:
        return analysis, analysis.report(), ""
    except OnnxlipError as error:
        return analysis, None, str(error)


def _analysed(path: Path) -> tuple[Analysis, Report]:
    analysis, report, why = _report(path)
    if report is None:
        pytest.skip(f"refused: {why[:80]}")
    return analysis, report


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def _jacobian_norms(path: Path, analysis: Analysis, rng: np.random.Generator) -> list[float]:
    """‖J(x)v‖/‖v‖ after some power iterations, at a few points."""
    ((x_name, (shape, _)),) = analysis.model.inputs.items()
    (y_name,) = analysis.network.outputs
    model = onnx.load(path)
    # Derivatives of batched models come in one block per example: a batch of one is enough.
    for i in model.graph.input:
        if i.name == x_name:
            kind = i.type.tensor_type.elem_type
            i.CopyFrom(onnx.helper.make_tensor_value_info(x_name, kind, shape))
    try:
        forward = _session(onnx_ad.forward(model, inputs=[x_name], outputs=[y_name]))
        reverse = _session(onnx_ad.reverse(model, inputs=[x_name], outputs=[y_name]))
    except Exception as error:
        pytest.skip(f"onnx-ad cannot differentiate it: {type(error).__name__}: {str(error)[:60]}")
    dtype = np.float64 if forward.get_inputs()[0].type == "tensor(double)" else np.float32
    norms = []
    try:
        forward.run(None, {x_name: np.zeros(shape, dtype), f"fwd_{x_name}": _seed(forward, shape)})
    except Exception as error:
        pytest.skip(f"onnxruntime cannot run it: {str(error)[:60]}")
    for scale in (0.1, 1.0, 5.0):
        x = (scale * rng.standard_normal(shape)).astype(dtype)
        v = rng.standard_normal(_seed(forward, shape).shape).astype(dtype)
        for _ in range(15):
            size = np.linalg.norm(v)
            if not size > 0:
                break
            v = v / size
            (jv,) = forward.run([f"fwd_{y_name}"], {x_name: x, f"fwd_{x_name}": v})
            norms.append(float(np.linalg.norm(jv.astype(np.float64))))
            (v,) = reverse.run([f"adj_{x_name}"], {x_name: x, f"adj_{y_name}": jv})
    return norms


@pytest.mark.parametrize("path", OURS + SMALL, ids=_name)
def test_no_jacobian_norm_exceeds_the_bound(path: Path) -> None:
    analysis, report = _analysed(path)
    bound = report.upper.value
    if len(analysis.model.inputs) != 1 or len(analysis.network.outputs) != 1:
        pytest.skip("several inputs or outputs")
    for norm in _jacobian_norms(path, analysis, np.random.default_rng(0)):
        assert norm <= bound * (1 + 1e-4)


def _seed(forward: ort.InferenceSession, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros of the shape in which onnx-ad wants a direction: it reads a tensor as a matrix."""
    given = forward.get_inputs()[1]
    dtype = np.float64 if given.type == "tensor(double)" else np.float32
    return np.zeros(int(np.prod(shape)), dtype).reshape(given.shape[0], -1)


def _is_chain(network: Network) -> bool:
    return all(len(b.inputs) == 1 for b in network.blocks)


@pytest.mark.parametrize("path", OURS + SMALL, ids=_name)
def test_a_chain_is_bounded_by_the_product_of_exact_norms(path: Path) -> None:
    """Dense layers to 1e-7; a convolution's torus may add its few per cent."""
    analysis, report = _analysed(path)
    network = analysis.network
    if not _is_chain(network) or len(network.outputs) > 1:
        pytest.skip("not a chain")
    product, slack = 1.0, 1.0
    for block, told in zip(network.blocks, report.blocks, strict=True):
        if not isinstance(block, AffineBlock):
            product *= told.upper
            continue
        (a,) = block.maps
        if a.rows * a.columns > 3_000_000:
            pytest.skip("too large for a dense singular value decomposition")
        operator = Operator(a, analysis.rule_set.lowerings, np.float64)
        dense = (
            operator.matvec(np.eye(a.columns))
            if a.columns <= a.rows
            else operator.rmatvec(np.eye(a.rows))
        )
        product *= float(np.linalg.norm(dense, 2))
        parts = a.factors if isinstance(a, Product) else (a,)
        torus = any(isinstance(f, (Convolution, Transposed)) for f in parts)
        slack *= 1.05 if torus else 1 + 1e-7
    upper = report.methods["autolip"].value
    assert product <= upper * (1 + 1e-9)
    assert upper <= product * slack


def test_the_bound_of_the_readme_network_is_attained_within_reason() -> None:
    """Not a law, but a bound far above every Jacobian norm would be of little use."""
    path = ROOT / "fixtures" / "models" / "mlp_relu.onnx"
    norms = _jacobian_norms(path, Analysis(path), np.random.default_rng(0))
    assert onnxlip.analyze(path, lower="none").upper.value <= 20 * max(norms)
