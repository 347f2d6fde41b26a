"""Matches: runs of notes that agree with a song under one alignment, across single edits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from musiclora.evaluation.copies.alignment import JITTER_QUARTERS, Alignment
from musiclora.evaluation.copies.grams import GRAM_NOTES, gram_keys
from musiclora.evaluation.copies.index import CopyIndex, Lines

EDIT_EVERY = 6  # notes, of which at most one may be changed, missing or added
_PITCH_STEP = 1e7  # keeps pitches apart in one sorted array of onsets


@dataclass(frozen=True, eq=False)
class Match:
    """Run of a piece's line that agrees with a song.

    Attributes:
        song: number of the song.
        length: notes that agree.
        content: notes that agree, where a pattern that repeats counts once: its different n-grams, and the notes that
            the first of them has more than one. A long ostinato has little.
        piece_places: int64 [length], positions in the piece's lines.
        span: onsets of the first and the last note in the piece, quarter notes.
        song_span: of the same notes in the song; None where only its hashed n-grams are known.
        transposition: semitones from piece to song.
        ratio: duration in the song divided by that in the piece.
        offset: quarter notes; song onset = ratio * piece onset + offset, at the first note.
    """

    song: int
    length: int
    content: int
    piece_places: np.ndarray
    span: tuple[float, float]
    song_span: tuple[float, float] | None
    transposition: int
    ratio: float
    offset: float


def find_matches(alignment: Alignment, piece: Lines, index: CopyIndex) -> Iterator[Match]:
    """Yield the matches along an alignment that are as long as an n-gram."""
    part = slice(piece.starts[alignment.piece_line], piece.starts[alignment.piece_line + 1])
    places = np.arange(part.start, part.stop)
    offsets = np.interp(places, alignment.places, alignment.offsets)
    mapped = alignment.ratio * piece.onsets[part] + offsets
    onsets, pitches = index.notes_of_line(alignment.song_line)
    partner = match_notes(mapped, piece.pitches[part] + alignment.transposition, onsets, pitches)
    for run in agreeing_runs(mapped, partner, onsets, GRAM_NOTES):
        first, last = run[0], run[-1]
        yield Match(
            int(index.lines.pieces[alignment.song_line]),
            len(run),
            count_content(gram_keys(piece.onsets[part][run], piece.pitches[part][run])),
            places[run],
            (float(piece.onsets[part][first]), float(piece.onsets[part][last])),
            (float(onsets[partner[first]]), float(onsets[partner[last]])),
            alignment.transposition,
            alignment.ratio,
            float(offsets[first]),
        )


def count_content(keys: np.ndarray) -> int:
    """Count the notes of a run whose n-grams are given, one at least, with repeated n-grams once."""
    return len(np.unique(keys)) + GRAM_NOTES - 1


def match_notes(
    mapped: np.ndarray, pitches: np.ndarray, song_onsets: np.ndarray, song_pitches: np.ndarray
) -> np.ndarray:
    """Find for each note the song's note of the same pitch within the jitter.

    Args:
        mapped: float64 [m], onsets in the song's time.
        pitches: int [m], in the song's key.
        song_onsets, song_pitches: [n], the song's notes.

    Returns:
        int64 [m], index of the song's note; -1 where there is none.
    """
    order = np.lexsort((song_onsets, song_pitches))
    keys = song_pitches[order] * _PITCH_STEP + song_onsets[order]
    wanted = pitches * _PITCH_STEP + mapped
    right = np.searchsorted(keys, wanted)
    best = np.full(len(mapped), -1)
    distance = np.full(len(mapped), JITTER_QUARTERS)
    for candidate in (right - 1, right):
        inside = np.clip(candidate, 0, len(keys) - 1)
        gap = np.abs(keys[inside] - wanted)
        nearer = gap <= distance
        best[nearer], distance[nearer] = order[inside[nearer]], gap[nearer]
    return best


def agreeing_runs(
    mapped: np.ndarray, partner: np.ndarray, song_onsets: np.ndarray, least: int = 1
) -> Iterator[np.ndarray]:
    """Yield maximal runs in which at most one of EDIT_EVERY consecutive notes has no partner.

    The song's notes without a partner count too: a piece that leaves out every second note of a song is no copy.

    Args:
        mapped: float64 [m], onsets in the song's time, ascending.
        partner: int64 [m], index of the song's note, or -1.
        song_onsets: float64 [n].
        least: notes with a partner in a run.

    Yields:
        Indices of the notes with a partner, int64, at least `least`.
    """
    hits = partner >= 0
    if not hits.any():
        return
    lonely = np.ones(len(song_onsets), bool)
    lonely[partner[hits]] = False
    lonely &= (song_onsets >= mapped[hits][0]) & (song_onsets <= mapped[hits][-1])
    added = song_onsets[lonely]
    # a note of the piece that replaces one of the song is one edit, not two
    added = added[np.abs(_nearest(mapped[~hits], added) - added) > JITTER_QUARTERS] if len(added) else added
    times = np.concatenate((mapped, added))
    order = np.argsort(times, kind="stable")
    source = np.concatenate((np.where(hits, np.arange(len(mapped)), -1), np.full(len(added), -1)))[order]
    begins, ends = _stretches(np.flatnonzero(source < 0), len(source))
    # Nearly all stretches hold a note or two: counting them all at once saves most of the time.
    before = np.concatenate(([0], np.cumsum(source >= 0)))
    long_enough = before[ends] - before[begins] >= max(1, least)
    for begin, end in zip(begins[long_enough].tolist(), ends[long_enough].tolist(), strict=True):
        run = source[begin:end]
        yield run[run >= 0]


def _nearest(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return for each wanted number the nearest of the ascending values; infinity without any."""
    if not len(values):
        return np.full(len(wanted), np.inf)
    right = np.clip(np.searchsorted(values, wanted), 1, max(1, len(values) - 1))
    left_value, right_value = values[right - 1], values[np.minimum(right, len(values) - 1)]
    return np.where(wanted - left_value <= right_value - wanted, left_value, right_value)


def _stretches(misses: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return begin and end of the longest stretches whose misses lie at least EDIT_EVERY apart, int64 each.

    Args:
        misses: int64 [n], positions of misses, ascending.
        length: number of positions.
    """
    if not len(misses):
        return np.zeros(1, np.int64), np.array([length], np.int64)
    bounds = np.concatenate(([-1], misses, [length]))
    breaks = np.flatnonzero(np.diff(misses) < EDIT_EVERY) + 1
    firsts, lasts = np.concatenate(([0], breaks)), np.concatenate((breaks, [len(misses)]))
    return bounds[firsts] + 1, bounds[lasts + 1]
