"""Recordings on disk as latents: read, resampled, encoded once into a cache that the next start takes up again."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.backends.base import Codec
from musiclora.convert.files import write_json
from musiclora.convert.folders import read_json
from musiclora.convert.tensors import read_safetensors, write_safetensors
from musiclora.errors import ConfigError, ConvertError, DataError, listed

SUFFIXES = {".aif", ".aiff", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"}
INDEX = "index.json"
_LONGEST = 1800.0  # seconds; a longer recording would need gigabytes at once
_LOUDEST = 64.0  # times full scale: a float file beyond it is mislabelled or damaged
_SPARE = 1 << 26  # bytes left on the disk beside the cache


def read_recording(path: Path, rate: int, channels: int = 2) -> np.ndarray:
    """A recording as float32 [channels, samples] at a rate; mono is doubled, of more channels the first are taken.

    Raises:
        ConfigError: soundfile or soxr is not installed.
        DataError: the file cannot be read, is empty, too long, or holds values that are no sound.
    """
    try:
        import soundfile
        import soxr
    except ImportError as error:
        raise ConfigError(f"reading recordings needs {error.name}; try: pip install 'musiclora[audio]'") from error
    try:
        info = soundfile.info(path)
        if info.duration > _LONGEST:
            raise DataError(f"{path}: {info.duration / 60:.0f} minutes are too long at once; see musiclora cut")
        audio, found = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path}: cannot be read as a recording ({reason})") from error
    if not len(audio):
        raise DataError(f"{path}: holds no sound")
    if not np.isfinite(audio).all() or np.abs(audio).max() > _LOUDEST:
        raise DataError(f"{path}: holds values that are no sound (not finite, or far beyond full scale)")
    audio = audio[:, :channels] if audio.shape[1] >= channels else np.repeat(audio[:, :1], channels, axis=1)
    if found != rate:
        audio = soxr.resample(audio, found, rate)
    return np.ascontiguousarray(audio.T, np.float32)


def is_latents(folder: Path) -> bool:
    """Whether a folder holds latents and not recordings."""
    return (folder / INDEX).is_file()


def encode_recordings(
    folder: Path, cache: Path, codec: Codec, fingerprint: str, on_progress: Callable[[int, int], None]
) -> list[str]:
    """Encode every recording of a folder into the cache, posterior means; those already in it are kept.

    Args:
        folder: searched with its subfolders.
        cache: a latents folder; its index is rewritten after every recording, so that an interrupted start is taken up.
        codec: what encodes.
        fingerprint: of the codec.
        on_progress: told of files done and in all.

    Returns:
        What could not be read, a line each.

    Raises:
        DataError: no recordings, none that can be read, or too little disk; what was encoded before is kept.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not files:
        raise DataError(f"{folder}: holds no recordings (endings {', '.join(sorted(SUFFIXES))}) and no {INDEX}")
    known = {item["sha256"]: item for item in _index(cache, fingerprint)}
    items: list[dict[str, Any]] = []
    problems: list[str] = []
    for number, path in enumerate(files, 1):
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        try:
            seconds = known[checksum]["end"] if checksum in known else _encode(path, cache, checksum, codec)
        except DataError as error:
            problems.append(str(error))
            continue
        name = path.relative_to(folder).as_posix()
        items.append({"source": name, "start": 0.0, "end": seconds, "sha256": checksum, "codec": fingerprint})
        done = {item["sha256"] for item in items}
        rest = [item for key, item in known.items() if key not in done]
        write_json(cache / INDEX, {"format": 1, "items": items + rest})
        on_progress(number, len(files))
    if not items:
        raise DataError(f"{folder}: no recording can be used: {listed(problems)}")
    write_json(cache / INDEX, {"format": 1, "items": items})  # without recordings that are gone
    return problems


def _index(cache: Path, fingerprint: str) -> list[dict[str, Any]]:
    """What the cache holds of this codec's latents; nothing where its index is damaged."""
    try:
        items = read_json(cache / INDEX)["items"]
        return [
            item for item in items
            if item["codec"] == fingerprint and (cache / f"{item['sha256']}.safetensors").is_file() and item["end"] > 0
        ]  # fmt: skip
    except (ConvertError, KeyError, TypeError):
        return []


def _encode(path: Path, cache: Path, checksum: str, codec: Codec) -> float:
    """Encode one recording into the cache; its length in seconds."""
    audio = read_recording(path, codec.sample_rate, codec.audio_channels)
    frames = audio.shape[1] // codec.hop
    if frames < 1:
        raise DataError(f"{path}: {audio.shape[1] / codec.sample_rate:.3f} s are too short for one latent frame")
    cache.mkdir(parents=True, exist_ok=True)
    needed = frames * codec.latent_channels * 4
    if shutil.disk_usage(cache).free < needed + _SPARE:
        raise OSError(28, "no space left for the latents", str(cache))
    mean, _ = codec.encode(audio[None])
    temporary = cache / f".{checksum}.tmp"
    write_safetensors(temporary, {"latents": np.asarray(mean[0], np.float32)}, {"format": "pt"})
    temporary.replace(cache / f"{checksum}.safetensors")
    return float(audio.shape[1] / codec.sample_rate)


def read_latents(folder: Path) -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Index entries of a latents folder with their arrays.

    Raises:
        DataError: the index or an array is missing, damaged, mis-shaped or not finite.
    """
    index = read_json(folder / INDEX)
    items = index.get("items")
    if not isinstance(items, list) or not items:
        raise DataError(f"{folder / INDEX}: lists no latents; make it anew with musiclora preprocess")
    found = []
    for item in items:
        if not isinstance(item, dict) or not {"source", "sha256"} <= set(item):
            raise DataError(
                f"{folder / INDEX}: an entry lacks source or sha256; make it anew with musiclora preprocess"
            )
        arrays = read_safetensors(folder / f"{Path(str(item['sha256'])).name}.safetensors")
        _check(arrays, f"{folder.name}/{item['sha256'][:12]}… ({item['source']})")
        found.append((item, arrays))
    return found


def _check(arrays: dict[str, np.ndarray], where: str) -> None:
    latents, style, text = (arrays.get(name) for name in ("latents", "style", "text"))
    if latents is None or latents.ndim != 2 or not np.isfinite(latents).all():
        raise DataError(f"{where}: expected finite latents [T, C]; encode the recording anew")
    if style is not None and (style.shape != (512,) or not np.isfinite(style).all()):
        raise DataError(f"{where}: its style has shape {list(style.shape)}, expected 512 finite values")
    if text is not None and text.shape != (len(latents),):
        raise DataError(f"{where}: its text has {len(text)} values for {len(latents)} frames")
