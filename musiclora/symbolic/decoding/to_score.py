"""Decoding of base tokens to a score, and the clean-up before it is saved."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from miditok import MusicTokenizer as MidiTokTokenizer
    from symusic import Score, Track


def decode_tokens(inner: MidiTokTokenizer, tokens: list[str]) -> Score:
    """Decode base tokens by MidiTok.

    The tokens are strings, since MidiTok may take ids of a trained vocabulary for base ids.
    """
    from miditok import TokSequence

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sequence = TokSequence(tokens=tokens)
        score = inner.decode(sequence if inner.one_token_stream else [sequence])
    for track in score.tracks:
        _drop_duplicates(track)
    return score


def _drop_duplicates(track: Track) -> None:
    """Keep the longest of notes with one onset and pitch, which some tokenizers can write."""
    from symusic import Note

    notes = track.notes.numpy()
    order = np.lexsort((-notes["duration"], notes["pitch"], notes["time"]))
    onset, pitch = notes["time"][order], notes["pitch"][order]
    again = order[1:][(np.diff(onset) == 0) & (np.diff(pitch) == 0)]
    if len(again):
        kept = np.delete(np.arange(len(order)), again)
        track.notes = Note.from_numpy(**{name: array[kept] for name, array in notes.items()})


def count_notes(inner: MidiTokTokenizer, tokens: list[str]) -> int:
    """Count the notes that base tokens decode to."""
    return int(decode_tokens(inner, tokens).note_num()) if tokens else 0


def clean_score(score: Score, prompt: Score | None, cut: bool) -> None:
    """Set names, programme and tempo, and shorten notes that cross the final bar line of a cut piece.

    Args:
        score: decoded score, changed in place.
        prompt: score whose programme and tempo are kept, or None.
        cut: True where the piece was cut at a bar line.
    """
    from symusic import Tempo

    line = _bar_line_after_last_onset(score) if cut else 0
    for track in score.tracks:
        track.name = track.name.strip() or "musiclora"
        for note in track.notes:
            note.time = max(0, note.time)  # PerTok's microtiming may place the first note before the beginning
            if cut and note.time + note.duration > line:
                note.duration = max(1, line - note.time)
    played = [t.program for t in prompt.tracks if len(t.notes) and not t.is_drum] if prompt is not None else []
    if played and len(score.tracks) == 1 and not score.tracks[0].is_drum:
        score.tracks[0].program = int(played[0])
    if prompt is not None and len(prompt.tempos):  # tokens quantise the tempo, or lack it
        first = Tempo(0, float(np.clip(prompt.tempos[0].qpm, 20, 400)))
        score.tempos = [first, *(t for t in score.tempos if t.time > 0)]
    if not len(score.tempos):
        score.tempos.append(Tempo(0, 120.0))


def _bar_line_after_last_onset(score: Score) -> int:
    """Find the first bar line after the last onset, in ticks."""
    from miditok.utils import get_bars_ticks

    last = max(int(note.time) for track in score.tracks for note in track.notes)
    bars = [int(tick) for tick in get_bars_ticks(score)] or [0]
    at = bisect_right(bars, last)
    if at < len(bars):
        return bars[at]
    metre = score.time_signatures[-1]
    length = int(score.ticks_per_quarter * 4 * metre.numerator // metre.denominator)
    return bars[-1] + length * ((last - bars[-1]) // length + 1)
