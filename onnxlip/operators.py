"""Linear maps as operators that can be applied: the only module that runs onnxruntime.

An `Operator` turns a `LinearMap` into onnxruntime sessions, one for each of A x, Aᵀ y and the
fused AᵀA x, made when first used, all fed with one copy of the weights. float32 serves
iterations; float64 serves what is proved. Graph optimisation is off in float64: nothing that is
certified comes from a graph that an optimiser rewrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnxlip.emitter import OPSET, Emitter
from onnxlip.errors import UsageError
from onnxlip.linear import LinearMap
from onnxlip.lowering import Lowerings

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["Operator", "providers", "resolve", "run_graph"]

Floats = npt.NDArray[Any]
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


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


def _options(optimise: bool) -> ort.SessionOptions:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = (
        ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        if optimise
        else ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    options.intra_op_num_threads = 1  # blocks run side by side: see onnxlip.parallel
    # Idle threads that spin take the cores from numpy's BLAS and from other sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def run_graph(
    model: Any, feeds: dict[str, Floats] | None = None, provider: str = "cpu"
) -> list[Floats]:
    """All outputs of a ModelProto, run once without graph optimisation."""
    import onnxruntime as ort

    session = ort.InferenceSession(
        model.SerializeToString(), _options(optimise=False), providers=providers(provider)
    )
    return [np.asarray(y) for y in session.run(None, feeds or {})]


@dataclass(frozen=True)
class _Program:
    """A session, the weights it is fed with, and the name of its result."""

    session: ort.InferenceSession
    weights: dict[str, Floats]
    result: str

    def __call__(self, x: Floats) -> Floats:
        y: Floats = self.session.run([self.result], {"x": x, **self.weights})[0]
        return y


class Operator:
    """A x and Aᵀ y of one linear map.

    x: (columns,) or (batch, columns); y: (rows,) or (batch, rows); results likewise, in `dtype`.
    modulus: apply |A| instead (of a composed map: the product of its factors' moduli, which
    bounds |A| entrywise).
    """

    def __init__(
        self,
        linear: LinearMap,
        lowerings: Lowerings,
        dtype: npt.DTypeLike = np.float32,
        modulus: bool = False,
        provider: str = "cpu",
    ) -> None:
        self.map = linear
        self.dtype = np.dtype(dtype)
        self._modulus = modulus
        self._lowerings = lowerings
        self._provider = provider
        self._programs: dict[str, _Program | None] = {}

    def matvec(self, x: Floats) -> Floats:
        """A x."""
        return self._apply("forward", x, self.map.columns, self.map.rows)

    def rmatvec(self, y: Floats) -> Floats:
        """Aᵀ y."""
        return self._apply("adjoint", y, self.map.rows, self.map.columns)

    def gram(self, x: Floats) -> Floats:
        """AᵀA x in one graph."""
        return self._apply("gram", x, self.map.columns, self.map.columns)

    def _apply(self, what: str, x: Floats, n: int, m: int) -> Floats:
        flat = np.atleast_2d(np.ascontiguousarray(x, dtype=self.dtype))  # n may be 0
        if self.map.rows == 0 or self.map.columns == 0:
            y: Floats = np.zeros((flat.shape[0], m), self.dtype)
        else:
            if what not in self._programs:
                self._programs[what] = self._build(what, n)
            program = self._programs[what]
            y = flat.copy() if program is None else program(flat)
        return y.reshape(m) if np.ndim(x) == 1 else y

    def _build(self, what: str, n: int) -> _Program | None:
        """The session, or None for the identity, which needs none."""
        import onnxruntime as ort
        from onnx import TensorProto, helper

        e = Emitter(self.dtype, self._modulus)
        y = "x"
        if what != "adjoint":
            y = self._lowerings.forward(e, self.map, y)
        if what != "forward":
            y = self._lowerings.adjoint(e, self.map, y)
        if y == "x":
            return None
        kind = TensorProto.DOUBLE if e.double else TensorProto.FLOAT
        inputs = [helper.make_tensor_value_info("x", kind, ["batch", n])]
        inputs += [helper.make_tensor_value_info(k, kind, w.shape) for k, w in e.weights.items()]
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
        session = ort.InferenceSession(
            model.SerializeToString(),
            _options(optimise=not e.double),
            providers=providers(self._provider),
        )
        return _Program(session, e.weights, y)
