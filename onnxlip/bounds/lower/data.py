"""Rows that the user gives: points where the network is used.

An array has one row per point: (rows, n), (rows, *shape) of the only input, or one point alone.
A mapping (an .npz file) has one array per input, by name.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.errors import UsageError
from onnxlip.rules import Value

__all__ = ["load_data", "rows_of"]

Floats = npt.NDArray[np.float64]


def load_data(path: str | Path) -> Any:
    """What an .npy or .npz file holds. Raises UsageError if it is none, or damaged."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise UsageError(f"--data {path}: no such file") from None
    except (ValueError, EOFError, zipfile.BadZipFile, OSError) as error:
        reason = "objects are not read" if "allow_pickle" in str(error) else "damaged, or another"
        raise UsageError(f"--data {path}: no .npy or .npz file of numbers ({reason})") from None


def rows_of(data: Any, inputs: Sequence[Value]) -> Floats:
    """Points (m, n), all inputs stacked. Raises UsageError: wrong shape, type, NaN, no row."""
    if isinstance(data, Mapping):
        if len(data) == 1 and len(inputs) == 1:  # the name says nothing then
            return _rows(next(iter(data.values())), inputs)
        missing = [v.name for v in inputs if v.name not in data]
        if missing:
            raise UsageError(f"--data: no array for input '{missing[0]}'; name arrays by input")
        parts = [_rows(data[v.name], [v]) for v in inputs]
        if len({len(p) for p in parts}) > 1:
            counts = ", ".join(f"{v.name} {len(p)}" for v, p in zip(inputs, parts, strict=True))
            raise UsageError(f"--data: as many rows for every input are needed, not {counts}")
        return np.concatenate(parts, axis=1)
    return _rows(data, inputs)


def _rows(data: Any, inputs: Sequence[Value]) -> Floats:
    array = np.asarray(data)
    if array.dtype.kind not in "fiub":
        raise UsageError(f"--data: rows hold {array.dtype}, not numbers")
    n = sum(v.size for v in inputs)
    shapes: list[tuple[int, ...]] = [(n,)]
    if len(inputs) == 1:
        shapes += [inputs[0].shape, inputs[0].shape[1:] if inputs[0].shape[:1] == (1,) else (n,)]
    if array.shape in shapes and array.ndim:
        array = array.reshape(1, n)
    elif not (array.ndim and (array.shape[1:] in shapes)):
        wanted = " or ".join(f"(rows, {', '.join(map(str, s))})" for s in dict.fromkeys(shapes))
        raise UsageError(f"--data: the shape is {array.shape}, not {wanted}")
    if not len(array):
        raise UsageError("--data: there is no row")
    rows = array.reshape(len(array), n).astype(np.float64)
    if not np.isfinite(rows).all():
        first = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise UsageError(f"--data: row {first} holds NaN or infinity")
    return rows
