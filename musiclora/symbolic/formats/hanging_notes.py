"""Notes without an end, which symusic leaves out of the scores that it reads."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from musiclora.symbolic.formats.sanitise import QPM_RANGE

if TYPE_CHECKING:
    from symusic import Score

HANGING_SECONDS = 0.25  # length of a note that never ends
HANGING_REPAIR = "notes without an end made 250 ms long"
_END_OF_TRACK = b"\xff\x2f\x00"
_EMPTY_EVENT = b"\xff\x7f\x00"  # keeps the time before it
_FAR_TICKS = 2**27  # a later end is one that was added
_WAIT = b"\xff\xff\xff\x7f"  # the longest time between two events, 2^28 - 1 ticks
_NOTE_ON, _NOTE_OFF = 0x90, 0x80
_MOST_ENDS = 2**20  # of all that are added to a track
_DEFAULT_QPM = 120.0


def close_hanging_notes(score: Score, tracks: Sequence[bytes], read: Callable[[list[bytes]], Score]) -> Score:
    """Read a score again with its hanging notes, each 250 ms long; the same score where there are none.

    The notes' ends are added after the end of each track, and symusic pairs them: notes of one channel and pitch end
    first in, first out, so that the ends that are missing are those of the last notes.

    Args:
        score: score that symusic reads of the tracks.
        tracks: content of each MTrk chunk.
        read: reads other tracks in the same way.
    """
    if score.end() >= _FAR_TICKS:
        return score
    pitches, times = set(range(128)), 1
    found, count = score, score.note_num()
    while len(pitches) * times * 16 <= _MOST_ENDS:
        closed = read([_add_ends(track, pitches, times) for track in tracks])
        if closed.note_num() == count:
            break
        # A pitch may hang several times: further passes with more ends find them all.
        found, count = closed, closed.note_num()
        pitches, times = _hanging_pitches(found), 4 * times
    return found if found is score else _shorten(found)


def _add_ends(track: bytes, pitches: set[int], times: int) -> bytes:
    """Add note-offs long after the end of a track; a track without a mark of its end stays."""
    if not track.endswith(_END_OF_TRACK):
        return track
    found = set(track)  # status and data bytes of all notes are among them
    channels = [byte & 0xF for byte in sorted(found) if _NOTE_ON <= byte < _NOTE_ON + 16]
    once = b"".join(bytes([0, pitch, 0]) for pitch in sorted(pitches & found))
    if not channels or not once:
        return track
    ends = b"".join(bytes([0, _NOTE_OFF | channel, 0, 0]) + once * times for channel in channels)
    return b"".join([track[: -len(_END_OF_TRACK)], _EMPTY_EVENT, _WAIT, _EMPTY_EVENT, ends, b"\0", _END_OF_TRACK])


def _hanging_pitches(score: Score) -> set[int]:
    found: set[int] = set()
    for track in score.tracks:
        notes = track.notes.numpy()
        found.update(notes["pitch"][_is_hanging(notes)].tolist())
    return found


def _is_hanging(notes: dict[str, np.ndarray]) -> np.ndarray:
    hanging: np.ndarray = notes["time"].astype(np.int64) + notes["duration"] >= _FAR_TICKS
    return hanging


def _shorten(score: Score) -> Score:
    """Make the notes that end far behind the others 250 ms long, in place."""
    from symusic import Note

    # the repair of scores drops the other tempos, among them those of 0 microseconds a quarter, which are infinite
    tempos = sorted((t.time, t.qpm) for t in score.tempos if QPM_RANGE[0] <= t.qpm <= QPM_RANGE[1])
    starts = [time for time, _ in tempos]
    for track in score.tracks:
        notes = {name: column.copy() for name, column in track.notes.numpy().items()}
        hanging = np.flatnonzero(_is_hanging(notes)).tolist()
        for at in hanging:
            index = bisect.bisect_right(starts, int(notes["time"][at]))
            qpm = tempos[index - 1][1] if index else _DEFAULT_QPM
            notes["duration"][at] = max(1, round(HANGING_SECONDS * qpm / 60 * score.ticks_per_quarter))
        if hanging:
            track.notes = Note.from_numpy(**notes)
    return score
