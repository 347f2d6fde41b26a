"""Checkpoints of other tools: a file or a folder, safetensors or torch, and the state dict in it."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.json_file import read_optional_json
from musiclora.convert.files.safetensors_file import FLOATS, Layout, safetensors_header
from musiclora.convert.files.state_dict import find_state_dict, state_tensors, unwrap_names
from musiclora.convert.files.torch_file import TORCH_SUFFIXES, TorchFile
from musiclora.convert.files.weight_files import stream_tensors, weight_files

_EMA_PREFIX = "ema_model."
_EMA_COUNTERS = ("initted", "step")


@dataclass(frozen=True)
class Source:
    """A checkpoint whose tensors have not been read.

    Attributes:
        path: the file or folder given.
        layout: dtype and shape of every tensor, by its name in the state dict.
        files: for every file, the name in it of each tensor: {file: {name: name in the file}}.
        config: content of the config.json next to it, empty where there is none.
        metadata: header text of the first safetensors file.
        notes: choices among several state dicts, for the user.
    """

    path: Path
    layout: Layout
    files: dict[Path, dict[str, str]]
    config: dict[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def refuse_integers(self, wanted: Collection[str]) -> None:
        """Refuse weights that are no floating-point numbers: those of a quantised model are no values by themselves.

        Raises:
            ConvertError: at least one of the wanted tensors is stored as integers; all are named.
        """
        if found := [f"{name} is {self.layout[name][0]}" for name in wanted if self.layout[name][0] not in FLOATS]:
            raise ConvertError(
                f"{self.path}: quantised or integer tensors are not supported: {join_problems(found)}; "
                "give the float model"
            )

    def tensors(self, wanted: Container[str], *, checked: bool = True) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (name, array) of the wanted tensors, one in memory at a time; see `stream_tensors`."""
        return stream_tensors(self.files, wanted, checked=checked)

    def checksums(self) -> dict[str, int]:
        """Collect the CRC-32 of each tensor whose file states it; `tensors` verifies these while it reads."""
        sums: dict[str, int] = {}
        for path, names in self.files.items():
            if path.suffix != ".safetensors":
                file = TorchFile(path)
                found = file.checksums(state_tensors(file))
                sums |= {name: found[stored] for name, stored in names.items() if stored in found}
        return sums


def open_source(path: Path) -> Source:
    """Find the state dict in a file or folder; all safetensors of a folder are one model.

    Raises:
        ConvertError: nothing there, several torch files, or one tensor in two files.
    """
    path = Path(path)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = _checkpoint_files(path)
    else:
        raise ConvertError(f"{path}: no such file or folder")
    layout: Layout = {}
    names: dict[Path, dict[str, str]] = {}
    notes: list[str] = []
    metadata: Mapping[str, str] = {}
    doubled: list[str] = []
    for file in files:
        found, stored, note, text = _open_file(file)
        doubled += [f"{name} is in {file.name} and in another file" for name in found if name in layout]
        layout.update(found)
        names[file] = stored
        notes += [note] if note else []
        metadata = metadata or text
    if doubled:
        raise ConvertError(f"{path}: {join_problems(doubled)}")
    folder = path if path.is_dir() else path.parent
    config = read_optional_json(folder / "config.json")
    return Source(path, layout, names, config, metadata, tuple(notes))


def _checkpoint_files(folder: Path) -> list[Path]:
    if (folder / "model.safetensors.index.json").is_file() and not (folder / "model.safetensors").is_file():
        return list(weight_files(folder).files)
    if found := sorted(folder.glob("*.safetensors")):
        return found
    found = sorted(file for file in folder.iterdir() if file.suffix in TORCH_SUFFIXES)
    if len(found) > 1:
        raise ConvertError(
            f"{folder}: several checkpoints here ({join_problems([f.name for f in found])}); name one of them"
        )
    if not found:
        raise ConvertError(f"{folder}: no .safetensors, .pt, .pth, .bin or .ckpt file here")
    return found


def _open_file(file: Path) -> tuple[Layout, dict[str, str], str, Mapping[str, str]]:
    """Read layout, names in the file, note and metadata of one file."""
    if file.suffix == ".safetensors":
        layout, metadata = safetensors_header(file)
        key, note = "", ""
    else:
        torch_file = TorchFile(file)
        key, note = find_state_dict(torch_file)
        layout, metadata = {name: (ref.dtype, ref.shape) for name, ref in state_tensors(torch_file).items()}, {}
    kept, left = _strip_averages(layout, averaged=key.startswith("ema"))
    text = note or (f"{file.name}: {left}" if left else "")
    names = {plain: kept[name] for plain, name in unwrap_names(kept, str(file)).items()}
    return {name: layout[stored] for name, stored in names.items()}, names, text, metadata


def _strip_averages(stored: Iterable[str], *, averaged: bool) -> tuple[dict[str, str], str]:
    """Map weights to their names in the file, which may mark moving averages; add a note on names left out.

    Args:
        stored: names in the file.
        averaged: the names are those of ema_pytorch, whose counters are no weights.
    """
    marked = {name.removeprefix(_EMA_PREFIX): name for name in stored if name.startswith(_EMA_PREFIX)}
    counters = _EMA_COUNTERS if marked or averaged else ()
    plain = {name: name for name in stored if not name.startswith(_EMA_PREFIX) and name not in counters}
    if marked.keys() & plain.keys():
        return plain, f"left out {len(marked)} averaged weights ({_EMA_PREFIX}*), which are there beside the plain ones"
    return plain | marked, ""
