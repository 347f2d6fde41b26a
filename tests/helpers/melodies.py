"""Melodies for tests of the copy meter: random tunes of one style, and copies of them with known changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from symusic import Note, Score, Tempo, TimeSignature, Track

from musiclora.evaluation.copies.notes import NoteList, note_list

_STEPS = np.array([-5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 7])
_RHYTHMS = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 0.5, 0.5, 2.0], [1.5, 0.5, 1.0, 1.0], [0.5, 0.5, 1.0, 2.0]])


def tune(seed: int, bars: int = 16, name: str = "") -> NoteList:
    """Draw a melody in 4/4 with four notes a bar."""
    rng = np.random.default_rng([7, seed])
    lengths = _RHYTHMS[rng.integers(0, len(_RHYTHMS), bars)].reshape(-1)
    onsets = np.concatenate(([0.0], np.cumsum(lengths)[:-1]))
    walk = np.cumsum(rng.choice(_STEPS, len(onsets)))
    pitches = 60 + np.abs((walk + 20) % 80 - 40) - 20  # turned back at both ends of its range
    rows = np.stack([onsets, pitches, np.zeros(len(onsets))], 1)
    return note_list(name or f"tune-{seed}", rows, 4.0 * np.arange(bars + 1))


def rows_of(piece: NoteList) -> np.ndarray:
    """Return onset, pitch and track of each note, float64 [n, 3]."""
    return np.stack([piece.onsets, piece.pitches, piece.tracks], 1).astype(np.float64)


def changed(
    piece: NoteList, *, semitones: int = 0, tempo: float = 1.0, jitter: float = 0.0, edit: str = "", every: int = 8
) -> NoteList:
    """Copy a melody in another key, with longer or shorter notes, shifted onsets, and one edit in `every` notes.

    Args:
        piece: one line.
        semitones: added to each pitch.
        tempo: factor of all durations.
        jitter: most quarter notes by which an onset moves.
        edit: `change` a pitch, `drop` a note, or `add` a note between two.
        every: notes from one edit to the next.
    """
    rows = rows_of(piece)
    rows[:, 0] += np.random.default_rng(3).uniform(-jitter, jitter, len(rows))
    at = np.arange(every // 2, len(rows) - 1, every)
    if edit == "change":
        rows[at, 1] += 6
    elif edit == "drop":
        rows = np.delete(rows, at, 0)
    elif edit == "add":
        between = (rows[at] + rows[at + 1]) / 2
        between[:, 1] = rows[at, 1] + 3
        rows = np.concatenate((rows, between))
    rows[:, 0] *= tempo
    rows[:, 1] += semitones
    return note_list("changed", rows, piece.bar_starts * tempo)


def inserted(host: NoteList, source: NoteList, first_bar: int, bars: int, at_bar: int) -> NoteList:
    """Replace bars of a melody in 4/4 with bars of another; bars count from 0."""
    rows, other = rows_of(host), rows_of(source)
    start, stop = 4.0 * at_bar, 4.0 * (at_bar + bars)
    kept = rows[(rows[:, 0] < start) | (rows[:, 0] >= stop)]
    taken = other[(other[:, 0] >= 4.0 * first_bar) & (other[:, 0] < 4.0 * (first_bar + bars))].copy()
    taken[:, 0] += start - 4.0 * first_bar
    return note_list("inserted", np.concatenate((kept, taken)), host.bar_starts)


def score_of(piece: NoteList) -> Score:
    """Build a score of a line in 4/4, each note as long as to the next."""
    score, track = Score(480), Track()
    ends = [*piece.onsets[1:].tolist(), float(piece.bar_starts[-1])]
    for onset, pitch, end in zip(piece.onsets.tolist(), piece.pitches.tolist(), ends, strict=True):
        track.notes.append(Note(round(onset * 480), max(1, round((end - onset) * 480)), pitch, 80))
    score.tracks.append(track)
    score.tempos.append(Tempo(0, 120.0))
    score.time_signatures.append(TimeSignature(0, 4, 4))
    return score


def write_songs(folder: Path, pieces: list[NoteList]) -> Path:
    """Write each piece as a MIDI file of its name."""
    folder.mkdir(parents=True)
    for piece in pieces:
        score_of(piece).dump_midi(folder / f"{piece.name}.mid")
    return folder
