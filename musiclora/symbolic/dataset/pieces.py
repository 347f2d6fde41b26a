"""Pieces: tokenised songs, the unit that is split, packed and trained on; and their cache."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from musiclora.convert.errors import DataError
from musiclora.convert.files.atomic import atomic_folder
from musiclora.progress import OnProgress
from musiclora.symbolic.reading.health import HealthRow
from musiclora.symbolic.reading.read_folder import TIMEOUT, Reading, read_music
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer

INDEX_FILE = "tokens.json"
TOKENS_FILE = "tokens.safetensors"
CACHE_FORMAT = 1


def _no_pitches() -> np.ndarray:
    return np.zeros(0, np.int16)


@dataclass(frozen=True)
class Piece:
    """One tokenised song.

    Attributes:
        name: what to call it in messages.
        group: the song that it is, or is a copy of.
        tokens: int32 [n] without BOS and EOS.
        notes: how many notes the tokens decode to.
        is_original: False for a copy that augment made.
        pitches: the melody, the highest note at each onset, int16 [m]; near duplicates are found by it.
        tune: number inside a file of many tunes, else 0.
    """

    name: str
    group: str
    tokens: np.ndarray
    notes: int
    is_original: bool = True
    pitches: np.ndarray = field(default_factory=_no_pitches)
    tune: int = 0


@dataclass(frozen=True)
class PieceSet:
    """The pieces of a data folder, with the health table of the files they come from."""

    pieces: list[Piece]
    health: list[HealthRow]

    @property
    def songs(self) -> int:
        """Number of different songs; copies made by augment are not counted."""
        return len({p.group for p in self.pieces})

    @property
    def notes(self) -> int:
        """Notes of all pieces, copies included."""
        return sum(p.notes for p in self.pieces)


def from_reading(reading: Reading) -> PieceSet:
    """Pieces of songs that were tokenised while reading.

    Songs without a token, and copies by augment that have the very tokens of another version (a tokenizer without
    tempo tokens does not see a tempo factor), are reported as skipped.
    """
    pieces, lost = [], []
    seen = {(s.group, s.tokens.tobytes()) for s in reading.songs if s.is_original and s.tokens is not None}
    for song in reading.songs:
        if song.tokens is None or not song.decoded_notes:
            lost.append(HealthRow(song.name, 0, "skipped", "the tokenizer keeps none of its notes"))
            continue
        key = (song.group, song.tokens.tobytes())
        if not song.is_original and key in seen:
            lost.append(HealthRow(song.name, 0, "skipped", "to this tokenizer the same as another copy of its song"))
            continue
        seen.add(key)
        pieces.append(
            Piece(song.name, song.group, song.tokens, song.decoded_notes, song.is_original, song.pitches, song.tune)
        )
    again = {row.file for row in lost}
    kept = [row for row in reading.health if (f"{row.file}#{row.tune}" if row.tune else row.file) not in again]
    return PieceSet(pieces, kept + lost)


def load_pieces(
    data_dir: Path,
    tokenizer: MusicTokenizer,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
    timeout: float = TIMEOUT,
) -> PieceSet:
    """Pieces of a folder of music, of one file, or of a token cache that `preprocess` wrote.

    Args:
        data_dir: where they are.
        tokenizer: turns songs into tokens; of a cache, it must be the one that made it.
        workers: child processes; None or 0: one a core, at most eight.
        on_progress: called with (done, total) tunes.
        timeout: seconds that one file or tune may take.

    Raises:
        DataError: nothing usable, or a cache of another tokenizer.
    """
    if is_token_cache(data_dir):
        return read_token_cache(data_dir, tokenizer)
    reading = read_music(
        data_dir, workers=workers, timeout=timeout, on_progress=on_progress, tokenizer=tokenizer, keep_scores=False
    )
    found = from_reading(reading)
    if not found.pieces:
        raise DataError(f"{data_dir}: the tokenizer keeps no note of any of {len(reading.songs)} songs")
    return found


def is_token_cache(folder: Path) -> bool:
    """Whether preprocess wrote this folder."""
    return (folder / INDEX_FILE).is_file() and (folder / TOKENS_FILE).is_file()


def write_token_cache(folder: Path, pieces: PieceSet, tokenizer: MusicTokenizer) -> None:
    """Write pieces as safetensors and JSON, with the tokenizer; the folder appears whole or not at all.

    Args:
        folder: must not exist, or be an empty folder or an older token cache.
        pieces: what to keep.
        tokenizer: the one that made the tokens.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
    """
    arrays = {
        "tokens": np.concatenate([np.zeros(0, np.int32), *[p.tokens for p in pieces.pieces]]),
        "pitches": np.concatenate([np.zeros(0, np.int16), *[p.pitches for p in pieces.pieces]]),
    }
    index = {
        "format": CACHE_FORMAT,
        "tokenizer": tokenizer.fingerprint,
        "pieces": [
            {
                "name": p.name,
                "group": p.group,
                "tune": p.tune,
                "is_original": p.is_original,
                "notes": p.notes,
                "tokens": len(p.tokens),
                "pitches": len(p.pitches),
            }
            for p in pieces.pieces
        ],
        "health": [dataclasses.asdict(row) for row in pieces.health],
    }
    with atomic_folder(folder, overwrite=is_token_cache(folder)) as building:
        (building / TOKENS_FILE).write_bytes(save(arrays))
        tokenizer.save(building)
        (building / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")


def read_token_cache(folder: Path, tokenizer: MusicTokenizer | None = None) -> PieceSet:
    """Read what write_token_cache wrote.

    Args:
        folder: the cache.
        tokenizer: refuse a cache of another tokenizer; None takes any.

    Raises:
        DataError: not a cache, damaged, or made with another tokenizer.
    """
    try:
        index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        if index["format"] != CACHE_FORMAT:
            raise DataError(f"{folder}: a token cache of format {index['format']}, this version reads {CACHE_FORMAT}")
        made_with = index["tokenizer"]
        if tokenizer is not None and made_with != tokenizer.fingerprint:
            raise DataError(
                f"{folder}: this token cache was made with another tokenizer ({made_with[:12]}) than the model's "
                f"({tokenizer.fingerprint[:12]}); run preprocess again with this model"
            )
        with safe_open(folder / TOKENS_FILE, "numpy") as file:
            tokens, pitches = file.get_tensor("tokens"), file.get_tensor("pitches")
        return PieceSet(_unpack(index["pieces"], tokens, pitches), [HealthRow(**row) for row in index["health"]])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(f"{folder}: not a readable token cache ({error!r}); run preprocess again") from error


def _unpack(entries: list[dict[str, Any]], tokens: np.ndarray, pitches: np.ndarray) -> list[Piece]:
    ends = np.cumsum([e["tokens"] for e in entries], dtype=np.int64)
    pitch_ends = np.cumsum([e["pitches"] for e in entries], dtype=np.int64)
    if len(entries) and (ends[-1] != len(tokens) or pitch_ends[-1] != len(pitches)):
        raise ValueError(f"the index counts {ends[-1]} tokens, the file has {len(tokens)}")
    return [
        Piece(
            e["name"],
            e["group"],
            tokens[end - e["tokens"] : end].astype(np.int32),
            int(e["notes"]),
            bool(e["is_original"]),
            pitches[pitch_end - e["pitches"] : pitch_end].astype(np.int16),
            int(e["tune"]),
        )
        for e, end, pitch_end in zip(entries, ends, pitch_ends, strict=True)
    ]
