"""Damaged files: cut anywhere, or with bits flipped, they end in one line and an exit code."""

from pathlib import Path

import numpy as np
import pytest

from onnxlip.cli import main
from tests.conftest import ROOT

SMALL = [p for p in sorted((ROOT / "fixtures" / "models").glob("*.onnx")) if p.stat().st_size < 2e4]


def _ends_well(data: bytes, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_bytes(data)
    code = main([str(path), "-q"])
    out, err = capsys.readouterr()
    assert code in (0, 2, 3)
    assert (out == "") == (code != 0)
    assert err.count("\n") == (code != 0)
    assert "Traceback" not in err


@pytest.mark.parametrize("path", SMALL, ids=lambda p: p.stem)
def test_a_file_cut_anywhere(path: Path, tmp_path: Path, capsys) -> None:
    data = path.read_bytes()
    rng = np.random.default_rng(len(data))
    for end in rng.integers(0, len(data), 12):
        _ends_well(data[:end], tmp_path / "cut.onnx", capsys)


@pytest.mark.parametrize("path", SMALL, ids=lambda p: p.stem)
def test_a_file_with_flipped_bits(path: Path, tmp_path: Path, capsys) -> None:
    data = path.read_bytes()
    rng = np.random.default_rng(len(data))
    for _ in range(25):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 2):
            damaged[place] ^= 1 << int(rng.integers(8))
        _ends_well(bytes(damaged), tmp_path / "flipped.onnx", capsys)
