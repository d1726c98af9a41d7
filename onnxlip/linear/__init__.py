"""Linear maps as values: the algebra that every affine op is written in.

LinearMap
├── Monomial      index maps and scalings          exact norms
├── Matrix        a matrix along one axis          verified dense norm
├── Convolution   zero-padded cross-correlation    twisted torus
├── Transposed    the adjoint of one of them
├── Product       composition, neighbours folded
└── Sum           branches that meet
"""

from onnxlip.linear.base import LinearMap, Product, Sum, Transposed, compose
from onnxlip.linear.convolution import Convolution, convolution
from onnxlip.linear.matrix import Matrix
from onnxlip.linear.monomial import Monomial, diagonal, identity, selection

__all__ = [
    "Convolution",
    "LinearMap",
    "Matrix",
    "Monomial",
    "Product",
    "Sum",
    "Transposed",
    "compose",
    "convolution",
    "diagonal",
    "identity",
    "selection",
]
