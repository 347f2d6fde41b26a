"""Notes that may sound once at an onset: the closed keys of a tokenizer, and the size of an onset."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from musiclora.backends.base import ClosedKeys

PITCHES = 128
NOTE_STARTS = frozenset({"Pitch", "PitchDrum", "NoteOn", "DrumOn"})
_TIME_TYPES = frozenset({"Bar", "Position", "TimeShift", "Rest", "Track"})
# Bounds where nothing was recorded: the fingers of two hands, and a band of some instruments.
ONSET_NOTES, BAND_ONSET_NOTES = 10, 32
ONSET_RECORD = "notes_at_once"  # key of musiclora.json


def onset_keys(tokens: Sequence[tuple[str, ...]]) -> ClosedKeys:
    """Build the closed keys of a vocabulary: a pitch of one instrument sounds once at an onset.

    Key p of instrument i is 128 i + p. Tokens that lead to a note, such as programs, share the last key, which is
    closed only where an onset is full. An id of several base tokens (byte pairs) is checked for its first note and
    closes its last one.

    Args:
        tokens: base tokens of each id; special tokens have no part in it.
    """
    kinds = [[token.split("_", 1) for token in sequence] for sequence in tokens]
    programs = sorted({int(value) for parts in kinds for kind, value in parts if kind == "Program"})
    place = {program: PITCHES * i for i, program in enumerate(programs)}
    start_key = PITCHES * max(1, len(programs))
    rows = np.array([_token_row(parts, place, start_key) for parts in kinds], np.int32).reshape(-1, 6)
    keys, shifted, opens, offsets, first, last = rows.T
    return ClosedKeys(
        keys,
        shifted.astype(bool),
        opens.astype(bool),
        offsets,
        first,
        last,
        limit=BAND_ONSET_NOTES if programs else ONSET_NOTES,
        open=np.ones(start_key + 1, bool),
    )


def _token_row(
    parts: Sequence[Sequence[str]], place: dict[int, int], start_key: int
) -> tuple[int, bool, bool, int, int, int]:
    """Compute key, shifted, opens, offset, first and last of one id."""
    key, shifted, opens, offset, pitch = -1, False, False, -1, -1
    for kind, value in parts:
        leads = kind == "Program" or _is_zero_shift(kind, value)
        if leads and key < 0 and not opens:
            key = start_key
        if kind == "Program":
            offset = place[int(value)]
        elif kind in _TIME_TYPES and not leads:
            opens, pitch = True, -1
        elif kind in NOTE_STARTS:
            pitch = int(value)
            if not opens and key in (-1, start_key):
                key, shifted = (pitch, bool(place)) if offset < 0 else (offset + pitch, False)
    return key, shifted, opens, offset, max(pitch, 0), pitch + 1


def _is_zero_shift(kind: str, value: str) -> bool:
    """Return True for the time shift of Structured between notes of one onset."""
    return kind == "TimeShift" and not any(int(part) for part in value.split(".")[:2])


def with_limit(rule: ClosedKeys, limit: int | None) -> ClosedKeys:
    """Bound the notes of an onset, at most to the pitches of one instrument; None keeps the bound."""
    if limit is None:
        return rule
    return dataclasses.replace(rule, limit=max(1, min(limit, _count_pitches(rule))))


def pad_tokens(rule: ClosedKeys, surplus: int) -> ClosedKeys:
    """Add tokens that have no key and change nothing."""

    def padded(table: np.ndarray, fill: int = 0) -> np.ndarray:
        return np.append(table, np.full(surplus, fill, table.dtype))

    return dataclasses.replace(
        rule,
        keys=padded(rule.keys, -1),
        shifted=padded(rule.shifted),
        opens=padded(rule.opens),
        offsets=padded(rule.offsets, -1),
        first=padded(rule.first),
        last=padded(rule.last),
    )


def _count_pitches(rule: ClosedKeys) -> int:
    """Count the different notes of one instrument."""
    return len(np.unique(rule.first[rule.first < rule.last])) or 1


def onset_record(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Build the entry of musiclora.json for the sum of some adapters, or for one: the most notes at once of any.

    Args:
        records: content of their musiclora.json.

    Returns:
        Empty where one of them does not say it.
    """
    found = [record.get(ONSET_RECORD) for record in records]
    counts = [count for count in found if isinstance(count, int) and count > 0]
    return {ONSET_RECORD: max(counts)} if counts and len(counts) == len(found) else {}


def count_notes_at_once(rule: ClosedKeys, ids: Iterable[np.ndarray]) -> int:
    """Count the most notes that begin at one onset in any of these token sequences, each int [n]."""
    most = 0
    for sequence in ids:
        onset = np.cumsum(rule.opens[sequence])
        notes = onset[(rule.first < rule.last)[sequence]]
        most = max(most, int(np.bincount(notes).max())) if len(notes) else most
    return most
