"""Alignments of a piece with songs: one transposition, one tempo ratio and an offset in time, found by n-grams."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from musiclora.evaluation.copies.index import CopyIndex, Lines, grams_of

TEMPO_RATIOS = (1 / 2, 2 / 3, 3 / 4, 1.0, 4 / 3, 3 / 2, 2.0)  # duration in the song : duration in the piece
JITTER_QUARTERS = 1 / 8  # by which an onset may differ, in quarter notes of the song
_MOST_PLACES = 200  # of one n-gram; a frequent one says little, and a copy holds rare ones
_MOST_ALIGNMENTS = 200  # examined, those with most n-grams first


@dataclass(frozen=True, eq=False)
class Alignment:
    """Way to lay one line of a piece over one line of a song.

    Attributes:
        piece_line, song_line: numbers of the lines.
        transposition: semitones from piece to song.
        ratio: one of TEMPO_RATIOS.
        places: int64 [g], positions in the piece's lines at which the offset is known, ascending.
        offsets: float64 [g], quarter notes: song onset = ratio * piece onset + offset. It may drift, as a player does.
    """

    piece_line: int
    song_line: int
    transposition: int
    ratio: float
    places: np.ndarray
    offsets: np.ndarray


def find_alignments(piece: Lines, index: CopyIndex, leave_out: int = -1) -> list[Alignment]:
    """Find the alignments of a piece with all songs of an index, those that more n-grams agree on first.

    Args:
        piece: lines of the piece.
        index: the songs.
        leave_out: number of a song that does not count.
    """
    lines = index.lines
    query, place = index.look_up(piece.keys, _MOST_PLACES)
    if leave_out >= 0:
        kept = lines.pieces[lines.line[place]] != leave_out
        query, place = query[kept], place[kept]
    if not len(query):
        return []
    start = piece.places[query]
    shift = lines.pitches[place] - piece.pitches[start]
    own, other = piece.onsets[grams_of(start)], lines.onsets[grams_of(place)]
    ratio = _nearest_ratio((other[:, -1] - other[:, 0]) / np.maximum(own[:, -1] - own[:, 0], 1e-6))
    difference = other - np.take(TEMPO_RATIOS, ratio)[:, None] * own
    offset = difference.mean(1)
    fits = np.abs(difference - offset[:, None]).max(1) <= JITTER_QUARTERS
    columns = (piece.line[start], lines.line[place], shift, ratio)
    group = _number_rows([column[fits] for column in columns])
    return _cluster(group, offset[fits], start[fits], [column[fits] for column in columns])


def _nearest_ratio(ratio: np.ndarray) -> np.ndarray:
    """Return the index of the nearest tempo ratio on a logarithmic scale."""
    logs = np.log(TEMPO_RATIOS)
    return np.asarray(np.searchsorted((logs[1:] + logs[:-1]) / 2, np.log(np.maximum(ratio, 1e-6))))


def _number_rows(columns: list[np.ndarray]) -> np.ndarray:
    """Number the different rows of integer columns."""
    number = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values = column - column.min() if len(column) else column
        number = number * (int(values.max(initial=0)) + 1) + values
        number = np.unique(number, return_inverse=True)[1].reshape(-1)
    return number


def _cluster(group: np.ndarray, offset: np.ndarray, start: np.ndarray, columns: list[np.ndarray]) -> list[Alignment]:
    """Link n-grams of a group whose offsets lie next to each other (single linkage along the offset)."""
    if not len(group):
        return []
    order = np.lexsort((offset, group))
    group, offset, start = group[order], offset[order], start[order]
    new = (np.diff(group) != 0) | (np.diff(offset) > JITTER_QUARTERS)
    bounds = np.concatenate(([0], np.flatnonzero(new) + 1, [len(group)]))
    sizes = np.diff(bounds)
    largest = np.argsort(-sizes, kind="stable")[:_MOST_ALIGNMENTS]
    found = []
    for cluster in largest:
        part = slice(bounds[cluster], bounds[cluster + 1])
        by_place = np.argsort(start[part], kind="stable")
        first = order[bounds[cluster]]
        piece_line, song_line, shift, ratio = (int(column[first]) for column in columns)
        found.append(
            Alignment(piece_line, song_line, shift, TEMPO_RATIOS[ratio], start[part][by_place], offset[part][by_place])
        )
    return found
