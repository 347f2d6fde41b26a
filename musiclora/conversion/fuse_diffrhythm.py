"""DiffRhythm's part of `fuse`, and of the comparison of adapters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from musiclora.audio.style_files import STYLE_FILE, blended_style
from musiclora.conversion.compare import OutputComparison
from musiclora.conversion.fuse_flow import Batch, Change, FlowFusing, Kinds
from musiclora.conversion.merged import MergedAdapters
from musiclora.conversion.protocols import CompareAdapters, FuseModel, ModelFusion
from musiclora.conversion.verify import Converted, companion_files
from musiclora.convert.files.links import copy_folder
from musiclora.convert.files.safetensors_file import write_safetensors
from musiclora.convert.models.diffrhythm import (
    CONDITION,
    DiffRhythmCheckpoint,
    DiffRhythmConfig,
    read_diffrhythm,
    write_diffrhythm,
)
from musiclora.families import DIFFRHYTHM
from musiclora.progress import Reporter

_BATCH_FRAMES = 24


def fuse_diffrhythm(fusion: ModelFusion, reporter: Reporter) -> Converted:
    """Add adapters to DiffRhythm and write one model folder with the base's codec and the adapters' style.

    Raises:
        ConvertError: they do not fit, or the float32 result differs from base and adapter; nothing is written then.
    """
    return FUSING.fuse(fusion, reporter)


def compare_diffrhythm_adapters(
    base: Path, before: MergedAdapters, after: MergedAdapters, backend: str
) -> OutputComparison:
    """Compare the velocities of a base with one set of adapters and with another."""
    return FUSING.compare(base, before, after, backend)


def _write(checkpoint: DiffRhythmCheckpoint, folder: Path, change: Change, to: str, kinds: Kinds) -> None:
    tensors = change(checkpoint.tensors())
    write_diffrhythm(folder, checkpoint.config, tensors, to, kinds, checkpoint.other_settings)


def _random_batch(config: DiffRhythmConfig) -> Batch:
    """Draw two rows in which no condition is zero, so that every adapted module is tested."""
    rng = np.random.default_rng(0)
    frames = min(_BATCH_FRAMES, config.max_frames)
    shape = (2, frames, config.mel_dim)
    conditioning = {
        "cond": rng.standard_normal(shape, np.float32),
        "text": rng.integers(0, config.text_num_embeds + 1, shape[:2]).astype(np.int32),
        "style": rng.standard_normal((2, CONDITION), np.float32),
        "start_time": np.array([0.0, 0.4], np.float32),
        "valid": np.ones(shape[:2], bool),
    }
    if config.duration_embedding:
        conditioning["duration"] = np.array([1.0, 0.3], np.float32)
    return rng.standard_normal(shape, np.float32), np.array([0.2, 0.7], np.float32), conditioning


def _copy_parts(fusion: ModelFusion, folder: Path) -> list[str]:
    """Copy companion files, codec and style next to the fused weights; return notes for the user."""
    base, notes = fusion.base, []
    for name, data in companion_files(base.path).items():
        (folder / name).write_bytes(data)
    if (base.path / "vae").is_dir():
        copy_folder(base.path / "vae", folder / "vae", base.path)
    else:
        notes.append(f"{base.name} has no codec to copy; generate from the fused model with --vae")
    style = blended_style(fusion.adapters)
    if style is not None:
        # In a folder of its own: all safetensors of a model folder are one model.
        (folder / "style").mkdir()
        write_safetensors(folder / "style" / STYLE_FILE, {"style": style}, {"format": "pt"})
        own = fusion.destination / "style" / STYLE_FILE
        notes.append(f"the style vector is no weight and cannot be fused: generate with --style {own}")
    return notes


FUSING = FlowFusing(
    DIFFRHYTHM,
    read_diffrhythm,
    DiffRhythmConfig.tensor_shapes,
    _write,
    _random_batch,
    _copy_parts,
)

if TYPE_CHECKING:
    _fuse: FuseModel = fuse_diffrhythm
    _compare: CompareAdapters = compare_diffrhythm_adapters
