"""Messages between a process and its children: JSON with numpy arrays behind it, never a pickle."""

from __future__ import annotations

import json
import math
from typing import Any, BinaryIO

import numpy as np

MAX_HEAD_BYTES = 64 * 2**20
MAX_ARRAY_BYTES = 4 * 2**30
_DTYPES = ("bool", "int8", "uint8", "int16", "int32", "int64", "float32", "float64")
_ARRAY_KEY = "__array__"


class MessageError(Exception):
    """The other process has ended, or its message does not follow the format."""


def send(stream: BinaryIO, value: object) -> None:
    """Write one message: 8 bytes of length, JSON, and the bytes of its arrays.

    Args:
        stream: pipe to the other process.
        value: JSON value that may hold numpy arrays at any depth.
    """
    arrays: list[np.ndarray] = []

    def take_array(found: object) -> dict[str, int]:
        if not isinstance(found, np.ndarray):
            raise TypeError(f"a message cannot hold {type(found).__name__}")
        arrays.append(np.ascontiguousarray(found))
        return {_ARRAY_KEY: len(arrays) - 1}

    body = json.dumps(value, default=take_array)
    shapes = json.dumps([[a.dtype.name, a.shape] for a in arrays])
    head = f"[{body}, {shapes}]".encode("ascii")
    stream.write(len(head).to_bytes(8, "big") + head)
    for array in arrays:
        stream.write(array.reshape(-1).view(np.uint8).data if array.size else b"")
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read one message of `send`; lengths, types and the nesting of a damaged or hostile one are checked.

    Raises:
        MessageError: the other process has ended, or sent something else.
    """
    size = int.from_bytes(_read_exactly(stream, 8), "big")
    if size > MAX_HEAD_BYTES:
        raise MessageError(f"a message of {size} bytes")
    try:
        body, shapes = json.loads(_read_exactly(stream, size))
        arrays = [_read_array(stream, str(name), shape) for name, shape in shapes]
        return _insert_arrays(body, arrays)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, RecursionError) as error:
        raise MessageError(f"a message of another format ({type(error).__name__})") from error


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise MessageError("the other process has ended")
    return data


def _read_array(stream: BinaryIO, name: str, shape: list[int]) -> np.ndarray:
    if name not in _DTYPES or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("array of an unknown type or shape")
    dtype = np.dtype(name)
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_ARRAY_BYTES:
        raise ValueError("array too large")
    # a bytearray, since arrays over bytes cannot be written to
    return np.frombuffer(bytearray(_read_exactly(stream, size)), dtype).reshape(shape)


def _insert_arrays(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_ARRAY_KEY}:
            return arrays[value[_ARRAY_KEY]]
        return {key: _insert_arrays(item, arrays) for key, item in value.items()}
    return [_insert_arrays(item, arrays) for item in value] if isinstance(value, list) else value
