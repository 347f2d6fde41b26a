"""Checkpoints as they are found: one file or a folder, safetensors or torch, with their state dict picked out."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.safetensors_file import Layout, iter_safetensors, non_finite, safetensors_header
from musiclora.convert.files.torch_file import TorchFile
from musiclora.convert.files.torch_pickle import TensorRef
from musiclora.convert.files.weight_files import read_json, weight_files

_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_EMA = "ema_model."
_EMA_COUNTERS = ("initted", "step")


@dataclass(frozen=True)
class Source:
    """The tensors of a checkpoint that have not been read.

    Attributes:
        path: the file or folder given.
        layout: dtype and shape of every tensor, by the name it has in its state dict.
        files: for every file, the name in it of each tensor: {file: {name: name in the file}}.
        config: content of the config.json beside it, empty where there is none.
        metadata: header text of the first safetensors file.
        notes: what was chosen among several, for the user.
    """

    path: Path
    layout: Layout
    files: dict[Path, dict[str, str]]
    config: dict[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def tensors(self, wanted: Container[str], *, checked: bool = True) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (name, array) of those that are wanted, one in memory at a time.

        Args:
            wanted: their names; others are not read.
            checked: whether to look for NaN and infinity; False where a checksum proves the values anyway.

        Raises:
            ConvertError: a damaged file, or a NaN or infinity, with the tensor's name.
        """
        for path, names in self.files.items():
            back = {stored: name for name, stored in names.items() if name in wanted}
            for stored, array in _read(path, back):
                if checked and (problem := non_finite(back[stored], array)):
                    raise ConvertError(f"{path}: {problem}; this checkpoint is damaged")
                yield back[stored], array

    def checksums(self) -> dict[str, int]:
        """CRC-32 of each tensor whose file states it: of bytes that `tensors` verifies while it reads them."""
        sums: dict[str, int] = {}
        for path, names in self.files.items():
            if path.suffix != ".safetensors":
                file = TorchFile(path)
                found = file.checksums(_refs(file))
                sums |= {name: found[stored] for name, stored in names.items() if stored in found}
        return sums


def open_source(path: Path) -> Source:
    """Find the state dict in a file or folder; in a folder all safetensors are one model.

    Raises:
        ConvertError: nothing there, several torch files, or one tensor in two files.
    """
    path = Path(path)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = _files_in(path)
    else:
        raise ConvertError(f"{path}: no such file or folder")
    layout: Layout = {}
    names: dict[Path, dict[str, str]] = {}
    notes: list[str] = []
    metadata: Mapping[str, str] = {}
    doubled: list[str] = []
    for file in files:
        found, stored, note, text = _open(file)
        doubled += [f"{name} is in {file.name} and in another file" for name in found if name in layout]
        layout.update(found)
        names[file] = stored
        notes += [note] if note else []
        metadata = metadata or text
    if doubled:
        raise ConvertError(f"{path}: {join_problems(doubled)}")
    folder = path if path.is_dir() else path.parent
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return Source(path, layout, names, config, metadata, tuple(notes))


def _files_in(folder: Path) -> list[Path]:
    if (folder / "model.safetensors.index.json").is_file() and not (folder / "model.safetensors").is_file():
        return list(weight_files(folder).files)
    if found := sorted(folder.glob("*.safetensors")):
        return found
    found = sorted(file for file in folder.iterdir() if file.suffix in _TORCH)
    if len(found) > 1:
        raise ConvertError(
            f"{folder}: several checkpoints here ({join_problems([f.name for f in found])}); name one of them"
        )
    if not found:
        raise ConvertError(f"{folder}: no .safetensors, .pt, .pth, .bin or .ckpt file here")
    return found


def _open(file: Path) -> tuple[Layout, dict[str, str], str, Mapping[str, str]]:
    if file.suffix == ".safetensors":
        layout, metadata = safetensors_header(file)
        key, note = "", ""
    else:
        torch_file = TorchFile(file)
        key, note = _state_dict(torch_file)
        layout, metadata = {name: (ref.dtype, ref.shape) for name, ref in _refs(torch_file).items()}, {}
    kept, left = _names(layout, averaged=key.startswith("ema"))
    text = note or (f"{file.name}: {left}" if left else "")
    return {name: layout[stored] for name, stored in kept.items()}, kept, text, metadata


def _names(stored: Iterable[str], *, averaged: bool) -> tuple[dict[str, str], str]:
    """Names in the file by the names of the weights, without the mark of averaged ones, and what was left out.

    Args:
        stored: names in the file.
        averaged: whether they are those of ema_pytorch, whose counters are no weights.
    """
    marked = {name.removeprefix(_EMA): name for name in stored if name.startswith(_EMA)}
    counters = _EMA_COUNTERS if marked or averaged else ()
    plain = {name: name for name in stored if not name.startswith(_EMA) and name not in counters}
    if marked.keys() & plain.keys():
        return plain, f"left out {len(marked)} averaged weights ({_EMA}*), which are there beside the plain ones"
    return plain | marked, ""


def _state_dict(file: TorchFile) -> tuple[str, str]:
    """Key of the state dict in a trainer's checkpoint ("" where the file is one itself), and a note."""
    if not isinstance(file.tree, dict):
        return "", ""
    for key in ("model_state_dict", "ema_model_state_dict", "state_dict"):
        if isinstance(file.tree.get(key), dict):
            others = [str(name) for name, part in file.tree.items() if name != key and isinstance(part, dict)]
            return key, f"{file.path.name}: took {key}, left out {join_problems(others)}" if others else ""
    return "", ""


def _read(path: Path, wanted: Mapping[str, str]) -> Iterator[tuple[str, np.ndarray]]:
    if path.suffix == ".safetensors":
        return iter_safetensors(path, wanted)
    file = TorchFile(path)
    return file.read((name, ref) for name, ref in _refs(file).items() if name in wanted)


def _refs(file: TorchFile) -> dict[str, TensorRef]:
    """Tensors of its state dict."""
    key, _ = _state_dict(file)
    return file.tensors(file.tree[key] if key else None)
