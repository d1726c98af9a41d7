"""The README is true: its examples run as written."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import onnxlip
from onnxlip.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(mark: str) -> str:
    found = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found is not None, f"README has no block '{mark}'"
    return found.group(1)


def test_the_main_command_runs(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    install, _, command = block("main command").partition("&&")
    assert install.split() == ["pip", "install", "."]
    assert main(shlex.split(command)[1:]) == 0
    assert "certified" in capsys.readouterr().out


def test_the_python_example_runs(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"```python\n(import onnxlip\n.*?)```", README, re.DOTALL)
    exec(compile(code, "README", "exec"), {})
    assert "certified" in capsys.readouterr().out


@pytest.fixture
def snake(make_model):
    text = """n (float[1,4] x) => (float[1,4] y) { a = MatMul(x, w) y = com.acme.Snake(a) }"""
    return make_model(text, domains={"com.acme": 1}, w=3 * np.eye(4))


def test_the_extension_example_is_right_and_works(snake):
    names: dict = {}
    exec(compile(block("extension"), "README", "exec"), names)
    exec(compile(block("extension check"), "README", "exec"), names)
    report = onnxlip.analyze(snake, rules=[names["SNAKE"]])
    assert report.upper.value == pytest.approx(6, rel=1e-8)
    assert report.rules == {"Snake": "argument"}


def test_a_wrong_extension_is_caught():
    names: dict = {}
    exec(compile(block("extension").replace("2.0)", "1.9)"), "README", "exec"), names)
    with pytest.raises(AssertionError, match="exceeds β"):
        exec(compile(block("extension check"), "README", "exec"), names)


def test_the_extension_works_from_the_command_line(snake, tmp_path, capsys, monkeypatch):
    (tmp_path / "readme_rules.py").write_text(block("extension"), encoding="utf-8")
    (tmp_path / "snake.onnx").write_bytes(snake.SerializeToString())
    monkeypatch.chdir(tmp_path)
    assert main(["snake.onnx"]) == 3
    assert "com.acme.Snake" in capsys.readouterr().err
    assert main(["snake.onnx", "--rules", "readme_rules"]) == 0
    assert "rule: Snake from readme_rules" in capsys.readouterr().out


def test_the_extension_works_by_entry_point(snake, tmp_path, monkeypatch):
    (tmp_path / "entry_rules.py").write_text(block("extension"), encoding="utf-8")
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[onnxlip.rules]\nacme = entry_rules\n")
    monkeypatch.syspath_prepend(tmp_path)
    report = onnxlip.analyze(snake)
    assert report.rules == {"Snake": "entry_rules"}


def test_every_exit_code_in_the_table_is_real():
    from onnxlip import cli, errors

    codes = {int(c) for c in re.findall(r"^\| (\d) \|", README, re.MULTILINE)}
    owned = {e.exit_code for e in vars(errors).values() if hasattr(e, "exit_code")}
    assert codes == owned | {0, cli.GATE_EXCEEDED}
