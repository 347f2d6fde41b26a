"""Weight files of a model folder: one file or indexed shards; safetensors are preferred to torch's .bin."""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musiclora.convert.errors import ConvertError, join_problems, show_value
from musiclora.convert.files.json_file import TEXT, map_of, object_with, read_json
from musiclora.convert.files.safetensors_file import Layout, iter_safetensors, non_finite, safetensors_header
from musiclora.convert.files.state_dict import state_tensors, unwrap_names
from musiclora.convert.files.torch_file import TORCH_SUFFIXES, TorchFile

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.safetensors|\.bin)", re.ASCII)
_INDEX_KIND = object_with({"weight_map": map_of(TEXT)}, ("weight_map",))


@dataclass(frozen=True)
class WeightFiles:
    """The tensors of a folder.

    Attributes:
        files: for every file, the name in it of each tensor: {file: {name: name in the file}}.
        layout: dtype and shape of every tensor.
        metadata: header text of the first file.
    """

    files: dict[Path, dict[str, str]]
    layout: Layout
    metadata: Mapping[str, str]

    def tensors(self, wanted: Container[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (name, array) of the wanted tensors one at a time; NaN or infinity is an error."""
        return stream_tensors(self.files, wanted)


def weight_files(folder: Path) -> WeightFiles:
    """Find the weights in a folder and check their headers.

    Raises:
        ConvertError: no weights, or shards that differ from the index.
    """
    for file in ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin"):
        single, index = folder / file, folder / f"{file}.index.json"
        if single.is_file():
            return _read_single(single)
        if index.is_file():
            return _read_index(folder, index)
    others = [file for file in sorted(folder.iterdir()) if file.suffix in (".safetensors", *TORCH_SUFFIXES)]
    if shards := [match for file in others if (match := _SHARD.fullmatch(file.name))]:
        stem, number, count, suffix = shards[0].groups()
        text = f"is shard {int(number)} of {int(count)} without the index of all ({stem}{suffix}.index.json)"
        raise ConvertError(f"{folder}: {shards[0].string} {text}")
    if len(others) == 1:
        return _read_single(others[0])
    raise ConvertError(f"{folder}: no model.safetensors here (nor pytorch_model.bin, nor an index.json of shards)")


def read_header(path: Path) -> tuple[Layout, dict[str, str]]:
    """Read dtype and shape of every tensor in a safetensors or torch file, and the metadata of the former."""
    if path.suffix == ".safetensors":
        return safetensors_header(path)
    return {name: (ref.dtype, ref.shape) for name, ref in state_tensors(TorchFile(path)).items()}, {}


def read_tensors(path: Path, names: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name in the file, array) of some tensors of a safetensors or torch file, one in memory at a time."""
    if path.suffix == ".safetensors":
        return iter_safetensors(path, names)
    file = TorchFile(path)
    return file.read(item for item in state_tensors(file).items() if item[0] in names)


def stream_tensors(
    files: Mapping[Path, Mapping[str, str]], wanted: Container[str], *, checked: bool = True
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array) of the wanted tensors, one in memory at a time.

    Args:
        files: for every file, the name in it of each tensor: {file: {name: name in the file}}.
        wanted: names of the tensors; others are not read.
        checked: look for NaN and infinity; False where a checksum proves the values anyway.

    Raises:
        ConvertError: a damaged file, or a NaN or infinity, with the tensor's name.
    """
    for path, names in files.items():
        back = {stored: name for name, stored in names.items() if name in wanted}
        for stored, array in read_tensors(path, back):
            if checked and (problem := non_finite(back[stored], array)):
                raise ConvertError(f"{path}: {problem}; this checkpoint is damaged")
            yield back[stored], array


def _read_single(path: Path) -> WeightFiles:
    stored, metadata = read_header(path)
    names = unwrap_names(stored, str(path))
    return WeightFiles({path: names}, {name: stored[found] for name, found in names.items()}, metadata)


def _read_index(folder: Path, index: Path) -> WeightFiles:
    """Read the index of shards and compare it with their headers."""
    weight_map = read_json(index, _INDEX_KIND)["weight_map"]
    if not weight_map:
        raise ConvertError(f"{index}: its weight_map names no tensor")
    names_of: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        # A plain file name only: an index from elsewhere must not point outside its folder.
        if Path(file).name != file or "\\" in file:
            raise ConvertError(f"{index}: {name} is said to be in {show_value(file)}, which is no file name")
        names_of.setdefault(file, []).append(name)
    present = {file.name for file in folder.iterdir()}  # asking for a name may fail: it may be too long for the system
    if missing := [file for file in names_of if file not in present]:
        text = f"{len(missing)} of {len(names_of)} files are missing"
        raise ConvertError(f"{index}: {text}: {join_problems(missing)}; was the download cut off?")
    layout: Layout = {}
    problems: list[str] = []
    metadata: Mapping[str, str] = {}
    for file, names in names_of.items():
        found, metadata = read_header(folder / file)
        problems += [f"{name} is not in {file}" for name in names if name not in found]
        problems += [f"{name} in {file} is not in the index" for name in found if weight_map.get(name) != file]
        layout.update(found)
    if problems:
        raise ConvertError(f"{index}: {join_problems(problems)}")
    plain = unwrap_names(layout, str(index))
    files = {folder / file: {n: s for n, s in plain.items() if weight_map[s] == file} for file in names_of}
    return WeightFiles(files, {name: layout[stored] for name, stored in plain.items()}, metadata)
