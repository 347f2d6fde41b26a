"""DiffRhythm's part of `convert model`: its transformer and its codec, streamed and checked after writing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from musiclora.conversion.codec import write_codec
from musiclora.conversion.copy_verifier import CopyVerifier
from musiclora.conversion.protocols import ConvertModel, IsModelSource, ModelConversion
from musiclora.conversion.verify import Converted, describe_dropped, record_with_source, stored_dtype
from musiclora.convert.files.atomic import atomic_folder, write_json
from musiclora.convert.files.checkpoint_source import open_source
from musiclora.convert.files.fingerprint import RECORD
from musiclora.convert.files.json_file import read_optional_json
from musiclora.convert.models.diffrhythm import DiffRhythmCheckpoint, is_diffrhythm, read_diffrhythm, write_diffrhythm
from musiclora.convert.models.oobleck import is_oobleck
from musiclora.errors import ConfigError
from musiclora.models import kept_settings
from musiclora.progress import Reporter, track_tensors

# A copy of this size with unchanged values does not record its source's fingerprint. That is the copy's own, so every
# adapter fits all the same, and SHA-256 over a billion values takes longer than all the rest.
_LARGE_BYTES = 1 << 30


def is_diffrhythm_source(path: Path) -> bool:
    """Tell whether a file or folder holds DiffRhythm's transformer or its codec.

    Raises:
        ConvertError: there is no readable checkpoint.
    """
    config = read_optional_json(path / "config.json") if path.is_dir() else {}
    if "model_type" in config:
        return config["model_type"] in ("diffrhythm", "oobleck")
    names = open_source(path).layout
    return is_diffrhythm(names) or is_oobleck(names)


def convert_diffrhythm(conversion: ModelConversion, reporter: Reporter) -> Converted:
    """Write DiffRhythm's transformer (with its codec in vae/), or the codec alone, in another layout.

    The source is the original's .pt, safetensors, a folder of safetensors, or a model folder.

    Raises:
        ConfigError: options of another family, or of the other one of transformer and codec.
        ConvertError: tensors that do not fit, or a copy that reads back with other values; nothing is written then.
    """
    if conversion.bits:
        raise ConfigError("--quantize is not for DiffRhythm, whose weights stay float")
    source = open_source(conversion.source)
    is_codec = is_oobleck(source.layout) or source.config.get("model_type") == "oobleck"
    if is_codec and not is_diffrhythm(source.layout):
        return _convert_codec(conversion, reporter)
    result = _convert_transformer(conversion, reporter)
    if conversion.causal or "causal" in source.config:
        return result
    note = "taken as v1.2 weights; those of DiffRhythm-base and -full (v1.0) need --causal"
    return replace(result, notes=(*result.notes, note))


def _convert_codec(conversion: ModelConversion, reporter: Reporter) -> Converted:
    if conversion.vae or conversion.causal:
        raise ConfigError(f"{conversion.source}: is a codec; --vae and --causal go with the transformer")
    with atomic_folder(conversion.destination) as folder:
        notes = write_codec(conversion.source, folder, conversion.to, conversion.dtype, reporter)
    return Converted(conversion.destination, f"codec, {conversion.to}", notes=tuple(notes))


def _convert_transformer(conversion: ModelConversion, reporter: Reporter) -> Converted:
    to = conversion.to
    if to == "diffusers":
        raise ConfigError("--to diffusers is for the codec; diffusers has no DiffRhythm")
    checkpoint = read_diffrhythm(conversion.source, causal=conversion.causal or None)
    dtype = stored_dtype(conversion.dtype, checkpoint.dtypes.values(), to)
    own_codec = conversion.source / "vae"
    codec = conversion.vae or (own_codec if own_codec.is_dir() else None)
    rounds = dtype is not None and any(kind.name != dtype for kind in checkpoint.dtypes.values())
    small = _count_bytes(checkpoint) < _LARGE_BYTES
    verifier = CopyVerifier(dtype, checkpoint.checksums(), fingerprint=rounds or small, rounds=rounds, own=small)
    shapes = checkpoint.config.tensor_shapes()
    with atomic_folder(conversion.destination) as folder:
        with track_tensors(reporter, "writing", shapes) as watch:
            tensors = verifier(watch(checkpoint.tensors()))
            write_diffrhythm(
                folder, checkpoint.config, tensors, to, dtype or checkpoint.dtypes, checkpoint.other_settings
            )
        with track_tensors(reporter, "checking", shapes) as watch:
            verifier.compare(watch(read_diffrhythm(folder).tensors(checked=False)), conversion.destination)
        record = record_with_source(conversion.source, verifier.source_fingerprint()) | {"family": "audio"}
        record |= kept_settings(conversion.source)
        own = verifier.own_fingerprint()
        write_json(folder / RECORD, record | ({"fingerprint": own} if own else {}))
        notes = [*checkpoint.notes, *verifier.notes(), *describe_dropped(checkpoint.dropped)]
        if codec:
            notes += [f"codec: {text}" for text in write_codec(codec, folder / "vae", to, dtype, reporter)]
        else:
            notes.append("no codec: give --vae to have it in the same folder")
    return Converted(conversion.destination, to, notes=tuple(notes))


def _count_bytes(checkpoint: DiffRhythmCheckpoint) -> int:
    """Count the bytes of a checkpoint's tensors."""
    shapes = checkpoint.config.tensor_shapes()
    return sum(math.prod(shape) * checkpoint.dtypes[name].itemsize for name, shape in shapes.items())


if TYPE_CHECKING:
    _convert: ConvertModel = convert_diffrhythm
    _is_source: IsModelSource = is_diffrhythm_source
