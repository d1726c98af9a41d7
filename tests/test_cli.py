"""The command line as a user meets it: what is printed where, and the exit code."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from onnxlip.cli import _parse_size, main
from onnxlip.report import Report, json_schema

TEXT = "net (float[1,4] x) => (float[1,3] y) { a = MatMul(x, w) y = Relu(a) }"


@pytest.fixture
def path(make_model, tmp_path) -> Path:
    file = tmp_path / "net.onnx"
    file.write_bytes(make_model(TEXT, w=2 * np.eye(4, 3)).SerializeToString())
    return file


def run(capsys, *words: object) -> tuple[int, str, str]:
    code = main([str(w) for w in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_person_reads_the_bound(path, capsys):
    code, out, err = run(capsys, path)
    assert (code, err) == (0, "")
    for part in ("upper bound", "certified", "autolip", "MatMul", "share", "x 1×4", "y 1×3"):
        assert part in out


def test_json_follows_the_published_schema(path, capsys):
    code, out, _ = run(capsys, path, "--json")
    data = json.loads(out)
    Draft202012Validator(json_schema()).validate(data)
    assert code == 0
    assert data["upper"]["kind"] == "certified"
    assert data["methods"]["autolip"]["value"] == data["upper"]["value"]
    assert data["blocks"][0]["norm"]["lower"] <= data["blocks"][0]["norm"]["upper"]
    assert Report.from_json(out).to_dict() == data


CHAIN = "net (float[1,4] x) => (float[1,3] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }"


@pytest.fixture
def chain(make_model, tmp_path) -> Path:
    rng = np.random.default_rng(1)
    weights = {"w": rng.standard_normal((4, 6)), "v": rng.standard_normal((6, 3))}
    file = tmp_path / "chain.onnx"
    file.write_bytes(make_model(CHAIN, **weights).SerializeToString())
    return file


@pytest.mark.parametrize("search", ["auto", "sign-power", "greedy", "exact"])
def test_seqlip_tells_its_three_figures_apart(chain, capsys, search):
    code, out, _ = run(capsys, chain, "--seqlip", search, "--json", "--lower", "none")
    data = json.loads(out)
    Draft202012Validator(json_schema()).validate(data)
    assert code == 0
    methods = data["methods"]
    assert methods["seqlip, estimate"]["kind"] == "estimate"
    assert methods["seqlip"]["kind"] == methods["autolip"]["kind"] == "certified"
    values = [methods[k]["value"] for k in ("autolip", "seqlip", "seqlip, estimate")]
    assert values == sorted(values, reverse=True)
    assert data["upper"]["value"] <= values[1]
    assert Report.from_json(out).to_dict() == data
    _, text, _ = run(capsys, chain, "--seqlip", search, "-v")
    for part in ("SeqLip, pair by pair", "estimate", "(no bound)", "upper bound", "vectors"):
        assert part in text


def test_seqlip_of_a_network_without_a_chain(path, chain, capsys):
    code, out, _ = run(capsys, path, "--seqlip", "exact")
    assert code == 0
    assert "note: SeqLip: there is no chain" in out
    for words in (["--seqlip", "none"], ["--norm", "inf"]):
        code, out, _ = run(capsys, chain, *words)
        assert code == 0
        assert "pair by pair" not in out
    _, out, _ = run(capsys, chain, "--norm", "inf", "--seqlip", "exact")
    assert "note: SeqLip is for the 2-norm" in out
    assert run(capsys, chain, "--vectors", "0")[0] == 2


def test_the_schema_is_one(capsys):
    Draft202012Validator.check_schema(json_schema())


def test_json_of_a_refusal(make_model, tmp_path, capsys):
    file = tmp_path / "bad.onnx"
    text = "n (float[1,4] x) => (float[1,4] y) { a = mine.Foo(x) y = mine.Bar(a) }"
    file.write_bytes(make_model(text, domains={"mine": 1}).SerializeToString())
    code, out, err = run(capsys, file, "--json")
    data = json.loads(out)
    Draft202012Validator(json_schema()).validate(data)
    assert code == 3
    assert data["upper"] is None
    assert [r["op_type"] for r in data["refused"]] == ["Bar", "Foo"]
    assert err.startswith("onnxlip: ")


def test_quiet_prints_the_number_only(path, capsys):
    code, out, err = run(capsys, path, "-q")
    assert (code, err) == (0, "")
    assert 2 <= float(out) < 2.0001


@pytest.mark.parametrize(("limit", "code"), [(1.9, 1), (2.1, 0)])
def test_the_gate(path, capsys, limit, code):
    found, _, err = run(capsys, path, "--max", limit)
    assert found == code
    assert ("gate exceeded" in err) == (code == 1)


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_norms(path, capsys, norm):
    code, out, _ = run(capsys, path, "--norm", norm, "-q")
    assert code == 0
    assert float(out) == pytest.approx(2, rel=1e-6)


def test_verbose_lists_every_block(make_model, tmp_path, capsys):
    body = " ".join(f"h{k} = MatMul(x{k}, w) x{k + 1} = Relu(h{k})" for k in range(20))
    text = f"n (float[1,4] x0) => (float[1,4] x20) {{ {body} }}"
    file = tmp_path / "deep.onnx"
    file.write_bytes(make_model(text, w=2 * np.eye(4)).SerializeToString())
    _, short, _ = run(capsys, file)
    _, long, _ = run(capsys, file, "--verbose")
    assert "more that cost less" in short
    assert sum("MatMul" in line for line in long.splitlines()) >= 20


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["nowhere.onnx"], "no such file"),
        ([], "Missing argument"),
        (["a.onnx", "--norm", "3"], "norm"),
        (["a.onnx", "--no-such-option"], "No such option"),
        (["a.onnx", "--rules", "no_such_module"], "cannot import rules module"),
        (["a.onnx", "--shape", "x=1,b"], "write it as"),
        (["a.onnx", "--max", "much"], "valid float"),
    ],
)
def test_wrong_use_is_one_line_and_2(capsys, words, part):
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert part in err
    assert err.count("\n") == 1


def test_a_text_file_is_one_line_and_2(tmp_path, capsys):
    (tmp_path / "a.onnx").write_text("hello " * 100)
    code, out, err = run(capsys, tmp_path / "a.onnx")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_not_lipschitz_is_one_line_and_3(make_model, tmp_path, capsys):
    file = tmp_path / "sq.onnx"
    text = "n (float[1,4] x) => (float[1,4] y) { y = Exp(x) }"
    file.write_bytes(make_model(text).SerializeToString())
    code, out, err = run(capsys, file)
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "Exp 'y'" in err


def test_shapes_inputs_and_outputs(make_model, tmp_path, capsys):
    file = tmp_path / "open.onnx"
    text = "n (float[N,C,4] x) => (float[N,C,4] y) { a = Relu(x) y = Mul(a, c) }"
    file.write_bytes(make_model(text, c=np.float64(3)).SerializeToString())
    assert run(capsys, file)[0] == 2
    assert float(run(capsys, file, "--shape", "x=1,2,4", "-q")[1]) == 3
    assert float(run(capsys, file, "--shape", "1,2,4", "--output", "a", "-q")[1]) == 1
    assert float(run(capsys, file, "--shape", "1,2,4", "--input", "a", "-q")[1]) == 3


def test_version(capsys):
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert out.startswith("onnxlip, version ")


def test_the_catalogue(capsys):
    code, out, _ = run(capsys, "ops")
    assert code == 0
    assert "MaxPool" in out
    code, out, _ = run(capsys, "ops", "--json")
    records = json.loads(out)
    assert {r["form"] for r in records} >= {"affine", "elementwise", "gain", "refusal"}


def test_cuda_without_cuda_says_what_to_do(path, capsys):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    code, _, err = run(capsys, path, "--provider", "cuda")
    assert code == 2
    assert "onnxruntime-gpu" in err


def test_as_a_process(path):
    ran = subprocess.run(
        [sys.executable, "-m", "onnxlip", str(path), "-q"], capture_output=True, text=True
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert float(ran.stdout) == pytest.approx(2, rel=1e-6)


class TestEffort:
    """--memory, --tolerance, --timeout, --confidence, --search."""

    def test_all_of_them_together(self, path, capsys):
        options = ("--memory", "64M", "--tolerance", 0.5, "--timeout", 60, "--search", "power")
        code, out, err = run(capsys, path, *options)
        assert (code, err) == (0, "")
        assert "certified" in out

    @pytest.mark.parametrize(
        ("text", "size"),
        [("512", 512), ("2k", 2048), ("1.5M", 3 << 19), ("2G", 2 << 30), ("3GiB", 3 << 30)],
    )
    def test_sizes(self, text, size):
        assert _parse_size(text) == size

    @pytest.mark.parametrize("text", ["much", "-1", "0", "1e400", "nan", "5T"])
    def test_a_size_that_is_none(self, path, capsys, text):
        code, _, err = run(capsys, path, f"--memory={text}")
        assert code == 2
        assert f"--memory {text}: write it as 512M or 2G" in err

    def test_no_time_left_is_told(self, path, capsys):
        code, out, _ = run(capsys, path, "--timeout", 0)
        assert code == 0
        assert "note: --timeout had passed: cheaper bounds for" in out

    def test_too_little_memory_is_told(self, make_model, tmp_path, capsys):
        file = tmp_path / "wide.onnx"
        w = np.random.default_rng(0).standard_normal((2600, 2600))
        text = "net (float[1,2600] x) => (float[1,2600] y) { y = MatMul(x, w) }"
        file.write_bytes(make_model(text, w=w).SerializeToString())
        code, out, _ = run(capsys, file, "--memory", "1M")
        assert code == 0
        assert "note: --memory (1 MiB) is too small: cheaper bounds for" in out

    def test_confidence_is_kept_apart(self, path, capsys):
        code, out, _ = run(capsys, path, "--confidence", "1e-6", "--json")
        data = json.loads(out)
        Draft202012Validator(json_schema()).validate(data)
        assert code == 0
        assert data["methods"]["autolip"]["kind"] == "certified"
        assert data["methods"]["autolip, probabilistic"]["kind"] == "probabilistic"
        assert any("at most 1e-06" in note and "union bound" in note for note in data["notes"])
        assert data["upper"]["kind"] == "certified"  # nothing was loose

    def test_confidence_where_it_helps(self, make_model, tmp_path, capsys):
        """Two matrices along different axes of one tensor, and a scaling of every entry between."""
        rng = np.random.default_rng(0)
        w, v = rng.standard_normal((2, 40, 40))
        s = rng.uniform(0.2, 1.0, (40, 40))
        file = tmp_path / "loose.onnx"
        text = """net (float[40,40] x) => (float[40,40] y) {
            a = MatMul(x, v) b = Mul(a, s) y = MatMul(w, b) }"""
        file.write_bytes(make_model(text, w=w, v=v, s=s).SerializeToString())
        plain = ("--method", "autolip")
        certified = json.loads(run(capsys, file, "--json", *plain)[1])["upper"]["value"]
        code, out, err = run(capsys, file, *plain, "--confidence", "1e-9", "--json", "--max", 1)
        told = json.loads(out)["upper"]
        assert code == 1
        assert "gate exceeded: probabilistic upper bound" in err
        assert told["kind"] == "probabilistic"
        dense = np.kron(w, np.eye(40)) @ (s.reshape(-1, 1) * np.kron(np.eye(40), v.T))
        truth = np.linalg.svd(dense.astype(np.float32).astype(float), compute_uv=False)[0]
        assert truth * (1 - 1e-6) <= told["value"] <= 1.01 * truth
        assert told["value"] < 0.9 * certified
        assert "probabilistic" in run(capsys, file, "--confidence", "1e-9")[1]

    def test_confidence_is_for_the_2_norm(self, path, capsys):
        code, _, err = run(capsys, path, "--confidence", "1e-6", "--norm", "inf")
        assert code == 2
        assert "--confidence is for the 2-norm" in err
        assert run(capsys, path, "--confidence", "1e-20")[0] == 2


class TestBeyondAutoLip:
    MODEL = Path(__file__).parent.parent / "fixtures" / "models" / "mlp_relu.onnx"

    def test_every_method_is_told_and_the_best_comes_first(self, capsys):
        code, out, _ = run(capsys, self.MODEL, "--lower", "none")
        assert code == 0
        lines = out.splitlines()
        (start,) = (k for k, line in enumerate(lines) if line.startswith("upper bounds"))
        told = list(itertools.takewhile(str.strip, lines[start + 1 :]))
        values = [float(re.split(r"\s{2,}", line)[1]) for line in told]
        assert values == sorted(values)
        assert f"{values[0]:g}" in lines[3]
        assert any(line.startswith("autolip") for line in told)

    def test_a_proof_is_saved_and_verified(self, capsys, tmp_path):
        file = tmp_path / "cert.json"
        code, _, err = run(
            capsys, self.MODEL, "--lower", "none", "--method", "lipsdp", "--certificate", file
        )
        assert (code, err) == (0, "")
        code, out, err = run(capsys, "verify", file, self.MODEL)
        assert (code, err) == (0, "")
        assert out.startswith("verified: L ≤ 10.4")
        other = self.MODEL.with_name("mlp_tanh.onnx")
        code, out, err = run(capsys, "verify", file, other)
        assert (code, out, err.count("\n")) == (2, "", 1)
        data = json.loads(file.read_text())
        file.write_text(json.dumps(data | {"bound": data["bound"] * 0.99}))
        code, out, err = run(capsys, "verify", file, self.MODEL)
        assert (code, out, err.count("\n")) == (1, "", 1)

    def test_a_bound_without_a_certificate_of_its_own(self, capsys, tmp_path):
        file = tmp_path / "cert.json"
        code, _, err = run(capsys, self.MODEL, "--method", "seqlip", "--certificate", file, "-q")
        assert code == 0
        assert "certificates are made of multipliers and of norms" in err
        assert run(capsys, "verify", file, self.MODEL)[0] == 0

    def test_pairs_of_classes_as_text_and_as_json(self, capsys, tmp_path):
        rows = tmp_path / "rows.npz"
        rng = np.random.default_rng(0)
        np.savez(rows, x=rng.standard_normal((5, 64)).astype(np.float32), y=np.arange(5))
        words = (self.MODEL, "--pairs", "--data", rows, "--lower", "none")
        _, text, _ = run(capsys, *words)
        assert "y_i − y_j" in text
        assert "certified accuracy of 5 rows: right by the labels given" in text
        code, out, _ = run(capsys, *words, "--json")
        data = json.loads(out)
        Draft202012Validator(json_schema()).validate(data)
        assert code == 0
        assert len(data["classes"]["upper"]) == 10
        assert len(data["radii"]["radii"]) == 5
        assert Report.from_json(out).to_dict() == data

    def test_wrong_use_is_one_line(self, capsys, tmp_path):
        bad = tmp_path / "bad.npz"
        np.savez(bad, x=np.zeros((2, 64), np.float32), y=[0.5, 1])
        for words in (
            ("--method", "best"),
            ("--method", "lipsdp", "--norm", "1"),
            ("--pairs", "--data", bad),
            ("--certificate", tmp_path / "missing" / "cert.json"),
            ("--norm", "inf", "--certificate", tmp_path / "c.json"),
        ):
            code, _, err = run(capsys, self.MODEL, *words)
            assert code == 2, words
            assert err.count("\n") == 1
