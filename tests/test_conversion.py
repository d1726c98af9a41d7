"""Old operator sets mean the same after conversion: the file and what we read of it agree.

onnx's converter is C++ of others and what we certify hangs on it, so every op whose meaning or
form has changed over the versions is run before and after.
"""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from onnxlip.model import load
from onnxlip.registry import built_in
from tests.conftest import make_model

RNG = np.random.default_rng(3)
X4 = "float[1,4,6,6] x"


def image(body: str) -> str:
    return f"n ({X4}) => (y) {{ {body} }}"


W = RNG.standard_normal((3, 4, 3, 3))
CASES = {
    # op: (opset, body, constants)
    "softmax-7": (7, "y = Softmax <axis = 1> (x)", {}),
    "softmax-11-last": (11, "y = Softmax <axis = 3> (x)", {}),
    "logsoftmax-9": (9, "y = LogSoftmax <axis = 1> (x)", {}),
    "hardmax-free clip-6": (6, "y = Clip <min = -0.5, max = 0.5> (x)", {}),
    "clip-6-one-side": (6, "y = Clip <min = -0.25> (x)", {}),
    "clip-11": (11, "y = Clip (x, lo, hi)", {"lo": np.float64(-0.2), "hi": np.float64(0.7)}),
    "pad-2": (9, "y = Pad <pads = [0,0,1,2,0,0,2,1], value = 0.5> (x)", {}),
    "pad-2-reflect": (9, 'y = Pad <mode = "reflect", pads = [0,0,1,2,0,0,2,1]> (x)', {}),
    "pad-11": (11, "y = Pad (x, p)", {"p": np.array([0, 0, 1, 2, 0, 0, 2, 1])}),
    "slice-1": (9, "y = Slice <axes = [2,3], starts = [1,-4], ends = [5,6]> (x)", {}),
    "slice-10": (
        10,
        "y = Slice (x, s, e, a)",
        {"s": np.array([1]), "e": np.array([-1]), "a": np.array([2])},
    ),
    "squeeze-1": (9, "y = Squeeze <axes = [0]> (x)", {}),
    "unsqueeze-1": (9, "y = Unsqueeze <axes = [1,3]> (x)", {}),
    "split-2": (9, "a, b = Split <axis = 1, split = [1,3]> (x) y = Relu(b)", {}),
    "split-2-even": (9, "a, y = Split <axis = 1> (x)", {}),
    "split-13": (13, "a, y = Split <axis = 2> (x)", {}),
    "reducesum-1": (9, "y = ReduceSum <axes = [2,3], keepdims = 0> (x)", {}),
    "reducesum-1-all": (9, "y = ReduceSum (x)", {}),
    "reducemean-1": (11, "y = ReduceMean <axes = [1]> (x)", {}),
    "reducemean-13": (13, "y = ReduceMean <axes = [-1], keepdims = 0> (x)", {}),
    "reducemax-11": (11, "y = ReduceMax <axes = [2,3]> (x)", {}),
    "reducel2-11": (11, "y = ReduceL2 <axes = [1]> (x)", {}),
    "dropout-7": (7, "y = Dropout <ratio = 0.5> (x)", {}),
    "dropout-10": (10, "y = Dropout <ratio = 0.5> (x)", {}),
    "batchnorm-7": (
        7,
        "y = BatchNormalization <epsilon = 0.01> (x, s, b, m, v)",
        {k: RNG.random(4) + 0.5 for k in "sbmv"},
    ),
    "batchnorm-9": (
        9,
        "y = BatchNormalization (x, s, b, m, v)",
        {k: RNG.random(4) + 0.5 for k in "sbmv"},
    ),
    "batchnorm-14": (
        14,
        "y = BatchNormalization (x, s, b, m, v)",
        {k: RNG.random(4) + 0.5 for k in "sbmv"},
    ),
    "instancenorm-6": (6, "y = InstanceNormalization (x, s, b)", {k: RNG.random(4) for k in "sb"}),
    "upsample-7": (7, 'y = Upsample <mode = "nearest", scales = [1.0,1.0,2.0,2.0]> (x)', {}),
    "upsample-9": (9, 'y = Upsample <mode = "nearest"> (x, f)', {"f": np.array([1, 1, 2, 2.0])}),
    "upsample-9-linear": (
        9,
        'y = Upsample <mode = "linear"> (x, f)',
        {"f": np.array([1, 1, 2, 2.0])},
    ),
    "resize-10": (10, 'y = Resize <mode = "nearest"> (x, f)', {"f": np.array([1, 1, 1.5, 2.0])}),
    "resize-10-linear": (
        10,
        'y = Resize <mode = "linear"> (x, f)',
        {"f": np.array([1, 1, 2, 2.0])},
    ),
    "resize-10-down": (
        10,
        'y = Resize <mode = "linear"> (x, f)',
        {"f": np.array([1, 1, 0.5, 0.5])},
    ),
    "resize-11": (
        11,
        'y = Resize <mode = "linear"> (x, r, f)',
        {"r": np.zeros(0), "f": np.array([1, 1, 2, 2.0])},
    ),
    "resize-13-nearest": (
        13,
        'y = Resize <mode = "nearest", nearest_mode = "floor"> (x, r, f)',
        {"r": np.zeros(0), "f": np.array([1, 1, 2, 2.0])},
    ),
    "averagepool-7": (7, "y = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (x)", {}),
    "averagepool-10-ceil": (
        10,
        "y = AveragePool <kernel_shape = [3,3], strides = [2,2], ceil_mode = 1> (x)",
        {},
    ),
    "maxpool-8": (
        8,
        "y = MaxPool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]> (x)",
        {},
    ),
    "maxpool-10-ceil": (
        10,
        "y = MaxPool <kernel_shape = [3,3], strides = [2,2], ceil_mode = 1> (x)",
        {},
    ),
    "lppool-2": (11, "y = LpPool <kernel_shape = [2,2]> (x)", {}),
    "conv-1": (7, "y = Conv <pads = [1,1,1,1]> (x, w)", {"w": W}),
    "conv-1-same": (7, 'y = Conv <auto_pad = "SAME_LOWER", strides = [2,2]> (x, w)', {"w": W}),
    "convtranspose-1": (
        9,
        "y = ConvTranspose <strides = [2,2], output_padding = [1,1]> (x, w)",
        {"w": RNG.standard_normal((4, 3, 3, 3))},
    ),
    "flatten-1": (7, "y = Flatten <axis = 2> (x)", {}),
    "elu-6": (6, "y = Elu <alpha = 0.7> (x)", {}),
    "selu-6": (6, "y = Selu (x)", {}),
    "leakyrelu-6": (6, "y = LeakyRelu <alpha = 0.2> (x)", {}),
    "prelu-7": (7, "y = PRelu (x, s)", {"s": np.array([[[0.1]], [[0.2]], [[-0.3]], [[2.0]]])}),
    "prelu-9": (9, "y = PRelu (x, s)", {"s": np.array([0.25])}),
    "hardsigmoid-6": (6, "y = HardSigmoid <alpha = 0.3> (x)", {}),
    "thresholdedrelu-10": (10, "y = ThresholdedRelu <alpha = 0.5> (x)", {}),
    "hardswish-14": (14, "y = HardSwish (x)", {}),
    "add-7": (7, "y = Add (x, c)", {"c": RNG.standard_normal((4, 1, 1))}),
    "add-6-broadcast": (
        6,
        "y = Add <broadcast = 1, axis = 1> (x, c)",
        {"c": RNG.standard_normal(4)},
    ),
    "mul-6-broadcast": (
        6,
        "y = Mul <broadcast = 1, axis = 1> (x, c)",
        {"c": RNG.standard_normal(4)},
    ),
    "sum-8": (8, "y = Sum (x, x)", {}),
    "max-8": (8, "y = Max (x, c)", {"c": np.array([0.1])}),
    "gather-11": (11, "y = Gather <axis = 1> (x, i)", {"i": np.array([2, 0])}),
    "depthtospace-1": (9, "y = DepthToSpace <blocksize = 2> (x)", {}),
    "depthtospace-11": (11, 'y = DepthToSpace <blocksize = 2, mode = "CRD"> (x)', {}),
    "lrn-1": (9, "y = LRN <size = 3, alpha = 0.1, bias = 2.0> (x)", {}),
    "lpnorm-1": (9, "y = LpNormalization <axis = 1> (x)", {}),
    "tile-6": (9, "y = Tile (x, r)", {"r": np.array([1, 2, 1, 1])}),
    "reshape-5": (7, "y = Reshape (x, s)", {"s": np.array([0, -1])}),
    "expand-8": (9, "y = Expand (x, s)", {"s": np.array([2, 4, 6, 6])}),
    "where-9": (9, "y = Where (c, x, z)", {"c": RNG.random((4, 6, 6)) > 0.5, "z": np.zeros(1)}),
    "meanvariance-9": (9, "y = MeanVarianceNormalization (x)", {}),
    "layernorm-17": (17, "y = LayerNormalization (x, s, b)", {k: RNG.random(6) for k in "sb"}),
    "gelu-20": (20, "y = Gelu (x)", {}),
    "gemm-7": (
        7,
        "f = Flatten (x) y = Gemm <transB = 1> (f, w, c)",
        {"w": RNG.standard_normal((5, 144)), "c": RNG.standard_normal(5)},
    ),
    "matmul-1": (7, "y = MatMul (x, w)", {"w": RNG.standard_normal((6, 5))}),
    "cast-6": (9, "a = Cast <to = 11> (x) y = Cast <to = 1> (a)", {}),
    "scan-free identity-1": (7, "y = Identity (x)", {}),
}


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def _as_read(model: onnx.ModelProto) -> onnx.ModelProto:
    """What `load` makes of the file, as a model again."""
    read = load(model, amendments=built_in().amendments)
    graph = helper.make_graph(
        list(read.nodes),
        "read",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, read.inputs["x"][0])],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.array(a), k) for k, a in read.constants.items()],
    )
    opsets = [helper.make_opsetid(d, v) for d, v in read.opsets.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("case", CASES)
def test_conversion_keeps_the_meaning(case: str) -> None:
    opset, body, constants = CASES[case]
    model = make_model(image(body).replace("(y)", "(float y)"), opset, **constants)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.ir_version = 8
    x = RNG.standard_normal((1, 4, 6, 6)).astype(np.float32)
    try:
        before = _run(model, x)
    except Exception as error:
        pytest.skip(f"onnxruntime does not run this version: {str(error)[:90]}")
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, before.shape)
    model.graph.output[0].CopyFrom(output)
    after = _run(_as_read(model), x)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
