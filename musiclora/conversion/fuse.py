"""The job behind `musiclora fuse`: adapters added to their base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from musiclora.adapters import base_of, check_base, empty_updates
from musiclora.conversion.merged import MergedAdapters, find_adapters
from musiclora.conversion.protocols import FuseModel, ModelFusion
from musiclora.conversion.verify import Converted, check_destination
from musiclora.families import resolve
from musiclora.progress import Reporter


def fuse_adapters(
    adapters: Sequence[str],
    destination: Path,
    model: str | None = None,
    to: str = "hf",
    dtype: str | None = None,
    backend: str = "auto",
    *,
    allow_base_mismatch: bool = False,
    reporter: Reporter | None = None,
) -> Converted:
    """Add adapters to their base and write one checkpoint; summed in float32, cast once.

    Args:
        adapters: each PATH or PATH:STRENGTH.
        destination: new folder.
        model: the base; None takes the one that the adapters record.
        to: hf or mlx.
        dtype: float32, float16 or bfloat16; None keeps the base's.
        backend: backend for the outputs before and after.
        allow_base_mismatch: go on although the recorded base differs.
        reporter: shows progress.

    Raises:
        ConvertError: they do not fit, or the float32 result differs from base and adapter; nothing is written then.
    """
    spec, found = find_adapters(adapters)
    merged = MergedAdapters.of(found)
    base = base_of(model, found)
    notes = [note for adapter in found for note in check_base(adapter, base, allow_base_mismatch)]
    notes += empty_updates(found, base)
    read = {"--model": base.path, **{f"--adapter-dir {a.path.name}": a.path for a in found}}
    check_destination(destination, read, "--output-dir")
    fuse: FuseModel = resolve(spec.fuse_model)
    fusion = ModelFusion(base, found, merged, destination, to, dtype, backend, allow_base_mismatch)
    result = fuse(fusion, reporter or Reporter())
    return replace(result, notes=(*notes, *result.notes))
