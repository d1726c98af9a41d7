"""Linear maps written as ONNX nodes, in ops that onnxruntime runs on CPU and CUDA alike."""

from onnxlip.emitter import Emitter
from onnxlip.lowering import Lowering
from onnxlip.ops.lowering import convolution, matrix, monomial

__all__ = ["ADD", "LOWERINGS"]


def ADD(e: Emitter, parts: list[str]) -> str:  # noqa: N802 (a value, like LOWERINGS)
    """The sum of vectors of one shape."""
    return parts[0] if len(parts) == 1 else str(e.Sum(*parts))


LOWERINGS: tuple[Lowering, ...] = (
    monomial.LOWERING,
    matrix.LOWERING,
    convolution.LOWERING,
)
