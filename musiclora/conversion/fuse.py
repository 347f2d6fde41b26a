"""The jobs behind `musiclora fuse` and `musiclora blend`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from musiclora.adapters import base_of, check_base
from musiclora.conversion.blend import _found
from musiclora.conversion.fuse_diffrhythm import fuse_audio
from musiclora.conversion.fuse_gpt2 import fuse_symbolic
from musiclora.conversion.merged import MergedAdapters
from musiclora.conversion.verify import Converted
from musiclora.convert.adapters.diffrhythm_modules import owns_modules
from musiclora.convert.adapters.lora import state_modules
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
        backend: what computes the logits before and after.
        allow_base_mismatch: go on although the recorded base differs.
        reporter: shows how far it is.

    Raises:
        ConvertError: they do not fit, or in float32 the fused model computes something else than base and adapter.
    """
    found = _found(adapters, dora=True)
    merged = MergedAdapters.of(found)
    base = base_of(model, found)
    notes = [note for adapter in found for note in check_base(adapter, base, allow_base_mismatch)]
    if owns_modules(state_modules(found[0].state)):
        result = fuse_audio(base, found, merged, destination, to, dtype, backend)
    else:
        result = fuse_symbolic(
            base, found, merged, destination, to, dtype, backend, allow_base_mismatch, reporter or Reporter()
        )
    return replace(result, notes=(*notes, *result.notes))
