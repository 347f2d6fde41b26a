"""Audio adapters and their base: fused into one checkpoint, compared by velocity, style vectors blended."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from musiclora.adapters import Adapter
from musiclora.audio.style import STYLE_FILE, blended_style
from musiclora.conversion.compare import FUSED_TOLERANCE, UNCOMPARED, VelocityComparison, compare_velocities
from musiclora.conversion.merged import MergedAdapters, Rounding
from musiclora.conversion.verify import Converted, companion_files, withdrawn_on_failure
from musiclora.convert.adapters.lora_math import fuse_tensors
from musiclora.convert.files.atomic import write_json
from musiclora.convert.files.fingerprint import RECORD
from musiclora.convert.files.safetensors_file import write_safetensors
from musiclora.convert.models.diffrhythm import read_diffrhythm, write_diffrhythm
from musiclora.models import BaseModel


def fuse_audio(
    base: BaseModel,
    adapters: Sequence[Adapter],
    merged: MergedAdapters,
    destination: Path,
    to: str,
    dtype: str | None,
    backend: str,
) -> Converted:
    """Add adapters to DiffRhythm and write one model folder, with the base's codec and the adapters' style beside it.

    Args:
        base: the base model's folder.
        adapters: with their strengths; where the styles come from.
        merged: the sum of the adapters.
        destination: new folder.
        to: hf or mlx.
        dtype: of all weights; None keeps each one's.
        backend: what computes the velocities before and after.

    Raises:
        ConvertError: they do not fit, or in float32 the fused model computes something else than base and adapter.
    """
    checkpoint = read_diffrhythm(base.path)
    merged.check(checkpoint.config.linear_shapes())
    rounded = sorted({str(kind) for kind in ([dtype] if dtype else checkpoint.dtypes.values())} - {"float32"})
    rounding = Rounding(rounded[0] if rounded else "float32")
    notes = []
    with withdrawn_on_failure(destination):
        tensors = rounding.before(checkpoint.tensors())
        fused = fuse_tensors(tensors, merged.spec, merged.state, conv1d=False, dora=merged.dora)
        write_diffrhythm(destination, checkpoint.config, rounding.after(fused), to, dtype or checkpoint.dtypes)
        notes += _copy_beside(base, adapters, destination)
        found = VelocityComparison()
        if merged.dora:
            notes.append(UNCOMPARED)
        elif merged.spec:
            found = compare_velocities(base.path, (merged.spec, merged.state), destination, None, backend)
        if rounded:
            notes += rounding.notes()
        else:
            found.refuse_above(FUSED_TOLERANCE, destination)
    return Converted(
        destination,
        to,
        backend=found.backend,
        notes=tuple(notes),
        velocity_difference=found.difference,
        largest_velocity=found.largest,
    )


def _copy_beside(base: BaseModel, adapters: Sequence[Adapter], destination: Path) -> list[str]:
    """Put card, codec and style beside the fused weights; what the user should know of it."""
    notes = []
    for name, data in companion_files(base.path).items():
        (destination / name).write_bytes(data)
    names = {adapter.path.name: adapter.strength for adapter in adapters}
    write_json(destination / RECORD, {"family": "audio", "base_model": base.name, "fused": names})
    if (base.path / "vae").is_dir():
        shutil.copytree(base.path / "vae", destination / "vae")
    else:
        notes.append(f"{base.name} has no codec to copy; generate from the fused model with --vae")
    style = blended_style(adapters)
    if style is not None:
        own = (
            destination / "style" / STYLE_FILE
        )  # not beside the weights: the safetensors of a model folder are one model
        own.parent.mkdir()
        write_safetensors(own, {"style": style}, {"format": "pt"})
        notes.append(f"the style vector is no weight and cannot be fused: generate with --style {own}")
    return notes
