"""The shape of the code itself: imports run one way, the engine names no op, files stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import defs

import onnxlip
from onnxlip.registry import built_in

ROOT = Path(__file__).parent.parent
ENGINE = sorted(
    p
    for p in (ROOT / "onnxlip").rglob("*.py")
    if "ops" not in p.relative_to(ROOT / "onnxlip").parts
)
OPS = sorted((ROOT / "ops").rglob("*.py"))

# What may import what: a module imports from its own station or from earlier ones.
STATIONS = [
    {"choices", "errors", "files", "rounding", "box", "certificate", "parallel", "wire"},
    {"linear", "univariate", "emitter"},
    {"lowering", "rules"},
    {"registry", "recognise"},
    {"operators"},
    {"model"},
    {"folding"},
    {"graph"},
    {"fusion"},
    {"intervals"},
    {"network", "proofs"},
    {"enclosed", "feedback", "verify"},
    {"norms"},
    {"bounds"},
    {"report"},
    {"analysis", "bounding", "testing", "witness"},
    {"certify"},
    {"cli", "verify_cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(STATIONS) for name in names}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", ENGINE, ids=_name)
def test_imports_run_one_way(path: Path) -> None:
    station = path.relative_to(ROOT / "onnxlip").parts[0].removesuffix(".py")
    if station == "__init__":
        return
    for module in _imports(path):
        parts = module.split(".")
        if parts[0] != "onnxlip" or len(parts) == 1 or parts[1] not in LEVEL:
            continue
        assert LEVEL[parts[1]] <= LEVEL[station], f"{station} imports the later {parts[1]}"


@pytest.mark.parametrize("path", OPS, ids=_name)
def test_rules_know_nothing_of_the_engine(path: Path) -> None:
    later = {"graph", "operators", "network", "norms", "bounds", "analysis", "model", "folding"}
    for module in _imports(path):
        assert not {f"onnxlip.{name}" for name in later} & {module}
        assert module.split(".")[0] not in {"onnxruntime", "networkx", "torch"}


@pytest.mark.parametrize("path", ENGINE, ids=_name)
def test_the_engine_names_no_op(path: Path) -> None:
    known = {schema.name for schema in defs.get_all_schemas()}
    known |= {entry.rule.op_type for entry in built_in()}
    tree = ast.parse(path.read_text())
    exported = {
        id(name)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for name in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) in exported:
                continue  # Sum and Constant are names of our own as well
            assert node.value not in known, f"line {node.lineno} names the op {node.value}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            emitted = node.value.id in {"e", "emitter", "op"} and node.attr in known
            assert not emitted, f"line {node.lineno} emits the op {node.attr}"


def test_only_operators_runs_onnxruntime() -> None:
    users = {p.name for p in ENGINE if any(m.split(".")[0] == "onnxruntime" for m in _imports(p))}
    assert users == {"operators.py", "witness.py"}


@pytest.mark.parametrize("path", ENGINE + OPS, ids=_name)
def test_files_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500


def test_all_lists_what_the_package_offers() -> None:
    for name in onnxlip.__all__:
        assert getattr(onnxlip, name) is not None
    with pytest.raises(AttributeError):
        _ = onnxlip.no_such_name  # type: ignore[attr-defined]


def test_the_command_line_imports_nothing_slow() -> None:
    code = (
        "import sys, onnxlip.cli, onnxlip.analysis, onnxlip.registry as r; r.built_in(); "
        "slow = {'torch', 'matplotlib', 'scipy', 'rich', 'sklearn', 'networkx'}; "
        "print(sorted(slow & {m.split('.')[0] for m in sys.modules}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_ops_refuses_to_be_imported_under_its_folder_name() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "import ops"], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode != 0
    assert "onnxlip.ops" in ran.stderr
