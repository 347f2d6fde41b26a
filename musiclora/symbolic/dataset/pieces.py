"""Pieces (tokenised songs), which are split, packed and trained on, and the token cache."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from musiclora.convert.errors import ConvertError, DataError
from musiclora.convert.files.atomic import atomic_folder, refuse_existing
from musiclora.convert.files.json_file import (
    BOOLEAN,
    COUNT,
    INTEGER,
    TEXT,
    field_kinds,
    list_of,
    object_with,
    read_json,
)
from musiclora.convert.files.temporary import remove_leftovers
from musiclora.formats import MUSIC_SUFFIXES
from musiclora.progress import OnProgress
from musiclora.symbolic.dataset.encoding import ENCODING, remark_on_encoding
from musiclora.symbolic.dataset.splits import GRAM_INTERVALS
from musiclora.symbolic.reading.health import SAME_AS_A_COPY, HealthRow, row_from_json
from musiclora.symbolic.reading.read_folder import TIMEOUT_SECONDS, Reading, music_files, read_music
from musiclora.symbolic.tokens.kept import Kept, add_kept
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer

INDEX_FILE = "tokens.json"
TOKENS_FILE = "tokens.safetensors"
CACHE_FORMAT = 1
_ENTRY = {
    "name": TEXT,
    "group": TEXT,
    "tune": INTEGER,
    "is_original": BOOLEAN,
    "notes": COUNT,
    "tokens": COUNT,
    "pitches": COUNT,
}
_INDEX = {
    "format": INTEGER,
    "tokenizer": TEXT,
    "pieces": list_of(object_with(_ENTRY, _ENTRY)),
    "health": list_of(object_with(field_kinds(HealthRow))),
}
_INDEX_KIND = object_with(_INDEX, _INDEX)


def _no_pitches() -> np.ndarray:
    return np.zeros(0, np.int16)


@dataclass(frozen=True)
class Piece:
    """Tokenised song.

    Attributes:
        name: name in messages.
        group: name of the song that it is, or is a copy of.
        tokens: int32 [n] without BOS and EOS.
        notes: number of notes that the tokens decode to.
        is_original: False for a copy by augment.
        pitches: melody, the highest note at each onset, int16 [m], for near-duplicate search.
        tune: number inside a file of many tunes, else 0.
        loudness: what `decoding.loudness` measured of it; empty where the tokens hold loudness.
    """

    name: str
    group: str
    tokens: np.ndarray
    notes: int
    is_original: bool = True
    pitches: np.ndarray = field(default_factory=_no_pitches)
    tune: int = 0
    loudness: tuple[int, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Hash of the melody's intervals, the same in every key; of the tokens where the melody is short."""
        melody = np.diff(np.asarray(self.pitches, np.int64))
        content = melody if len(melody) >= GRAM_INTERVALS else np.asarray(self.tokens, np.int64)
        return hashlib.sha256(content.tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class PieceSet:
    """Pieces of a data folder, the health table of its files, and remarks for the user."""

    pieces: list[Piece]
    health: list[HealthRow]
    remarks: tuple[str, ...] = ()

    @property
    def kept(self) -> Kept:
        """Counts of what the tokens keep of all songs, without copies by augment."""
        originals = {piece.name for piece in self.pieces if piece.is_original}
        return add_kept(row.kept for row in self.health if row.status != "skipped" and row.name in originals)

    @property
    def songs(self) -> int:
        """Number of different songs, without copies by augment."""
        return len({p.group for p in self.pieces})

    @property
    def notes(self) -> int:
        """Number of notes of all pieces, copies included."""
        return sum(p.notes for p in self.pieces)


def from_reading(reading: Reading) -> PieceSet:
    """Build pieces of songs that were tokenised while reading.

    Songs without tokens are reported as skipped. So are copies by augment with the same tokens as another version: a
    tokenizer without tempo tokens does not encode a tempo factor.
    """
    pieces, lost = [], []
    seen = {(s.group, s.tokens.tobytes()) for s in reading.songs if s.is_original and s.tokens is not None}
    for song in reading.songs:
        if song.tokens is None or not song.decoded_notes:
            lost.append(HealthRow(song.name, 0, "skipped", "the tokenizer keeps none of its notes"))
            continue
        key = (song.group, song.tokens.tobytes())
        if not song.is_original and key in seen:
            lost.append(HealthRow(song.name, 0, "skipped", SAME_AS_A_COPY))
            continue
        seen.add(key)
        pieces.append(
            Piece(
                *(song.name, song.group, song.tokens, song.decoded_notes, song.is_original, song.pitches, song.tune),
                loudness=tuple(song.loudness.tolist()),
            )
        )
    again = {row.file for row in lost}
    kept = [row for row in reading.health if row.name not in again]
    return PieceSet(pieces, kept + lost)


def load_pieces(
    data_dir: Path,
    tokenizer: SymbolicTokenizer,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> PieceSet:
    """Load pieces from a folder of music, from one file, or from a token cache that `preprocess` wrote.

    Args:
        data_dir: folder or file.
        tokenizer: tokenizer to encode with; for a cache, the one that made it.
        workers: child processes; None or 0: one for each core, at most eight.
        on_progress: called with (done, total) tunes.
        timeout: seconds that one file or tune may take.

    Raises:
        DataError: no usable song, or a cache of another tokenizer.
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
    """Return True for a token cache by preprocess."""
    return (folder / INDEX_FILE).is_file() and (folder / TOKENS_FILE).is_file()


def holds_songs(path: Path) -> bool:
    """Return True for a token cache, and for a file of music or a folder with one."""
    files = path.rglob("*") if path.is_dir() else [path]
    return is_token_cache(path) or any(file.suffix.lower() in MUSIC_SUFFIXES for file in files)


def check_songs(path: Path) -> None:
    """Raise DataError where a path is no token cache, and no file or folder of music; no file is read."""
    if not is_token_cache(path):
        music_files(path)


def refuse_foreign_folder(folder: Path) -> bool:
    """Raise OutputError for a folder of other files; return True where an earlier token cache would be replaced."""
    remove_leftovers(folder.absolute())  # an earlier cache that a killed start had set aside comes back
    earlier = is_token_cache(folder)
    refuse_existing(folder, overwrite=earlier)
    return earlier


def write_token_cache(folder: Path, pieces: PieceSet, tokenizer: SymbolicTokenizer) -> None:
    """Write pieces as safetensors and JSON, with the tokenizer; the folder appears whole or not at all.

    Args:
        folder: new or empty folder, or an older token cache.
        pieces: pieces and health table.
        tokenizer: tokenizer of the pieces.

    Raises:
        OutputError: the folder holds other files, or cannot be written.
    """
    arrays = {
        "tokens": np.concatenate([np.zeros(0, np.int32), *[p.tokens for p in pieces.pieces]]),
        "pitches": np.concatenate([np.zeros(0, np.int16), *[p.pitches for p in pieces.pieces]]),
    }
    index = {
        "format": CACHE_FORMAT,
        "tokenizer": tokenizer.fingerprint,
        "encoding": ENCODING,
        "pieces": [
            {
                "name": p.name,
                "group": p.group,
                "tune": p.tune,
                "is_original": p.is_original,
                "notes": p.notes,
                "tokens": len(p.tokens),
                "pitches": len(p.pitches),
                **({"loudness": p.loudness} if p.loudness else {}),
            }
            for p in pieces.pieces
        ],
        "health": [row.as_json() for row in pieces.health],
    }
    with atomic_folder(folder, overwrite=refuse_foreign_folder(folder)) as building:
        (building / TOKENS_FILE).write_bytes(save(arrays))
        tokenizer.save(building)
        (building / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")


def read_token_cache(folder: Path, tokenizer: SymbolicTokenizer | None = None) -> PieceSet:
    """Read a token cache.

    Args:
        folder: token cache.
        tokenizer: tokenizer that must have made the cache; None accepts any.

    Raises:
        DataError: the folder is no cache, or is damaged, or another tokenizer made it.
    """
    try:
        index = read_json(folder / INDEX_FILE, _INDEX_KIND)
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
        health = [row_from_json(row) for row in index["health"]]
        remarks = remark_on_encoding(folder, index.get("encoding", 1), tokenizer)
        return PieceSet(_split_arrays(index["pieces"], tokens, pitches), health, remarks)
    except (ConvertError, OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(f"{folder}: not a readable token cache ({error}); run preprocess again") from error


def _split_arrays(entries: list[dict[str, Any]], tokens: np.ndarray, pitches: np.ndarray) -> list[Piece]:
    """Split the cache's arrays into pieces.

    Raises:
        ValueError: the index and the arrays differ in length.
    """
    ends = np.cumsum([e["tokens"] for e in entries], dtype=np.int64)
    pitch_ends = np.cumsum([e["pitches"] for e in entries], dtype=np.int64)
    if len(entries) and (ends[-1] != len(tokens) or pitch_ends[-1] != len(pitches)):
        raise ValueError(f"the index counts {ends[-1]} tokens, the file has {len(tokens)}")
    return [
        Piece(
            e["name"],
            e["group"],
            tokens[end - e["tokens"] : end].astype(np.int32),
            e["notes"],
            e["is_original"],
            pitches[pitch_end - e["pitches"] : pitch_end].astype(np.int16),
            e["tune"],
            tuple(map(int, e.get("loudness", ()))),
        )
        for e, end, pitch_end in zip(entries, ends, pitch_ends, strict=True)
    ]
