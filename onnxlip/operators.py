"""Linear maps as operators that can be applied: the only module that runs onnxruntime.

An `Operator` turns a `LinearMap` into onnxruntime sessions, one for each of A x, Aᵀ y and the
fused AᵀA x, made when first used. The weights are inputs of these graphs: one copy on the device
serves all of them, and none is made on the CPU where they are contiguous already. Inputs and
outputs are bound (IOBinding), on the CPU as on CUDA, so `iterate` applies AᵀA again and again
without the vectors leaving the device.

float32 serves iterations; float64 serves what is proved. Graph optimisation is off in float64:
nothing that is certified comes from a graph that an optimiser rewrote. TF32 is off on CUDA.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnxlip.emitter import OPSET, Emitter, Weights
from onnxlip.errors import ModelError, UsageError
from onnxlip.linear import LinearMap
from onnxlip.lowering import Lowerings

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["NonFiniteError", "Operator", "Session", "providers", "resolve", "run_graph"]

Floats = npt.NDArray[Any]
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
# Exhaustive search for the fastest convolution takes longer than most iterations do.
_SETTINGS = {_CUDA: {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}}


class NonFiniteError(ModelError):
    """A product overflowed, or a coefficient is no number; the message says of which map."""


def providers(choice: str) -> list[str]:
    """onnxruntime's provider list for "auto", "cpu" or "cuda".

    Raises UsageError if CUDA is asked for and this onnxruntime has none.
    """
    import onnxruntime as ort

    if choice == "cpu":
        return [_CPU]
    has_cuda = _CUDA in ort.get_available_providers()
    if choice == "cuda" and not has_cuda:
        raise UsageError(
            "--provider cuda: the installed onnxruntime has no CUDA provider; "
            "install onnxruntime-gpu, or use --provider auto"
        )
    if choice not in ("auto", "cuda"):
        raise UsageError(f"unknown provider '{choice}': use auto, cpu or cuda")
    return [_CUDA, _CPU] if has_cuda else [_CPU]


def resolve(choice: str) -> str:
    """ "cpu" or "cuda": what a choice of provider comes to here. Raises as `providers` does."""
    return "cuda" if _CUDA in providers(choice) else "cpu"


def _options(optimise: bool, threads: int = 1) -> ort.SessionOptions:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = (
        ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        if optimise
        else ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    options.intra_op_num_threads = threads
    # Idle threads that spin take the cores from numpy's BLAS and from other sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _session(
    serialized: bytes, options: ort.SessionOptions, names: list[str]
) -> ort.InferenceSession:
    import onnxruntime as ort

    settings = [_SETTINGS.get(name, {}) for name in names]
    return ort.InferenceSession(serialized, options, providers=names, provider_options=settings)


def run_graph(
    model: Any, feeds: dict[str, Floats] | None = None, provider: str = "cpu"
) -> list[Floats]:
    """All outputs of a ModelProto, run once without graph optimisation."""
    session = _session(model.SerializeToString(), _options(False), providers(provider))
    return [np.asarray(y) for y in session.run(None, feeds or {})]


class Session:
    """A model compiled once and run at many points.

    optimise: let onnxruntime rewrite the graph; off for what a certificate rests on.
    """

    def __init__(self, model: Any, optimise: bool = True, provider: str = "cpu") -> None:
        self._session = _session(model.SerializeToString(), _options(optimise), providers(provider))

    def __call__(self, feeds: dict[str, Floats]) -> list[Floats]:
        """All outputs, in the graph's order. Raises what onnxruntime raises."""
        return [np.asarray(y) for y in self._session.run(None, feeds)]


def cpu_nodes(
    serialized: bytes, feeds: dict[str, Floats], optimise: bool, names: list[str]
) -> list[str]:
    """The kinds of nodes that run on the CPU, from onnxruntime's profile of one run.

    Nodes that only move or count shapes are among them, as onnxruntime keeps those there.
    """
    options = _options(optimise)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = _session(serialized, options, names)
        session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    told = [e["args"] for e in events if e.get("cat") == "Node"]
    return sorted({a["op_name"] for a in told if a.get("provider") == _CPU})


class _Program:
    """A session, its weights bound once, and the device where its vectors live."""

    def __init__(
        self,
        serialized: bytes,
        weights: dict[str, ort.OrtValue],
        result: str,
        example: dict[str, Floats],
        optimise: bool,
        provider: str,
        threads: int,
    ) -> None:
        names = providers(provider)
        self.fallbacks: list[str] = []
        options = _options(optimise, threads)
        if names[0] == _CUDA:  # pragma: no cover (needs a GPU)
            strict = _options(optimise, threads)
            strict.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            try:
                self._session = _session(serialized, strict, names)
            except Exception:  # onnxruntime has no type of its own for this
                self._session = _session(serialized, options, names)
                if self._session.get_providers()[0] == _CUDA:
                    self.fallbacks = cpu_nodes(serialized, example, optimise, names)
                else:
                    self.fallbacks = ["all nodes: CUDA could not be started"]
        else:
            self._session = _session(serialized, options, names)
        self.device = "cuda" if self._session.get_providers()[0] == _CUDA else "cpu"
        self._binding = self._session.io_binding()
        for key in example:
            if key in weights:
                self._binding.bind_ortvalue_input(key, weights[key])
        self._result = result

    def __call__(self, x: ort.OrtValue) -> ort.OrtValue:
        self._binding.bind_ortvalue_input("x", x)
        self._binding.bind_output(self._result, self.device)
        self._session.run_with_iobinding(self._binding)
        (y,) = self._binding.get_outputs()
        self._binding.clear_binding_outputs()  # or the next product would write into this one
        return y


class Operator:
    """A x and Aᵀ y of one linear map.

    x: (columns,) or (batch, columns); y: (rows,) or (batch, rows); results likewise, in `dtype`.
    modulus: apply |A| instead (of a composed map: the product of its factors' moduli, which
    bounds |A| entrywise). threads: inside one product; blocks run side by side, so 1.

    Raises NonFiniteError where a product of finite numbers is not finite.
    """

    def __init__(
        self,
        linear: LinearMap,
        lowerings: Lowerings,
        dtype: npt.DTypeLike = np.float32,
        modulus: bool = False,
        provider: str = "cpu",
        threads: int = 1,
    ) -> None:
        self.map = linear
        self.dtype = np.dtype(dtype)
        self._lowerings = lowerings
        self._provider = provider
        self._threads = threads
        self._weights = Weights(self.dtype, modulus)
        self._values: dict[str, ort.OrtValue] = {}  # the weights on the device
        self._programs: dict[str, _Program | None] = {}

    @property
    def device(self) -> str:
        """ "cpu" or "cuda": where products really ran, or would run if none has yet."""
        used = {p.device for p in self._programs.values() if p is not None}
        return next(iter(used)) if len(used) == 1 else "cpu" if used else resolve(self._provider)

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What ran on the CPU though CUDA was chosen, per graph: "adjoint: …"."""
        told = [(what, p.fallbacks) for what, p in self._programs.items() if p is not None]
        return tuple(f"{what}: {', '.join(kinds)}" for what, kinds in told if kinds)

    def matvec(self, x: Floats) -> Floats:
        """A x."""
        return self._apply("forward", x, self.map.columns, self.map.rows)

    def rmatvec(self, y: Floats) -> Floats:
        """Aᵀ y."""
        return self._apply("adjoint", y, self.map.rows, self.map.columns)

    def gram(self, x: Floats) -> Floats:
        """AᵀA x in one graph."""
        return self._apply("gram", x, self.map.columns, self.map.columns)

    def iterate(self, x: Floats, times: int) -> Floats:
        """(AᵀA)^times x; the vector stays on the device in between."""
        return self._apply("gram", x, self.map.columns, self.map.columns, times)

    def _apply(self, what: str, x: Floats, n: int, m: int, times: int = 1) -> Floats:
        flat = np.atleast_2d(np.ascontiguousarray(x, dtype=self.dtype))  # n may be 0
        y: Floats
        if self.map.rows == 0 or self.map.columns == 0:
            y = np.zeros((flat.shape[0], m), self.dtype)
        else:
            if what not in self._programs:
                self._programs[what] = self._build(what, n)
            program = self._programs[what]
            if program is None:
                y = flat.copy()
            else:
                value = self._value(flat, program.device)
                for _ in range(times):
                    value = program(value)
                y = value.numpy()
        if not np.isfinite(y).all() and np.isfinite(flat).all():
            raise NonFiniteError(self._overflow(what))
        return y.reshape(m) if np.ndim(x) == 1 else y

    def _overflow(self, what: str) -> str:
        a = self.map
        product = {"forward": "A x", "adjoint": "Aᵀ y", "gram": "AᵀA x"}[what]
        why = "it overflows" if math.isfinite(a.cap()) else "a coefficient is NaN or too large"
        return (
            f"the product {product} with a {a.rows}×{a.columns} {type(a).__name__} is not finite "
            f"in {self.dtype.name}: {why}"
        )

    @staticmethod
    def _value(array: Floats, device: str) -> ort.OrtValue:
        """The array on the device: itself on the CPU, which the caller must keep alive."""
        import onnxruntime as ort

        return ort.OrtValue.ortvalue_from_numpy(array, device)

    def _build(self, what: str, n: int) -> _Program | None:
        """The session, or None for the identity, which needs none."""
        from onnx import TensorProto, helper

        e = Emitter(self._weights)
        y = "x"
        if what != "adjoint":
            y = self._lowerings.forward(e, self.map, y)
        if what != "forward":
            y = self._lowerings.adjoint(e, self.map, y)
        if y == "x":
            return None
        kind = TensorProto.DOUBLE if e.double else TensorProto.FLOAT
        inputs = [helper.make_tensor_value_info("x", kind, ["batch", n])]
        inputs += [helper.make_tensor_value_info(k, kind, w.shape) for k, w in e.used.items()]
        graph = helper.make_graph(
            e.nodes,
            what,
            inputs,
            [helper.make_tensor_value_info(y, kind, None)],
            e.initializers,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
        )
        device = resolve(self._provider)
        for key, array in e.used.items():
            if key not in self._values:
                self._values[key] = self._value(array, device)
        return _Program(
            model.SerializeToString(),
            self._values,
            y,
            {"x": np.zeros((1, n), self.dtype), **e.used},
            not e.double,
            self._provider,
            self._threads,
        )
