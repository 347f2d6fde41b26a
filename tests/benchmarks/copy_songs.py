"""Songs for the proof of the copy meter, and known spans of them inserted in other songs under known changes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.demo.corpora import corpus_tunes, write_tunes
from musiclora.evaluation.copies.notes import NoteList, note_list
from musiclora.music.bars import bar_lines
from musiclora.symbolic.dataset.splits import near_duplicates
from musiclora.symbolic.reading.read_folder import read_music

BARS = 16  # of every piece
JITTER_QUARTERS = 1 / 16  # by which each onset moves at most: 31 ms at 120 beats a minute
EDIT_EVERY = 8  # notes of the span from one ornament, change or gap to the next; the first comes after half as many
STRETCHES = {"1/2": 1 / 2, "2/3": 2 / 3, "3/4": 3 / 4, "4/3": 4 / 3, "3/2": 3 / 2, "2": 2.0}
CHANGES = (
    "plain",
    "transposed",
    *(f"stretched {name}" for name in STRETCHES),
    "jittered",
    "ornamented",
    "edited",
    "missing",
)


@dataclass(frozen=True, eq=False)
class Excerpt:
    """First bars of a song, or a piece made of two.

    Attributes:
        name: of the song.
        rows: float64 [n, 4]: onset in quarter notes, MIDI pitch, track, duration in quarter notes; ascending onsets.
        bar: length of a bar in quarter notes.
        bars: number of bars.
    """

    name: str
    rows: np.ndarray
    bar: float
    bars: int = BARS

    def note_list(self) -> NoteList:
        """Return the notes as the copy meter takes them."""
        return note_list(self.name, self.rows[:, :3], self.bar * np.arange(self.bars + 1))


def read_corpus(corpus: str, bar: float) -> list[Excerpt]:
    """Read the songs of a corpus with bars of one length, 16 of them at least, no two near duplicates.

    Args:
        corpus: key of musiclora.demo.corpora.CORPORA.
        bar: quarter notes.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_tunes(corpus_tunes(corpus), Path(folder))
        songs = read_music(Path(folder)).songs
    twins: dict[int, set[int]] = {}
    for i, j in near_duplicates(songs):
        twins.setdefault(j, set()).add(i)
    kept: set[int] = set()
    found = []
    for i, song in enumerate(songs):
        if not twins.get(i, set()) & kept:
            kept.add(i)
            found += _excerpt(song.name, song.score, bar)
    return found


def _excerpt(name: str, score: Any, bar: float) -> list[Excerpt]:
    quarter = int(score.ticks_per_quarter)
    lengths = np.diff(bar_lines(score, int(score.end()))) / quarter
    if len(lengths) < BARS or (lengths != bar).any():
        return []
    notes = [
        (note.time / quarter, note.pitch, number, note.duration / quarter)
        for number, track in enumerate(score.tracks)
        for note in track.notes
    ]
    rows = np.array(sorted(notes), np.float64).reshape(-1, 4)
    rows = rows[rows[:, 0] < BARS * bar]
    return [Excerpt(name, rows, bar)] if len(rows) >= BARS else []


def insert_span(host: Excerpt, source: Excerpt, bars: int, change: str, rng: np.random.Generator) -> Excerpt:
    """Replace bars of one song with changed bars of another, both drawn.

    Args:
        host: the song that keeps its other bars.
        source: the song whose bars are copied.
        bars: bars of the source; a stretched copy fills more or fewer bars of the host, the last one with its own rest.
        change: one of CHANGES.
        rng: draws the bars and the change.
    """
    stretch = STRETCHES[change.removeprefix("stretched ")] if change.startswith("stretched") else 1.0
    filled = int(np.ceil(bars * stretch - 1e-9))
    host_bars = max(host.bars, filled)
    start = host.bar * int(rng.integers(0, host_bars - filled + 1))
    begin = source.bar * int(rng.integers(0, source.bars - bars + 1))
    inside = (source.rows[:, 0] >= begin) & (source.rows[:, 0] < begin + bars * source.bar)
    span = _change(source.rows[inside], change, rng)
    span[:, 0] = start + stretch * np.maximum(span[:, 0] - begin, 0.0)
    span[:, 3] *= stretch
    outside = (host.rows[:, 0] < start) | (host.rows[:, 0] >= start + bars * stretch * host.bar)
    rows = np.concatenate((host.rows[outside], span))
    return Excerpt(f"{host.name} with {source.name}", rows[np.argsort(rows[:, 0], kind="stable")], host.bar, host_bars)


def _change(span: np.ndarray, change: str, rng: np.random.Generator) -> np.ndarray:
    span = span.copy()
    at = np.arange(EDIT_EVERY // 2, len(span) - 1, EDIT_EVERY)
    if change == "transposed":
        span[:, 1] += int(rng.choice([-6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6]))
    elif change == "jittered":
        span[:, 0] += rng.uniform(-JITTER_QUARTERS, JITTER_QUARTERS, len(span))
        span = span[np.argsort(span[:, 0], kind="stable")]
    elif change == "ornamented":
        added = span[at].copy()
        added[:, 0] = (span[at, 0] + span[at + 1, 0]) / 2
        added[:, 1] += rng.choice([-2, 2], len(at))
        added[:, 3] /= 2
        span[at, 3] /= 2
        span = np.concatenate((span, added))
        span = span[np.argsort(span[:, 0], kind="stable")]
    elif change == "edited":
        span[at, 1] += rng.choice([-4, -3, -2, 2, 3, 4], len(at))
    elif change == "missing":
        span = np.delete(span, at, 0)
    return span
