"""DiffRhythm's part of `fuse`, and of the comparison of adapters: by velocity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from musiclora.adapters import changes_nothing
from musiclora.audio.style_files import STYLE_FILE, blended_style
from musiclora.conversion.cards import write_fused_record
from musiclora.conversion.compare import (
    FUSED_TOLERANCE,
    AdapterParts,
    OutputComparison,
    compare_fused,
    compare_merged,
)
from musiclora.conversion.merged import MergedAdapters, Rounding
from musiclora.conversion.protocols import CompareAdapters, FuseModel, ModelFusion
from musiclora.conversion.update_arrival import UpdateArrival
from musiclora.conversion.verify import Converted, companion_files, stored_dtype
from musiclora.convert.files.atomic import atomic_folder
from musiclora.convert.files.links import copy_folder
from musiclora.convert.files.safetensors_file import Arrays, write_safetensors
from musiclora.convert.models.diffrhythm import CONDITION, DiffRhythmConfig, read_diffrhythm, write_diffrhythm
from musiclora.families import DIFFRHYTHM
from musiclora.progress import Reporter, track_tensors

if TYPE_CHECKING:
    from musiclora.backends.base import Backend, FlowModel

_BATCH_FRAMES = 24


def fuse_diffrhythm(fusion: ModelFusion, reporter: Reporter) -> Converted:
    """Add adapters to DiffRhythm and write one model folder with the base's codec and the adapters' style.

    Raises:
        ConvertError: they do not fit, or the float32 result differs from base and adapter; nothing is written then.
    """
    merged, destination = fusion.merged, fusion.destination
    checkpoint = read_diffrhythm(fusion.base.path)
    merged.check(checkpoint.config.linear_shapes())
    dtype = stored_dtype(fusion.dtype, checkpoint.dtypes.values(), fusion.to)
    dtypes = [dtype] if dtype else checkpoint.dtypes.values()
    rounded = sorted({str(kind) for kind in dtypes} - {"float32"})
    rounding = Rounding(rounded[0] if rounded else "float32", kinds={} if dtype else checkpoint.dtypes)
    with atomic_folder(destination) as folder:
        with track_tensors(reporter, "fusing", checkpoint.config.tensor_shapes()) as watch:
            tensors = rounding.before(watch(checkpoint.tensors()))
            fused = merged.fuse(tensors, conv1d=False)
            kinds, other = dtype or checkpoint.dtypes, checkpoint.other_settings
            write_diffrhythm(folder, checkpoint.config, rounding.after(fused), fusion.to, kinds, other)
        notes = _copy_companions(fusion, folder, rounding.arrival)
        parts = merged.as_one(checkpoint.tensors(), conv1d=False)
        found = compare_fused(fusion.base.path, parts, folder, fusion.backend, "velocity", _run_velocity)
        if rounded:
            notes += rounding.notes()
        else:
            found.refuse_above(FUSED_TOLERANCE, destination)
    if not changes_nothing(fusion.adapters, fusion.base):
        notes += rounding.arrival.notes(rounding.dtype)
    return found.add_to(Converted(destination, fusion.to, notes=tuple(notes)))


def compare_diffrhythm_adapters(
    base: Path, before: MergedAdapters, after: MergedAdapters, backend: str
) -> OutputComparison:
    """Compare the velocities of a base with one set of adapters and with another."""
    return compare_merged(base, before, after, backend, "velocity", _run_velocity, _write_fused)


def _run_velocity(backend: Backend, folder: Path, adapter: AdapterParts | None) -> np.ndarray:
    """Compute the velocity of a random batch, float32 [B, T, C]."""
    from musiclora.backends.base import FAMILIES

    config = read_diffrhythm(folder).config
    model = cast("FlowModel", backend.load(FAMILIES["audio"], folder))
    if adapter:
        model.inject_adapter(*adapter)
    x, time, conditioning = _random_batch(config)
    return model.velocity(x, time, model.prepare(conditioning), 0.0)


def _random_batch(config: DiffRhythmConfig) -> tuple[np.ndarray, np.ndarray, Arrays]:
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


def _write_fused(base: Path, merged: MergedAdapters, folder: Path) -> None:
    checkpoint = read_diffrhythm(base)
    tensors = merged.fuse(checkpoint.tensors(), conv1d=False)
    write_diffrhythm(folder, checkpoint.config, tensors, "hf", "float32")


def _copy_companions(fusion: ModelFusion, folder: Path, arrival: UpdateArrival) -> list[str]:
    """Copy card, codec and style next to the fused weights; return notes for the user."""
    base, notes = fusion.base, []
    for name, data in companion_files(base.path).items():
        (folder / name).write_bytes(data)
    write_fused_record(fusion, folder, DIFFRHYTHM, arrival)
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


if TYPE_CHECKING:
    _fuse: FuseModel = fuse_diffrhythm
    _compare: CompareAdapters = compare_diffrhythm_adapters
