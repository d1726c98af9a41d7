"""What of onnxlip is timed: lower ends alone, brackets of all blocks, and where the time goes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from onnxlip import Analysis, norms
from onnxlip.linear import Convolution, LinearMap, Matrix, Monomial, Product, Sum
from onnxlip.network import AffineBlock
from onnxlip.norms.krylov import ritz
from onnxlip.norms.lower import quotient, spectral_lower
from onnxlip.norms.workspace import Workspace
from onnxlip.parallel import side_by_side

__all__ = ["JOBS"]

_CLOSE = 6e-4  # estimated error at which a search stops that is to be within 1e-3
_BASIS = 1 << 30  # bytes that the reference's basis may take


def _imported() -> None:
    """What norms import when first used: the authors' imports are not timed either."""
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import scipy.linalg  # noqa: F401
    import threadpoolctl  # noqa: F401

    import onnxlip.norms.schedule  # noqa: F401


def _affine(analysis: Analysis) -> list[AffineBlock]:
    return [b for b in analysis.network.blocks if isinstance(b, AffineBlock)]


def _names(block: AffineBlock) -> list[str]:
    """One name per linear map: the block's own, with its inputs' where there are several."""
    if len(block.inputs) == 1:
        return [block.name]
    return [f"{block.name} ← {source}" for source in block.inputs]


def lower(path: Path, seed: int, tolerance: float) -> dict[str, Any]:
    """Certified lower ends of all linear maps, to 1e-3; the largest blocks first."""
    analysis = Analysis(path, seed=seed)
    blocks = sorted(_affine(analysis), key=lambda b: -b.weights)
    lowerings = analysis.rule_set.lowerings

    def one(block: AffineBlock) -> list[float]:
        work = [Workspace(lowerings, seed=seed, closeness=_CLOSE) for _ in block.inputs]
        return [spectral_lower(a, w).value for a, w in zip(block.maps, work, strict=True)]

    _imported()
    start = time.perf_counter()
    found = side_by_side(one, blocks, lambda b: b.name)
    values = {
        name: value
        for block, row in zip(blocks, found, strict=True)
        for name, value in zip(_names(block), row, strict=True)
    }
    return {"seconds": time.perf_counter() - start, "lower": values}


def bracket(path: Path, seed: int, tolerance: float) -> dict[str, Any]:
    """Brackets of all blocks, as `onnxlip model.onnx --tolerance …` makes them.

    slack: the product of upper/lower over all linear maps; blocks: over the affine blocks, those
    with several inputs taken as one map.
    """
    analysis = Analysis(path, seed=seed, tolerance=tolerance)
    start = time.perf_counter()
    blocks = analysis.network.blocks
    read = time.perf_counter() - start
    _imported()
    start = time.perf_counter()
    found = analysis.norms()
    seconds = time.perf_counter() - start
    ends: dict[str, tuple[float, float]] = {}
    whole = 0.0
    for block, norm in zip(blocks, found, strict=True):
        if isinstance(block, AffineBlock):
            ends |= {
                name: (b.lower, b.upper) for name, b in zip(_names(block), norm.each, strict=True)
            }
            whole += _log(norm.whole.upper) - _log(norm.whole.lower)
    slack = sum(_log(upper) - _log(lower) for lower, upper in ends.values())
    return {
        "read_s": read,
        "seconds": seconds,
        "slack": math.exp(slack),
        "blocks": math.exp(whole),
        "bracket": ends,
    }


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


def reference(path: Path, seed: int, tolerance: float) -> dict[str, Any]:
    """Norms to about 1e-5 from below, by long Lanczos runs on the whole map: what the lower
    ends are held against. Slow, and so kept in the cache."""
    analysis = Analysis(path, seed=seed)
    lowerings = analysis.rule_set.lowerings
    values = {}
    for block in _affine(analysis):
        for name, a in zip(_names(block), block.maps, strict=True):
            values[name] = _long_lanczos(a, Workspace(lowerings, seed=seed))
    return {"reference": values}


def _long_lanczos(a: LinearMap, work: Workspace) -> float:
    short = spectral_lower(a, work).value
    if isinstance(a, (Matrix, Monomial)) or work.materialised(a) is not None:
        return short  # exact
    start = np.random.default_rng(1).standard_normal(a.columns).astype(np.float32)
    steps = min(300, _BASIS // (4 * a.columns))
    vector = ritz(lambda x: work.single(a).gram(x), start, steps, 1e-7)[1]
    return max(short, quotient(a, vector.astype(np.float64), work))


def profile(path: Path, seed: int, tolerance: float) -> dict[str, Any]:
    """Every linear map by itself, one thread: kind, shape, bracket; CPU seconds, which a shared
    machine disturbs least, of the lower end alone and of the whole bracket, which may share or
    skip what the lower end alone computes."""
    import scipy.linalg  # noqa: F401 (only a BLAS that is loaded already can be limited)
    from threadpoolctl import threadpool_limits

    analysis = Analysis(path, seed=seed)
    lowerings = analysis.rule_set.lowerings
    rows = []
    with threadpool_limits(limits=1, user_api="blas"):
        for block in _affine(analysis):
            for name, a in zip(_names(block), block.maps, strict=True):
                begin = time.process_time()
                spectral_lower(a, Workspace(lowerings, seed=seed))
                middle = time.process_time()
                found = norms.bracket(a, lowerings, 2, seed=seed)
                rows.append(
                    {
                        "name": name,
                        "kind": _kind(a),
                        "lower_s": middle - begin,
                        "bracket_s": time.process_time() - middle,
                        "bracket": (found.lower, found.upper),
                        "methods": (found.lower_method, found.upper_method),
                    }
                )
    return {"rows": rows}


def _kind(a: LinearMap) -> str:
    if isinstance(a, Convolution):
        taps, stride = "×".join(map(str, a.taps)), "×".join(map(str, a.strides))
        size = "×".join(map(str, a.in_spatial))
        groups = f", {a.groups} groups" if a.groups > 1 else ""
        return f"conv {a.c_in}→{a.c_out} {taps}/{stride} @ {size}{groups}"
    if isinstance(a, Matrix):
        b, m, k = a.blocks.shape
        times = f"{b}×" if b > 1 else ""
        return f"matrix {times}{m}×{k}" + (f" ⊗ I{a.inner}" if a.inner > 1 else "")
    if isinstance(a, Product):
        return " · ".join(map(_kind, a.factors))
    if isinstance(a, Sum):
        return " + ".join(map(_kind, a.summands))
    return f"{type(a).__name__.lower()} {a.rows}×{a.columns}"


JOBS: dict[str, Callable[[Path, int, float], dict[str, Any]]] = {
    "lower": lower,
    "bracket": bracket,
    "reference": reference,
    "profile": profile,
}
