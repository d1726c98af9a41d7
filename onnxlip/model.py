"""Reading: from a file or a ModelProto to one plain graph in one operator set.

What exporters leave in a file is settled here: local functions are inlined, an operator set that
is listed twice counts once, stored intermediate shapes (which some exporters get wrong) are
dropped, initializers that are listed as inputs too are initializers, external data is read from
beside the file and never from outside its folder, open batch dimensions become 1, and everything
is converted to operator set 21 or left at a newer one.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxlip.errors import ModelError, ShapeError, UsageError
from onnxlip.rules import Amendment
from onnxlip.wire import Bytes, without_weights

__all__ = ["OPSET", "Model", "has_subgraph", "let_go", "load", "reads"]

OPSET = 21  # older models are converted to this version; newer ones stay as they are
_LARGE = 1024  # bytes: what is larger is kept out of the converter's way
_LIMIT = 2**31 - 1  # a protobuf message cannot be larger

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Model:
    """A model made plain.

    nodes: NodeProtos in topological order (held here, so that each keeps its identity)
    outputs: names and element types of the graph's outputs
    constants: initializers by name, in their own types
    inputs: shape and element type of every input, all dimensions fixed
    opsets: version by domain ("" is the standard one)
    """

    name: str
    nodes: tuple[Any, ...]
    outputs: Mapping[str, int]
    constants: Mapping[str, Array]
    inputs: Mapping[str, tuple[tuple[int, ...], int]]
    opsets: Mapping[str, int]
    ir_version: int
    sha256: str


def load(
    source: Any,
    shapes: Mapping[str, Sequence[int]] | None = None,
    amendments: Sequence[Amendment] = (),
) -> Model:
    """Read a path or a ModelProto.

    shapes: input name → full shape; the key "" names the only input of a model that has one.
    amendments: what onnx's conversion of old operator sets forgets (`RuleSet.amendments`).
    Raises ModelError (unreadable, invalid, external data), ShapeError (open dimensions),
    UsageError (a shape for an input that is not there).
    """
    folder: Path | None
    if isinstance(source, (str, Path)):
        path = Path(source)
        proto, weights, digest = _read(path)
        name, folder = path.name, path.parent
    else:
        proto, weights, digest = _copy(source)
        name, folder = proto.graph.name or "model", None
    if not proto.graph.node and not proto.graph.output:
        raise ModelError(f"{name}: the graph is empty: this is no network; export it again")
    _refuse_garbled(proto, name)
    _merge_opsets(proto, name)
    constants = _take_initializers(proto, weights, folder, name)
    del proto.graph.value_info[:]
    inputs = _fix_inputs(proto, dict(shapes or {}), name)
    proto = _inline(proto, name)
    small = {k: a for k, a in constants.items() if a.nbytes <= _LARGE}
    _lend(proto, constants, small)
    _check(proto, name)
    proto = _convert(proto, name, amendments)
    _unlend(proto, constants, inputs)
    opsets = {_domain(o.domain): int(o.version) for o in proto.opset_import}
    return Model(
        name,
        tuple(proto.graph.node),
        {o.name: o.type.tensor_type.elem_type for o in proto.graph.output},
        constants,
        inputs,
        opsets,
        proto.ir_version,
        digest,
    )


def let_go(model: Model) -> None:
    """Give back what mapped weights take in memory; when read again they come from the file."""
    import mmap

    if not hasattr(mmap.mmap, "madvise"):
        return
    for array in model.constants.values():
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap):
            base.madvise(mmap.MADV_DONTNEED)


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def has_subgraph(proto: Any) -> bool:
    """Whether a NodeProto holds graphs (If, Loop, Scan), which read tensors by name alone."""
    return any(attribute.HasField("g") or attribute.graphs for attribute in proto.attribute)


def reads(proto: Any) -> list[str]:
    """All tensors that a NodeProto reads: its inputs, and what its subgraphs take from outside."""
    names = [name for name in proto.input if name]
    for attribute in proto.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            own = {i.name for i in (*graph.input, *graph.initializer)}
            own |= {s.values.name for s in graph.sparse_initializer}
            own |= {name for node in graph.node for name in node.output}
            taken = [name for node in graph.node for name in reads(node)]
            names += [name for name in (*taken, *(o.name for o in graph.output)) if name not in own]
    return names


# ── reading ───────────────────────────────────────────────────────────────────────────────


def _read(path: Path) -> tuple[Any, list[Bytes | None], str]:
    from google.protobuf.message import DecodeError

    try:
        with path.open("rb") as file:
            # What comes through a pipe can be read but once.
            parsed = _parse(file if file.seekable() else io.BytesIO(file.read()))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ModelError(f"{path}: this is a folder, not an ONNX file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise ModelError(
            f"{path}: not an ONNX file, or a truncated one (protobuf: {error})"
        ) from None
    if parsed is None:
        raise ModelError(f"{path}: the file is empty")
    proto = parsed[0]
    if not proto.ir_version or not proto.HasField("graph"):
        raise ModelError(f"{path}: not an ONNX model: it has no graph")
    return parsed


def _parse(file: io.BufferedIOBase) -> tuple[Any, list[Bytes | None], str] | None:
    """The model without its large initializers' data, these data, and the digest of it all."""
    import hashlib

    from onnx import ModelProto

    plain, weights = without_weights(file)
    if not plain:
        return None
    proto = ModelProto()
    proto.ParseFromString(plain)
    file.seek(0)
    return proto, weights, hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_garbled(proto: Any, name: str) -> None:
    """A name that is not UTF-8 comes as bytes, which no later step expects."""
    imports = [*proto.opset_import, *(o for f in proto.functions for o in f.opset_import)]
    texts = [o.domain for o in imports]
    texts += _graph_texts(proto.graph)
    for function in proto.functions:
        texts += [function.name, function.domain, *function.input, *function.output]
        texts += [text for node in function.node for text in _node_texts(node)]
    garbled = next((text for text in texts if not isinstance(text, str)), None)
    if garbled is not None:
        raise ModelError(f"{name}: the name {garbled!r} is not UTF-8 text: the file is damaged")


def _graph_texts(graph: Any) -> list[Any]:
    texts = [v.name for v in (*graph.input, *graph.output, *graph.initializer)]
    texts += [s.values.name for s in graph.sparse_initializer]
    texts += [
        d.dim_param for v in graph.input for d in v.type.tensor_type.shape.dim if not d.dim_value
    ]
    texts += [e for t in graph.initializer for d in t.external_data for e in (d.key, d.value)]
    return texts + [text for node in graph.node for text in _node_texts(node)]


def _node_texts(node: Any) -> list[Any]:
    texts = [node.name, node.op_type, node.domain, *node.input, *node.output]
    for attribute in node.attribute:
        texts.append(attribute.name)
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            texts += _graph_texts(graph)
    return texts


def _copy(source: Any) -> tuple[Any, list[Bytes | None], str]:
    from onnx import ModelProto

    if not isinstance(source, ModelProto):
        raise UsageError(f"a model is a path or an onnx.ModelProto, not {type(source).__name__}")
    data = source.SerializeToString(deterministic=True)
    return _parse(io.BytesIO(data)) or (ModelProto(), [], "")


def _merge_opsets(proto: Any, name: str) -> None:
    """Some exporters list a domain twice, as "" and as "ai.onnx": the greater version holds."""
    versions: dict[str, int] = {}
    for imported in [*proto.opset_import, *(o for f in proto.functions for o in f.opset_import)]:
        domain = _domain(imported.domain)
        if imported in proto.opset_import or domain not in versions:
            versions[domain] = max(versions.get(domain, 0), int(imported.version))
    if not versions:
        raise ModelError(f"{name}: the model imports no operator set")
    del proto.opset_import[:]
    for domain, version in versions.items():
        proto.opset_import.add(domain=domain, version=version)


def _take_initializers(
    proto: Any, weights: list[Bytes | None], folder: Path | None, name: str
) -> dict[str, Array]:
    """Move all initializers out of the graph, exactly. weights: the raw data of those whose data
    were not parsed."""
    from onnx import TensorProto

    constants: dict[str, Array] = {}
    for k, tensor in enumerate(proto.graph.initializer):
        if tensor.data_location == TensorProto.EXTERNAL:
            constants[tensor.name] = _external(tensor, folder, name)
            continue
        try:
            constants[tensor.name] = _embedded(tensor, weights[k] if weights else None)
        except Exception as error:  # the helper fails in many ways on broken tensors
            raise ModelError(f"{name}: initializer '{tensor.name}' is broken: {error}") from None
    for sparse in proto.graph.sparse_initializer:
        constants[sparse.values.name] = _dense(sparse)
    del proto.graph.initializer[:]
    del proto.graph.sparse_initializer[:]
    kept = [i for i in proto.graph.input if i.name not in constants]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    return constants


def _embedded(tensor: Any, data: Bytes | None) -> Array:
    """An initializer's data, which are not copied where the file holds them as they are."""
    from onnx import TensorProto, helper, numpy_helper

    if data is None:
        return numpy_helper.to_array(tensor)
    kind = np.dtype(np.void)
    if tensor.data_type in helper.get_all_tensor_dtypes():
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    # Narrower types than bfloat16 may be packed into parts of bytes.
    plain = kind.isbuiltin == 1 or tensor.data_type == TensorProto.BFLOAT16
    plain = plain and not tensor.HasField("segment") and sys.byteorder == "little"
    if not plain or data.nbytes != math.prod(tensor.dims) * kind.itemsize:
        tensor.raw_data = data.tobytes()
        return numpy_helper.to_array(tensor)
    array = data.view(kind).reshape(tuple(tensor.dims))
    array.setflags(write=False)
    return array


def _dense(sparse: Any) -> Array:
    from onnx import numpy_helper

    values = numpy_helper.to_array(sparse.values)
    where = numpy_helper.to_array(sparse.indices)
    full = np.zeros(tuple(sparse.dims), values.dtype)
    if where.ndim == 1:
        full.reshape(-1)[where] = values
    else:
        full[tuple(where.T)] = values
    return full


def _external(tensor: Any, folder: Path | None, name: str) -> Array:
    """Data beside the file, mapped rather than read; never from outside the file's folder."""
    from onnx import helper

    info = {entry.key: entry.value for entry in tensor.external_data}
    what = f"{name}: external data of '{tensor.name}'"
    if folder is None:
        raise ModelError(f"{what} cannot be found without the file's folder: pass the path instead")
    location = info.get("location", "")
    root = folder.resolve()
    path = (root / location).resolve()
    if not location or not path.is_relative_to(root) or path == root:
        raise ModelError(f"{what} points outside the model's folder ('{location}'): refused")
    if not path.is_file():
        raise ModelError(f"{what} is missing: '{location}' is not beside the model")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    offset, size = int(info.get("offset", 0)), math.prod(tensor.dims)
    length = int(info.get("length", size * dtype.itemsize))
    if length != size * dtype.itemsize or offset + length > path.stat().st_size:
        raise ModelError(
            f"{what} is truncated: '{location}' has {path.stat().st_size} bytes where "
            f"{offset + size * dtype.itemsize} are needed"
        )
    if size == 0:
        return np.zeros(tuple(tensor.dims), dtype)
    mapped = np.memmap(path, dtype, "r", offset, (size,))
    return np.asarray(mapped).reshape(tuple(tensor.dims))


# ── shapes of inputs ──────────────────────────────────────────────────────────────────────


def _fix_inputs(
    proto: Any, shapes: dict[str, Sequence[int]], name: str
) -> dict[str, tuple[tuple[int, ...], int]]:
    from onnx import helper

    names = [i.name for i in proto.graph.input]
    if "" in shapes:
        if len(names) != 1:
            raise UsageError(
                f"{name} has {len(names)} inputs: say which one, e.g. --shape {names[0]}=…"
                if names
                else f"{name} has no input to give a shape to"
            )
        shapes[names[0]] = shapes.pop("")
    for unknown in shapes.keys() - set(names):
        raise UsageError(f"--shape {unknown}: {name} has no such input; it has {', '.join(names)}")
    fixed: dict[str, tuple[tuple[int, ...], int]] = {}
    for value in proto.graph.input:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise ModelError(
                f"{name}: input '{value.name}' is a {kind or 'value of unknown type'}, not a tensor"
            )
        tensor = value.type.tensor_type
        if tensor.elem_type not in helper.get_all_tensor_dtypes():
            raise ModelError(f"{name}: input '{value.name}' has no element type that onnx knows")
        dims = _dims(value.name, tensor, shapes.get(value.name), name)
        fixed[value.name] = (dims, tensor.elem_type)
        value.CopyFrom(helper.make_tensor_value_info(value.name, tensor.elem_type, dims))
    return fixed


def _dims(key: str, tensor: Any, given: Sequence[int] | None, name: str) -> tuple[int, ...]:
    from onnx import helper

    stored = [max(d.dim_value, 0) for d in tensor.shape.dim]  # some exporters write −1 for "open"
    labels = [str(d.dim_value or d.dim_param or "?") for d in tensor.shape.dim]
    shown = f"[{', '.join(labels)}]"
    if given is not None:
        clash = tensor.HasField("shape") and (
            len(given) != len(stored)
            or any(s and s != g for s, g in zip(stored, given, strict=False))
        )
        if clash or any(g < 1 for g in given):
            raise ShapeError(
                f"--shape {key}={','.join(map(str, given))} does not fit input '{key}' "
                f"of {name}, which is {shown}"
            )
        return tuple(given)
    hint = ",".join("1" if i == 0 else str(s or "N") for i, s in enumerate(stored)) or "1,3,224,224"
    if not tensor.HasField("shape"):
        raise ShapeError(f"{name}: input '{key}' has no shape; give one: --shape {key}={hint}")
    batch_first = [s or (1 if i == 0 else 0) for i, s in enumerate(stored)]
    if not all(batch_first):
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        integers = (
            f" (it holds {kind.name}, so choose a float tensor behind it with --input as well)"
            if kind.kind in "iub"
            else ""
        )
        raise ShapeError(
            f"{name}: input '{key}' is {shown} with open dimensions; give them: "
            f"--shape {key}={hint}{integers}"
        )
    return tuple(batch_first)


# ── one operator set ──────────────────────────────────────────────────────────────────────


def _inline(proto: Any, name: str) -> Any:
    if not proto.functions:
        return proto
    from onnx import inliner

    versions = {_domain(o.domain): o.version for o in proto.opset_import}
    differs = any(
        versions.get(_domain(o.domain)) != o.version
        for function in proto.functions
        for o in function.opset_import
    )
    try:
        return inliner.inline_local_functions(proto, convert_version=differs)
    except Exception as error:  # the C++ inliner raises its own types
        raise ModelError(f"{name}: local functions cannot be inlined: {error}") from None


def _lend(proto: Any, constants: Mapping[str, Array], small: Mapping[str, Array]) -> None:
    """Put small constants back as initializers, and large ones as inputs of their type: the
    checker and the converter need to know them, not to carry their data."""
    from onnx import helper, numpy_helper

    for key, array in constants.items():
        if key in small:
            proto.graph.initializer.append(numpy_helper.from_array(np.array(array), key))
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        proto.graph.input.append(helper.make_tensor_value_info(key, kind, array.shape))


def _unlend(proto: Any, constants: dict[str, Array], inputs: Mapping[str, Any]) -> None:
    """Take the lent constants out again, with those that the converter added."""
    from onnx import numpy_helper

    for tensor in proto.graph.initializer:
        if tensor.name not in constants:
            constants[tensor.name] = numpy_helper.to_array(tensor)
    del proto.graph.initializer[:]
    kept = [i for i in proto.graph.input if i.name in inputs]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    del proto.graph.value_info[:]


def _check(proto: Any, name: str) -> None:
    from onnx import checker

    if proto.ByteSize() > _LIMIT:
        return  # the checker cannot take it; every later step still validates what it uses
    try:
        checker.check_model(proto)
    except Exception as error:  # ValidationError, and what the C++ checker raises besides
        reason = str(error).strip().split("\n\n")[0][:400]
        raise ModelError(f"{name}: the model is invalid: {reason}") from None


def _convert(proto: Any, name: str, amendments: Sequence[Amendment]) -> Any:
    """The model in operator set 21. Raises ModelError where onnx's converter fails: rules speak
    of today's operators, so an old one that was kept could be taken for what it is not."""
    version = next((o.version for o in proto.opset_import if _domain(o.domain) == ""), OPSET)
    if version >= OPSET:
        return proto
    from onnx import helper, shape_inference, version_converter

    try:
        typed = shape_inference.infer_shapes(proto, data_prop=True)
        converted = version_converter.convert_version(typed, OPSET)
    except Exception as error:  # the C++ converter raises its own types
        reason = str(error).strip().splitlines()[-1][:200]
        raise ModelError(
            f"{name}: operator set {version} cannot be converted to {OPSET} ({reason}); "
            "export the model again with a newer one"
        ) from None
    for amendment in amendments:
        for node in converted.graph.node:
            if version < amendment.before and node.op_type == amendment.op_type:
                known = {attribute.name for attribute in node.attribute}
                for key, value in amendment.attributes.items():
                    if key not in known:
                        node.attribute.append(helper.make_attribute(key, value))
    return converted
