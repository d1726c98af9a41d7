"""One node, run in float64 wherever a runtime has it.

Each node runs in onnxruntime's float64 kernel where there is one, else in onnx's reference, else
in onnxruntime in float32; the two must agree, so that one that errs is not believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpFunction

Array = np.ndarray[Any, Any]

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


class CannotRunError(Exception):
    """No runtime runs the node."""


def _wide(array: Array, dtype: Any) -> Array:
    return array.astype(dtype) if array.dtype.kind == "f" else array


def _in_type(node: onnx.NodeProto, kind: int) -> onnx.NodeProto:
    """The node with its casts (and the constants it makes) in this floating type."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for a in copy.attribute:
        if a.name == "to" and a.i in _FLOATS:
            a.i = kind
        if a.name == "stash_type":
            a.i = kind
        if a.type == onnx.AttributeProto.TENSOR and a.t.data_type in _FLOATS:
            data = onnx.numpy_helper.to_array(a.t)
            a.t.CopyFrom(
                onnx.numpy_helper.from_array(data.astype(helper.tensor_dtype_to_np_dtype(kind)))
            )
    return copy


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


class Runner:
    """One node, run on arrays by name. `single`: its results have float32 accuracy only."""

    def __init__(self, node: onnx.NodeProto, opset: int, probe: Mapping[str, Array]) -> None:
        self.node, self.opset = node, opset
        self.reads = list(dict.fromkeys(name for name in node.input if name))
        self.writes = [name for name in node.output if name]
        self.single = False
        single = self._attempt(self._ort, np.float32, probe)
        for build in (self._ort, self._reference):
            double = self._attempt(build, np.float64, probe)
            if double is not None and (single is None or self._agree(double[1], single[1])):
                self.run = double[0]
                self.single = self._is_staircase(probe)
                return
        if single is None:
            raise CannotRunError(node.op_type)
        self.run, self.single = single[0], True

    def __call__(self, env: Mapping[str, Array]) -> list[Array]:
        return [_wide(np.asarray(y), np.float64) for y in self.run(env)]

    @staticmethod
    def _agree(ys: Sequence[Array], zs: Sequence[Array]) -> bool:
        return all(
            y.shape == z.shape
            and np.allclose(y, z, 2e-5, 2e-5 * (1 + np.abs(z[np.isfinite(z)]).max(initial=0)), True)
            for y, z in zip(ys, zs, strict=True)
        )

    def _model(self, dtype: Any, probe: Mapping[str, Array]) -> onnx.ModelProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        inputs = [
            helper.make_tensor_value_info(
                name,
                helper.np_dtype_to_tensor_dtype(_wide(probe[name], dtype).dtype),
                probe[name].shape,
            )
            for name in self.reads
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in self.writes]
        graph = helper.make_graph([_in_type(self.node, kind)], "node", inputs, outputs)
        opset = helper.make_opsetid("", self.opset)
        return helper.make_model(graph, opset_imports=[opset], ir_version=10)

    def _attempt(self, build: Any, dtype: Any, probe: Mapping[str, Array]) -> Any:
        try:
            run = build(dtype, probe)
            with np.errstate(all="ignore"):
                ys = [np.asarray(y) for y in run(probe)]
        except Exception:  # whatever a runtime fails with, the next one is asked
            return None
        narrow = dtype == np.float64 and any(y.dtype in (np.float32, np.float16) for y in ys)
        return None if narrow else (run, ys)

    def _ort(self, dtype: Any, probe: Mapping[str, Array]) -> Any:
        if self.node.op_type == "Split" and "" in self.node.output:
            raise CannotRunError("onnxruntime 1.32 crashes at a Split with an unnamed output")
        made = session(self._model(dtype, probe))
        return lambda env: made.run(
            self.writes, {name: _wide(env[name], dtype) for name in self.reads}
        )

    def _reference(self, dtype: Any, probe: Mapping[str, Array]) -> Any:
        if self.node.op_type == "LRN":
            # With a small alpha it is so little wrong at the probe that it would be believed.
            raise CannotRunError("onnx 1.23 loops over images where LRN means channels")
        made = ReferenceEvaluator(self._model(dtype, probe))
        if any(isinstance(n, OpFunction) for n in made.rt_nodes_):
            self.single = True  # function bodies hold float32 constants

        def run(env: Mapping[str, Array]) -> Any:
            with np.errstate(all="ignore"):
                return made.run(None, {name: _wide(env[name], dtype) for name in self.reads})

        return run

    def _is_staircase(self, probe: Mapping[str, Array]) -> bool:
        """Whether results are rounded to float32 on their way."""
        if self.single:
            return True
        rng = np.random.default_rng(0)
        for attempt in range(3):
            base = {k: probe[k] for k in self.reads}
            first = base.get(self.node.input[0]) if self.node.input else None
            if attempt and first is not None and first.dtype.kind == "f":
                # Zeros, and where a function is constant, are exact in any type: look elsewhere.
                base[self.node.input[0]] = 2.0 * attempt * rng.standard_normal(first.shape)
            results = []
            for n in range(3):
                near = {
                    k: np.asarray(v + n * 1e-7) if v.dtype.kind == "f" else v
                    for k, v in base.items()
                }
                results.append(self.run(near))
            for y, z, w in zip(*results, strict=True):
                with np.errstate(invalid="ignore"):
                    bend = np.abs(np.asarray(y, np.float64) - 2 * np.asarray(z) + w)
                if y.dtype.kind == "f" and np.any(bend > 1e-9 * (1 + np.abs(y))):
                    return True
        return False
