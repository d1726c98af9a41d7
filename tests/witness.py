"""The truth about a small graph: its nodes run one by one in float64, and quotients sought out.

Each node runs in onnxruntime's float64 kernel where there is one, else in onnx's reference, else
in onnxruntime in float32; the two must agree, so that one that errs is not believed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpFunction

Array = np.ndarray[Any, Any]
Env = dict[str, Array]

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


class CannotRun(Exception):
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
                self.single = self._is_staircase(probe, double[1])
                return
        if single is None:
            raise CannotRun(node.op_type)
        self.run, self.single = single[0], True

    def __call__(self, env: Mapping[str, Array]) -> list[Array]:
        return [_wide(np.asarray(y), np.float64) for y in self.run(env)]

    @staticmethod
    def _agree(ys: Sequence[Array], zs: Sequence[Array]) -> bool:
        return all(
            y.shape == z.shape
            and np.allclose(y, z, rtol=1e-3, atol=1e-3 * (1 + np.abs(z).max(initial=0)))
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
        made = session(self._model(dtype, probe))
        return lambda env: made.run(
            self.writes, {name: _wide(env[name], dtype) for name in self.reads}
        )

    def _reference(self, dtype: Any, probe: Mapping[str, Array]) -> Any:
        made = ReferenceEvaluator(self._model(dtype, probe))
        if any(isinstance(n, OpFunction) for n in made.rt_nodes_):
            self.single = True  # function bodies hold float32 constants

        def run(env: Mapping[str, Array]) -> Any:
            with np.errstate(all="ignore"):
                return made.run(None, {name: _wide(env[name], dtype) for name in self.reads})

        return run

    def _is_staircase(self, probe: Mapping[str, Array], ys: Sequence[Array]) -> bool:
        """Whether results are rounded to float32 on their way."""
        if self.single:
            return True
        moved = [
            self.run({k: v + n * 1e-7 if v.dtype == np.float64 else v for k, v in probe.items()})
            for n in (1, 2)
        ]
        return any(
            y.dtype.kind == "f"
            and bool(np.any(np.abs(y - 2 * np.asarray(z) + w) > 1e-9 * (1 + np.abs(y))))
            for y, z, w in zip(ys, *moved, strict=True)
        )


class Function:
    """The map from chosen tensors to chosen tensors of a graph, all others held.

    runners: every node in order; base: values of all tensors at one point.
    """

    def __init__(
        self,
        runners: Sequence[Runner],
        base: Env,
        sources: Sequence[str],
        sinks: Sequence[str],
    ) -> None:
        self.sources, self.sinks, self.base = list(sources), list(sinks), base
        moving, path = set(sources), []
        for runner in runners:
            if not moving & set(runner.reads) or set(runner.writes) <= set(sources):
                continue
            moving |= set(runner.writes)
            path.append(runner)
        needed, kept = set(sinks), []
        for runner in reversed(path):
            if needed & set(runner.writes):
                kept.append(runner)
                needed |= set(runner.reads)
        self.path = kept[::-1]
        self.single = any(runner.single for runner in self.path)
        self.sizes = [base[s].size for s in self.sources]
        self.out_sizes = [base[s].size for s in self.sinks]
        self.largest = 1.0

    def __call__(self, x: Array) -> Array:
        """Sources and sinks as one stacked vector each."""
        env, start = dict(self.base), 0
        for name, size in zip(self.sources, self.sizes, strict=True):
            env[name] = x[start : start + size].reshape(self.base[name].shape)
            start += size
        for runner in self.path:
            for name, value in zip(runner.writes, runner(env), strict=True):
                if name not in self.sources:
                    env[name] = value
                    if value.dtype.kind == "f" and value.size:
                        self.largest = max(self.largest, float(np.abs(value).max()))
        return np.concatenate([env[s].ravel().astype(np.float64) for s in self.sinks])

    def jacobian(self, x: Array) -> Array:
        """By forward differences: a guide to where steep quotients are, no more than that."""
        step = (3e-2 if self.single else 1e-6) * max(1.0, float(np.abs(x).max(initial=0)))
        fx = self(x)
        columns = [(self(x + step * e) - fx) / step for e in np.eye(x.size)]
        return np.stack(columns, axis=1) if columns else np.zeros((fx.size, 0))


def steepest(jacobian: Array, p: float) -> tuple[float, Array]:
    """‖J‖_p and a direction in which it is reached."""
    m, n = jacobian.shape
    if not (m and n) or not np.all(np.isfinite(jacobian)):
        return 0.0, np.ones(n)
    if p == 1:
        best = int(np.abs(jacobian).sum(0).argmax())
        return float(np.abs(jacobian[:, best]).sum()), np.eye(n)[best]
    if p == math.inf:
        row = jacobian[int(np.abs(jacobian).sum(1).argmax())]
        return float(np.abs(row).sum()), np.where(row < 0, -1.0, 1.0)
    _, s, vt = np.linalg.svd(jacobian)
    return float(s[0]), vt[0]


def parts(sizes: Sequence[int]) -> list[slice]:
    """Where each of several stacked vectors lies."""
    ends = np.cumsum([0, *sizes])
    return [slice(int(a), int(b)) for a, b in zip(ends, ends[1:], strict=False)]


def violations(
    f: Function,
    bounds: Mapping[float, tuple[float, Array]],
    rng: np.random.Generator,
    points: int = 3,
    climbs: int = 3,
) -> list[str]:
    """Quotients that exceed their bound.

    bounds: by p, that of all sources together to all sinks together, and those of all pairs, as
    an array (source, sink).
    """
    n = sum(f.sizes)
    if n == 0 or sum(f.out_sizes) == 0:
        return []
    base = np.concatenate([f.base[s].ravel() for s in f.sources])
    found: list[str] = []
    ways = [(slice(None), slice(None), None)]
    ins, outs = parts(f.sizes), parts(f.out_sizes)
    if len(ins) * len(outs) > 1:
        ways += [(i, o, (k, m)) for k, i in enumerate(ins) for m, o in enumerate(outs)]
    for k in range(points):
        scale = 1.0 if k == 0 else 10.0 ** rng.uniform(-2, 1)
        x = base if k == 0 else scale * rng.standard_normal(n)
        for p, (whole, pairs) in bounds.items():
            here, value = x, -1.0
            for climb in range(climbs + 1):
                there = here if climb == 0 else here + scale * 0.3 * rng.standard_normal(n)
                jacobian = f.jacobian(there)
                size = steepest(jacobian, p)[0]
                if size > value:
                    here, value, best = there, size, jacobian
            for i, o, pair in ways:
                bound = whole if pair is None else float(pairs[pair])
                direction = np.zeros(n)
                direction[i] = steepest(best[o, i], p)[1]
                found += _exceeding(f, here, direction, o, p, bound, scale, pair)
    return found


def _exceeding(
    f: Function,
    x: Array,
    direction: Array,
    outputs: slice,
    p: float,
    bound: float,
    scale: float,
    pair: tuple[int, int] | None,
) -> list[str]:
    found = []
    fx = f(x)
    for step in (0.1, 1.0, 10.0) if f.single else (1e-5, 1e-3, 0.1, 3.0):
        moved = f(x + step * scale * direction)
        move = (x + step * scale * direction) - x
        size = float(np.linalg.norm(move, p))
        rise = float(np.linalg.norm((moved - fx)[outputs], p))
        if not (math.isfinite(rise) and size > 0):
            continue
        roundings = (3e-6 if f.single else 1e-13) * f.largest * math.sqrt(fx.size) * 10
        noise = roundings * max(1.0, bound)
        if rise > bound * size * (1 + 2e-6) + noise:
            which = "all" if pair is None else f"{f.sources[pair[0]]} to {f.sinks[pair[1]]}"
            found.append(
                f"p = {p}, {which}: quotient {rise / size:.9g} > bound {bound:.9g} (step {size:.1e})"
            )
    return found
