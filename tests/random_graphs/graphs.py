"""Random small ONNX graphs over many ops, versions and types: what exporters write, and worse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.random_graphs.activations import clipped, decomposed, on_box, prelu, unary
from tests.random_graphs.index_maps import moved, passed_on, picked, rarer
from tests.random_graphs.junctions import concat, gated, joined, odd, split, with_constant
from tests.random_graphs.layers import (
    batch_norm,
    conv,
    conv_transpose,
    einsum,
    gemm,
    matmul,
    normalized,
    pool,
    reduction,
)
from tests.random_graphs.maker import KINDS, Make, Maker

SHAPES = ((1, 4), (2, 3), (1, 2, 4), (1, 2, 3, 3), (5,), (1, 1, 6), (), (1, 3, 2), (1, 8))


MAKES: tuple[tuple[Make, float], ...] = (
    (unary, 3.0),
    (clipped, 0.4),
    (prelu, 0.4),
    (on_box, 0.6),
    (decomposed, 1.5),
    (gemm, 1.2),
    (matmul, 1.5),
    (einsum, 0.5),
    (conv, 1.5),
    (conv_transpose, 0.5),
    (batch_norm, 0.7),
    (pool, 1.0),
    (moved, 1.5),
    (picked, 1.5),
    (rarer, 1.2),
    (with_constant, 1.0),
    (joined, 1.8),
    (concat, 0.8),
    (split, 0.8),
    (reduction, 0.7),
    (normalized, 0.9),
    (gated, 0.6),
    (odd, 0.8),
    (passed_on, 0.6),
)

AFFINE: tuple[tuple[Make, float], ...] = tuple(
    (make, weight)
    for make, weight in MAKES
    if make in (gemm, matmul, einsum, conv, conv_transpose, batch_norm, moved, picked, passed_on)
)


def grown(b: Maker, makes: Sequence[tuple[Make, float]], steps: int) -> None:
    """Up to `steps` additions."""
    weights = np.array([w for _, w in makes])
    for _ in range(4 * steps):
        if steps <= 0:
            return
        steps -= b.try_to(makes[int(b.rng.choice(len(makes), p=weights / weights.sum()))][0])


def with_nothing(b: Maker, outputs: Sequence[str], ops: Sequence[str]) -> onnx.ModelProto:
    """The model with ops put in that change nothing, before inputs of nodes at random."""
    model = b.model(outputs)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        for k, name in enumerate(node.input):
            if name in b.variables and b.chance(0.5):
                new = _nothing(b, name, b.pick(ops))
                nodes += new
                node.input[k] = new[-1].output[0]
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for name in ("flat_shape", *(f"shape_of_{v}" for v in b.variables)):
        shape = (-1,) if name == "flat_shape" else b.shape(name.removeprefix("shape_of_"))
        data = np.asarray(shape, np.int64)
        model.graph.initializer.append(numpy_helper.from_array(data, name))
    return model


def _nothing(b: Maker, x: str, op: str) -> list[onnx.NodeProto]:
    y, z = b.name(), b.name()
    make = helper.make_node
    if op == "Reshape":
        return [make(op, [x, "flat_shape"], [y]), make(op, [y, f"shape_of_{x}"], [z])]
    if op == "Transpose":
        perm = [int(k) for k in b.rng.permutation(len(b.shape(x)))]
        if perm:
            back = [int(k) for k in np.argsort(perm)]
            return [make(op, [x], [y], perm=perm), make(op, [y], [z], perm=back)]
    if op == "Neg":
        return [make(op, [x], [y]), make(op, [y], [z])]
    if op == "Cast":
        return [make(op, [x], [y], to=TensorProto.DOUBLE), make(op, [y], [z], to=KINDS[b.dtype])]
    return [make("Dropout" if op == "Dropout" else "Identity", [x], [y])]


def chain(seed: int) -> Maker:
    """Affine ops one after another; its only output is the last one."""
    b = Maker(seed)
    b.input(*b.pick(SHAPES))
    for _ in range(b.number(1, 5)):
        before = list(b.variables)
        grown(b, AFFINE, 1)
        # What follows reads the newest tensor only.
        del b.variables[: len(b.variables) - 1 if len(b.variables) > len(before) else 0]
    b.outputs = b.variables[-1:]
    return b


def random_graph(
    seed: int,
    makes: Sequence[tuple[Make, float]] = MAKES,
) -> Maker:
    """A graph with one to three inputs, and the tensors chosen between which bounds are sought:
    sometimes from the middle of it."""
    b = Maker(seed)
    for _ in range(b.pick([1, 1, 1, 2, 2, 3])):
        b.input(*(b.shape(b.inputs[0]) if b.inputs and b.chance(0.5) else b.pick(SHAPES)))
    grown(b, makes, b.number(1, 9))
    read = {name for runner in b.runners for name in runner.reads}
    leaves = [v for v in b.variables if v not in read and b.values[v].size <= 64]
    inner = [v for v in b.variables if v not in b.inputs and b.values[v].size <= 64]
    chosen = [v for v in leaves if b.chance(0.8)] or leaves or b.inputs[:1]
    if inner and b.chance(0.25):
        chosen.append(b.pick(inner))
    b.outputs = list(dict.fromkeys(chosen[-3:]))
    moving = {x for x in b.inputs if b.values[x].size}
    for runner in b.runners:  # an empty tensor is a constant, and so is what it alone leads to
        if moving & set(runner.reads):
            moving |= {y for y in runner.writes if b.values[y].size}
    full = [v for v in inner if v in moving]
    if full and b.chance(0.15):
        b.sources = [x for x in b.inputs if b.chance(0.5)] + [b.pick(full)]
    return b
