"""Elementwise blocks in a search: f, and slopes of f seen from near or from afar.

    value    f(z)
    slope    (f(z + τ) − f(z − τ))/2τ          for τ → 0 the derivative; a ReLU's step becomes a
                                                ramp of width 2τ, so that a search feels a kink
                                                before it reaches it
    bend     (f(z + τ) − 2f(z) + f(z − τ))/τ²   the slope's own derivative, likewise smoothed

The derivative itself is what the rule's slope interval says of a box that is one point, if the
rule is as sharp as that; else a central difference.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.lower.extract import Array, Part, to_model
from onnxlip.bounds.lower.forward import Batched
from onnxlip.box import Box
from onnxlip.graph import Graph
from onnxlip.network import SlopeBlock
from onnxlip.operators import Session
from onnxlip.rules import Elementwise

__all__ = ["Entrywise"]

Floats = npt.NDArray[np.floating]

_STEP = 6e-6  # cube root of 2⁻⁵³, where a central difference errs least
_COARSE = 1e-2  # τ in float32, relative to the mean |z|
_SHARP = 1e-6


class Entrywise:
    """One slope block. z: (m, size) of its input; results are float32 of that shape."""

    def __init__(self, block: SlopeBlock, part: Part, graph: Graph) -> None:
        (root,) = block.inputs
        self.root, self.output = root, block.outputs[0]
        self._shape = graph.values[root].shape
        self._part = part.up_to(block.outputs[:1], [graph.values[root]])
        self._values = Batched(self._part, prefix=True)
        self._fed: dict[str, Array] = {}
        self._double: Session | None = None
        exact = self._exact(block, graph)
        if exact is None:
            self._double = self._in_double()
        self._derivative = exact or self._central

    def value(self, z: Array) -> Array:
        """f(z)."""
        return self._values({self.root: z})[self.output].reshape(z.shape)

    def derivative(self, z: Array) -> Array:
        """f′(z); between the one-sided slopes where f has a kink."""
        return self._derivative(z)

    def smoothed(self, z: Array, width: float) -> tuple[Array, Array]:
        """(slope, bend) with τ = width times the mean of |z| at each point."""
        tau = width * np.abs(z).mean(axis=1, keepdims=True) + np.float32(1e-6)
        m = len(z)
        around = self.value(np.concatenate([z + tau, z, z - tau]))
        above, here, below = around[:m], around[m : 2 * m], around[2 * m :]
        return (above - below) / (2 * tau), ((above - here) - (here - below)) / tau**2

    def _exact(self, block: SlopeBlock, graph: Graph) -> Callable[[Array], Array] | None:
        """The rule's slopes at a point, if they are one number there."""
        node = next((n for n in graph.nodes if n.name == block.nodes[-1]), None)
        form = graph.rules[node.name].rule.form if node and len(block.nodes) == 1 else None
        if node is None or not isinstance(form, Elementwise):
            return None
        slopes = form.slopes

        def derivative(z: Array) -> Array:
            at = np.asarray(z, np.float64).reshape(-1, *self._shape)
            alpha, beta = slopes(node, Box(at, at))
            with np.errstate(invalid="ignore"):
                middle = 0.5 * alpha + 0.5 * beta
            middle = np.nan_to_num(np.broadcast_to(middle, at.shape), posinf=0.0, neginf=0.0)
            return middle.reshape(z.shape).astype(np.float32)

        rng = np.random.default_rng(0)
        probe = 3 * rng.standard_normal((16, *self._shape))
        try:
            alpha, beta = slopes(node, Box(probe, probe))
        except Exception:  # a user's rule may not bear a leading axis
            return None
        wide = np.broadcast_to(beta - alpha > _SHARP * (1 + np.abs(beta)), probe.shape)
        return derivative if wide.mean() < 0.05 else None

    def _central(self, z: Array) -> Array:
        """A central difference in float64 where onnxruntime can, else a wider one in float32."""
        if self._double is None:
            return self.smoothed(z, _COARSE)[0]
        at = np.asarray(z, np.float64).reshape(-1, *self._shape)
        step = _STEP * (1 + np.abs(at))
        above, below = (
            self._double({**self._fed, self.root: at + s * step})[0] for s in (1.0, -1.0)
        )
        return ((above - below) / (2 * step)).reshape(z.shape).astype(np.float32)

    def _in_double(self) -> Session | None:
        if not self._values.is_batched:
            return None
        model, self._fed = to_model(self._part, np.float64, ("batch",))
        try:
            session = Session(model, optimise=False)
            session({**self._fed, self.root: np.zeros((1, *self._shape))})
        except Exception:  # onnxruntime lacks many float64 kernels
            return None
        return session
