"""Gemm: Y = α op(A) op(B) + β C with one variable factor: a matrix along one axis.

As a map of A: vec(Y) = (I ⊗ α op(B)ᵀ) vec(op(A)); of B: vec(Y) = (α op(A) ⊗ I) vec(op(B)).
As a map of C: β times a broadcast.

Source: ONNX operator specification, Gemm.
"""

import numpy as np

from onnxlip.linear import LinearMap, Matrix, Monomial, selection
from onnxlip.rules import Affine, Node, Refusal, Rule, constant, example, variable


def _linear(node: Node, i: int, o: int) -> LinearMap:
    m, n = node.y.shape
    if i == 2:
        c = node.value(2)
        places = np.arange(c.size).reshape(c.shape)
        spread = selection(np.broadcast_to(places, (m, n)), c.size)
        beta = np.float64(node.attribute("beta", 1.0))
        return spread if beta == 1 else Monomial(m * n, None, np.asarray(beta)) @ spread
    transposed = bool(node.attribute("transA" if i == 0 else "transB", 0))
    alpha = float(node.attribute("alpha", 1.0))
    other = node.floats(1 - i) if alpha != 1 else node.constant(1 - i)
    if node.attribute("transB" if i == 0 else "transA", 0):
        other = other.T
    ulps = 0.0
    if alpha != 1:
        other, ulps = other * alpha, 1.0
    value = node.value(i)
    places = np.arange(value.size).reshape(value.shape)
    arranged = selection(places.T if transposed else places, value.size)
    if i == 0:
        return Matrix(other.T[None], outer=m, relative=ulps) @ arranged
    return Matrix(other[None], inner=n, relative=ulps) @ arranged


RULES = (
    Rule(
        "Gemm",
        Refusal(
            "it multiplies two tensors that both depend on the input, so its gain grows without "
            "bound; freeze one of them, or bound the input"
        ),
        source="ONNX Gemm",
    ),
    Rule(
        "Gemm",
        Affine(_linear),
        source="ONNX Gemm",
        examples=(
            example(variable(1, 4), constant(shape=(3, 4)), constant(shape=(3,)), transB=1),
            example(variable(2, 4), constant(shape=(4, 3)), alpha=0.5),
            example(variable(4, 2), constant(shape=(3, 4)), transA=1, transB=1),
            example(constant(shape=(2, 4)), variable(4, 3)),
            example(constant(shape=(4, 2)), variable(3, 4), transA=1, transB=1),
            example(variable(2, 4), constant(shape=(4, 3)), variable(2, 1), beta=-2.0),
        ),
        applies=lambda node: not {0, 1} <= set(node.variables),
    ),
)
