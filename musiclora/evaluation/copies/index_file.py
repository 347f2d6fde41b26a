"""`copy_index.safetensors` of an adapter folder: hashed n-grams of the training songs, and the scale of the meter.

Tensors: `hashes` uint32 [g] ascending, `songs` uint32 [g] (number of the song, without its name), `lengths` int32 [r]
and `shares` float32 [r] of the songs of the scale. The metadata hold the rest. No notes and no order of n-grams.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from musiclora.convert.files.safetensors_file import read_safetensors, safetensors_header, write_safetensors
from musiclora.convert.files.temporary import scratch_folder
from musiclora.errors import DataError
from musiclora.evaluation.copies.calibration import Reference, calibrate
from musiclora.evaluation.copies.grams import GRAM_NOTES
from musiclora.evaluation.copies.hashed import HashedIndex, hash_songs, join_indexes
from musiclora.evaluation.copies.meter import CopyMeter, describe_reference, split_short
from musiclora.evaluation.copies.notes import NoteList

COPY_INDEX = "copy_index.safetensors"
_FORMAT = "1"
_MOST_SONGS = 1 << 24
_LAYOUT = {"hashes": "uint32", "songs": "uint32", "lengths": "int32", "shares": "float32"}


def identify_songs(fingerprints: Iterable[str]) -> str:
    """Return the identity of a set of training songs: SHA-256 of their sorted fingerprints."""
    return hashlib.sha256("\n".join(sorted(set(fingerprints))).encode()).hexdigest()


def copy_index_bytes(
    train: Sequence[NoteList], held_out: Sequence[NoteList], identity: str, earlier: Path | None = None
) -> bytes:
    """Build the content of a copy index; empty where no training song has as many notes as an n-gram.

    Args:
        train: training songs.
        held_out: held-out songs, the scale.
        identity: of all training songs; see `identify_songs`.
        earlier: copy index of the adapter that training started from, whose songs are taken over.

    Raises:
        DataError: the earlier index is damaged.
    """
    songs, _ = split_short(train)
    if not songs:
        return b""
    index = hash_songs(songs)
    unseen, _ = split_short(held_out)
    if earlier is not None:
        index = join_indexes(index, _read(earlier)[0])
    reference = calibrate(songs, unseen, index.measure)
    arrays = {
        "hashes": index.hashes,
        "songs": index.songs,
        "lengths": np.array(reference.lengths, np.int32),
        "shares": np.array(reference.shares, np.float32),
    }
    metadata = {
        "format": "pt",
        "copy_index": _FORMAT,
        "identity": identity,
        "gram_notes": str(GRAM_NOTES),
        "held_out": str(reference.held_out).lower(),
        "notes": f"{reference.notes:.3f}",
        "duplicates": str(reference.duplicates),
    }
    with scratch_folder() as folder:
        path = folder / COPY_INDEX
        write_safetensors(path, arrays, metadata)
        return path.read_bytes()


def read_copy_index(path: Path, identity: str) -> CopyMeter:
    """Read a copy index as a meter, which finds copies and cannot say in which bars of which song.

    Args:
        path: the file.
        identity: of the songs that the adapter records.

    Raises:
        DataError: not a copy index, a damaged one, or that of another adapter.
    """
    index, reference, metadata = _read(path)
    if metadata["identity"] != identity:
        raise DataError(f"{path}: the copy index of another adapter: its songs are not those that this one records")
    meter = CopyMeter(index.measure, reference)
    songs = int(index.songs.max(initial=0)) + 1
    meter.notes = tuple(describe_reference(reference, songs, 0))
    return meter


def _read(path: Path) -> tuple[HashedIndex, Reference, dict[str, str]]:
    layout, metadata = safetensors_header(path)
    version, grams = metadata.get("copy_index"), metadata.get("gram_notes")
    if version is None or "identity" not in metadata:
        raise DataError(f"{path}: is no copy index")
    if version != _FORMAT or grams != str(GRAM_NOTES):
        raise DataError(f"{path}: a copy index of format {version}; this version reads format {_FORMAT}")
    found = {name: dtype.name for name, (dtype, shape) in layout.items() if len(shape) == 1}
    if found != _LAYOUT or layout["hashes"][1] != layout["songs"][1] or layout["lengths"][1] != layout["shares"][1]:
        raise DataError(f"{path}: a damaged copy index: its tensors are not those of one")
    arrays = read_safetensors(path)
    hashes, songs, lengths, shares = (arrays[name] for name in _LAYOUT)
    try:
        notes, duplicates = float(metadata["notes"]), int(metadata["duplicates"])
    except (KeyError, ValueError):
        raise DataError(f"{path}: a damaged copy index: its metadata are incomplete") from None
    sound = math.isfinite(notes) and np.isfinite(shares).all() and (lengths >= 0).all()
    if not len(hashes) or (np.diff(hashes.astype(np.int64)) < 0).any() or songs.max() > _MOST_SONGS or not sound:
        raise DataError(f"{path}: a damaged copy index: its values are not those of one")
    reference = Reference(
        tuple(sorted(lengths.tolist())),
        tuple(sorted(shares.tolist())),
        notes,
        metadata.get("held_out") == "true",
        duplicates,
    )
    return HashedIndex(hashes, songs), reference, metadata
