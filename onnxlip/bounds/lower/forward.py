"""Values at many points at once, in float32: what searches look at.

The file is for one example, as open batch dimensions became 1. Three readings are tried: its first
dimension opened (and with it shapes that constants state); else one run per point. A reading is
taken only if it gives the values that single runs give at random points; whatever it errs by
elsewhere, a search errs with it, and no attained quotient does: these are computed one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnxlip.bounds.lower.double import split
from onnxlip.bounds.lower.extract import Array, Part, to_model
from onnxlip.errors import ModelError
from onnxlip.operators import Session

__all__ = ["Batched", "Env", "by_name", "stacked"]

Floats = npt.NDArray[np.float32]
Env = Mapping[str, Array]  # tensors by name, each (m, size)

_ENTRIES = 1 << 22  # of all wanted tensors in one run


class Batched:
    """A part of the network at m points: {source: (m, size)} → {output: (m, size)}.

    prefix: points are stacked along a new first axis (for functions of entries), not along the
    tensors' own first axis. Raises ModelError where onnxruntime cannot run the part.
    """

    def __init__(self, part: Part, prefix: bool = False, provider: str = "cpu") -> None:
        self._part = part
        self._sizes = {v.name: v.shape for v in part.sources}
        self._provider = provider
        self._single: Session | None = None
        self._feeds: dict[str, Array] = {}
        self._many = self._batching(("batch",) if prefix else ()) if part.nodes else None
        if self._many is None and part.nodes:
            self._check_single()

    @property
    def is_batched(self) -> bool:
        """Whether one run serves many points."""
        return self._many is not None or not self._part.nodes

    def __call__(self, x: Mapping[str, Array]) -> dict[str, Array]:
        """float32 results at points of any number."""
        if not self._part.nodes:
            return {}
        m = len(next(iter(x.values())))
        if self._many is None:
            rows = [self._one({k: a[i] for k, a in x.items()}) for i in range(m)]
            columns = zip(*rows, strict=True)
            return dict(zip(self._part.outputs, map(np.stack, columns), strict=True))
        outputs = [self._part.shapes[name] for name in self._part.outputs]
        chunk = max(1, _ENTRIES // max(1, sum(int(np.prod(s)) for s in outputs)))
        parts = [
            self._run_many(self._many, {k: a[i : i + chunk] for k, a in x.items()})
            for i in range(0, m, chunk)
        ]
        return {
            name: np.concatenate([part[k] for part in parts])
            for k, name in enumerate(self._part.outputs)
        }

    def _batching(self, lead: tuple[str, ...]) -> tuple[Session, dict[str, Array], bool] | None:
        """The model that takes many points, if there is one that gives what single runs give."""
        firsts = {s[:1] for s in self._sizes.values()}
        if not lead and firsts != {(1,)}:
            return None
        rng = np.random.default_rng(0)
        points = {
            k: rng.standard_normal((3, int(np.prod(s)))).astype(np.float32)
            for k, s in self._sizes.items()
        }
        try:
            model, feeds = to_model(self._part, np.float32, lead)
            many = (Session(model, provider=self._provider), feeds, bool(lead))
            together = self._run_many(many, points)
            for i in range(3):
                alone = self._one({k: a[i] for k, a in points.items()})
                for y, z in zip(together, alone, strict=True):
                    size = 1e-4 * (1 + float(np.abs(z).max(initial=0)))
                    if not np.allclose(y[i], z, 1e-4, size, equal_nan=True):
                        return None
        except Exception:  # whatever onnxruntime says of a batch: points are run one by one then
            return None
        return many

    def _run_many(
        self, many: tuple[Session, dict[str, Array], bool], x: Mapping[str, Array]
    ) -> list[Array]:
        session, feeds, prefix = many
        m = len(next(iter(x.values())))
        given = {
            k: np.ascontiguousarray(a, np.float32).reshape(
                (m, *self._sizes[k]) if prefix else (m, *self._sizes[k][1:])
            )
            for k, a in x.items()
        }
        results = zip(self._part.outputs, session({**feeds, **given}), strict=True)
        sizes = {k: int(np.prod(self._part.shapes[k])) for k in self._part.outputs}
        return [y.reshape(m, sizes[name]) for name, y in results]

    def _check_single(self) -> None:
        zeros = {k: np.zeros(int(np.prod(s)), np.float32) for k, s in self._sizes.items()}
        try:
            self._one(zeros)
        except Exception as error:  # onnxruntime raises its own types
            reason = str(error).strip().splitlines()[-1][:160] if str(error).strip() else ""
            raise ModelError(f"onnxruntime cannot run it in float32: {reason}") from None

    def _one(self, x: Mapping[str, Array]) -> list[Array]:
        if self._single is None:
            model, self._feeds = to_model(self._part, np.float32)
            self._single = Session(model, provider=self._provider)
        given = {k: a.astype(np.float32).reshape(self._sizes[k]) for k, a in x.items()}
        return [y.reshape(-1) for y in self._single({**self._feeds, **given})]


def by_name(x: Array, part: Part) -> dict[str, Array]:
    """Stacked points (m, n), tensor by tensor."""
    names = [name for name, _ in split(x[0], part.sources)] if len(x) else []
    ends = np.cumsum([0, *(v.size for v in part.sources)])
    return {k: x[:, a:b] for k, a, b in zip(names, ends[:-1], ends[1:], strict=True)}


def stacked(env: Mapping[str, Array], names: Sequence[str], sizes: Sequence[int], m: int) -> Array:
    """Tensors side by side, (m, Σ sizes); zeros for those that do not move."""
    parts = [
        env[k] if k in env else np.zeros((m, s), np.float32)
        for k, s in zip(names, sizes, strict=True)
    ]
    return np.concatenate([np.zeros((m, 0), np.float32), *parts], axis=1)
