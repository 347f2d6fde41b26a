"""Counts of what a tokenizer keeps of songs, and of what it loses."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np

from musiclora.music.instruments import program_of
from musiclora.symbolic.tokens.holds import DRUMS, Holds
from musiclora.symbolic.tokens.seconds import TempoMap

if TYPE_CHECKING:
    from symusic import Score

_RETIMED_SHARE = 0.05  # tempo tokens are a few per cent apart; a larger change is another tempo
_HALF_STEP_SECONDS = 0.005  # a length is cut where it would be rounded to more than the longest
_DEFAULT_QPM = 120.0  # of MIDI files without a tempo, and of decoded tokens without one


@dataclass(frozen=True)
class Kept:
    """Count of what tokens keep of one song, or of several, by addition.

    `notes` is the sum of `kept` and of the notes left out: `drums`, `foreign`, `crowded`, `outside`, `unisons` and
    `merged`.

    Attributes:
        songs: songs counted.
        notes: notes in the songs.
        kept: notes that the tokens decode to.
        drums: drum notes left out.
        foreign: notes of programs that the tokenizer does not have.
        crowded: notes of instruments past the most that a song of these tokens may have.
        outside: notes outside the tokenizer's pitches.
        unisons: notes with the onset and pitch of another of the same instrument.
        merged: notes that have them on the tokenizer's grid only (near-unisons).
        shortened: notes longer than the longest duration; they are kept and cut.
        levelled: kept notes of songs with several velocities, where the tokens hold no loudness.
        retimed: songs that the decoded tokens play over 5 % faster or slower.
        seconds: length of the songs.
        seconds_kept: length of the decoded tokens, which play at 120 quarters a minute where they hold no tempo.
        tempos: tempo changes inside songs that are not held.
        metres: time signatures that are not held; without them, bars have four quarters. Where times are in seconds,
            nothing tells of bars, and all are lost.
        pedals: pedal presses that are not held.
        bends: pitch-bend events that are not held.
        tracks, tracks_kept: tracks with notes.
        instruments, instruments_kept: different programs of each song, with the drums as one.
    """

    songs: int = 0
    notes: int = 0
    kept: int = 0
    drums: int = 0
    foreign: int = 0
    crowded: int = 0
    outside: int = 0
    unisons: int = 0
    merged: int = 0
    shortened: int = 0
    levelled: int = 0
    retimed: int = 0
    seconds: float = 0.0
    seconds_kept: float = 0.0
    tempos: int = 0
    metres: int = 0
    pedals: int = 0
    bends: int = 0
    tracks: int = 0
    tracks_kept: int = 0
    instruments: int = 0
    instruments_kept: int = 0

    def as_json(self) -> dict[str, int | float]:
        """Return all counts by name, seconds rounded to milliseconds."""
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in dataclasses.asdict(self).items()}


def kept_from_json(record: object) -> Kept:
    """Build counts from what `Kept.as_json` returned; counts of other versions are 0 or left out.

    Raises:
        TypeError: it is not a record of numbers.
    """
    if not isinstance(record, dict):
        raise TypeError("expected a record of counts")
    found = {f.name: record.get(f.name, f.default) for f in dataclasses.fields(Kept)}
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in found.values()):
        raise TypeError("expected numbers")
    return Kept(**found)


class CountingTokenizer(Protocol):
    """Tokenizer whose losses can be counted."""

    @property
    def holds(self) -> Holds:
        """Return what the tokens can hold."""

    def hold(self, score: Score) -> Score:
        """Reduce a score to what the tokens hold of it; events for which there are no tokens may stay."""

    def encode_held(self, held: Score) -> np.ndarray:
        """Encode what `hold` returned, int32 [n]."""

    def note_count(self, ids: np.ndarray) -> int:
        """Count the notes that ids decode to."""


def encode_and_count(tokenizer: CountingTokenizer, score: Score) -> tuple[np.ndarray, Kept]:
    """Encode a score and count what its tokens keep and lose.

    Args:
        tokenizer: any tokenizer of the symbolic family.
        score: in ticks; it is not changed.

    Returns:
        ids, int32 [n] without BOS and EOS, and the counts.
    """
    held = tokenizer.hold(score)
    ids = tokenizer.encode_held(held)
    return ids, _count_kept(score, held, tokenizer.note_count(ids), tokenizer.holds)


def add_kept(counts: Iterable[Kept]) -> Kept:
    """Add up the counts of several songs."""
    rows = [dataclasses.astuple(one) for one in counts]
    return Kept(*(sum(column) for column in zip(*rows, strict=True))) if rows else Kept()


def _count_kept(score: Score, held: Score, kept: int, holds: Holds) -> Kept:
    """Compare a score with what is held of it; `kept` is the number of notes that the tokens decode to."""
    tracks, held_tracks = _tracks_of(score), _tracks_of(held) if kept else []
    played = {part.program for part in held_tracks}
    counts, usable = _count_notes(tracks, kept, holds, played)
    levels = {int(velocity) for part in usable for velocity in np.unique(part.velocity)}
    programs = {part.program for part in tracks}
    timed = held if holds.tempos or holds.in_seconds else None
    end = _end_quarters(tracks, score.ticks_per_quarter, 0.0)
    seconds = _seconds(score, end)
    return Kept(
        songs=1,
        **counts,
        shortened=_count_shortened(usable, score, held, holds),
        levelled=kept if not holds.velocities and len(levels) > 1 else 0,
        retimed=int(abs(_seconds(timed, end) - seconds) > _RETIMED_SHARE * seconds),
        seconds=seconds,
        seconds_kept=_seconds_kept(held, held_tracks, holds),
        tempos=max(0, len(score.tempos) - max(1, len(held.tempos) if holds.tempos else 0)),
        metres=len(score.time_signatures) if holds.in_seconds else _count_lost_metres(score, held, holds.metres),
        pedals=_count_events(score, "pedals") - (_count_events(held, "pedals") if holds.pedals else 0),
        bends=_count_events(score, "pitch_bends") - (_count_events(held, "pitch_bends") if holds.bends else 0),
        tracks=len(tracks),
        tracks_kept=min(len(tracks), len(played) if holds.programs else len(held_tracks)),
        instruments=len(programs),
        instruments_kept=len(programs & played),
    )


def _tracks_of(score: Score) -> list[_NotesOf]:
    """Return the notes of each track that has any."""
    return [_NotesOf(t.notes.numpy(), program_of(t)) for t in score.tracks if len(t.notes)]


def _count_notes(
    tracks: list[_NotesOf], kept: int, holds: Holds, played: set[int]
) -> tuple[dict[str, int], list[_NotesOf]]:
    """Count the notes kept and those left out by reason, and return the notes that the tokens could hold."""
    counts = {"notes": sum(len(part.pitch) for part in tracks), "kept": kept}
    counts |= dict.fromkeys(("drums", "foreign", "crowded", "outside"), 0)
    usable = []
    for part in tracks:
        if reason := _reason_to_leave_out(part, holds, played):
            counts[reason] += len(part.pitch)
            continue
        low, high = holds.drum_pitches if part.program == DRUMS else holds.pitches
        inside = (part.pitch >= low) & (part.pitch <= high)
        counts["outside"] += int((~inside).sum())
        usable.append(part.take(inside))
    doubled = max(0, sum(len(part.pitch) for part in usable) - kept)
    unisons = min(doubled, _count_unisons(usable, bool(holds.programs)))
    return {**counts, "unisons": unisons, "merged": doubled - unisons}, usable


class _NotesOf:
    """Notes of one track, [n] each."""

    def __init__(self, arrays: dict[str, np.ndarray], program: int) -> None:
        self.arrays, self.program = arrays, program
        self.time, self.pitch = arrays["time"].astype(np.int64), arrays["pitch"]
        self.duration, self.velocity = arrays["duration"], arrays["velocity"]

    def take(self, mask: np.ndarray) -> _NotesOf:
        return _NotesOf({name: array[mask] for name, array in self.arrays.items()}, self.program)


def _reason_to_leave_out(part: _NotesOf, holds: Holds, played: set[int]) -> str:
    """Name the count that a track's notes fall under, empty where the tokens can hold them."""
    if part.program == DRUMS:
        return "" if DRUMS in holds.programs else "drums"
    if holds.programs and part.program not in holds.programs:
        return "foreign"
    return "crowded" if holds.most_instruments and part.program not in played else ""


def _count_unisons(parts: list[_NotesOf], by_program: bool) -> int:
    """Count the notes with the onset and pitch of an earlier one, of the same program where there are programs."""
    if not parts:
        return 0
    keys = [
        (p.time.astype(np.int64) << 16) + (p.pitch.astype(np.int64) << 8) + (p.program + 1) * by_program for p in parts
    ]
    every = np.concatenate(keys)  # one integer a note; pitch and program fit into 8 bits each
    return len(every) - len(np.unique(every))


def _count_shortened(parts: list[_NotesOf], score: Score, held: Score, holds: Holds) -> int:
    if holds.in_seconds:
        clock = TempoMap(score)
        lengths = [_played_lengths(part, clock) for part in parts]
        return sum(int((length > holds.longest_seconds + _HALF_STEP_SECONDS).sum()) for length in lengths)
    if not holds.longest:
        return 0
    metres = sorted((s.time / held.ticks_per_quarter, 4 / s.denominator) for s in held.time_signatures)
    if not (holds.beats_by_metre and metres):
        metres = [(0.0, 1.0)]
    starts, beats = (np.array(column) for column in zip(*metres, strict=True))
    count = 0
    for part in parts:
        quarters = part.time / score.ticks_per_quarter
        beat = beats[np.searchsorted(starts, quarters, side="right").clip(1) - 1]
        count += int((part.duration / score.ticks_per_quarter > holds.longest * beat + 1e-9).sum())
    return count


def _end_quarters(parts: list[_NotesOf], ticks: int, longest: float) -> float:
    """Find the end of the last note in quarters; durations are cut to the longest, unless that is 0."""
    limit = longest * ticks or np.inf
    ends = [float((part.time + np.minimum(part.duration, limit)).max()) for part in parts]
    return max(ends, default=0.0) / ticks


def _seconds(score: Score | None, quarters: float) -> float:
    """Convert quarters from the beginning to seconds by the score's tempos, or at 120 a minute without one."""
    found = sorted((t.time / score.ticks_per_quarter, t.qpm) for t in score.tempos) if score is not None else []
    changes = [(0.0, _DEFAULT_QPM), *((at, qpm) for at, qpm in found if at < quarters), (quarters, 0.0)]
    return float(sum((after - at) * 60 / qpm for (at, qpm), (after, _) in pairwise(changes)))


def _seconds_kept(held: Score, tracks: list[_NotesOf], holds: Holds) -> float:
    """Find the length of the decoded tokens."""
    if not holds.in_seconds:
        return _seconds(held if holds.tempos else None, _end_quarters(tracks, held.ticks_per_quarter, holds.longest))
    clock = TempoMap(held)
    ends = [clock.at(p.time) + _played_lengths(p, clock).clip(0, holds.longest_seconds) for p in tracks]
    return float(max((end.max() for end in ends), default=0.0))


def _played_lengths(part: _NotesOf, clock: TempoMap) -> np.ndarray:
    """Return the duration of each note in seconds, float64 [n]."""
    lengths: np.ndarray = clock.at(part.time + part.duration) - clock.at(part.time)
    return lengths


def _count_lost_metres(score: Score, held: Score, held_metres: bool) -> int:
    """Count the time signatures of a score at which another metre than theirs is held; without any, that is 4/4."""
    kept = _metres_of(held) if held_metres else []
    times = [at for at, _ in kept]
    lost = 0
    for at, metre in _metres_of(score):
        index = bisect_right(times, at + 1e-3)
        current = kept[index - 1][1] if index else (4, 4)
        following = kept[index][1] if index < len(kept) else None  # a tokenizer delays a change to the next bar line
        lost += metre not in (current, following)
    return lost


def _metres_of(score: Score) -> list[tuple[float, tuple[int, int]]]:
    return [(s.time / score.ticks_per_quarter, (s.numerator, s.denominator)) for s in score.time_signatures]


def _count_events(score: Score, name: str) -> int:
    return sum(len(getattr(track, name)) for track in score.tracks)
