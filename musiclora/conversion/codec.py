"""Copies of the Oobleck codec in another layout, checked after writing."""

from __future__ import annotations

from pathlib import Path

from musiclora.conversion.copy_verifier import CopyVerifier
from musiclora.conversion.verify import describe_dropped, stored_dtype
from musiclora.convert.models.oobleck import FORMS, read_oobleck, write_oobleck
from musiclora.progress import Reporter, track_tensors


def write_codec(source: Path, folder: Path, to: str, dtype: str | None, reporter: Reporter) -> list[str]:
    """Write the codec, read it back and compare; return notes for the user."""
    checkpoint = read_oobleck(source)
    normed = checkpoint.weight_norm if checkpoint.weight_norm in FORMS[to] else not checkpoint.weight_norm
    dtype = stored_dtype(dtype, checkpoint.dtypes_of(weight_norm=normed).values(), to)
    verifier = CopyVerifier(dtype)
    shapes = checkpoint.config.normed_shapes() if normed else checkpoint.config.tensor_shapes()
    dtypes = dtype or checkpoint.dtypes_of(weight_norm=normed)
    with track_tensors(reporter, "codec, writing", shapes) as watch:
        tensors = verifier(watch(checkpoint.tensors(weight_norm=normed)))
        write_oobleck(folder, checkpoint.config, tensors, to, dtypes, weight_norm=normed)
    with track_tensors(reporter, "codec, checking", shapes) as watch:
        verifier.compare(watch(read_oobleck(folder).tensors(weight_norm=normed)), folder)
    notes = verifier.notes()
    if normed != checkpoint.weight_norm:
        notes.append(
            "weights split into gain and direction" if normed else "weight norm folded into the weights, in float32"
        )
    return [*notes, *describe_dropped(checkpoint.dropped)]
