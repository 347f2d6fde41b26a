"""Merging of tracks and unisons before a score becomes tokens, on the score and on PerTok's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from miditok import MusicTokenizer as MidiTokTokenizer
    from symusic import Score

NoteArrays = dict[str, np.ndarray]  # time, duration, pitch and velocity, each [n], in ticks
_TIME_TYPES = ("Bar", "TimeShift", "Position")


def merge_unisons(notes: NoteArrays) -> NoteArrays:
    """Sort notes by onset and pitch; of those with the same onset and pitch keep the longest."""
    order = np.lexsort((-notes["duration"].astype(np.int64), notes["pitch"], notes["time"]))
    ordered = {name: array[order] for name, array in notes.items()}
    same = (np.diff(ordered["time"]) == 0) & (np.diff(ordered["pitch"]) == 0)
    first = np.concatenate([np.ones(min(1, len(order)), bool), ~same])
    return {name: np.ascontiguousarray(array[first]) for name, array in ordered.items()}


def merge_tracks(score: Score, low: int = 21, high: int = 109) -> Score:
    """Merge all pitched notes into one piano track, for tokenizers that write one sequence for each track.

    Drum tracks and pitches outside low..high are dropped. Of notes with the same onset and pitch (unisons of two
    voices) the longest stays. Tempos and time signatures are kept. The input is not changed.

    Args:
        score: score in ticks.
        low: lowest MIDI pitch kept.
        high: highest MIDI pitch kept.
    """
    from symusic import Note, Score, Track

    arrays = [t.notes.numpy() for t in score.tracks if not t.is_drum and len(t.notes)]
    names = ("time", "duration", "pitch", "velocity")
    notes = {n: np.concatenate([a[n] for a in arrays]) if arrays else np.zeros(0, np.int32) for n in names}
    inside = (notes["pitch"] >= low) & (notes["pitch"] <= high)
    merged = Score(score.ticks_per_quarter)
    merged.tempos = score.tempos
    merged.time_signatures = score.time_signatures
    track = Track(program=0, name="Piano")
    track.notes = Note.from_numpy(**merge_unisons({n: a[inside] for n, a in notes.items()}))
    merged.tracks.append(track)
    return merged


def merge_track_unisons(score: Score) -> None:
    """Merge the unisons of each track and order its notes by onset and pitch, in place."""
    from symusic import Note

    for track in score.tracks:
        if len(track.notes):
            track.notes = Note.from_numpy(**merge_unisons(track.notes.numpy()))


def order_notes(score: Score) -> None:
    """Merge the unisons of each track, order its notes, and order the tracks by program, in place; drums come last.

    Scores that differ in such an order only then have the same tokens.
    """
    merge_track_unisons(score)
    score.tracks = sorted(score.tracks, key=lambda track: (track.is_drum, track.program))


@dataclass(frozen=True)
class PertokLayout:
    """Tokens of a PerTok note: [Program [MicroTiming]] Pitch [MicroTiming] [Velocity] [Duration].

    Attributes:
        before: types of a note's tokens before its pitch.
        after: types of its tokens after the pitch.
        are_of: for each of these types, and for `pitch` and `time`, a mask of the base tokens, bool [V].
        values: MIDI pitch, program, or ticks of each Pitch, Program, MicroTiming and Duration token, int64 [V]; else 0.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    are_of: dict[str, np.ndarray]
    values: np.ndarray

    def find_notes(self, ids: np.ndarray) -> np.ndarray | None:
        """Find the indices of the pitch tokens; None where a note is written in another way."""
        at = np.flatnonzero(self.are_of["pitch"][ids])
        if not len(at) or at[0] < len(self.before) or at[-1] + len(self.after) >= len(ids):
            return None
        offsets = (*range(-len(self.before), 0), *range(1, len(self.after) + 1))
        expected = zip(offsets, (*self.before, *self.after), strict=True)
        return at if all(self.are_of[kind][ids[at + offset]].all() for offset, kind in expected) else None


def has_all_durations(inner: MidiTokTokenizer) -> bool:
    """Return True where the notes of every program have a duration token."""
    programs = inner.config.programs if inner.config.use_programs else [0]
    return set(programs) <= set(inner.config.use_note_duration_programs)


def pertok_layout(inner: MidiTokTokenizer, tokens: Sequence[str]) -> PertokLayout | None:
    """Describe the notes of a PerTok vocabulary; None where they are not written as such chains."""
    config = inner.config
    if inner.is_trained or config.use_pitch_intervals or config.program_changes:
        return None
    if config.using_note_duration_tokens and not has_all_durations(inner):
        return None
    kinds = np.array([token.split("_")[0] for token in tokens])
    values = np.zeros(len(tokens), np.int64)
    for i, token in enumerate(tokens):
        kind, _, value = token.partition("_")
        if kind in ("Pitch", "PitchDrum", "Program", "MicroTiming"):
            values[i] = int(value)
        elif kind == "Duration":
            beats, rest, ticks = map(int, value.split("."))
            values[i] = beats * ticks + rest
    present = set(kinds)
    programs = config.use_programs and config.one_token_stream_for_programs
    before = [kind for kind in ("Program", "MicroTiming") if programs and kind in present]
    after = [kind for kind in ("MicroTiming", "Velocity", "Duration") if kind in present]
    masks = {kind: kinds == kind for kind in (*before, *after)}
    masks |= {"pitch": np.isin(kinds, ("Pitch", "PitchDrum")), "time": np.isin(kinds, _TIME_TYPES)}
    return PertokLayout(tuple(before), tuple(after), masks, values)


def merge_pertok_unisons(layout: PertokLayout, ids: np.ndarray) -> np.ndarray:
    """Order the notes of each onset by pitch, and keep the longest of those with the same onset and pitch.

    PerTok quantises onsets while it writes tokens, so that notes a few ticks apart become unisons only there. Decoded
    and encoded again, the result is the same.

    Args:
        layout: see `pertok_layout`.
        ids: base ids, int32 [n].

    Returns:
        int32 [m], m at most n.
    """
    at, values = layout.find_notes(ids), layout.values[ids]
    if at is None:
        return ids
    first, last = at - len(layout.before), at + len(layout.after)
    run = np.cumsum(np.concatenate([[0], first[1:] != last[:-1] + 1]))
    onset = np.cumsum(layout.are_of["time"][ids])[at]
    nothing = np.zeros(len(at), np.int64)
    length = values[last] if "Duration" in layout.after else nothing
    shift = values[at + 1] if "MicroTiming" in layout.after else nothing
    program = values[first] if layout.before else nothing
    columns = (shift, program, values[at])
    repeated = _repeated_rows((onset, *columns), length)
    order = np.lexsort((-length, *reversed(columns), run))
    span = np.arange(len(layout.before) + 1 + len(layout.after))
    out = ids.copy()
    out[first[:, None] + span] = ids[first[order][:, None] + span]
    kept = np.ones(len(ids), bool)
    kept[first[repeated[order]][:, None] + span] = False
    return out[kept]


def _repeated_rows(columns: Sequence[np.ndarray], length: np.ndarray) -> np.ndarray:
    """Mark all but the longest of the rows with equal columns, bool [n]."""
    order = np.lexsort((-length, *reversed(columns)))
    same = np.logical_and.reduce([np.diff(column[order]) == 0 for column in columns])
    repeated = np.zeros(len(length), bool)
    repeated[order[1:]] = same
    return repeated


class _WholeTicks:
    """Ratio that becomes an int as soon as a product with it is whole."""

    def __init__(self, value: Fraction) -> None:
        self.value = value

    def __mul__(self, other: int) -> Any:
        product = self.value * other
        return int(product) if product.denominator == 1 else _WholeTicks(product)


class _Denominator(int):
    """Denominator of a metre; multiples of its quotients are whole numbers where they can be."""

    def __truediv__(self, other: Any) -> Any:
        return _WholeTicks(Fraction(int(self), other)) * 1


def mend_pertok_decoding(inner: MidiTokTokenizer) -> None:
    """Make a PerTok tokenizer decode tempo changes, and pitch bends after time signatures, as they were encoded.

    PerTok writes a tempo change before the TimeShift to the note at which it happens, and MidiTok's decoder places it
    one onset too early, earlier still with every further round trip. After a time signature the decoder counts ticks
    as floats, and then fails at the next tempo or pitch bend.
    """
    decode, parse_metre = inner._tokens_to_score, inner._parse_token_time_signature

    def decode_tempos(tokens: Any, programs: Any = None) -> Score:
        for sequence in tokens if isinstance(tokens, list) else [tokens]:
            sequence.tokens = _move_tempos(sequence.tokens)
        return decode(tokens, programs)

    def parse_whole(token: str) -> tuple[int, int]:
        numerator, denominator = parse_metre(token)
        return numerator, _Denominator(denominator)

    inner._tokens_to_score = decode_tempos
    inner._parse_token_time_signature = parse_whole


def _move_tempos(tokens: Sequence[str]) -> list[str]:
    """Move each tempo behind the TimeShift that follows it, but for those at the beginning of the piece."""
    moved = list(tokens)
    begun = False
    for i in range(len(moved) - 1):
        kind, following = (moved[k].partition("_")[0] for k in (i, i + 1))
        if begun and kind == "Tempo" and following in ("TimeShift", "Position"):
            moved[i], moved[i + 1] = moved[i + 1], moved[i]
        begun = begun or kind in (*_TIME_TYPES, "Pitch")
    return moved
