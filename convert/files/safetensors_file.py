"""Safetensors files: headers checked before anything is allocated, one tensor in memory at a time."""

from __future__ import annotations

import io
import json
import math
import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.atomic import Flusher, write_error
from musiclora.convert.files.json_file import OBJECT, parse_json

Arrays = Mapping[str, np.ndarray]
Tensors = Iterable[tuple[str, np.ndarray]]  # (name, array), usually one in memory at a time
Shape = tuple[int, ...]
Dtype = np.dtype[Any]
Layout = dict[str, tuple[Dtype, Shape]]  # dtype and shape of every tensor
_Entry = tuple[Dtype, Shape, int]  # dtype, shape, first byte

LONGEST_NAME = 500  # characters; names are matched against patterns and quoted in messages
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library too
_BLOCK_VALUES = 1 << 18  # fits the processor's cache

DTYPES: dict[str, Dtype] = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("int64"),
    "I32": np.dtype("int32"),
    "I16": np.dtype("int16"),
    "I8": np.dtype("int8"),
    "U64": np.dtype("uint64"),
    "U32": np.dtype("uint32"),
    "U16": np.dtype("uint16"),
    "U8": np.dtype("uint8"),
    "BOOL": np.dtype("bool"),
}
_DTYPE_CODES = {dtype: code for code, dtype in DTYPES.items()}
FLOATS = {DTYPES[code] for code in ("F64", "F32", "F16", "BF16")}


def dtype_named(name: str) -> Dtype:
    """Look up the numpy dtype called float32, float16, bfloat16 and so on.

    Raises:
        ConvertError: a name that safetensors cannot hold.
    """
    known = {dtype.name: dtype for dtype in _DTYPE_CODES}
    if name not in known:
        raise ConvertError(f"unknown dtype {name!r}; known: {', '.join(known)}")
    return known[name]


def dtypes_for(names: Iterable[str], dtypes: Mapping[str, Dtype] | str) -> dict[str, Dtype]:
    """Map every name to its dtype: one dtype for all, given by name, or one for each."""
    if isinstance(dtypes, str):
        return dict.fromkeys(names, dtype_named(dtypes))
    return {name: dtypes[name] for name in names}


def widest_float(dtypes: Iterable[Dtype]) -> str:
    """Name the narrowest dtype that holds the values of several; numpy knows no type for float16 with bfloat16."""
    kinds = set(dtypes)
    if len(kinds) == 1:
        return next(iter(kinds)).name
    return "float64" if DTYPES["F64"] in kinds else "float32"


def safetensors_header(path: Path) -> tuple[Layout, dict[str, str]]:
    """Read names, dtypes, shapes and metadata of a file; nothing is allocated for tensors.

    Raises:
        ConvertError: not such a file, or a header that does not describe it: size, duplicate names, unknown dtype,
            offsets that overlap, leave gaps, lie outside the file or do not fit the shape.
    """
    entries, metadata, _ = _parse_header(Path(path))
    return {name: (dtype, shape) for name, (dtype, shape, _) in entries.items()}, metadata


def iter_safetensors(path: Path, names: Collection[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array) in file order, reading one tensor at a time.

    Args:
        path: the file.
        names: tensors to read, all of which must exist; None reads all.
    """
    path = Path(path)
    entries, _, data_start = _parse_header(path)
    if missing := sorted(set(names or ()) - set(entries)):
        raise ConvertError(f"{path}: no tensor named {join_problems(missing)}")
    with _open_file(path) as file:
        for name, (dtype, shape, start) in sorted(entries.items(), key=lambda item: item[1][2]):
            if names is not None and name not in names:
                continue
            array: np.ndarray = np.empty(shape, dtype)
            file.seek(data_start + start)
            if file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
                raise ConvertError(f"{path}: the file ends inside tensor {name}")
            yield name, array


def read_safetensors(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read all tensors of a file, or those named, in their stored dtype; bfloat16 through ml_dtypes."""
    return dict(iter_safetensors(path, names))


def write_safetensors(
    path: Path,
    arrays: Arrays | Tensors,
    metadata: Mapping[str, str] | None = None,
    *,
    layout: Layout | None = None,
) -> None:
    """Write a file; use it inside an atomic_folder, since it is not atomic by itself.

    Args:
        path: the file to create.
        arrays: a mapping, or pairs in any order.
        metadata: text under `__metadata__`.
        layout: dtype and shape of every tensor. With it pairs are cast and written as they come, one in memory at a
            time; without it they are collected first.

    Raises:
        ConvertError: names or shapes differ from layout, a dtype that the format lacks, or a value that is finite but
            too large for the dtype.
        OutputError: the system refuses to write.
    """
    stream: Tensors = arrays.items() if isinstance(arrays, Mapping) else arrays
    if layout is None:
        stream = list(stream)
        layout = {name: (array.dtype, array.shape) for name, array in stream}
    header, offsets = _build_header(layout, metadata)
    try:
        with Path(path).open("xb") as file:
            file.write(header)
            _write_tensors(file, stream, layout, {name: len(header) + start for name, start in offsets.items()})
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise write_error(Path(path), error) from error


def cast_tensor(name: str, array: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Cast to dtype; raise ConvertError for a finite value that becomes infinite."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        result = array.astype(dtype)
    if dtype in FLOATS and not _is_finite(result) and _is_finite(array):
        largest = float(np.abs(array.astype(np.float64)).max())
        hint = "; use bfloat16 or float32" if dtype == DTYPES["F16"] else ""
        raise ConvertError(f"{name}: its largest value {largest:.3g} does not fit {dtype.name}{hint}")
    return result


def checksum(array: np.ndarray) -> int:
    """Compute the CRC-32 of an array's bytes in C order."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def non_finite(name: str, array: np.ndarray) -> str | None:
    """Describe how many values of a float array are NaN or infinite; None where all are finite."""
    if array.dtype not in FLOATS or _is_finite(array):
        return None
    count = int(array.size - np.count_nonzero(np.isfinite(array)))
    return f"{name} has {count} non-finite {'value' if count == 1 else 'values'}"


def _is_finite(array: np.ndarray) -> bool:
    """Check all values, block by block; half-precision ones by their exponent bits."""
    exponent = {"float16": 0x7C00, "bfloat16": 0x7F80}.get(array.dtype.name)
    flat = np.ascontiguousarray(array).reshape(-1)
    blocks = (flat[start : start + _BLOCK_VALUES] for start in range(0, flat.size, _BLOCK_VALUES))
    if exponent is None:
        return all(np.isfinite(block).all() for block in blocks)
    return all(np.bitwise_and(block.view(np.uint16), np.uint16(exponent)).max() < exponent for block in blocks)


def _open_file(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise ConvertError(f"cannot read {path}: {error.strerror or error}") from error


def _parse_header(path: Path) -> tuple[dict[str, _Entry], dict[str, str], int]:
    with _open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or length > min(MAX_HEADER_BYTES, size - 8):
            raise ConvertError(f"{path}: not a safetensors file, or a truncated one (it has {size} bytes)")
        raw = file.read(length)
    header = parse_json(raw, f"{path}: its safetensors header", OBJECT, unique=True, most_bytes=MAX_HEADER_BYTES)
    if long := [name for name in header if len(name) > LONGEST_NAME]:
        raise ConvertError(f"{path}: a tensor's name has {len(long[0])} characters, more than {LONGEST_NAME}")
    metadata = header.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata  # MLX writes null
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ConvertError(f"{path}: the header's __metadata__ must map names to text")
    entries, problems = _read_entries(header, size - 8 - length)
    if problems:
        raise ConvertError(f"{path}: the safetensors header does not describe this file: {join_problems(problems)}")
    return entries, metadata, 8 + length


def _read_entries(header: dict[str, Any], data_size: int) -> tuple[dict[str, _Entry], list[str]]:
    problems: list[str] = []
    spans: list[tuple[int, int, str]] = []
    entries: dict[str, _Entry] = {}
    for name, entry in header.items():
        problem = _entry_problem(entry)
        if problem:
            problems.append(f"{name} {problem}")
            continue
        start, end = entry["data_offsets"]
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        entries[name] = (dtype, shape, start)
        spans.append((start, end, name))
        if end > data_size:
            problems.append(f"{name} claims bytes {start} to {end} of {data_size}")
        elif math.prod(shape) * dtype.itemsize != end - start:
            problems.append(f"{name} has {end - start} bytes, its shape {list(shape)} of {dtype.name} needs others")
    return entries, problems or _span_problems(sorted(spans), data_size)


def _entry_problem(entry: object) -> str | None:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return "is not described by dtype, shape and data_offsets"
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        return f"has the unknown dtype {str(entry['dtype'])[:20]}"
    if not _are_counts(entry["shape"]) or len(entry["shape"]) > 16:
        return "has a shape that is not a list of sizes"
    offsets = entry["data_offsets"]
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return "has data_offsets that are not a range"
    return None


def _are_counts(value: Any) -> bool:
    """Check for a list of sizes."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**48 for item in value)


def _span_problems(spans: list[tuple[int, int, str]], data_size: int) -> list[str]:
    """Check that the ranges follow each other without overlap or gap from the first byte to the last."""
    problems, reached = [], 0
    for start, end, name in spans:
        if start != reached:
            problems.append(f"{name} starts at byte {start}, the tensor before it ends at {reached}")
        reached = end
    if reached != data_size and not problems:
        problems.append(f"{data_size - reached} bytes after the last tensor belong to none")
    return problems


def _build_header(layout: Layout, metadata: Mapping[str, str] | None) -> tuple[bytes, dict[str, int]]:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offsets: dict[str, int] = {}
    position = 0
    # Wide dtypes first, as the safetensors library does: then every tensor is aligned to its own item size.
    for name, (dtype, shape) in sorted(layout.items(), key=lambda item: (-item[1][0].itemsize, item[0])):
        if dtype not in _DTYPE_CODES:
            raise ConvertError(f"{name}: safetensors cannot hold {dtype}")
        end = position + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _DTYPE_CODES[dtype], "shape": list(shape), "data_offsets": [position, end]}
        offsets[name], position = position, end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, offsets


def _write_tensors(file: BinaryIO, pairs: Tensors, layout: Layout, offsets: Mapping[str, int]) -> None:
    problems: list[str] = []
    left = dict.fromkeys(layout)
    with Flusher(file.fileno()) as flusher:
        for name, array in pairs:
            if name not in left:
                problems.append(f"{name} comes twice" if name in layout else f"{name} is surplus")
                continue
            del left[name]
            dtype, shape = layout[name]
            if array.shape != shape:
                problems.append(f"{name} is {list(array.shape)}, expected {list(shape)}")
                continue
            file.seek(offsets[name])
            file.write(np.ascontiguousarray(cast_tensor(name, array, dtype)).reshape(-1).view(np.uint8).data)
            flusher.wrote(array.nbytes)
    problems += [f"{name} is missing" for name in left]
    if problems:
        raise ConvertError(f"tensors do not fit: {join_problems(problems)}")
