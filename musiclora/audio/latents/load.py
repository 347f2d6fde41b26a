"""Recordings of a data folder as latents: read, or encoded first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.audio.architecture import EncodingModel, architecture_of
from musiclora.audio.files.sound import recordings_of
from musiclora.audio.latents.store import interruption_notes, is_latents, read_latents, refuse_unfinished
from musiclora.audio.model import codec_fingerprint, codec_folder, frame_rate, has_codec
from musiclora.audio.windows import MIN_FRAMES, Recording
from musiclora.errors import DataError
from musiclora.formats import RECORDING_SUFFIXES
from musiclora.models import BaseModel
from musiclora.progress import Reporter

_FRAMES_THAT_TELL, _RATE_TOLERANCE = 40, 0.05  # 21.5 a second at 44.1 kHz, 25 at 48 kHz


@dataclass(frozen=True)
class LoadedRecordings:
    """Recordings of a folder.

    Attributes:
        recordings: as latents.
        codec: fingerprint of the codec that encoded them; empty where it is unknown.
        notes: remarks for the user.
    """

    recordings: list[Recording]
    codec: str
    notes: list[str]


def holds_recordings(path: Path) -> bool:
    """Return True for a latents folder, and for a recording or a folder with one."""
    files = path.rglob("*") if path.is_dir() else [path]
    return is_latents(path) or any(file.suffix.lower() in RECORDING_SUFFIXES for file in files)


def check_recordings(path: Path) -> None:
    """Raise DataError where a path is no latents folder, and no folder with recordings; no file is read."""
    if not is_latents(path):
        recordings_of(path)


def load_recordings(
    folder: Path,
    base: BaseModel,
    vae: str | Path | None,
    backend: str,
    cache: Path,
    reporter: Reporter,
    caption: str | None = None,
) -> LoadedRecordings:
    """Read a latents folder, or encode the recordings of a folder into the cache and read that.

    Args:
        folder: recordings, or a latents folder.
        base: the model, whose own codec is the default.
        vae: the codec, None for the model's own.
        backend: name of the backend that encodes.
        cache: latents folder for recordings.
        reporter: receives the progress.
        caption: describes all recordings of a folder, for models that read words.

    Raises:
        DataError: no recording is long enough, the latents are another codec's, or another process is still encoding.
        MusicLoraError: the codec or a recording cannot be read.
    """
    notes: list[str] = []
    codec = codec_fingerprint(codec_folder(base, vae)) if has_codec(base, vae) else ""
    refuse_unfinished(folder)
    architecture = architecture_of(base.path)
    shape, rate = architecture.read_shape(base.path), frame_rate(base, vae)
    if not is_latents(folder):
        encoding = EncodingModel(base, codec_folder(base, vae), codec, backend)
        notes += architecture.encode_folder(folder, cache, encoding, caption, reporter)
        folder = cache
    recordings, read = [], read_latents(folder)
    architecture.check_items([item for item, _ in read], base, folder)
    for item, arrays in read:
        name, latents = str(item["source"]), arrays["latents"]
        conditions = {key: array for key, array in arrays.items() if key != "latents"}
        where = f"{folder.name}/{item['sha256'][:12]}… ({name})"
        architecture.check_conditions(conditions, len(latents), shape.condition_width, where)
        _check_rate(item, len(latents), rate, f"{folder}: {name}", base.name)
        _check_latents(latents, str(item.get("codec", "")), codec, shape.channels, f"{folder}: {name}", base.name)
        codec = codec or str(item.get("codec", ""))
        if len(latents) < MIN_FRAMES:
            notes.append(f"left out: {name} is shorter than {MIN_FRAMES} latent frames")
            continue
        span = f"{name}@{item['start']:g}" if item.get("start") else name
        recordings.append(Recording(span, name, str(item["sha256"]), latents, conditions))
    notes += interruption_notes(folder)
    if not recordings:
        raise DataError(f"{folder}: no recording is as long as {MIN_FRAMES} latent frames (0.7 s)")
    return LoadedRecordings(recordings, codec, notes)


def _check_rate(item: Mapping[str, Any], frames: int, rate: float, where: str, base: str) -> None:
    """Raise DataError for latents of another frame rate; short ones do not tell it, nor do earlier indexes."""
    seconds = item.get("seconds")
    if not seconds or frames < _FRAMES_THAT_TELL or abs(frames / seconds / rate - 1) < _RATE_TOLERANCE:
        return
    raise DataError(
        f"{where}: has {frames / seconds:.1f} latent frames a second, {base} has {rate:g}: these are another codec's; "
        "encode the recordings with musiclora preprocess and this model"
    )


def _check_latents(latents: np.ndarray, made_by: str, codec: str, channels: int, where: str, base: str) -> None:
    """Raise DataError for latents of another codec than the base's."""
    if latents.shape[1] != channels:
        raise DataError(f"{where}: has {latents.shape[1]} channels, {base} has {channels}: these are another codec's")
    if made_by and codec and made_by != codec:
        raise DataError(
            f"{where}: was encoded by another codec (recorded {made_by[:8]}, that of {base} is {codec[:8]}); encode "
            "the recordings again, or give the codec with --vae"
        )
