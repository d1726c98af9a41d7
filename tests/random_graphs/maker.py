"""A graph in the making, and the forms of ops that changed over the versions.

Every node is run as it is added, so shapes are known without trusting anybody's inference, and
what cannot be run is not added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.random_graphs.runner import Array, CannotRunError, Runner

Make = Callable[["Maker"], None]

MOST_ENTRIES = 40  # of a variable tensor
OPSETS = (9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 21, 21, 21, 21, 22, 23)
KINDS = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
}


class SkipError(Exception):
    """What was tried does not fit here."""


class Maker:
    """A graph in the making.

    values: every tensor at one point; variables: those that depend on the inputs; sources and
    outputs: the tensors between which bounds are sought.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.choice(OPSETS))
        self.dtype = str(self.rng.choice(list(KINDS), p=[0.8, 0.12, 0.08]))
        self.nodes: list[onnx.NodeProto] = []
        self.runners: list[Runner] = []
        self.constants: dict[str, Array] = {}
        self.inputs: list[str] = []
        self.sources = self.inputs
        self.outputs: list[str] = []
        self.values: dict[str, Array] = {}
        self.variables: list[str] = []
        self._count = 0

    # ── small choices ─────────────────────────────────────────────────────────────────────

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, options: Sequence[Any]) -> Any:
        if not len(options):
            raise SkipError
        return options[int(self.rng.integers(len(options)))]

    def number(self, low: int, high: int) -> int:
        """Between low and high, both included."""
        return int(self.rng.integers(low, high + 1))

    def need(self, condition: Any) -> None:
        if not condition:
            raise SkipError

    def since(self, version: int) -> None:
        self.need(self.opset >= version)

    # ── tensors ───────────────────────────────────────────────────────────────────────────

    def name(self) -> str:
        self._count += 1
        return f"t{self._count}"

    def input(self, *shape: int) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs.append(name)
        self.variables.append(name)
        self.values[name] = self.rng.standard_normal(shape)
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.values[name].shape)

    def variable(self, *, rank: int | None = None, least: int = 0) -> str:
        """A variable tensor, a recent one more likely."""
        fitting = [
            v
            for v in self.variables
            if (rank is None or self.values[v].ndim == rank) and self.values[v].ndim >= least
        ]
        self.need(fitting)
        place = len(fitting) - 1 - int(self.rng.exponential(1.5))
        return fitting[max(place, 0)]

    def like(self, name: str) -> str:
        """A variable of the same shape, perhaps the same one."""
        return str(self.pick([v for v in self.variables if self.shape(v) == self.shape(name)]))

    def constant(self, data: Any, plain: bool = False) -> str:
        """An initializer; sometimes a Constant node, or the result of nodes, if not `plain`."""
        array = np.asarray(data)
        if array.dtype.kind == "f":
            array = array.astype(self.dtype)
        if not plain and array.dtype.kind == "f" and self.chance(0.12):
            return self._computed(array)
        name = self.name()
        if not plain and self.chance(0.08):
            node = helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
            self.nodes.append(node)
        else:
            self.constants[name] = array
        self.values[name] = array.astype(np.float64) if array.dtype.kind == "f" else array
        return name

    def _computed(self, array: Array) -> str:
        """A constant that the file computes; exactly, in every type."""
        way = self.number(0, 4)
        if way == 0:
            return self.emit("Neg", self.constant(-array, plain=True))
        if way == 1:
            half = self.constant(np.asarray(0.5), plain=True)
            return self.emit("Mul", self.constant(2 * array, plain=True), half)
        if way == 2 and array.ndim > 1:
            turned = np.ascontiguousarray(array.T)
            return self.emit("Transpose", self.constant(turned, plain=True))
        if way == 3 and array.size:
            flat = self.constant(array.ravel(), plain=True)
            return self.emit("Reshape", flat, self.ints(array.shape))
        return self.emit("Identity", self.constant(array, plain=True))

    def ints(self, values: Any) -> str:
        return self.constant(np.asarray(values, np.int64), plain=self.chance(0.8))

    def weight(self, *shape: int, positive: bool = False) -> str:
        return self.constant(self.draw(shape, positive))

    def draw(self, shape: Sequence[int], positive: bool = False) -> Array:
        """Coefficients: mostly normal, sometimes small integers, sparse, or of rank one."""
        way = self.number(0, 9)
        if way == 0:
            array = self.rng.integers(-2, 3, shape).astype(float)
        elif way == 1:
            array = self.rng.standard_normal(shape) * (self.rng.random(shape) < 0.4)
        elif way == 2 and len(shape) > 1:
            array = np.ones(shape) * self.rng.standard_normal((*shape[:-1], 1))
        else:
            array = self.rng.standard_normal(shape) * 10 ** self.rng.uniform(-0.7, 0.3)
        array = np.abs(array) + 0.3 if positive else array
        return np.asarray(array.astype(np.float16), np.float64)  # exact in every type

    def shape_of(self, wanted: Sequence[int], like: str) -> str:
        """A shape as a tensor: stored, or computed by arithmetic on Shape(like)."""
        if self.chance(0.6) or self.opset < 10 or not len(wanted):
            return self.ints(wanted)
        whole = self.emit("Shape", like)
        pieces, have = [], list(self.shape(like))
        for d in wanted:
            if d in have:
                at = self.ints([have.index(d)])
                pieces.append(self.emit("Gather", whole, at, axis=0))
            else:
                one = self.ints([d - 1])
                pieces.append(self.emit("Add", one, self.ints([1])))
        return self.emit("Concat", *pieces, axis=0) if len(pieces) > 1 else pieces[0]

    # ── nodes ─────────────────────────────────────────────────────────────────────────────

    def emit(self, op: str, *inputs: str, outputs: Any = 1, **attributes: Any) -> Any:
        """Add a node and run it. outputs: how many, or a tuple of 1 (named) and 0 (unnamed)."""
        wanted = (1,) * outputs if isinstance(outputs, int) else outputs
        names = [self.name() if w else "" for w in wanted]
        given = list(inputs)
        while given and not given[-1]:
            given.pop()
        attributes = {k: v for k, v in attributes.items() if v != []}
        node = helper.make_node(op, given, names, **attributes)
        if self.chance(0.5):
            node.name = self.pick([f"{op}_{self._count}", "same", f"/{op}/{self._count}"])
        runner = Runner(node, self.opset, self.values)
        results = runner(self.values)
        moving = op != "Shape" and any(v in self.variables for v in runner.reads)
        for y in results:
            self.need(y.size <= (4 * MOST_ENTRIES if moving else 4000))
            self.need(y.dtype.kind != "f" or np.abs(y).max(initial=0) < 1e6)  # no NaN either
        self.nodes.append(node)
        if moving:
            self.runners.append(runner)
        kept = [name for name in names if name]
        for name, y in zip(kept, results, strict=True):
            self.values[name] = y
            if moving and y.dtype.kind == "f":
                self.variables.append(name)
        return kept[0] if len(kept) == 1 else kept

    def try_to(self, make: Make) -> bool:
        """Add what `make` makes, or nothing but initializers that nobody reads, as files do."""
        nodes, runners, variables = len(self.nodes), len(self.runners), len(self.variables)
        try:
            make(self)
            if self.values[self.variables[-1]].size > MOST_ENTRIES:
                reduce(self, self.variables[-1])
        except (SkipError, CannotRunError):
            del self.nodes[nodes:], self.runners[runners:], self.variables[variables:]
            return False
        return True

    def model(self, outputs: Sequence[str]) -> onnx.ModelProto:
        kind = KINDS[self.dtype]
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info(x, kind, self.shape(x)) for x in self.inputs],
            [helper.make_tensor_value_info(y, kind, self.shape(y)) for y in outputs],
            [numpy_helper.from_array(a, k) for k, a in self.constants.items()],
        )
        opset = helper.make_opsetid("", self.opset)
        return helper.make_model(graph, opset_imports=[opset], ir_version=10)


def with_axes(b: Maker, op: str, x: str, axes: Sequence[int] | None, **attributes: Any) -> str:
    inputs_since = 13 if op in ("ReduceSum", "Squeeze", "Unsqueeze") else 18
    if axes is None:
        return str(b.emit(op, x, **attributes))
    if b.opset >= inputs_since:
        return str(b.emit(op, x, b.ints(axes), **attributes))
    return str(b.emit(op, x, axes=list(axes), **attributes))


def clip(b: Maker, x: str, low: float | None, high: float | None) -> str:
    if b.opset >= 11:
        ends = [b.constant(np.float64(e)) if e is not None else "" for e in (low, high)]
        return str(b.emit("Clip", x, *ends))
    given = {k: float(v) for k, v in (("min", low), ("max", high)) if v is not None}
    return str(b.emit("Clip", x, **given))


def reshaped(b: Maker, x: str, shape: Sequence[int]) -> str:
    return x if b.shape(x) == tuple(shape) else str(b.emit("Reshape", x, b.shape_of(shape, x)))


def reduce(b: Maker, x: str) -> None:
    """A matrix that brings a large tensor back to a few entries."""
    n = b.values[x].size
    flat = reshaped(b, x, (1, n))
    b.emit("MatMul", flat, b.weight(n, b.number(2, 8)))


def image(b: Maker, d: int) -> str:
    """A variable read as a batch of images with d spatial axes."""
    x = b.variable()
    shape = b.shape(x)
    if len(shape) == d + 2 and all(shape):
        return x
    n = b.values[x].size
    b.need(n)
    for _ in range(8):
        dims = [b.number(1, 5) for _ in range(d)]
        if n % math.prod(dims) == 0:
            return reshaped(b, x, (1, n // math.prod(dims), *dims))
    return reshaped(b, x, (1, 1, n, *(1,) * (d - 1)))
