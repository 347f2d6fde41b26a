"""The job behind `musiclora convert`: weights and adapters in another format, checked after writing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.convert.fingerprint import RECORD, checkpoint_fingerprint
from musiclora.convert.folders import read_json
from musiclora.convert.gpt2 import Gpt2Checkpoint, read_checkpoint, write_checkpoint
from musiclora.errors import ConfigError, ConvertError
from musiclora.models import find_model
from musiclora.verification import (
    Converted,
    beside,
    withdrawn_on_failure,
)


def convert_model(
    source: str,
    destination: Path,
    to: str,
    dtype: str | None = None,
    *,
    causal: bool = False,
    vae: Path | None = None,
) -> Converted:
    """Write a model of either family in another layout.

    Args:
        source: bundled, a Hub id, a folder, or a file of the audio family.
        destination: new folder.
        to: hf, mlx or (the audio codec) diffusers.
        dtype: float32, float16 or bfloat16; None keeps the source's.
        causal: the audio weights are of the v1.0 line.
        vae: the audio family's codec, to go into the same folder.

    Raises:
        ConvertError: the source does not fit, or the copy reads back with other values; nothing is left then.
    """
    path = Path(source).expanduser()
    path = path if path.exists() else find_model(source).path
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ConfigError(f"{destination} exists already; remove it or choose another name")
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    if path.is_file() or config.get("model_type", "oobleck") in ("diffrhythm", "oobleck"):
        from musiclora.audio_conversion import convert_audio

        return convert_audio(path, destination, to, dtype, causal, vae)
    if causal or vae or to == "diffusers":
        raise ConfigError("--causal, --vae and --to diffusers are for the audio family")
    return _convert_gpt2(path, destination, to, dtype)


def _convert_gpt2(path: Path, destination: Path, to: str, dtype: str | None) -> Converted:
    checkpoint = read_checkpoint(path)
    before = checkpoint_fingerprint(path)
    kept = dtype or checkpoint.dtype
    notes = [f"left out {name}: {reason}" for name, reason in _grouped(checkpoint.dropped).items()]
    files = beside(path) | {RECORD: _json(_record_of(path) | {"source_fingerprint": before})}
    with withdrawn_on_failure(destination):
        write_checkpoint(destination, checkpoint.config, checkpoint.tensors(), to, dtype=kept, extra_files=files)
        after = checkpoint_fingerprint(destination)
        if after["weights"] == before["weights"]:
            notes.append(f"every weight is bit for bit the same (fingerprint {after['weights'][:8]})")
        elif kept == checkpoint.dtype:
            raise ConvertError(f"{destination}: the copy's fingerprint differs from the source's; it was withdrawn")
        else:
            rounding = _largest_rounding(checkpoint, read_checkpoint(destination))
            notes.append(f"rounded from {checkpoint.dtype} to {kept}: the largest change of a weight is {rounding:.3g}")
    return Converted(destination, to, notes=tuple(notes))


def _largest_rounding(before: Gpt2Checkpoint, after: Gpt2Checkpoint) -> float:
    written = {name: array for name, array in after.tensors()}
    return max(
        float(np.abs(a.astype(np.float32) - written[n].astype(np.float32)).max(initial=0)) for n, a in before.tensors()
    )


def _grouped(dropped: Mapping[str, str]) -> dict[str, str]:
    """Dropped names by their reason, counted where there are many of one kind."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in dropped.items():
        by_reason.setdefault(reason, []).append(name)
    return {names[0] + (f" and {len(names) - 1} more" if names[1:] else ""): why for why, names in by_reason.items()}


def _record_of(folder: Path) -> dict[str, Any]:
    return read_json(folder / RECORD) if (folder / RECORD).is_file() else {}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
