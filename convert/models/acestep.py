"""Checkpoints of ACE-Step in the original's folder, a diffusers pipeline and the MLX layout."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.errors import ConvertError, join_problems
from musiclora.convert.files.json_file import read_json
from musiclora.convert.files.safetensors_file import FLOATS, Dtype, Layout
from musiclora.convert.files.torch_file import TORCH_SUFFIXES
from musiclora.convert.files.weight_files import WeightFiles, read_header, weight_files
from musiclora.convert.models.acestep_config import AceStepConfig
from musiclora.convert.models.acestep_folders import CONDITION_ENCODER, TRANSFORMER, AceStepFolder, find_acestep
from musiclora.convert.models.acestep_json import (
    config_from_original,
    config_from_pipeline,
    other_pipeline_settings,
    other_settings,
)
from musiclora.convert.models.acestep_names import (
    ACESTEP_LAYOUTS,
    CODE_PREFIXES,
    ENCODER_PART,
    SILENCE,
    TRANSFORMER_PART,
    tensor_shapes,
)
from musiclora.convert.models.name_mapping import NameMapping, TensorMove, map_names
from musiclora.convert.models.quantise import Packed, QuantisedFiles, quantised_files

__all__ = ["AceStepCheckpoint", "AceStepConfig", "read_acestep", "tensor_shapes"]

_WEIGHT_SUFFIXES = (".safetensors", *TORCH_SUFFIXES)


@dataclass(frozen=True)
class AceStepCheckpoint:
    """Open checkpoint whose names and shapes are proven to fit its configuration.

    Attributes:
        folder: places of the model's parts.
        config: sizes of the model.
        layout: hf (the original's names), diffusers or mlx.
        other_settings: keys of config.json that the maths does not need, for copies to keep.
        dtypes: dtype of every tensor as it is read; that of quantised matrices is float32.
        dropped: names that are not weights, with the reason.
        carried: dtype and shape of the 5 Hz tokenizer's tensors, which only a copy in the original's layout keeps.
    """

    folder: AceStepFolder
    config: AceStepConfig
    layout: str
    other_settings: dict[str, Any]
    dtypes: dict[str, Dtype]
    dropped: dict[str, str]
    carried: Layout
    _plan: NameMapping
    _files: WeightFiles

    @property
    def bits(self) -> int | None:
        """Bits an element of the quantised matrices; None where there are none."""
        return max(self._files.bits.values(), default=None) if isinstance(self._files, QuantisedFiles) else None

    def tensors(self, names: Collection[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (canonical name, array in its stored dtype and torch's layout), one tensor in memory at a time.

        Args:
            names: canonical names to read; None reads all but the carried ones.

        Raises:
            ConvertError: a damaged file, or a NaN or infinity, with the tensor's name.
        """
        moves = self._moves(names)
        for name, array in self._files.tensors(moves):
            yield moves[name].target, moves[name].apply(array)

    def stored(self, names: Collection[str] | None = None) -> Iterator[tuple[str, np.ndarray | Packed]]:
        """Yield tensors as `tensors` does, but keep quantised matrices packed."""
        if not isinstance(self._files, QuantisedFiles):
            yield from self.tensors(names)
            return
        moves = self._moves(names)
        for name, value in self._files.stored(moves):
            yield moves[name].target, value if isinstance(value, Packed) else moves[name].apply(value)

    def _moves(self, names: Collection[str] | None) -> dict[str, TensorMove]:
        """Map the names in the files to the moves of the wanted tensors."""
        moves = {move.source: move for move in self._plan.moves if names is None or move.target in names}
        return moves | {name: TensorMove(name, name) for name in self.carried if names is not None and name in names}


def read_acestep(path: Path) -> AceStepCheckpoint:
    """Open a model; its weights are read on demand.

    Args:
        path: see `find_acestep`.

    Raises:
        ConvertError: another model, missing files, or tensors that are missing, surplus or mis-shaped, all at once.
    """
    folder = find_acestep(path)
    config, other, layout, files = _open_pipeline(folder) if folder.is_pipeline else _open_folder(folder)
    codes = layout == "hf"
    carried = {name: files.layout[name] for name in files.layout if codes and name.startswith(CODE_PREFIXES)}
    sources = {name: shape for name, (_, shape) in files.layout.items() if name not in carried}
    plan = map_names(ACESTEP_LAYOUTS[layout], sources, tensor_shapes(config), str(folder.path))
    kinds = {move.source: files.layout[move.source][0] for move in plan.moves}
    if integers := [f"{name} is {kind}" for name, kind in kinds.items() if kind not in FLOATS]:
        raise ConvertError(
            f"{folder.path}: quantised or integer tensors are not supported: {join_problems(integers)}; "
            "give the float model"
        )
    dtypes = {move.target: kinds[move.source] for move in plan.moves}
    return AceStepCheckpoint(folder, config, layout, other, dtypes, plan.dropped, carried, plan, files)


def _open_folder(folder: AceStepFolder) -> tuple[AceStepConfig, dict[str, Any], str, WeightFiles]:
    """Open the original's folder or one in the MLX layout."""
    content = read_json(folder.path / "config.json")
    config = config_from_original(content, str(folder.path / "config.json"))
    names = [file.name for file in folder.path.iterdir() if Path(file.name.removesuffix(".index.json")).stem != SILENCE]
    if not any(name.removesuffix(".index.json").endswith(_WEIGHT_SUFFIXES) for name in names):
        raise ConvertError(f"{folder.path}: its config.json is ACE-Step's, but no model.safetensors is here")
    files = weight_files(folder.path)
    layout = "mlx" if files.metadata.get("format") == "mlx" else "hf"
    if layout == "hf" and SILENCE not in files.layout:
        files = _merge(files, _silence_file(folder.path))
    if layout == "mlx" and isinstance(quantisation := content.get("quantization"), dict):
        files = quantised_files(files, quantisation, str(folder.path))
    return config, other_settings(content), layout, files


def _open_pipeline(folder: AceStepFolder) -> tuple[AceStepConfig, dict[str, Any], str, WeightFiles]:
    """Open the transformer and the condition encoder of a diffusers pipeline."""
    transformer, encoder = folder.path / TRANSFORMER, folder.path / CONDITION_ENCODER
    content = read_json(transformer / "config.json")
    config = config_from_pipeline(content, read_json(encoder / "config.json"), str(folder.path))
    parts = {TRANSFORMER_PART: weight_files(transformer), ENCODER_PART: weight_files(encoder)}
    files = _merge(*(_prefix(part, prefix) for prefix, part in parts.items()))
    if ENCODER_PART + SILENCE not in files.layout:
        files = _merge(files, _silence_file(folder.path))
    return config, other_pipeline_settings(content), "diffusers", files


def _silence_file(folder: Path) -> WeightFiles:
    """Describe the encoded silence beside the weights; no files where there is none."""
    for file in (folder / f"{SILENCE}.safetensors", folder / f"{SILENCE}.pt"):
        if not file.is_file():
            continue
        layout, metadata = read_header(file)
        if len(layout) != 1:
            raise ConvertError(f"{file}: holds {len(layout)} tensors, expected one, [1, channels, frames]")
        stored, entry = next(iter(layout.items()))
        return WeightFiles({file: {SILENCE: stored}}, {SILENCE: entry}, metadata)
    return WeightFiles({}, {}, {})


def _prefix(files: WeightFiles, prefix: str) -> WeightFiles:
    """Put the name of a pipeline's part before the names of its tensors."""
    named = {path: {prefix + name: stored for name, stored in names.items()} for path, names in files.files.items()}
    return WeightFiles(named, {prefix + name: entry for name, entry in files.layout.items()}, files.metadata)


def _merge(*parts: WeightFiles) -> WeightFiles:
    """Join files whose tensors have different names."""
    files: dict[Path, dict[str, str]] = {}
    layout: Layout = {}
    metadata: Mapping[str, str] = {}
    for part in parts:
        files |= part.files
        layout |= part.layout
        metadata = metadata or part.metadata
    return WeightFiles(files, layout, metadata)
