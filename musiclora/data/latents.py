"""Recordings as latents: encoded once into a folder that the next start takes up again, and read from there."""

from __future__ import annotations

import hashlib
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.backends.base import Codec
from musiclora.convert.files import write_json
from musiclora.convert.folders import read_json
from musiclora.convert.tensors import read_safetensors, write_safetensors
from musiclora.data.audio import recordings_of
from musiclora.data.cutting import read_manifest
from musiclora.data.stretches import counted, is_clipped, is_silent, read_stretch, sound_info
from musiclora.errors import ConfigError, ConvertError, DataError, listed

INDEX = "index.json"
# Frames encoded at once (nearly ten minutes of DiffRhythm's), and read beyond on both sides. Multiples of 441 begin at
# a whole sample of every usual rate, so that resampling a block gives what resampling the whole gives.
BLOCK, MARGIN = 28 * 441, 441
_SPARE = 1 << 26  # bytes left on the disk beside the latents


@dataclass(frozen=True)
class Encoding:
    """What is kept of a recording.

    Attributes:
        posterior: `mean`, or `sample` for a draw from the posterior, mean + (softplus(scale) + 1e-4) noise.
        seed: of the draws, with the recording's checksum.
        style: float32 [512] to keep beside every recording's latents; None for none.
        style_of: the style of one recording, by its file, instead.
    """

    posterior: str = "mean"
    seed: int = 42
    style: np.ndarray | None = None
    style_of: Callable[[Path], np.ndarray] | None = None

    def __post_init__(self) -> None:
        if self.posterior not in ("mean", "sample"):
            raise ConfigError(f"--posterior is {self.posterior}; it must be mean or sample")

    @property
    def kind(self) -> str:
        """What the latents are, for the index."""
        return self.posterior if self.posterior == "mean" else f"sample {self.seed}"


@dataclass
class Encoded:
    """What became of a folder of recordings.

    Attributes:
        recordings: how many are in the latents folder.
        seconds: their length together.
        left_out: what could not be used, a line each.
        clipped: names of those that stand at full scale too often.
    """

    recordings: int = 0
    seconds: float = 0.0
    left_out: list[str] = field(default_factory=list)
    clipped: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Lines for people."""
        clipped = counted(self.clipped, "recordings are clipped (distorted where they are loudest)")
        return [*(f"left out: {text}" for text in self.left_out), *clipped]


def is_latents(folder: Path) -> bool:
    """Whether a folder holds latents and not recordings."""
    return (folder / INDEX).is_file()


def encode_recordings(
    folder: Path, cache: Path, codec: Codec, fingerprint: str, on_progress: Callable[[int, int], None],
    encoding: Encoding | None = None,
) -> Encoded:  # fmt: skip
    """Encode every recording of a folder into the cache; those already in it are kept.

    Segments that `musiclora cut` wrote keep the source that its manifest names.

    Args:
        folder: searched with its subfolders.
        cache: a latents folder; its index is rewritten after every recording, so that an interrupted start is taken up.
        codec: what encodes.
        fingerprint: of the codec.
        on_progress: told of files done and in all.
        encoding: what is kept; None keeps the posterior's mean.

    Raises:
        DataError: no recordings, or none that can be read; what was encoded before is kept.
        OSError: too little disk; likewise.
    """
    wanted, (files, foreign), manifest = encoding or Encoding(), recordings_of(folder), read_manifest(folder)
    known = {
        item["sha256"]: item for item in _index(cache, fingerprint) if item.get("posterior", "mean") == wanted.kind
    }
    items: dict[str, dict[str, Any]] = {}
    result = Encoded(left_out=[f"{path}: is in a format that is not read" for path in foreign])
    for number, path in enumerate(files, 1):
        name, checksum = path.relative_to(folder).as_posix(), _checksum(path)
        try:
            seconds, clipped = (
                (known[checksum]["seconds"], known[checksum].get("clipped", False))
                if checksum in known else _encode(path, cache, checksum, codec, wanted)
            )  # fmt: skip
            _put_style(path, cache / f"{checksum}.safetensors", wanted)
        except DataError as error:
            result.left_out.append(str(error))
            continue
        result.clipped += [name] * clipped
        cut = manifest.get(name, {"source": name, "start": 0.0, "end": seconds})
        items[name] = {
            **cut, "sha256": checksum, "codec": fingerprint, "posterior": wanted.kind, "seconds": seconds,
            "clipped": clipped,
        }  # fmt: skip
        done = {item["sha256"] for item in items.values()}
        rest = [item for key, item in known.items() if key not in done]
        write_json(cache / INDEX, {"format": 1, "items": [*items.values(), *rest]})
        on_progress(number, len(files))
    if not items:
        raise DataError(f"{folder}: no recording can be used: {listed(result.left_out)}")
    write_json(cache / INDEX, {"format": 1, "items": list(items.values())})  # without recordings that are gone
    result.recordings, result.seconds = len(items), sum(item["seconds"] for item in items.values())
    return result


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _index(cache: Path, fingerprint: str) -> list[dict[str, Any]]:
    """What the cache holds of this codec's latents; nothing where its index is damaged."""
    try:
        items = read_json(cache / INDEX)["items"]
        return [
            {"seconds": item["end"] - item["start"], **item} for item in items
            if item["codec"] == fingerprint and (cache / f"{item['sha256']}.safetensors").is_file() and item["end"] > 0
        ]  # fmt: skip
    except (ConvertError, KeyError, TypeError):
        return []


def _encode(path: Path, cache: Path, checksum: str, codec: Codec, encoding: Encoding) -> tuple[float, bool]:
    """Encode one recording into the cache; its length in seconds, and whether it is clipped."""
    info = sound_info(path)
    frames = int(info.seconds * codec.sample_rate) // codec.hop
    if frames < 1:
        raise DataError(f"{path}: {info.seconds:.3f} s are too short for one latent frame")
    cache.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(cache).free < frames * codec.latent_channels * 4 + _SPARE:
        raise OSError(28, "no space left for the latents", str(cache))
    rng = np.random.default_rng([encoding.seed, zlib.crc32(checksum.encode())])
    parts, loud, clipped, pace = [], False, False, codec.sample_rate / codec.hop
    for start in range(0, frames, BLOCK):
        first, stop = max(0, start - MARGIN), min(start + BLOCK, frames)
        end = info.seconds if stop + MARGIN >= frames else (stop + MARGIN) / pace
        audio = read_stretch(path, info, first / pace, end, codec.sample_rate, codec.audio_channels)
        if audio.shape[1] < codec.hop:
            break  # the file ends before it says it does
        loud, clipped = loud or not is_silent(audio), clipped or is_clipped(audio)
        mean, scale = codec.encode(audio[None])
        part = mean[0] if encoding.posterior == "mean" else _drawn(mean[0], scale[0], rng)
        parts.append(part[start - first : None if stop == frames else stop - first])
    if not parts:
        raise DataError(f"{path}: breaks off before the first latent frame")
    if not loud:
        raise DataError(f"{path}: is silent")
    temporary = cache / f".{checksum}.tmp"
    write_safetensors(temporary, {"latents": np.concatenate(parts).astype(np.float32)}, {"format": "pt"})
    temporary.replace(cache / f"{checksum}.safetensors")
    return sum(map(len, parts)) / pace if len(parts) > 1 else float(audio.shape[1] / codec.sample_rate), clipped


def _drawn(mean: np.ndarray, scale: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A draw from the posterior, float32 [T, C]."""
    deviation = np.logaddexp(scale, np.float32(0)) + np.float32(1e-4)
    return np.asarray(mean + deviation * rng.standard_normal(mean.shape, np.float32), np.float32)


def _put_style(path: Path, latents: Path, encoding: Encoding) -> None:
    """Keep the wanted style beside the latents, or none."""
    style = encoding.style_of(path) if encoding.style_of else encoding.style
    arrays = dict(read_safetensors(latents))
    there = arrays.pop("style", None)
    if (style is None and there is None) or (style is not None and there is not None and np.array_equal(there, style)):
        return
    if style is not None:
        arrays["style"] = np.asarray(style, np.float32)
    temporary = latents.with_name(f".{latents.stem}.tmp")
    write_safetensors(temporary, {k: np.array(v) for k, v in arrays.items()}, {"format": "pt"})
    temporary.replace(latents)


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
