"""Reading a file: what is made plain, and what is said of a file that cannot be read."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

import onnxlip
from onnxlip import operators
from onnxlip.errors import ModelError, ShapeError, UsageError
from onnxlip.model import load

LINEAR = "net (float[1,4] x) => (float[1,3] y) { y = MatMul(x, w) }"


@pytest.fixture
def linear(make_model):
    return make_model(LINEAR, w=np.arange(12.0).reshape(4, 3))


def _write(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


class TestWhatIsMadePlain:
    def test_initializers_become_constants(self, linear):
        model = load(linear)
        assert model.constants["w"].shape == (4, 3)
        assert list(model.inputs) == ["x"]

    def test_initializers_listed_as_inputs_are_no_inputs(self, linear):
        linear.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (4, 3)))
        assert list(load(linear).inputs) == ["x"]

    @pytest.mark.parametrize("opset", [9, 13, 17])
    def test_old_operator_sets_are_converted(self, make_model, opset):
        assert load(make_model(LINEAR, opset, w=np.ones((4, 3)))).opsets[""] == 21

    def test_a_newer_operator_set_is_kept(self, make_model):
        assert load(make_model(LINEAR, 23, w=np.ones((4, 3)))).opsets[""] == 23

    def test_a_domain_listed_twice_counts_once(self, linear):
        linear.opset_import.add(domain="ai.onnx", version=20)
        assert load(linear).opsets == {"": 21}

    def test_wrong_stored_shapes_are_dropped(self, make_model):
        text = "n (float[1,4] x) => (float[1,4] y) { h = Relu(x) y = Relu(h) }"
        model = make_model(text)
        model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, (9,)))
        assert load(model)
        assert onnxlip.analyze(model).upper.value == 1

    def test_local_functions_are_inlined(self, make_model):
        model = make_model(
            "n (float[1,4] x) => (float[1,4] y) { y = local.Twice(x) }", domains={"local": 1}
        )
        opset = [helper.make_opsetid("", 21)]
        nodes = [helper.make_node("Add", ["a", "a"], ["b"])]
        model.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], nodes, opset))
        assert [n.op_type for n in load(model).nodes] == ["Add"]
        assert onnxlip.analyze(model).upper.value == 2

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
    def test_weights_are_taken_exactly(self, linear, dtype):
        weights = np.array([[1 / 3] * 3] * 4).astype(dtype)
        linear.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
        for tensor in (linear.graph.input[0], linear.graph.output[0]):
            tensor.type.tensor_type.elem_type = linear.graph.initializer[0].data_type
        assert load(linear).constants["w"].astype(np.float64)[0, 0] == float(weights[0, 0])
        report = onnxlip.analyze(linear)
        norm = np.linalg.norm(weights.astype(np.float64), 2)
        assert norm <= report.upper.value <= norm * (1 + 1e-8)

    def test_the_callers_proto_is_not_changed(self, linear):
        before = linear.SerializeToString(deterministic=True)
        onnxlip.analyze(linear)
        assert linear.SerializeToString(deterministic=True) == before


class TestShapes:
    TEXT = "n (float[N,C,H] x) => (float[N,C,H] y) { y = Relu(x) }"

    def test_an_open_batch_is_one(self, make_model):
        model = load(make_model("n (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"))
        assert model.inputs["x"][0] == (1, 4)

    def test_other_open_dimensions_are_asked_for(self, make_model):
        with pytest.raises(ShapeError, match=r"\[N, C, H\].*--shape x=1,N,N"):
            load(make_model(self.TEXT))

    def test_a_given_shape_is_taken(self, make_model):
        assert load(make_model(self.TEXT), {"x": (1, 2, 3)}).inputs["x"][0] == (1, 2, 3)
        assert load(make_model(self.TEXT), {"": (1, 2, 3)}).inputs["x"][0] == (1, 2, 3)

    @pytest.mark.parametrize("shape", [(1, 5), (2, 4), (1, 4, 1), (1, 0)])
    def test_a_shape_that_does_not_fit_is_refused(self, linear, shape):
        with pytest.raises(ShapeError, match="does not fit"):
            load(linear, {"x": shape})

    def test_a_shape_for_no_input_is_refused(self, linear):
        with pytest.raises(UsageError, match="no such input"):
            load(linear, {"z": (1, 4)})

    def test_an_input_without_rank_is_asked_for(self, linear):
        linear.graph.input[0].type.tensor_type.ClearField("shape")
        with pytest.raises(ShapeError, match="has no shape"):
            load(linear)


class TestExternalData:
    @pytest.fixture
    def path(self, make_model, tmp_path):
        model = make_model(LINEAR, w=np.arange(12.0).reshape(4, 3))
        convert_model_to_external_data(model, location="w.bin", size_threshold=0)
        onnx.save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    def test_data_beside_the_file_is_read(self, path):
        assert load(path).constants["w"][3, 2] == 11

    def test_missing_data_is_told(self, path):
        (path.parent / "w.bin").unlink()
        with pytest.raises(ModelError, match=r"'w' is missing: 'w\.bin'"):
            load(path)

    def test_truncated_data_is_told(self, path):
        (path.parent / "w.bin").write_bytes(b"1234")
        with pytest.raises(ModelError, match="truncated"):
            load(path)

    @pytest.mark.parametrize("place", ["../w.bin", "/etc/passwd", "", "sub/../../w.bin"])
    def test_data_outside_the_folder_is_refused(self, path, place):
        model = onnx.load(path, load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            if entry.key == "location":
                entry.value = place
        _write(model, path)
        with pytest.raises(ModelError, match="outside the model's folder"):
            load(path)

    def test_a_link_that_leads_outside_is_refused(self, path, tmp_path_factory):
        elsewhere = tmp_path_factory.mktemp("elsewhere") / "w.bin"
        (path.parent / "w.bin").rename(elsewhere)
        (path.parent / "w.bin").symlink_to(elsewhere)
        with pytest.raises(ModelError, match="outside the model's folder"):
            load(path)

    def test_a_proto_alone_cannot_find_its_data(self, path):
        with pytest.raises(ModelError, match="pass the path"):
            load(onnx.load(path, load_external_data=False))


class TestBadFiles:
    def test_missing(self, tmp_path):
        with pytest.raises(ModelError, match="no such file"):
            load(tmp_path / "nothing.onnx")

    def test_folder(self, tmp_path):
        with pytest.raises(ModelError, match="folder"):
            load(tmp_path)

    def test_empty(self, tmp_path):
        (tmp_path / "a.onnx").write_bytes(b"")
        with pytest.raises(ModelError, match="empty"):
            load(tmp_path / "a.onnx")

    def test_text(self, tmp_path):
        (tmp_path / "a.onnx").write_text("weights: 1, 2, 3\n" * 20)
        with pytest.raises(ModelError, match="not an ONNX"):
            load(tmp_path / "a.onnx")

    @pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
    def test_truncated(self, tmp_path, make_model, part):
        data = make_model(LINEAR, w=np.ones((4, 3))).SerializeToString()
        (tmp_path / "a.onnx").write_bytes(data[: int(len(data) * part)])
        with pytest.raises(ModelError):
            load(tmp_path / "a.onnx")

    def test_empty_graph(self, linear):
        linear.graph.ClearField("node")
        linear.graph.ClearField("output")
        with pytest.raises(ModelError, match="empty"):
            load(linear)

    def test_a_node_that_reads_nothing_fails_the_checker(self, linear):
        linear.graph.node[0].input[1] = "nowhere"
        with pytest.raises(ModelError, match=r"invalid.*nowhere"):
            load(linear)

    def test_not_a_model_at_all(self):
        with pytest.raises(UsageError, match="not int"):
            load(3)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_weights_that_are_no_numbers(self, make_model, bad):
        weights = np.ones((4, 3))
        weights[1, 2] = bad
        with pytest.raises(ModelError, match=r"'w' of MatMul.*NaN or infinity"):
            onnxlip.analyze(make_model(LINEAR, w=weights))


class TestFolding:
    def test_shape_arithmetic_disappears(self, make_model):
        text = """n (float[N,4,6] x) => (float[N,24] y) {
            s = Shape(x)  b = Gather(s, zero)  u = Unsqueeze(b, axis)
            target = Concat <axis = 0> (u, rest)  r = Reshape(x, target)  y = Relu(r) }"""
        model = make_model(text, zero=np.int64(0), axis=np.array([0]), rest=np.array([24]))
        report = onnxlip.analyze(model)
        assert report.upper.value == 1
        assert {op for b in report.blocks for op in b.ops} == {"Reshape", "Relu"}

    def test_constant_ops_are_weights(self, make_model):
        text = """n (float[1,4] x) => (float[1,3] y) {
            root = Sqrt(v)  w2 = Div(w, root)  y = MatMul(x, w2) }"""
        model = make_model(text, v=np.full(3, 4.0), w=2 * np.eye(4, 3))
        assert onnxlip.analyze(model).upper.value == pytest.approx(1, rel=1e-8)

    @pytest.mark.parametrize("kept", [0, 1])
    def test_a_constant_split_with_an_output_that_nobody_wants(self, make_model, kept):
        """onnxruntime ends the process where it runs this as it stands."""
        text = """n (float[1,3] x) => (float[1,3] y) {
            a, b = Split <axis = 0> (w, sizes) y = Mul(x, a) }"""
        w = np.arange(6.0).reshape(2, 3)
        model = make_model(text, w=w, sizes=np.array([1, 1]))
        model.graph.node[0].output[:] = ["a", ""] if kept == 0 else ["", "a"]
        assert onnxlip.analyze(model).upper.value == w[kept].max()

    def test_constant_nodes_that_share_a_name(self, make_model, monkeypatch):
        """onnxruntime refuses some graphs for it, by ways of its own: none may reach it."""
        run, names = operators.run_graph, []

        def recorded(model, *rest):
            names.extend(node.name for node in model.graph.node if node.name)
            return run(model, *rest)

        monkeypatch.setattr(operators, "run_graph", recorded)
        text = (
            """n (float[2] x) => (float[2] y) { a = Neg(w) b = Abs(a) c = Abs(b) y = Mul(x, c) }"""
        )
        model = make_model(text, w=np.array([1.0, 3.0]))
        for node in model.graph.node:
            node.name = "same"
        assert onnxlip.analyze(model).upper.value == 3
        assert names == ["same"]

    def test_a_constant_that_would_unfold_to_gigabytes_is_refused(self, make_model):
        text = """n (float[1,4] x) => (float[1,4] y) {
            c = ConstantOfShape(dims)  s = ReduceSum <keepdims = 0> (c)  y = Add(x, s) }"""
        model = make_model(text, dims=np.array([1 << 20, 1 << 14]))
        with pytest.raises(ModelError, match=r"'c' of ConstantOfShape.*64\.0 GiB"):
            onnxlip.analyze(model)
