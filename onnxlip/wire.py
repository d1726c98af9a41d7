"""A serialized model without its weights, which are read into arrays of their own, once.

Protobuf parses into an arena that lives as long as any node of the model, and what it parses
from is another copy: a file with embedded weights would take three times its size. So the raw
data of initializers are left out of what is parsed. The wire format is a sequence of fields, each
a tag (number · 8 + kind) and a value; a message inside another one is its length and its fields.

Source: protobuf.dev/programming-guides/encoding; the numbers are those of onnx.proto.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BufferedIOBase
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Bytes", "without_weights"]

Bytes = npt.NDArray[np.uint8]

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # of a model, a graph, a tensor
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5  # kinds of values
_LARGE = 1024  # bytes: what is smaller may stay where it is


class _Field(NamedTuple):
    """Bytes begin … end, of which body … end are the value."""

    number: int
    kind: int
    begin: int
    body: int
    end: int


class _IrregularError(Exception):
    """Not what a serializer writes; protobuf itself says what is wrong."""


def without_weights(file: BufferedIOBase) -> tuple[bytes, list[Bytes | None]]:
    """The bytes of the model without the raw data of large initializers, and for each of the
    graph's initializers these data (None where they were left in).

    The file is seekable. One that is not laid out as expected comes back as it is, with no list.
    """
    size = file.seek(0, os.SEEK_END)
    try:
        model, weights = _model(file, size)
    except _IrregularError:
        file.seek(0)
        return file.read(), []
    return model, weights


def _model(file: BufferedIOBase, size: int) -> tuple[bytes, list[Bytes | None]]:
    parts, weights = [], []
    for field in _fields(file, 0, size):
        if (field.number, field.kind) != (_GRAPH, _LENGTH):
            parts.append(_read(file, field.begin, field.end))
            continue
        graph = []
        for inner in _fields(file, field.body, field.end):
            if (inner.number, inner.kind) == (_INITIALIZER, _LENGTH):
                tensor, data = _tensor(file, inner)
                graph.append(_message(_INITIALIZER, tensor))
                weights.append(data)
            else:
                graph.append(_read(file, inner.begin, inner.end))
        parts.append(_message(_GRAPH, b"".join(graph)))
    return b"".join(parts), weights


def _tensor(file: BufferedIOBase, whole: _Field) -> tuple[bytes, Bytes | None]:
    parts, data = [], None
    for field in _fields(file, whole.body, whole.end):
        raw = (field.number, field.kind) == (_RAW_DATA, _LENGTH)
        if raw and data is not None:
            raise _IrregularError
        if raw and field.end - field.body > _LARGE:
            data = np.empty(field.end - field.body, np.uint8)
            file.seek(field.body)
            if file.readinto(data.data) != data.size:
                raise _IrregularError
        else:
            parts.append(_read(file, field.begin, field.end))
    return b"".join(parts), data


def _fields(file: BufferedIOBase, begin: int, end: int) -> Iterator[_Field]:
    """The fields between two places of the file, which may be read elsewhere in between."""
    while begin < end:
        file.seek(begin)
        tag = _varint(file)
        kind = tag & 7
        if kind == _VARINT:
            _varint(file)
            body = stop = file.tell()
        elif kind in (_EIGHT, _FOUR, _LENGTH):
            length = _varint(file) if kind == _LENGTH else {_EIGHT: 8, _FOUR: 4}[kind]
            body = file.tell()
            stop = body + length
        else:
            raise _IrregularError
        if stop > end:
            raise _IrregularError
        yield _Field(tag >> 3, kind, begin, body, stop)
        begin = stop


def _varint(file: BufferedIOBase) -> int:
    """Seven bits a byte, the lowest first; the eighth says that there are more."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise _IrregularError


def _read(file: BufferedIOBase, begin: int, end: int) -> bytes:
    file.seek(begin)
    data = file.read(end - begin)
    if len(data) < end - begin:
        raise _IrregularError
    return data


def _message(number: int, body: bytes) -> bytes:
    head, rest = bytearray([number << 3 | _LENGTH]), len(body)
    while rest > 127:
        head.append(rest & 127 | 128)
        rest >>= 7
    head.append(rest)
    return bytes(head) + body
