"""The exact Lipschitz constant of a ReLU network with two inputs, by its linear regions.

    f(x) = W_L relu(… relu(W_1 x + b_1) …) + b_L,   x ∈ ℝ²,   L(f) = max over regions ‖W_L D … W_1‖₂

With t = 1 appended to x, everything a layer computes is linear, z = Z (x, t), on each cone of a
partition of the half space t ≥ 0, and the plane z_j = 0 of each neuron cuts the cones that have
rays on both sides of it. Four quadrants are the start; each layer cuts the cones and sets the rows
of Z to zero whose neurons are closed. Cones have no bounded part to lose, so the constant is that
of all ℝ² (theory.md, section 4, "Exact").

A cone is kept as its rays, in cyclic order, of norm 1, along with every neuron's value on them:
where a plane cuts an edge, all of these are interpolated together.

Exact but for float64: planes pass through rays that are closer than `_CLOSE`, so a region that is
thinner than that has no interior here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxlip.errors import UsageError

__all__ = ["PlaneConstant", "plane_constant"]

Floats = npt.NDArray[np.float64]

_CLOSE = 1e-12  # between a ray of norm 1 and a plane
_LIMIT = 1_000_000  # regions


@dataclass(frozen=True, eq=False)
class PlaneConstant:
    """value: the constant as computed; point: (2,), inside a region where ‖J‖₂ = value; regions:
    how many cones with interior the last layer of neurons leaves."""

    value: float
    point: Floats
    regions: int


@dataclass(frozen=True, eq=False)
class _Region:
    """rays: (k, 3); linear: (n, 3), what the layer reads as a function of (x, t)."""

    rays: Floats
    linear: Floats


def plane_constant(
    weights: Sequence[Floats], biases: Sequence[Floats], limit: int = _LIMIT
) -> PlaneConstant:
    """The constant for the 2-norm over all ℝ². weights[0]: (n, 2); ReLU after all but the last.

    Raises UsageError for another number of inputs, and where there are more regions than `limit`.
    """
    if weights[0].shape[1] != 2:
        raise UsageError(f"regions are cut for 2 inputs; this network has {weights[0].shape[1]}")
    regions = _quadrants()
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        found: list[_Region] = []
        for region in regions:
            found.extend(_cut(region, np.asarray(w, np.float64), np.asarray(b, np.float64)))
            if len(found) > limit:
                raise UsageError(f"there are more than {limit} linear regions: raise the limit")
        regions = found
    jacobians = np.stack([weights[-1] @ region.linear[:, :2] for region in regions])
    norms = np.linalg.norm(jacobians, 2, axis=(1, 2))
    best = int(norms.argmax())
    return PlaneConstant(float(norms[best]), _inside(regions[best].rays), len(regions))


def _quadrants() -> list[_Region]:
    """The half space t ≥ 0 as four cones."""
    inputs = np.eye(2, 3)
    return [_Region(np.diag([x, y, 1.0]), inputs) for x in (1.0, -1.0) for y in (1.0, -1.0)]


def _cut(region: _Region, w: Floats, b: Floats) -> Iterator[_Region]:
    """The parts on which all neurons of a layer keep their sign."""
    planes = w @ region.linear
    planes[:, 2] += b
    sizes = np.linalg.norm(planes, axis=1)
    values = region.rays @ (planes / np.where(sizes > 0, sizes, 1.0)[:, None]).T
    cutting = np.flatnonzero((values.max(axis=0) > _CLOSE) & (values.min(axis=0) < -_CLOSE))
    parts = [np.concatenate([region.rays, values[:, cutting]], axis=1)]
    for column in range(3, 3 + len(cutting)):
        parts = [half for part in parts for half in _halves(part, column)]
    is_open = values.sum(axis=0) > 0
    for part in parts:
        is_open[cutting] = part[:, 3:].sum(axis=0) > 0
        yield _Region(part[:, :3], planes * is_open[:, None])


def _halves(part: Floats, column: int) -> Iterator[Floats]:
    """The part above the plane whose values are in this column and that below, or the part whole.

    Rays lie on a convex cone's boundary, in order, so the plane crosses it twice: at an edge whose
    ends have opposite signs, or at a ray on the plane, which both halves keep.
    """
    values = part[:, column]
    if values.max() <= _CLOSE or values.min() >= -_CLOSE:
        yield part
        return
    above: list[Floats] = []
    below: list[Floats] = []
    for k, (row, value) in enumerate(zip(part, values, strict=True)):
        before, old = part[k - 1], values[k - 1]
        if (old > _CLOSE and value < -_CLOSE) or (old < -_CLOSE and value > _CLOSE):
            crossing = _crossing(before, old, row, value, column)
            above.append(crossing)
            below.append(crossing)
        if value >= -_CLOSE:
            above.append(row)
        if value <= _CLOSE:
            below.append(row)
    for half in (above, below):
        if len(half) > 2:
            yield np.array(half)


def _crossing(a: Floats, at_a: float, b: Floats, at_b: float, column: int) -> Floats:
    """The ray between two of opposite sign where the value is 0, of norm 1."""
    share = at_a / (at_a - at_b)
    row: Floats = (1 - share) * a + share * b
    row /= np.linalg.norm(row[:3])
    row[column] = 0.0
    return row


def _inside(rays: Floats) -> Floats:
    """A point x whose (x, 1) lies inside the cone."""
    centre = rays.sum(axis=0)
    return np.asarray(centre[:2] / centre[2])
