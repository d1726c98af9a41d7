"""Random graphs: no difference quotient exceeds what is said of it, and what changes no function
changes no bound.

`python -m tests.random_graphs FIRST LAST` looks at more graphs than a test has the time for.
"""

import numpy as np
import onnx
import pytest

import onnxlip
from onnxlip.errors import NotLipschitzError
from tests.random_graphs.check import NORMS, check
from tests.random_graphs.graphs import chain, random_graph, with_nothing
from tests.random_graphs.quotients import Function, steepest

CHUNK = 10


def _upper(model: onnx.ModelProto, p: float) -> float | str:
    """The bound, or why there is none."""
    try:
        report = onnxlip.analyze(model, norm=p, provider="cpu", lower="none")
    except NotLipschitzError as error:
        return type(error).__name__
    assert report.upper is not None
    return report.upper.value


@pytest.mark.parametrize("first", range(0, 200, CHUNK))
def test_no_quotient_exceeds_its_bound(first: int) -> None:
    outcomes = {seed: check(seed) for seed in range(first, first + CHUNK)}
    for seed, outcome in outcomes.items():
        assert not outcome.exceeding, f"seed {seed}: {outcome.exceeding[0]}"
        assert outcome.refusal or len(outcome.bounds) == len(NORMS)
    # Else the laws above would say nothing: most graphs have bounds, and quotients come near them.
    assert sum(len(o.bounds) == len(NORMS) for o in outcomes.values()) >= CHUNK / 2
    assert sum(o.reached > 0.9 for o in outcomes.values()) >= CHUNK / 5


@pytest.mark.parametrize("first", range(0, 40, CHUNK))
def test_the_bound_of_affine_ops_in_a_row_is_the_norm_of_their_matrix(first: int) -> None:
    """Whatever the ops, and whatever does nothing between them."""
    for seed in range(first, first + CHUNK):
        made = chain(seed)
        f = Function(made.runners, made.values, made.inputs, made.outputs)
        matrix = np.stack([f(e) - f(0 * e) for e in np.eye(sum(f.sizes))], axis=1)
        plain = made.model(made.outputs)
        # −1 in a shape says nothing of a tensor without entries.
        ops = ["Identity", "Dropout", "Cast", "Neg", "Transpose", *["Reshape"] * (matrix.size > 0)]
        for model in (plain, with_nothing(made, made.outputs, ops)):
            for p in NORMS:
                norm = pytest.approx(steepest(matrix, p)[0], rel=1e-6, abs=1e-9)
                assert _upper(model, p) == norm, f"seed {seed}, p = {p}"


@pytest.mark.parametrize("first", range(1000, 1040, CHUNK))
def test_aliases_change_no_bound(first: int) -> None:
    for seed in range(first, first + CHUNK):
        made = random_graph(seed)
        plain = made.model(made.outputs)
        disguised = with_nothing(made, made.outputs, ["Identity", "Dropout", "Cast"])
        for p in NORMS:
            expected = _upper(plain, p)
            found = _upper(disguised, p)
            if isinstance(expected, float):
                expected = pytest.approx(expected, rel=1e-7)
            assert found == expected, f"seed {seed}, p = {p}"
