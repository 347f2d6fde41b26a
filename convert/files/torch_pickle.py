"""Unpickler for weight files, restricted to descriptions of tensors and plain containers."""

from __future__ import annotations

import pickle
import pickletools
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from musiclora.convert.errors import ConvertError
from musiclora.convert.files.safetensors_file import Dtype, Shape

# Exceptions of the standard library's unpickler on damaged or hostile bytes.
PICKLE_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)

STORAGES: dict[str, Dtype] = {
    "FloatStorage": np.dtype("float32"),
    "DoubleStorage": np.dtype("float64"),
    "HalfStorage": np.dtype("float16"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("int64"),
    "IntStorage": np.dtype("int32"),
    "ShortStorage": np.dtype("int16"),
    "CharStorage": np.dtype("int8"),
    "ByteStorage": np.dtype("uint8"),
    "BoolStorage": np.dtype("bool"),
}
_DTYPE_NAMES = ("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool")


@dataclass(frozen=True)
class Storage:
    """Contiguous numbers in the file: their key, dtype and count."""

    key: str
    dtype: Dtype
    count: int


@dataclass(frozen=True)
class TensorRef:
    """A tensor that has not been read: a window into a storage; offset and strides count items."""

    storage: Storage
    offset: int
    shape: Shape
    strides: tuple[int, ...]

    @property
    def dtype(self) -> Dtype:
        return self.storage.dtype


class ScriptObject:
    """Attributes of a TorchScript module, whose code is never read."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = dict(state) if isinstance(state, dict) else {}


def load_pickle(file: BinaryIO, where: str, *, script: bool = False) -> Any:
    """Unpickle one object.

    Args:
        file: positioned at the pickle.
        where: the file, for messages.
        script: accept TorchScript's module classes (as ScriptObject).

    Raises:
        ConvertError: the pickle names anything off the allow-list, or is damaged. Nothing it names is imported or run.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of unknown escapes in texts of protocol 0
            _check_memo(file)
            return _Unpickler(file, where, script).load()
    except PICKLE_ERRORS as error:
        raise ConvertError(f"{where}: its pickle is damaged ({type(error).__name__}: {str(error)[:120]})") from error


def _check_memo(file: BinaryIO) -> None:
    """Refuse memo indices beyond the number of operations: the C unpickler would allocate a table up to them."""
    start = file.tell()
    for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
        if operation.name in {"PUT", "LONG_BINPUT"} and (argument is None or argument > count):
            raise pickle.UnpicklingError(f"memo index {argument} after {count} operations")
    file.seek(start)


class _Unpickler(pickle.Unpickler):
    """Unpickler with an allow-list."""

    def __init__(self, file: BinaryIO, where: str, script: bool) -> None:
        super().__init__(file, encoding="utf-8")
        self._where = where
        self._script = script
        # Built for every file: a pickle that sets attributes on these objects must not reach another file.
        self._allowed: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("builtins", "set"): set,
            ("torch", "Size"): lambda *values: tuple(*values),
            ("torch", "device"): lambda *values: str(values),
            ("torch._utils", "_rebuild_tensor"): _tensor_builder(),
            ("torch._utils", "_rebuild_tensor_v2"): _tensor_builder(),
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
            **{("torch", name): f"torch.{name}" for name in (*STORAGES, *_DTYPE_NAMES)},
        }
        if script:
            for name in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag"):
                self._allowed["torch.jit._pickle", name] = lambda data, *_: data

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) in self._allowed:
            return self._allowed[module, name]
        if self._script and (module == "__torch__" or module.startswith("__torch__.")):
            return type("ScriptObject", (ScriptObject,), {})
        raise ConvertError(
            f"{self._where}: refused: its pickle asks for {module[:60]}.{name[:60]}, which no weight file needs; "
            "nothing was run"
        )

    def persistent_load(self, pid: Any, /) -> Storage:
        kind, storage, key, _, count, *_ = pid
        dtype = STORAGES[str(storage).removeprefix("torch.")]
        if kind != "storage" or not isinstance(key, str) or not _is_count(count):
            raise pickle.UnpicklingError(f"storage {str(key)[:40]} is not described")
        return Storage(key, dtype, count)


def _tensor_builder() -> Callable[..., TensorRef]:
    """Make a function that describes a tensor, if its window lies inside its storage."""

    def rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TensorRef:
        if not isinstance(storage, Storage) or len(shape) != len(strides) or len(shape) > 16:
            raise pickle.UnpicklingError("a tensor without storage, shape and strides")
        if not all(_is_count(number) for number in (offset, *shape, *strides)):
            raise pickle.UnpicklingError("a tensor whose shape or strides are no sizes")
        size = int(np.prod([int(n) for n in shape], dtype=object)) if shape else 1
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if size else offset
        if size > storage.count or (size and last >= storage.count):
            raise pickle.UnpicklingError(f"a tensor of shape {list(shape)} in a storage of {storage.count} items")
        return TensorRef(storage, offset, tuple(shape), tuple(strides))

    return rebuild


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**48
