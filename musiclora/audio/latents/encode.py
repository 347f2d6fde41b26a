"""Recordings into a latents folder: streamed through the codec, taken up again where an earlier start was cut off."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.audio.files.cutting import read_manifest
from musiclora.audio.files.health import AudioHealth, group_notes, measure_health
from musiclora.audio.files.sound import Sound, recordings_of
from musiclora.audio.latents.store import known_items, put_latents, put_style, write_index
from musiclora.backends.base import Codec
from musiclora.convert.files.atomic import write_error
from musiclora.errors import ConfigError, DataError, OutputError, join_problems
from musiclora.progress import Reporter

# Frames that are encoded at once (95 s of DiffRhythm's), and heard beyond them on both sides: more than any frame's
# reach (7 of Stable Audio's codec), so that pieces give what the whole would, but for rounding.
BLOCK, MARGIN = 2048, 32
_SPARE = 1 << 26  # bytes left on the disk beside the latents


@dataclass(frozen=True)
class Encoding:
    """What is kept of a recording.

    Attributes:
        posterior: `mean`, or `sample` for a draw from the posterior, mean + (softplus(scale) + 1e-4) noise.
        seed: of the draws, with the recording's checksum.
        style: what is called by style_name, for one recording: float32 [512] to keep beside its latents; None for none.
        style_name: tells styles apart, so that a later start does not make the same one again.
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
        """What the latents are, for the index."""
        return self.posterior if self.posterior == "mean" else f"sample {self.seed}"


@dataclass
class Encoded:
    """What became of a folder of recordings.

    Attributes:
        recordings: how many are in the latents folder.
        seconds: their length together.
        fresh: how many of them were encoded now, the others were there already.
        left_out: what could not be used, a line each.
        remarks: (file, text) of what the user should know of the others.
    """

    recordings: int = 0
    seconds: float = 0.0
    fresh: int = 0
    left_out: list[str] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Lines for people."""
        return [*(f"left out: {text}" for text in self.left_out), *group_notes(self.remarks)]


@dataclass(frozen=True)
class _File:
    """One recording of the folder: its path, name, checksum, what the index says of it, and its health if not."""

    path: Path
    name: str
    checksum: str
    item: dict[str, Any] | None
    health: AudioHealth | None

    @property
    def seconds(self) -> float:
        return float(self.health.seconds if self.health else self.item["seconds"] if self.item else 0.0)


def encode_recordings(
    folder: Path,
    cache: Path,
    codec: Codec,
    fingerprint: str,
    reporter: Reporter | None = None,
    encoding: Encoding | None = None,
) -> Encoded:
    """Encode every recording of a folder into the cache; those already in it are kept.

    Memory does not grow with a recording's length. Segments that `musiclora cut` wrote keep the source that their
    manifest names, so that pieces of one recording stay together.

    Args:
        folder: searched with its subfolders.
        cache: a latents folder; its index is rewritten after every recording, and a recording that was interrupted goes
            on where it stopped.
        codec: what encodes.
        fingerprint: of the codec.
        reporter: told of files read and of seconds encoded.
        encoding: what is kept; None keeps the posterior's mean.

    Raises:
        DataError: no recordings, or none that can be used; what was encoded before is kept.
        OutputError: too little disk; likewise.
    """
    out, wanted = reporter or Reporter(), encoding or Encoding()
    known = known_items(cache, fingerprint, wanted.kind)
    files, result = _survey(folder, known, out)
    _check_disk(cache, files, codec)
    manifest, items = read_manifest(folder), list[dict[str, Any]]()
    total, done = max(1, int(sum(f.seconds for f in files))), 0.0
    with out.task("encoding recordings (seconds)") as update:
        for file in files:
            before, path = done, cache / f"{file.checksum}.safetensors"
            tell = _Teller(update, before, total)
            try:
                found = file.item or known.get(file.checksum) or _encoded(file, cache, codec, fingerprint, wanted, tell)
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
            result.remarks += [(file.name, text) for text in item["notes"]]
            write_index(cache, [*items, *_others(known, items)])
            update(min(total, int(done)), total)
    if not items:
        with contextlib.suppress(OSError):
            cache.rmdir()  # only where it is empty
        raise DataError(f"{folder}: no recording can be used: {join_problems(result.left_out)}")
    write_index(cache, items)  # without recordings that are gone
    result.recordings, result.seconds = len(items), sum(item["seconds"] for item in items)
    return result


@dataclass(frozen=True)
class _Teller:
    """Tells of seconds encoded inside one recording as seconds of all of them."""

    update: Callable[[int, int], None]
    before: float
    total: int

    def __call__(self, seconds: float) -> None:
        self.update(min(self.total, int(self.before + seconds)), self.total)


def _others(known: dict[str, dict[str, Any]], items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    done = {item["sha256"] for item in items}
    return [item for key, item in known.items() if key not in done]


def _survey(folder: Path, known: dict[str, dict[str, Any]], out: Reporter) -> tuple[list[_File], Encoded]:
    """Checksums of all files, and the health of those that are not encoded yet."""
    paths, foreign = recordings_of(folder)
    files, result = [], Encoded()
    with out.task("reading recordings") as update:
        for number, path in enumerate([*paths, *foreign], 1):
            name = path.relative_to(folder).as_posix()
            checksum = "" if path in foreign else _checksum(path)
            health = None if checksum in known else measure_health(path, name)
            if health and health.problem:
                result.left_out.append(f"{path}: {health.problem}")
            else:
                files.append(_File(path, name, checksum, known.get(checksum), health))
            update(number, len(paths) + len(foreign))
    if not files:
        raise DataError(f"{folder}: no recording can be used: {join_problems(result.left_out)}")
    return files, result


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_disk(cache: Path, files: list[_File], codec: Codec) -> None:
    """Raise OutputError where the disk cannot hold the latents of the files that are not encoded yet."""
    pace = codec.sample_rate / codec.hop
    fresh = {f.checksum: f.seconds for f in files if f.item is None}
    # The longest is on the disk twice for a moment, its mean and scale among what is half done.
    needed = int((sum(fresh.values()) + 2 * max(fresh.values(), default=0)) * pace) * codec.latent_channels * 4
    at = next(p for p in (cache, *cache.absolute().parents) if p.exists())
    free = shutil.disk_usage(at).free
    if fresh and free < needed + _SPARE:
        raise OutputError(
            f"{cache}: {free / 1e6:,.0f} MB are free, {(needed + _SPARE) / 1e6:,.0f} MB are needed for the latents; "
            "free some space or choose another folder"
        )


def _encoded(
    file: _File, cache: Path, codec: Codec, fingerprint: str, encoding: Encoding, tell: Callable[[float], None]
) -> dict[str, Any]:
    """Encode one recording into the cache; what the index says of it."""
    health = file.health or measure_health(file.path, file.name)
    if int(health.seconds * codec.sample_rate) < codec.hop:
        raise DataError(f"{file.path}: {health.seconds:.3f} s are too short for one latent frame")
    _check_disk(cache, [file], codec)
    # Whole blocks of latents one after the other; the name says of what, since another start may want something else.
    kind = hashlib.sha256(f"{fingerprint} {encoding.kind} {BLOCK} {codec.latent_channels}".encode()).hexdigest()[:16]
    part = cache / f".{file.checksum[:32]}-{kind}.part"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for stale in cache.glob(f".{file.checksum[:32]}-*.part"):
            if stale != part:
                stale.unlink()
        samples = _stream_into(part, file, codec, encoding, tell)
        latents = np.fromfile(part, np.float32).reshape(-1, codec.latent_channels)
        put_latents(
            cache / f"{file.checksum}.safetensors", {"latents": latents}, codec=fingerprint, posterior=encoding.kind
        )
        part.unlink()
    except OSError as error:
        raise write_error(cache, error) from error
    return {"seconds": samples / codec.sample_rate, "notes": list(health.notes)}


def _stream_into(part: Path, file: _File, codec: Codec, encoding: Encoding, tell: Callable[[float], None]) -> int:
    """Append blocks of latents to a file, after those that it holds; the recording's length in samples."""
    size = BLOCK * codec.latent_channels * 4
    with part.open("ab") as out:
        held = out.tell() // size
        out.truncate(held * size)
        samples = 0
        for number, (first, count, audio, samples) in enumerate(stream_blocks(file.path, codec)):  # noqa: B007 - the last one
            if number < held:
                continue
            mean, scale = codec.encode(audio[None])
            latents = mean[0] if encoding.posterior == "mean" else _drawn(mean[0], scale[0], encoding, file, number)
            if not np.isfinite(latents).all():
                raise DataError(f"{file.path}: the codec made values of it that are not finite")
            out.write(np.ascontiguousarray(latents[first : first + count], np.float32).tobytes())
            out.flush()
            os.fsync(out.fileno())
            tell((number * BLOCK + count) * codec.hop / codec.sample_rate)
    return samples


def stream_blocks(path: Path, codec: Codec) -> Iterator[tuple[int, int, np.ndarray, int]]:
    """Stretches of a recording that together give its latents, on the grid of frames, with what is heard beside them.

    Yields:
        Frames to drop at the front, frames to keep, float32 audio [channels, n], and the samples of the recording that
        were read so far: after the last one, all. Its last samples, fewer than a frame, end in no frame.
    """
    hop, start, base, held = codec.hop, 0, 0, np.zeros((0, codec.audio_channels), np.float32)  # base: where held begins
    with Sound(path) as sound:
        parts: list[np.ndarray] = []
        waiting = 0
        for block in sound.stream(codec.sample_rate, codec.audio_channels):
            parts.append(block)
            waiting += len(block)
            while base + len(held) + waiting >= (start + BLOCK + MARGIN) * hop:
                held, parts, waiting = np.concatenate([held, *parts]), [], 0
                end = (start + BLOCK + MARGIN) * hop - base
                yield start - base // hop, BLOCK, np.ascontiguousarray(held[:end].T), base + end
                start += BLOCK
                drop = max(0, start - MARGIN) * hop - base
                held, base = held[drop:], base + drop
        held = np.concatenate([held, *parts])
    total = base + len(held)
    while start < total // hop:
        count = min(BLOCK, total // hop - start)
        yield start - base // hop, count, np.ascontiguousarray(held.T), total
        start += count
        drop = max(0, start - MARGIN) * hop - base
        held, base = held[drop:], base + drop


def _drawn(mean: np.ndarray, scale: np.ndarray, encoding: Encoding, file: _File, number: int) -> np.ndarray:
    """A draw from the posterior of one block, float32 [T, C]; the same whatever else is encoded."""
    rng = np.random.default_rng([encoding.seed, zlib.crc32(file.checksum.encode()), number])
    deviation = np.logaddexp(scale, np.float32(0)) + np.float32(1e-4)
    drawn: np.ndarray = mean + deviation * rng.standard_normal(mean.shape, np.float32)
    return drawn
