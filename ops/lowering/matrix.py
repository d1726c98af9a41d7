"""Matrix I_outer ⊗ blockdiag(W_j) ⊗ I_inner as one (batched) MatMul; its adjoint has Wᵀ."""

from onnxlip.emitter import Emitter
from onnxlip.linear import Matrix
from onnxlip.lowering import Lowering


def _multiply(e: Emitter, x: str, a: Matrix, transpose: bool) -> str:
    b, m, k = a.blocks.shape
    if transpose:
        m, k = k, m
    w = e.weight(a.blocks)
    if a.inner == 1 and b == 1:  # one large product with all right-hand sides
        w = e.Reshape(w, e.constant([a.blocks.shape[1], a.blocks.shape[2]]))
        rows = e.Reshape(x, e.constant([-1, k]))
        if transpose:
            y = e.MatMul(rows, w)
        else:  # (W xᵀ)ᵀ: the vectors are turned, not W, which would be copied at every product
            y = e.Transpose(e.MatMul(w, e.Transpose(rows, perm=[1, 0])), perm=[1, 0])
    else:
        tensor = e.Reshape(x, e.constant([-1, b, k, a.inner]))
        y = e.MatMul(e.Transpose(w, perm=[0, 2, 1]) if transpose else w, tensor)
    return str(e.Reshape(y, e.constant([-1, a.outer * b * m * a.inner])))


def forward(e: Emitter, a: Matrix, x: str) -> str:
    return _multiply(e, x, a, transpose=False)


def adjoint(e: Emitter, a: Matrix, y: str) -> str:
    return _multiply(e, y, a, transpose=True)


LOWERING = Lowering(Matrix, forward, adjoint)
