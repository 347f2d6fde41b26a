"""Encoding of recordings into a latents folder: streamed through the codec, resumed after an interruption."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.audio.files.health import measure_health
from musiclora.audio.latents.blocks import stream_blocks
from musiclora.audio.latents.levels import (
    LARGE_LATENTS,
    choose_gain_db,
    decibels_to_factor,
    latents_size,
)
from musiclora.audio.latents.posterior import draw_posterior
from musiclora.audio.latents.store import (
    known_items,
    put_latents,
    put_style,
    refuse_foreign_files,
    remove_temporary_files,
    write_index,
)
from musiclora.audio.latents.survey import Encoded, SourceFile, check_disk, survey_files
from musiclora.backends.base import Codec
from musiclora.convert.files.atomic import write_error
from musiclora.convert.files.folder_lock import locked_folder
from musiclora.errors import ConfigError, DataError, join_problems
from musiclora.formats import read_manifest
from musiclora.progress import Reporter

# Latent frames of one pass of the encoder, and its context on both sides. The margin exceeds the receptive field
# (7 frames for Stable Audio's codec), so that blocks equal one long pass up to rounding.
BLOCK_FRAMES, MARGIN_FRAMES = 2048, 32


@dataclass(frozen=True)
class Encoding:
    """Settings of the encoding: mean or sample of the posterior, and a style vector.

    Attributes:
        posterior: `mean`, or `sample` for a draw from the posterior.
        seed: of the draws, with the recording's checksum.
        style: computes the style vector of one recording, which the latents file then holds; None for none.
        style_name: identifies the style, so that a later start does not compute it again.
    """

    posterior: str = "mean"
    seed: int = 42
    style: Callable[[Path], np.ndarray] | None = None
    style_name: str = ""

    def __post_init__(self) -> None:
        if self.posterior not in ("mean", "sample"):
            raise ConfigError(f"--posterior is {self.posterior}; it must be mean or sample")
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}; it must be at least 0")

    @property
    def kind(self) -> str:
        """Kind of the latents, for the index."""
        return self.posterior if self.posterior == "mean" else f"sample {self.seed}"


def encode_recordings(
    folder: Path,
    cache: Path,
    codec: Codec,
    fingerprint: str,
    reporter: Reporter | None = None,
    encoding: Encoding | None = None,
) -> Encoded:
    """Encode every recording of a folder into the cache, unless the cache holds it already.

    Memory does not grow with a recording's length. Segments that `musiclora cut` wrote keep the source in their
    manifest, so that segments of one recording stay together.

    Args:
        folder: searched with its subfolders.
        cache: a latents folder; its index is rewritten after every recording. An interrupted recording resumes at its
            last complete block.
        codec: encodes the recordings.
        fingerprint: of the codec.
        reporter: receives the files read and the seconds encoded.
        encoding: settings; None keeps the posterior's mean.

    Raises:
        ConfigError: the cache holds other files.
        DataError: the folder holds no usable recording. Latents in the cache are kept.
        OutputError: the disk is too small, likewise, or another process encodes into the cache.
    """
    refuse_foreign_files(cache)
    with locked_folder(cache):  # first, since what the cache holds decides what is encoded
        remove_temporary_files(cache)
        return _encode_all(folder, cache, codec, fingerprint, reporter or Reporter(), encoding or Encoding())


def _encode_all(folder: Path, cache: Path, codec: Codec, fingerprint: str, out: Reporter, wanted: Encoding) -> Encoded:
    """Encode every recording into a cache whose lock is held."""
    known = known_items(cache, fingerprint, wanted.kind, codec)
    files, result = survey_files(folder, known, out)
    check_disk(cache, files, codec)
    manifest, items = read_manifest(folder), list[dict[str, Any]]()
    total, done = max(1, int(sum(f.seconds for f in files))), 0.0
    with out.task("encoding recordings (seconds)") as update:
        for file in files:
            before, path = done, cache / f"{file.checksum}.safetensors"
            tell = _FileProgress(update, before, total)
            try:
                found = file.item or known.get(file.checksum)
                found = found or _encode_file(file, cache, codec, fingerprint, wanted, tell)
                put_style(path, wanted.style_name, wanted.style and partial(wanted.style, file.path))
            except DataError as error:
                result.left_out.append(str(error))
                continue
            done = before + file.seconds
            result.fresh += file.checksum not in known
            cut = manifest.get(file.name) or {"source": file.name, "start": 0.0, "end": found["seconds"]}
            item = {**found, **cut, "sha256": file.checksum, "codec": fingerprint, "posterior": wanted.kind}
            items.append(item)
            known[file.checksum] = item
            result.paths[file.checksum] = file.path
            result.remarks += [(file.name, text) for text in item["notes"]]
            result.gains_db.append(float(item.get("gain_db", 0.0)))
            write_index(cache, [*items, *_earlier_items(known, items)], complete=False)
            update(min(total, int(done)), total)
    if not items:
        raise DataError(f"{folder}: no recording can be used: {join_problems(result.left_out)}")
    write_index(cache, items)  # drops recordings that the folder no longer holds
    remove_temporary_files(cache, ".*.part")  # likewise
    result.files, result.recordings = len(items), len({item["source"] for item in items})
    result.seconds = sum(item["seconds"] for item in items)
    return result


@dataclass(frozen=True)
class _FileProgress:
    """Progress inside one recording, reported as seconds of all recordings."""

    update: Callable[[int, int], None]
    before: float
    total: int

    def __call__(self, seconds: float) -> None:
        self.update(min(self.total, int(self.before + seconds)), self.total)


def _earlier_items(known: dict[str, dict[str, Any]], items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    done = {item["sha256"] for item in items}
    return [item for key, item in known.items() if key not in done]


def _encode_file(
    file: SourceFile, cache: Path, codec: Codec, fingerprint: str, encoding: Encoding, tell: Callable[[float], None]
) -> dict[str, Any]:
    """Encode one recording into the cache; return its length and notes for the index."""
    health = file.health or measure_health(file.path, file.name)
    if int(health.seconds * codec.sample_rate) < codec.hop:
        raise DataError(f"{file.path}: {health.seconds:.3f} s are too short for one latent frame")
    check_disk(cache, [file], codec)
    # Whole blocks of latents one after the other; the name says of what, since another start may want something else.
    facts = f"{fingerprint} {encoding.kind} {BLOCK_FRAMES} {codec.latent_channels}"
    kind = hashlib.sha256(facts.encode()).hexdigest()[:16]
    part, gain_db = cache / f".{file.checksum[:32]}-{kind}.part", 0.0
    try:
        for stale in cache.glob(f".{file.checksum[:32]}-*.part"):
            if stale != part:
                stale.unlink()
        samples, latents = _stream_whole(part, file, codec, encoding, tell)
        if (size := latents_size(latents)) > LARGE_LATENTS:
            gain_db, quiet = choose_gain_db(file.path, health.seconds, codec, size), part.with_suffix(".quiet.part")
            quiet.unlink(missing_ok=True)
            samples, latents = _stream_whole(quiet, file, codec, encoding, tell, gain_db)
            quiet.unlink()
        put_latents(
            cache / f"{file.checksum}.safetensors", {"latents": latents}, codec=fingerprint, posterior=encoding.kind
        )
        part.unlink()
    except OSError as error:
        raise write_error(cache, error) from error
    found = {"frames": len(latents), "notes": list(health.notes), "gain_db": gain_db}
    return {"seconds": samples / codec.sample_rate, **found}


def _stream_whole(
    part: Path,
    file: SourceFile,
    codec: Codec,
    encoding: Encoding,
    tell: Callable[[float], None],
    gain_db: float = 0.0,
) -> tuple[int, np.ndarray]:
    """Encode a recording through its part file; return its samples and latents [samples // hop, C].

    A part that is not this recording's is begun again.

    Raises:
        DataError: the codec gives another number of frames.
    """
    resumed = part.is_file()
    samples = _stream_into(part, file, codec, encoding, tell, gain_db)
    latents = np.fromfile(part, np.float32).reshape(-1, codec.latent_channels)
    if len(latents) == samples // codec.hop:
        return samples, latents
    part.unlink()
    if resumed:
        return _stream_whole(part, file, codec, encoding, tell, gain_db)
    raise DataError(f"{file.path}: the codec made {len(latents)} frames of it, not {samples // codec.hop}")


def _stream_into(
    part: Path,
    file: SourceFile,
    codec: Codec,
    encoding: Encoding,
    tell: Callable[[float], None],
    gain_db: float,
) -> int:
    """Append blocks of latents to a part file, after those that it holds; return the recording's samples."""
    size = BLOCK_FRAMES * codec.latent_channels * 4
    with part.open("ab") as out:
        held = out.tell() // size
        out.truncate(held * size)
        samples = 0
        blocks = stream_blocks(file.path, codec, BLOCK_FRAMES, MARGIN_FRAMES)
        for number, (first, count, audio, samples) in enumerate(blocks):  # noqa: B007 - the last one is returned
            if number < held:
                continue
            mean, scale = codec.encode(audio[None] * decibels_to_factor(gain_db))
            latents = _block_latents(mean[0], scale[0], encoding, file, number)
            if not np.isfinite(latents).all():
                raise DataError(f"{file.path}: the codec made values of it that are not finite")
            out.write(np.ascontiguousarray(latents[first : first + count], np.float32).tobytes())
            out.flush()
            os.fsync(out.fileno())
            tell((number * BLOCK_FRAMES + count) * codec.hop / codec.sample_rate)
    return samples


def _block_latents(
    mean: np.ndarray, scale: np.ndarray, encoding: Encoding, file: SourceFile, number: int
) -> np.ndarray:
    """Return a block's posterior mean, or a draw whose key depends on the seed, the file and the block alone."""
    if encoding.posterior == "mean":
        return mean
    rng = np.random.default_rng([encoding.seed, zlib.crc32(file.checksum.encode()), number])
    return draw_posterior(mean, scale, rng)
