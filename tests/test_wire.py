"""A model without its weights, and the weights: together they are the file, whatever it is."""

import hashlib
import io
import os
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxlip.model import load
from onnxlip.wire import without_weights
from tests.conftest import ROOT

FIXTURES = sorted((ROOT / "fixtures" / "models").glob("*.onnx"))
LARGE = 2000
RAW = sorted(set(helper.get_all_tensor_dtypes()) - {TensorProto.UNDEFINED, TensorProto.STRING})


def put_back(data: bytes) -> onnx.ModelProto:
    plain, weights = without_weights(io.BytesIO(data))
    model = onnx.ModelProto.FromString(plain)
    if weights:
        for tensor, raw in zip(model.graph.initializer, weights, strict=True):
            if raw is not None:
                assert not tensor.HasField("raw_data")
                tensor.raw_data = raw.tobytes()
    return model


def with_initializers(make_model, *tensors: TensorProto) -> onnx.ModelProto:
    model = make_model("n (float[1,4] x) => (float[1,4] y) { y = Relu(x) }")
    model.graph.initializer.extend(tensors)
    return model


def number(value: int) -> bytes:
    """As protobuf writes it."""
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_nothing_is_lost(path: Path) -> None:
    data = path.read_bytes()
    assert put_back(data) == onnx.ModelProto.FromString(data)


def test_large_weights_are_not_parsed(make_model) -> None:
    large = numpy_helper.from_array(np.ones((8, LARGE), np.float32), "large")
    small = numpy_helper.from_array(np.ones(3, np.float32), "small")
    typed = helper.make_tensor("typed", TensorProto.FLOAT, [LARGE], [1.0] * LARGE)
    model = with_initializers(make_model, small, large, typed)
    plain, weights = without_weights(io.BytesIO(model.SerializeToString()))
    assert [w is not None for w in weights] == [False, True, False]
    data = model.SerializeToString(deterministic=True)
    assert load(model).sha256 == hashlib.sha256(data).hexdigest()
    assert len(plain) < model.ByteSize() - 8 * LARGE * 4 + 100
    assert put_back(model.SerializeToString()) == model


@pytest.mark.parametrize("kind", RAW, ids=TensorProto.DataType.Name)
def test_weights_of_every_type_are_read_as_onnx_reads_them(make_model, kind: int) -> None:
    item = np.dtype(helper.tensor_dtype_to_np_dtype(kind)).itemsize
    data = np.random.default_rng(0).integers(0, 2, 2 * LARGE * item, np.uint8)
    tensor = TensorProto(name="w", data_type=kind, dims=[2, LARGE], raw_data=data.tobytes())
    try:
        expected = numpy_helper.to_array(tensor)
    except ValueError:  # two numbers in a byte
        tensor.raw_data = data[: data.size // 2].tobytes()
        expected = numpy_helper.to_array(tensor)
    found = load(with_initializers(make_model, tensor)).constants["w"]
    assert found.dtype == expected.dtype
    assert found.shape == (2, LARGE)
    assert found.tobytes() == expected.tobytes()


def test_a_graph_in_two_parts_is_merged(make_model) -> None:
    """A serializer may write a message's fields in several pieces."""
    first = with_initializers(
        make_model, numpy_helper.from_array(np.ones(LARGE, np.float32), "one")
    ).SerializeToString()
    graph = onnx.GraphProto()
    graph.initializer.append(numpy_helper.from_array(np.zeros(LARGE, np.float32), "two"))
    body = graph.SerializeToString()
    data = first + number(7 << 3 | 2) + number(len(body)) + body
    assert put_back(data) == onnx.ModelProto.FromString(data)
    assert len(put_back(data).graph.initializer) == 2


@pytest.mark.parametrize(
    "extra", [b"\x0b", b"\xff" * 12, number(7 << 3 | 2) + b"\x05\x00", b"\x08"]
)
def test_what_is_irregular_is_left_as_it_is(make_model, extra: bytes) -> None:
    tensor = numpy_helper.from_array(np.ones(LARGE, np.float32), "w")
    data = with_initializers(make_model, tensor).SerializeToString() + extra
    assert without_weights(io.BytesIO(data)) == (data, [])


def test_data_that_stand_twice_are_left_to_protobuf(make_model) -> None:
    """The last of them counts."""
    tensor = numpy_helper.from_array(np.ones(LARGE, np.float32), "w").SerializeToString()
    raw = np.zeros(LARGE, np.float32).tobytes()
    tensor += number(9 << 3 | 2) + number(len(raw)) + raw
    graph = number(5 << 3 | 2) + number(len(tensor)) + tensor
    data = with_initializers(make_model).SerializeToString()
    data += number(7 << 3 | 2) + number(len(graph)) + graph
    assert without_weights(io.BytesIO(data)) == (data, [])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_model_may_come_through_a_pipe(make_model, tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.arange(LARGE, dtype=np.float32), "w")
    data = with_initializers(make_model, tensor).SerializeToString()
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    model = load(pipe)
    writer.join()
    assert np.array_equal(model.constants["w"], np.arange(LARGE))
    assert model.sha256 == hashlib.sha256(data).hexdigest()
