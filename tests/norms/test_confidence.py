"""Upper ends that may fail: only where the certified ones are loose, δ shared out among them."""

import math

import numpy as np
import pytest

from onnxlip.errors import UsageError
from onnxlip.linear import LinearMap, Matrix, Monomial, Product, Sum
from onnxlip.norms import confidence
from onnxlip.norms.confidence import probable_uppers
from onnxlip.norms.schedule import Effort, Item, brackets
from onnxlip.registry import rule_set

LOWERINGS = rule_set().lowerings


def loose(seed: int) -> tuple[LinearMap, float]:
    """A product that has no norm but its factors' (it is too large to be written out)."""
    rng = np.random.default_rng(seed)
    n = 1600
    w, v = rng.standard_normal((2, 40, 40))
    left = Matrix(w[None], outer=1, inner=40)
    right = Matrix(v[None], outer=40, inner=1)
    scale = rng.uniform(0.2, 1.0, n)
    a = Product((left, Monomial(n, None, scale), right))
    dense = np.kron(w, np.eye(40)) @ (scale[:, None] * np.kron(np.eye(40), v))
    return a, float(np.linalg.svd(dense, compute_uv=False)[0])


def items(*maps: tuple[LinearMap, ...]) -> list[Item]:
    return [
        Item(str(k), lambda each=each: each, [(a.rows, a.columns) for a in each], 1000)
        for k, each in enumerate(maps)
    ]


def test_only_loose_blocks_take_a_part_of_delta(monkeypatch: pytest.MonkeyPatch) -> None:
    (a, truth), tight = loose(0), Matrix(np.random.default_rng(1).standard_normal((1, 5, 9)))
    both = items((a,), (tight,), (a, a))
    certified = brackets(both, LOWERINGS, 2).blocks
    asked = []
    real = confidence.probabilistic_bracket

    def spied(linear: LinearMap, lowerings: object, delta: float, **options: object) -> object:
        asked.append(delta)
        return real(linear, lowerings, delta, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(confidence, "probabilistic_bracket", spied)
    found = probable_uppers(both, certified, LOWERINGS, 0.03, Effort())
    assert len(asked) == 3
    assert math.fsum(asked) <= 0.03
    assert [u.random for u in found] == [True, False, True]
    assert found[1].each == (certified[1].whole.upper,)
    assert truth * (1 - 1e-12) <= found[0].whole <= 1.002 * truth < certified[0].whole.upper
    joint = math.sqrt(2) * truth  # [A A]
    assert joint * (1 - 1e-12) <= found[2].whole <= 1.002 * joint


def test_never_above_the_certified_end() -> None:
    many = items(*((loose(k)[0],) for k in range(3)), (Sum((loose(3)[0], loose(4)[0])),))
    certified = brackets(many, LOWERINGS, 2).blocks
    for before, after in zip(
        certified, probable_uppers(many, certified, LOWERINGS, 1e-9, Effort()), strict=True
    ):
        assert after.whole <= before.whole.upper
        assert before.whole.lower <= after.whole


def test_a_delta_that_is_none_is_refused() -> None:
    many = items((loose(0)[0],))
    with pytest.raises(UsageError, match="probability of failure"):
        probable_uppers(many, brackets(many, LOWERINGS, 2).blocks, LOWERINGS, 1.5, Effort())
