"""Networks in two forms: the system that onnxlip bounds, and N and C written down directly.

The second is what a paper on LipSDP writes: v = [x; u], z = Nv, y = Cv. It shares no code with the
first, so that equal optima check both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import scipy.sparse as sp
from onnx import numpy_helper

from onnxlip.bounds.sdp.build import layered
from onnxlip.bounds.sdp.relations import Slopes
from onnxlip.bounds.sdp.system import Affine, Matrix, Node, Nonlinear, Part, System

__all__ = ["CASES", "Case", "Plain"]

Floats = npt.NDArray[np.float64]
_FIXTURES = Path(__file__).parents[2] / "fixtures" / "models"


@dataclass(frozen=True, eq=False)
class Plain:
    """width: entries of x. n: N; c: C; slopes are in [alpha, beta]."""

    width: int
    n: Floats
    c: Floats
    alpha: float
    beta: float


@dataclass(frozen=True)
class Case:
    """general: whether general solvers are to try it, too; large: not for a quick run."""

    name: str
    make: Callable[[], tuple[System, Plain]]
    general: bool = True
    large: bool = False


def _chain(*sizes: int, alpha: float = 0.0, beta: float = 1.0) -> tuple[System, Plain]:
    """Gaussian weights, scaled to a spectral norm of 1."""
    rng = np.random.default_rng(0)
    weights = [_unit(rng.standard_normal((m, n))) for n, m in pairwise(sizes)]
    return _of(weights, alpha, beta)


def _trained() -> tuple[System, Plain]:
    """The fixture's layers, each scaled to a spectral norm of 1."""
    model = onnx.load(_FIXTURES / "mlp_deep.onnx")
    arrays = [numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer]
    return _of([_unit(w) for w in arrays if w.ndim == 2], 0.0, 1.0)


def _of(weights: Sequence[Floats], alpha: float, beta: float) -> tuple[System, Plain]:
    sizes = [weights[0].shape[1], *(len(w) for w in weights)]
    edges = np.cumsum([0, *sizes[:-1]])
    n, c = np.zeros((edges[-1] - sizes[0], edges[-1])), np.zeros((sizes[-1], edges[-1]))
    for k, w in enumerate(weights[:-1]):
        rows = slice(edges[k + 1] - sizes[0], edges[k + 2] - sizes[0])
        n[rows, edges[k] : edges[k + 1]] = w
    c[:, edges[-2] :] = weights[-1]
    return layered(weights, alpha, beta), Plain(sizes[0], n, c, alpha, beta)


def _residual(blocks: int, width: int, outputs: int) -> tuple[System, Plain]:
    """h ← h + ½V ReLU(U h), so many times; y = W h; spectral norms of 1."""
    rng = np.random.default_rng(0)
    size = width * (blocks + 1)
    h = np.eye(width, size)
    rows: list[Floats] = []
    nodes: list[Node] = []
    sizes, last = {"x": width}, "x"
    identity = sp.csr_array(sp.eye_array(width, format="csr"))
    for k in range(blocks):
        u, v = (_unit(rng.standard_normal((width, width))) for _ in range(2))
        rows.append(u @ h)
        h = h.copy()
        h[:, width * (k + 1) : width * (k + 2)] += 0.5 * v
        sizes |= {f"z{k}": width, f"u{k}": width, f"h{k}": width}
        nodes.append(Affine(f"z{k}", (_part(last, u),)))
        half = Slopes(np.full(width, 0.5), np.full(width, 0.5))
        nodes.append(Nonlinear(f"u{k}", f"z{k}", half, f"block {k}"))
        nodes.append(Affine(f"h{k}", (Part(last, identity, 1.0), _part(f"u{k}", 0.5 * v))))
        last = f"h{k}"
    w = _unit(rng.standard_normal((outputs, width)))
    nodes.append(Affine("y", (_part(last, w),)))
    system = System(("x",), ("y",), tuple(nodes), sizes | {"y": outputs})
    return system, Plain(width, np.concatenate(rows), w @ h, 0.0, 1.0)


def _unit(w: Floats) -> Floats:
    return w / np.linalg.norm(w, 2)


def _part(tensor: str, w: Matrix) -> Part:
    return Part(tensor, w, float(np.linalg.norm(w, 2)) * (1 + 1e-12))


CASES = (
    Case("16-16-16-4", partial(_chain, 16, 16, 16, 4)),
    Case(
        "16-16-16-4, slopes in [−0.129, 1.129]",
        partial(_chain, 16, 16, 16, 4, alpha=-0.129, beta=1.129),
    ),
    Case("four residual blocks of width 8", partial(_residual, 4, 8, 4)),
    Case("32-32-32-10", partial(_chain, 32, 32, 32, 10)),
    Case("64-64-64-64-10", partial(_chain, 64, 64, 64, 64, 10), large=True),
    Case("mlp_deep (trained), 64-64-64-64-10", _trained, large=True),
    Case("eight residual blocks of width 64", partial(_residual, 8, 64, 10), general=False),
    Case("784-1024-1024-10", partial(_chain, 784, 1024, 1024, 10), False, True),
)
