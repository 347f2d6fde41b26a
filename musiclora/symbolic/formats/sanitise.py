"""Score repair: note lengths, tempos, time signatures and long silences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from musiclora.convert.errors import DataError

if TYPE_CHECKING:
    from symusic import Score, Tempo, TimeSignature, Track

MAX_NOTES = 60_000
MAX_QUARTERS = 24_000
MAX_GAP_QUARTERS = 32  # longest silence that is kept; longer ones are shortened by whole bars
MAX_NOTE_QUARTERS = 64
QPM_RANGE = (4.0, 1000.0)
_NoteArrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Clean:
    """Score that every tokenizer and synthesiser accepts, its repairs and its size."""

    score: Score
    repairs: tuple[str, ...]
    tracks: int
    notes: int
    seconds: float


def sanitise_score(score: Score, as_played: bool = False, as_given: bool = False) -> Clean:
    """Repair a copy of a score.

    Lengths of zero or less become an eighth of a quarter, and notes over 64 quarters are cut. Tempos that are not
    finite or outside 4..1000 quarters a minute and impossible time signatures are dropped. Of tempo changes without a
    note between them the last stays. Silences over 32 quarters are shortened by whole 4/4 bars.

    Args:
        score: in ticks; it is not changed.
        as_played: keep what counts in seconds: lengths of zero, all tempo changes, and the order of notes that begin
            together.
        as_given: keep silences and long notes too, for music that is to come back note for note.

    Raises:
        DataError: no notes, too many, times that run backwards, or a piece that is too long.
    """
    if not 0 < score.ticks_per_quarter < 2**20:
        raise DataError(f"the time division is {score.ticks_per_quarter}")
    total = sum(len(t.notes) for t in score.tracks)
    if not total:
        raise DataError("no notes")
    if total > MAX_NOTES:
        raise DataError(f"{total} notes; at most {MAX_NOTES} are read from one file")
    repairs: list[str] = []
    tpq = score.ticks_per_quarter
    tracks = [track for track in score.tracks if len(track.notes)]
    parts = [(track, _repair_notes(track.notes.numpy(), tpq, repairs, as_played, as_given)) for track in tracks]
    onsets = np.concatenate([a["time"] for _, a in parts])
    ends = onsets + np.concatenate([a["duration"] for _, a in parts])
    gaps = _find_long_gaps(onsets, ends, MAX_QUARTERS if as_given else MAX_GAP_QUARTERS, tpq)
    if len(gaps[0]):
        repairs.append(f"silences over {MAX_GAP_QUARTERS} quarters closed: {len(gaps[0])}")
    if _close_gaps(ends, gaps).max() > MAX_QUARTERS * tpq:
        raise DataError(f"longer than {MAX_QUARTERS} quarters")
    clean = _rebuild_score(score, parts, gaps, as_played)
    clean.tempos = _repair_tempos(score, None if as_played else onsets, gaps, repairs)
    clean.time_signatures = _repair_metres(score, gaps, repairs)
    seconds = float(clean.to("second").end())
    return Clean(clean, tuple(dict.fromkeys(repairs)), len(parts), total, seconds)


def _repair_notes(raw: _NoteArrays, tpq: int, repairs: list[str], keep_zero: bool, keep_long: bool) -> _NoteArrays:
    notes = {k: a.astype(np.int64) for k, a in raw.items()}
    if notes["time"].min() < 0:
        raise DataError("times run backwards or past 2^31 ticks")
    if (bad := notes["duration"] < int(not keep_zero)).any():
        notes["duration"][bad] = max(1, tpq // 8)
        repairs.append("notes of no length made an eighth of a quarter long")
    if not keep_long and (bad := notes["duration"] > MAX_NOTE_QUARTERS * tpq).any():
        notes["duration"][bad] = MAX_NOTE_QUARTERS * tpq
        repairs.append(f"notes over {MAX_NOTE_QUARTERS} quarters cut")
    for name, low in (("pitch", 0), ("velocity", 1)):
        if ((notes[name] < low) | (notes[name] > 127)).any():
            notes[name] = notes[name].clip(low, 127)
            repairs.append(f"{name} outside {low}..127")
    return notes


def _find_long_gaps(onsets: np.ndarray, ends: np.ndarray, most: int, tpq: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the onsets after silences of over `most` quarters, and the ticks to remove before each: whole 4/4 bars."""
    order = np.argsort(onsets, kind="stable")
    starts = onsets[order]
    sounding = np.concatenate([[0], np.maximum.accumulate(ends[order])[:-1]])
    silence = starts - sounding
    bar = 4 * tpq
    long = silence > most * tpq
    return starts[long], (silence[long] - bar) // bar * bar


def _close_gaps(times: np.ndarray, gaps: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Shift times by the gaps closed before them; events inside a gap keep their order."""
    at, cut = gaps
    if not len(at):
        return times
    before = np.concatenate([[0], np.cumsum(cut)])
    index = np.searchsorted(at, times, side="right")
    moved = times - before[index]
    # An event inside a gap must not come after the note that ends the gap.
    limit = np.concatenate([at - before[1:], [np.iinfo(np.int64).max]])[index]
    capped: np.ndarray = np.minimum(moved, limit)
    return capped


def _rebuild_score(
    score: Score, parts: list[tuple[Track, _NoteArrays]], gaps: tuple[np.ndarray, np.ndarray], as_played: bool
) -> Score:
    from symusic import Note, Score, Track

    clean = Score(score.ticks_per_quarter)
    for source, notes in parts:
        starts = _close_gaps(notes["time"], gaps)
        order = np.argsort(starts, kind="stable") if as_played else np.lexsort((notes["pitch"], starts))
        track = Track(program=source.program, is_drum=source.is_drum, name=source.name)
        track.notes = Note.from_numpy(
            time=starts[order].astype(np.int32),
            duration=notes["duration"][order].astype(np.int32),
            pitch=notes["pitch"][order].astype(np.int8),
            velocity=notes["velocity"][order].astype(np.int8),
        )
        for kind in ("controls", "pitch_bends", "pedals"):
            setattr(track, kind, _copy_events(getattr(source, kind), gaps))
        clean.tracks.append(track)
    keys = [k for k in score.key_signatures if -7 <= k.key <= 7 and k.tonality in (0, 1)]
    clean.key_signatures = _copy_events(keys, gaps)
    return clean


def _copy_events(found: Any, gaps: tuple[np.ndarray, np.ndarray]) -> list[Any]:
    """Copy the events from time 0 on, with the gaps closed."""
    events = [e.copy() for e in found if e.time >= 0]
    if len(gaps[0]):
        for event, time in zip(events, _close_gaps(np.array([e.time for e in events], np.int64), gaps), strict=True):
            event.time = int(time)
    return events


def _repair_tempos(
    score: Score, onsets: np.ndarray | None, gaps: tuple[np.ndarray, np.ndarray], repairs: list[str]
) -> list[Tempo]:
    from symusic import Tempo

    found = [(t.time, t.qpm) for t in score.tempos]
    good = [(t, q) for t, q in found if t >= 0 and np.isfinite(q) and QPM_RANGE[0] <= q <= QPM_RANGE[1]]
    if len(good) < len(found):
        repairs.append(f"impossible tempos dropped: {len(found) - len(good)}")
    good.sort(key=lambda item: item[0])
    times = np.array([t for t, _ in good], np.int64)
    # Each onset needs only the last tempo before it; ten thousand changes without a note would be ten thousand tokens.
    needed = np.arange(len(good)) if onsets is None else np.unique(np.searchsorted(times, onsets, side="right")) - 1
    kept = [good[i] for i in needed if i >= 0]
    moved = _close_gaps(np.array([t for t, _ in kept], np.int64), gaps)
    if not kept or moved[0] > 0:
        kept, moved = [(0, 120.0), *kept], np.concatenate([[0], moved])
    return [Tempo(int(t), float(q)) for t, (_, q) in zip(moved, kept, strict=True)]


def _repair_metres(score: Score, gaps: tuple[np.ndarray, np.ndarray], repairs: list[str]) -> list[TimeSignature]:
    from symusic import TimeSignature

    found = list(score.time_signatures)
    good = [s for s in found if s.time >= 0 and 0 < s.numerator <= 64 and s.denominator in (1, 2, 4, 8, 16, 32, 64)]
    if len(good) < len(found):
        repairs.append(f"impossible time signatures dropped: {len(found) - len(good)}")
    times = _close_gaps(np.array([s.time for s in good], np.int64), gaps)
    latest = {int(t): s for t, s in sorted(zip(times, good, strict=True), key=lambda item: int(item[0]))}
    return [TimeSignature(t, s.numerator, s.denominator) for t, s in latest.items()]
