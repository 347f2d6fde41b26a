"""Weight files of a model folder: one file or indexed shards; safetensors are preferred to torch's .bin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.json_file import read_json
from musiclora.convert.files.safetensors_file import Layout, iter_safetensors, non_finite, safetensors_header
from musiclora.convert.files.torch_file import TorchFile


@dataclass(frozen=True)
class WeightFiles:
    """The tensors of a folder.

    Attributes:
        files: for every file, the names of the tensors to read from it.
        layout: dtype and shape of every tensor.
        metadata: header text of the first file.
    """

    files: dict[Path, tuple[str, ...]]
    layout: Layout
    metadata: Mapping[str, str]

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (name, array) one at a time; NaN or infinity is an error that names the tensor."""
        for path, names in self.files.items():
            for name, array in _read_tensors(path, names):
                if problem := non_finite(name, array):
                    raise ConvertError(f"{path}: {problem}; this checkpoint is damaged")
                yield name, array


def weight_files(folder: Path) -> WeightFiles:
    """Find the weights in a folder and check their headers.

    Raises:
        ConvertError: no weights, or shards that differ from the index.
    """
    for file in ("model.safetensors", "pytorch_model.bin"):
        single, index = folder / file, folder / f"{file}.index.json"
        if single.is_file():
            layout, metadata = read_header(single)
            return WeightFiles({single: tuple(layout)}, layout, metadata)
        if index.is_file():
            return _read_index(folder, index)
    raise ConvertError(f"{folder}: no model.safetensors here (nor pytorch_model.bin, nor an index.json of shards)")


def read_header(path: Path) -> tuple[Layout, dict[str, str]]:
    """Read dtype and shape of every tensor in a safetensors or torch file, and the metadata of the former."""
    if path.suffix == ".safetensors":
        return safetensors_header(path)
    return {name: (ref.dtype, ref.shape) for name, ref in TorchFile(path).tensors().items()}, {}


def _read_tensors(path: Path, names: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
    if path.suffix == ".safetensors":
        return iter_safetensors(path, names)
    file = TorchFile(path)
    return file.read(item for item in file.tensors().items() if item[0] in set(names))


def _read_index(folder: Path, index: Path) -> WeightFiles:
    """Read the index of shards and compare it with their headers."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConvertError(f"{index}: no weight_map")
    names_of: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        # A plain file name only: an index from elsewhere must not point outside its folder.
        if not isinstance(file, str) or Path(file).name != file or "\\" in file:
            raise ConvertError(f"{index}: {name} is said to be in {str(file)[:80]!r}, which is no file name")
        names_of.setdefault(file, []).append(name)
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
    return WeightFiles({folder / file: tuple(names) for file, names in names_of.items()}, layout, metadata)
