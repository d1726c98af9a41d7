"""Certificates: what is proved is true, what is false is rejected, and both say why."""

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnxlip import enclosed
from onnxlip import verify as checker
from onnxlip.analysis import Analysis
from onnxlip.bounds.autolip import network_bound
from onnxlip.bounds.sdp.build import system
from onnxlip.bounds.sdp.closed import closed_forms
from onnxlip.bounds.sdp.proof import Certifier
from onnxlip.bounds.sdp.system import split
from onnxlip.certify import multiplier_certificate, product_certificate
from onnxlip.enclosed import Enclosed, VerificationError, proved_norm
from onnxlip.errors import OnnxlipError, UsageError
from onnxlip.feedback import Segment
from onnxlip.norms.workspace import Workspace
from onnxlip.proofs import Certificate
from onnxlip.verify_cli import verify as command

MODELS = Path(__file__).parent.parent / "fixtures" / "models"
NAMES = (
    "residual_mlp",
    "two_inputs_two_outputs",
    "cnn_pooled",
    "residual_conv",
    "shared_weights",
    "mlp_gelu",
)
Matrix = list[list[Fraction]]


def certificates(name: str) -> dict[str, tuple[Certificate, float]]:
    """By kind, with what the solvers' own proof says."""
    analysis = Analysis(str(MODELS / f"{name}.onnx"))
    norms = analysis.norms()
    plain = system(analysis.network, norms, Workspace(analysis.rule_set.lowerings))
    bound = network_bound(analysis.network, norms, 2.0)[0]
    found = {"product": (product_certificate(analysis, norms), bound)}
    for kind, s in (("direct", plain), ("transposed", plain.transposed())):
        certifier = Certifier(s)
        best = min(
            (f.multipliers for f in closed_forms(s).values()), key=lambda t: certifier.proved(t)
        )
        value = certifier.proved(best)
        named = [(n.name, t) for n, t in zip(s.nonlinear, split(s, best), strict=True)]
        made = multiplier_certificate(analysis, kind, named, value**2, norms)
        found[kind] = (made, value)
    return found


@pytest.fixture(scope="module")
def small() -> dict[str, tuple[Certificate, float]]:
    return certificates("residual_mlp")


# ── what is proved ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NAMES)
def test_it_agrees_with_the_solvers_own_proofs(name: str) -> None:
    for kind, (made, value) in certificates(name).items():
        proved = checker.verify(Certificate.from_json(made.to_json()), str(MODELS / f"{name}.onnx"))
        if kind != "product" or name != "two_inputs_two_outputs":  # the checker knows no pairs
            assert proved.bound == pytest.approx(value, rel=1e-6), kind
        assert proved.bound >= value * (1 - 1e-9), kind
        assert proved.proved <= proved.bound


def test_nothing_of_the_solvers_is_loaded(
    small: dict[str, tuple[Certificate, float]], tmp_path: Path
) -> None:
    small["direct"][0].save(tmp_path / "c.json")
    code = (
        "import sys; from onnxlip.verify_cli import verify; "
        f"verify.main([{str(tmp_path / 'c.json')!r}, {str(MODELS / 'residual_mlp.onnx')!r}], "
        "standalone_mode=False); "
        "print([m for m in sys.modules if m.startswith(('onnxlip.bounds', 'onnxlip.norms'))])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("verified: L ≤ ")
    assert lines[0].endswith("(2-norm, global), residual_mlp.onnx")
    assert lines[1] == "[]"


# ── rounding ──────────────────────────────────────────────────────────────────────────────


def semidefinite(m: Matrix) -> bool:
    """LDLᵀ in exact arithmetic."""
    m = [row[:] for row in m]
    n = len(m)
    for k in range(n):
        pivot = m[k][k]
        if pivot < 0 or (pivot == 0 and any(m[k][k:])):
            return False
        for i in range(k + 1, n):
            if pivot:
                share = m[i][k] / pivot
                for j in range(k, n):
                    m[i][j] -= share * m[k][j]
    return True


def exact(m: Any) -> Matrix:
    return [[Fraction(float(x)) for x in row] for row in m]


def nearly_singular(rng: np.random.Generator, n: int) -> Any:
    """Of rank n − 1 but for rounding and a few units in the last place."""
    b = rng.integers(-(2**26), 2**26, (n, n - 1)).astype(float)
    b *= 2.0 ** rng.integers(-8, 8, (n, 1))
    m = b @ b.T
    np.einsum("ii->i", m)[...] *= 1.0 + rng.integers(-4, 5) * 2.0**-52
    return np.tril(m) + np.tril(m, -1).T


def test_cholesky_that_succeeds_proves_what_the_margin_says(rng: np.random.Generator) -> None:
    taken = indefinite = 0
    for _ in range(3000):
        n = int(rng.integers(2, 6))
        m = nearly_singular(rng, n)
        if not enclosed.factored(m.copy()):
            continue
        taken += 1
        whole = exact(m)
        indefinite += not semidefinite(whole)
        for i in range(n):  # (Σ √m_ii |v_i|)² ≤ n Σ m_ii v_i²
            whole[i][i] *= 1 + n * enclosed.gamma(n + 3)
        assert semidefinite(whole)
    assert taken > 500
    assert indefinite > 2, "a margin of 0 would have done: these matrices test nothing"


def test_a_proved_norm_is_an_upper_bound(rng: np.random.Generator) -> None:
    taken = 0
    for _ in range(2000):
        m, k = rng.integers(2, 5, 2)
        a = rng.integers(-(2**30), 2**30, (m, k)) * 2.0**-30
        claim = float(np.linalg.norm(a, 2)) * (1.0 - 2.0**-40 * rng.choice([0, 0.4, 0.499, 0.5, 1]))
        try:
            norm = proved_norm([Enclosed(a)], claim, "a")
        except VerificationError:
            continue
        taken += 1
        gram = [[sum(x * y for x, y in zip(r, s, strict=True)) for s in exact(a)] for r in exact(a)]
        assert semidefinite(
            [[(norm**2 if i == j else 0) - g for j, g in enumerate(r)] for i, r in enumerate(gram)]
        )
        assert norm <= Fraction(claim) * (1 + Fraction(1, 2**38))
    assert taken > 500


def one_neuron(a: float, b: float, r: float) -> Any:
    """y = a x + b w, |w| ≤ |r x|: L = |a| + |b r|."""
    group = np.zeros(1, int)
    one = Fraction(1)
    blocks = {(0, 0): r, (1, 0): a, (1, 1): b}
    return SimpleNamespace(
        groups=[("neuron", 1)],
        columns=[Segment(1, None, None, one), Segment(1, 0, group, Fraction(abs(r)))],
        rows=[Segment(1, 0, group, Fraction(abs(b))), Segment(1, None, None, one)],
        blocks={place: Enclosed(np.array([[x]])) for place, x in blocks.items()},
    )


def scan(rng: np.random.Generator, kind: str, count: int = 4000) -> tuple[int, int]:
    """(accepted, of these wrong) of matrices at the edge of what is semidefinite."""
    accepted = wrong = 0
    for _ in range(count):
        a, b, r = (float(x) for x in rng.uniform(0.1, 2.0, 3))
        square = (a + b * r) ** 2
        best = b * b + a * b / r if kind == "direct" else square / (b * b + a * b / r)
        t = np.array([best * (1 + int(rng.integers(-3, 4)) * 2.0**-52)])
        rho = square * (1 + int(rng.integers(-6, 4)) * 2.0**-53)
        try:
            proved = checker.proved_square(one_neuron(a, b, r), kind, rho, [t])
        except VerificationError:
            continue
        accepted += 1
        a_, b_, r_ = map(Fraction, (a, b, r))
        wrong += proved < (a_ + b_ * r_) ** 2
    return accepted, wrong


@pytest.mark.parametrize("kind", ["direct", "transposed"])
def test_the_bound_of_one_neuron_is_never_too_low(rng: np.random.Generator, kind: str) -> None:
    accepted, wrong = scan(rng, kind)
    assert accepted > 200
    assert wrong == 0


def test_without_a_margin_it_would_be(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checker, "gamma", lambda k: Fraction(0))
    assert scan(rng, "direct")[1] > 0


def test_errors_of_the_blocks_are_paid_for() -> None:
    """Blocks of H are known within e only: L may be what it is with all of them larger by e."""
    form = one_neuron(1.0, 1.0, 1.0)
    slip = Fraction(1, 2**20)
    form.columns[1].reach += slip
    rho = 4.0 * (1 + 2.0**-45)
    assert checker.proved_square(form, "direct", rho, [np.array([2.0])]) < 4 + slip
    for place, block in form.blocks.items():
        form.blocks[place] = Enclosed(block.matrix, slip)
    loose = checker.proved_square(form, "direct", rho, [np.array([2.0])])
    assert loose >= (1 + slip + (1 + slip) ** 2) ** 2


# ── what is false ─────────────────────────────────────────────────────────────────────────


def run(path: Path, model: str = "residual_mlp") -> tuple[int, str]:
    try:
        return int(
            command.main([str(path), str(MODELS / f"{model}.onnx")], standalone_mode=False) or 0
        ), ""
    except OnnxlipError as error:
        return error.exit_code, str(error)


def changed(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    data = json.loads(json.dumps(data))
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is None and path[-1] not in ("rho",):
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


TAMPERED = [
    (("bound",), lambda d: d["bound"] * (1 - 1e-6), 1, "lower than what is proved"),
    (("bound",), lambda d: -d["bound"], 1, "lower than what is proved"),
    (("bound",), lambda d: 10**400, 2, "too large"),
    (("bound",), lambda d: "1", 2, "wrong type"),
    (("bound",), lambda d: True, 2, "wrong type"),
    (("bound",), lambda d: None, 2, "lacks 'bound'"),
    (("rho",), lambda d: d["rho"] * 0.9, 1, "not positive definite"),
    (("rho",), lambda d: -1.0, 1, "rho is negative"),
    (("rho",), lambda d: None, 1, "no rho"),
    (("rho",), lambda d: d["rho"] * 1.01, 1, "lower than what is proved"),
    (("kind",), lambda d: "transposed", 1, ""),
    (("kind",), lambda d: "product", 1, "lower than what is proved"),
    (("kind",), lambda d: "magic", 2, "none of"),
    (("norm",), lambda d: "inf", 2, "2-norm"),
    (("domain",), lambda d: "box", 2, "whole space"),
    (("format",), lambda d: "other", 2, "format"),
    (("version",), lambda d: 2, 2, "version"),
    (("sha256",), lambda d: "00" * 32, 2, "another model"),
    (("inputs",), lambda d: ["nowhere"], 2, "nowhere"),
    (("outputs",), lambda d: ["nowhere"], 2, "nowhere"),
    (("shapes",), lambda d: {"nowhere": [1]}, 2, "nowhere"),
    (("shapes",), lambda d: {k: [-1] for k in d["shapes"]}, 2, "does not fit"),
    (("rules",), lambda d: {"Relu": "mine"}, 2, "mine"),
    (("norms",), lambda d: d["norms"][1:], 1, "lacks norms"),
    (("norms", 0, "each", 0), lambda d: d["norms"][0]["each"][0] * 0.9, 1, "larger norm"),
    (("norms", 0, "each", 0), lambda d: -d["norms"][0]["each"][0], 1, "negative"),
    (("norms", 0, "each"), lambda d: [], 1, "lacks norms"),
    (("multipliers",), lambda d: d["multipliers"][1:], 1, "multipliers"),
    (("multipliers", 0, "block"), lambda d: "other", 1, "multipliers"),
    (("multipliers", 0, "values"), lambda d: d["multipliers"][0]["values"][1:], 1, "multipliers"),
    (("multipliers", 0, "values", 0), lambda d: -1.0, 1, "negative"),
    (("multipliers", 0, "values", 0), lambda d: 0.0, 1, "not positive definite"),
    (("multipliers", 0, "values", 0), lambda d: 1e300, 1, ""),
    (("multipliers", 0, "values", 0), lambda d: "x", 2, "wrong type"),
    (("more",), lambda d: 1, 2, "not a field"),
]


@pytest.mark.parametrize("case", range(len(TAMPERED)))
def test_what_was_tampered_with_is_rejected(
    small: dict[str, tuple[Certificate, float]], tmp_path: Path, case: int
) -> None:
    path, value, code, reason = TAMPERED[case]
    data = json.loads(small["direct"][0].to_json())
    file = tmp_path / "c.json"
    file.write_text(json.dumps(changed(data, path, value(data))))
    found, told = run(file)
    assert (found, reason in told) == (code, True), told
    assert "\n" not in told


@pytest.mark.parametrize("text", ["", "[]", "{", "1", "NaN", "[" * 100_000, '{"format": 1}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(text)
    assert run(file)[0] == 2


def test_truncated_missing_and_binary_files(
    small: dict[str, tuple[Certificate, float]], tmp_path: Path
) -> None:
    text = small["direct"][0].to_json()
    file = tmp_path / "c.json"
    for share in (0.1, 0.5, 0.99):
        file.write_text(text[: int(share * len(text))])
        assert run(file)[0] == 2
    file.write_text(text.replace('"rho": ', '"rho": NaN, "x": ', 1))
    assert run(file)[0] == 2
    file.write_bytes(b"\xff\xfe\x00")
    assert run(file)[0] == 2
    assert run(tmp_path / "none.json")[0] == 2
    assert run(tmp_path)[0] == 2


def test_another_model_is_refused(
    small: dict[str, tuple[Certificate, float]], tmp_path: Path
) -> None:
    file = tmp_path / "c.json"
    small["direct"][0].save(file)
    assert run(file)[0] == 0
    code, told = run(file, "cnn_pooled")
    assert (code, "another model" in told) == (2, True)


# ── the file ──────────────────────────────────────────────────────────────────────────────


def test_a_certificate_is_read_as_it_was_written(
    small: dict[str, tuple[Certificate, float]], tmp_path: Path
) -> None:
    for made, _ in small.values():
        made.save(tmp_path / "c.json")
        assert Certificate.load(tmp_path / "c.json") == made
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]


def test_it_is_written_whole_or_not_at_all(
    small: dict[str, tuple[Certificate, float]], tmp_path: Path
) -> None:
    made = small["direct"][0]
    with pytest.raises(UsageError, match="cannot be written"):
        made.save(tmp_path / "none" / "c.json")
    with pytest.raises(ValueError, match="JSON"):
        replace(made, bound=float("nan")).save(tmp_path / "c.json")
    assert list(tmp_path.iterdir()) == []
