"""Files of torch.save and TorchScript archives, read without torch and without running their code."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.errors import ConvertError, show_value
from musiclora.convert.files.safetensors_file import LONGEST_NAME
from musiclora.convert.files.torch_pickle import ScriptObject, Storage, TensorRef, load_pickle

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
MAX_PICKLE_BYTES = 200_000_000
MAX_NODES = 500_000  # attributes and entries; shared references could otherwise unfold without end
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError, LookupError)


class TorchFile:
    """A checkpoint whose structure is read and whose tensors are not.

    Attributes:
        path: the file.
        tree: dicts, lists, numbers, text, and TensorRef where a tensor is.
        is_script: True for a TorchScript archive.
    """

    def __init__(self, path: Path) -> None:
        """Read the structure.

        Raises:
            ConvertError: not such a file, a damaged one, or one that asks for anything but tensors and containers.
        """
        self.path = Path(path)
        self.is_script = False
        self._offsets: dict[str, tuple[int, int]] = {}  # of a legacy file: key -> first byte and items
        self._sums: dict[str, int] = {}  # of an archive: key -> CRC-32 that it states
        try:
            with self.path.open("rb") as file:
                if file.read(4) == b"PK\x03\x04":
                    self.tree = self._read_zip_structure(file)
                else:
                    file.seek(0)
                    self.tree = self._read_legacy_structure(file)
        except OSError as error:
            raise ConvertError(f"cannot read {self.path}: {error.strerror or error}") from error

    def tensors(self, part: Any = None) -> dict[str, TensorRef]:
        """List the tensors of the tree, or of a part, by dotted path; modules of a TorchScript archive count as levels.

        Raises:
            ConvertError: it is nested without end.
        """
        found: dict[str, TensorRef] = {}
        stack: list[tuple[str, Any]] = [("", self.tree if part is None else part)]
        nodes = 0
        while stack:
            prefix, node = stack.pop()
            nodes += 1
            if nodes > MAX_NODES or prefix.count(".") > 64:
                raise ConvertError(f"{self.path}: its structure is nested without end")
            if len(prefix) > LONGEST_NAME or prefix != prefix.encode("utf-8", "replace").decode():
                raise ConvertError(
                    f"{self.path}: a tensor's name has more than {LONGEST_NAME} characters, or is no valid text"
                )
            if isinstance(node, TensorRef):
                found[prefix] = node
                continue
            entries = node.attributes if isinstance(node, ScriptObject) else node if isinstance(node, dict) else {}
            stack += [(f"{prefix}.{key}" if prefix else str(key), value) for key, value in entries.items()]
        return dict(reversed(found.items()))

    def read(self, tensors: Iterable[tuple[str, TensorRef]]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (name, array) one at a time, in the order given.

        Raises:
            ConvertError: a storage that is missing, cut or damaged, named by its tensor.
        """
        with self.path.open("rb") as file:
            archive = None if self._offsets else zipfile.ZipFile(file)
            for name, ref in tensors:
                try:
                    data = (
                        self._from_zip(file, archive, ref.storage) if archive else self._from_legacy(file, ref.storage)
                    )
                except (*_ZIP_ERRORS, OSError) as error:
                    raise ConvertError(f"{self.path}: tensor {name} is damaged ({error})") from error
                yield name, _tensor_view(data, ref)

    def checksums(self, tensors: Mapping[str, TensorRef]) -> dict[str, int]:
        """Collect the CRC-32 of every tensor that is a whole storage of an archive; `read` verifies these bytes."""
        whole = {name: ref.storage.key for name, ref in tensors.items() if _is_whole(ref)}
        return {name: self._sums[key] for name, key in whole.items() if key in self._sums}

    def _read_zip_structure(self, file: io.BufferedReader) -> Any:
        try:
            archive = zipfile.ZipFile(file)
            names = archive.namelist()
            self._check_archive(archive, names)
            info = archive.getinfo(f"{self._root}/data.pkl")
            if info.file_size > MAX_PICKLE_BYTES:
                raise ConvertError(f"{self.path}: its data.pkl claims {info.file_size} bytes")
            content = archive.read(info)
        except _ZIP_ERRORS as error:
            raise ConvertError(f"{self.path}: not a complete torch archive ({error})") from error
        self.is_script = f"{self._root}/constants.pkl" in names
        stem = f"{self._root}/data/"
        self._sums = {i.filename.removeprefix(stem): i.CRC for i in archive.infolist() if i.filename.startswith(stem)}
        return load_pickle(io.BytesIO(content), str(self.path), script=self.is_script)

    def _check_archive(self, archive: zipfile.ZipFile, names: list[str]) -> None:
        roots = [
            name.removesuffix("/data.pkl") for name in names if name.count("/") == 1 and name.endswith("/data.pkl")
        ]
        if len(roots) != 1:
            raise ConvertError(f"{self.path}: no torch archive (it holds {len(roots)} data.pkl)")
        self._root = roots[0]
        if len(set(names)) != len(names):
            raise ConvertError(f"{self.path}: its archive has several entries of one name")
        kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        if foreign := [i.filename for i in archive.infolist() if i.compress_type not in kinds or i.flag_bits & 1]:
            text = f"{show_value(foreign[0])} is encrypted, or compressed in a way that torch does not use"
            raise ConvertError(f"{self.path}: not a torch archive: {text}")
        claimed, size = sum(info.file_size for info in archive.infolist()), self.path.stat().st_size
        if claimed > 100 * size + 2**26:  # zeros deflate a thousandfold, but a whole model of zeros is a bomb
            raise ConvertError(f"{self.path}: its archive of {size} bytes claims to unpack to {claimed}")
        order = f"{self._root}/byteorder"
        if order in names and archive.read(order) != b"little":
            raise ConvertError(f"{self.path}: its numbers are not little-endian")

    def _from_zip(self, file: io.BufferedReader, archive: zipfile.ZipFile, storage: Storage) -> np.ndarray:
        info = archive.getinfo(f"{self._root}/data/{storage.key}")
        expected = storage.count * storage.dtype.itemsize
        if info.file_size != expected:  # compared before anything is allocated
            raise ValueError(f"{info.file_size} bytes, expected {expected}")
        data = np.empty(storage.count, storage.dtype)
        view = data.view(np.uint8).data
        if info.compress_type == zipfile.ZIP_STORED:
            with archive.open(info):  # checks the local header, which says where the bytes begin
                file.seek(info.header_offset + 26)
                lengths = file.read(4)
                file.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), os.SEEK_CUR)
            filled = file.readinto(view)
            if filled == data.nbytes and zlib.crc32(view) != info.CRC:
                raise ValueError("its checksum does not fit")
        else:
            filled = _inflate_into(archive, info, view)
        if filled != data.nbytes:
            raise ValueError(f"{filled} bytes, expected {data.nbytes}")
        return data

    def _from_legacy(self, file: io.BufferedReader, storage: Storage) -> np.ndarray:
        start, count = self._offsets[storage.key]
        if count != storage.count:
            raise ValueError(f"{count} items, expected {storage.count}")
        data = np.empty(count, storage.dtype)
        file.seek(start)
        if file.readinto(data.view(np.uint8).data) != data.nbytes:
            raise ValueError("the file ends inside it")
        return data

    def _read_legacy_structure(self, file: io.BufferedReader) -> Any:
        """Torch before 1.6: magic number, version, system, object and storage keys as pickles, then raw storages."""
        where = str(self.path)
        size = self.path.stat().st_size
        if file.peek(1)[:1] != b"\x80" or load_pickle(file, where) != _LEGACY_MAGIC:
            raise ConvertError(f"{where}: neither a torch archive nor an old torch file")
        load_pickle(file, where)
        load_pickle(file, where)
        tree = load_pickle(file, where)
        keys = load_pickle(file, where)
        storages = {ref.storage.key: ref.storage for ref in self.tensors(tree).values()}
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ConvertError(f"{where}: its list of storages is damaged")
        for key in keys:
            count, start = int.from_bytes(file.read(8), "little"), file.tell()
            if key not in storages:
                raise ConvertError(f"{where}: storage {key[:40]} belongs to no tensor")
            end = start + count * storages[key].dtype.itemsize
            if end > size:
                raise ConvertError(f"{where}: storage {key[:40]} claims bytes up to {end} of {size}")
            self._offsets[key] = (start, count)
            file.seek(end)
        return tree


def _inflate_into(archive: zipfile.ZipFile, info: zipfile.ZipInfo, view: memoryview) -> int:
    """Unpack a compressed entry block by block and return the bytes filled; zipfile verifies the checksum."""
    filled = 0
    with archive.open(info) as member:
        while block := member.read(1 << 20):
            view[filled : filled + len(block)] = block
            filled += len(block)
    return filled


def _is_whole(ref: TensorRef) -> bool:
    """Check that a tensor is its storage from the first byte to the last, in C order."""
    step = 1
    for size, stride in zip(reversed(ref.shape), reversed(ref.strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return ref.offset == 0 and step == ref.storage.count


def _tensor_view(data: np.ndarray, ref: TensorRef) -> np.ndarray:
    """Cut a tensor out of its storage, in C order."""
    strides = tuple(step * data.itemsize for step in ref.strides)
    view = np.lib.stride_tricks.as_strided(data[ref.offset :], ref.shape, strides, writeable=False)
    return np.ascontiguousarray(view).reshape(ref.shape)
