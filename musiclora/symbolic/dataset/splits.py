"""Near-duplicate search, and a train and validation split by clusters of songs, so that no music is on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from musiclora.convert.errors import ConfigError, DataError
from musiclora.training.subsets import hold_out_fold

GRAM_INTERVALS = 8


class HasMelody(Protocol):
    """Object with a melody: MIDI pitches, int [n]."""

    @property
    def pitches(self) -> np.ndarray: ...


class SplitPiece(HasMelody, Protocol):
    """Piece as `split_pieces` needs it."""

    @property
    def name(self) -> str: ...

    @property
    def group(self) -> str: ...

    @property
    def is_original(self) -> bool: ...

    @property
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Split:
    """Indices of training and validation pieces.

    Attributes:
        train: pieces to train on, copies included, ascending.
        val: originals to validate on, ascending.
        dropped: copies of held-out songs, which neither side uses.
        clusters: number of each piece's cluster.
        notes: remarks for the user.
    """

    train: list[int]
    val: list[int]
    dropped: list[int]
    clusters: list[int]
    notes: list[str]


def interval_grams(pitches: np.ndarray) -> np.ndarray:
    """Hash all runs of 8 intervals: sorted, distinct, int64, invariant to transposition.

    A tune of fewer than nine notes has one hash of all its intervals.
    """
    melody = np.asarray(pitches, np.int64)
    intervals = melody[1:] - melody[:-1]
    size = min(GRAM_INTERVALS, len(intervals))
    if size == 0:
        return np.zeros(0, np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(intervals, size)
    # Wrapping polynomial hash with an odd multiplier; adding the size separates short tunes from runs of long ones.
    powers = np.array([pow(0x9E3779B97F4A7C15, k + 1, 2**63) for k in range(size)], np.int64)
    hashes: np.ndarray = np.unique((windows + 1000) @ powers + size)
    return hashes


class _DisjointSets:
    """Disjoint sets with union-find."""

    def __init__(self, size: int) -> None:
        self.parent = list(range(size))

    def find(self, item: int) -> int:
        while self.parent[item] != item:
            self.parent[item] = self.parent[self.parent[item]]
            item = self.parent[item]
        return item

    def join(self, one: int, other: int) -> None:
        a, b = self.find(one), self.find(other)
        self.parent[max(a, b)] = min(a, b)


def near_duplicates(
    pieces: Sequence[HasMelody | np.ndarray],
    against: Sequence[HasMelody | np.ndarray] | None = None,
    threshold: float = 0.3,
) -> list[tuple[int, int]]:
    """Find pairs of near-duplicate tunes in any key.

    Two tunes are near duplicates if they share more than `threshold` of their distinct 8-interval runs. The share is
    taken of the tune with fewer runs. Five thousand tunes take about a second.

    Args:
        pieces: objects with `pitches`, or arrays of MIDI pitches in the order of the melody.
        against: tunes to compare with, instead of one another.
        threshold: share in [0, 1).

    Returns:
        (i, j): i indexes pieces. j indexes against; without it, j indexes pieces and is larger than i. Tunes with
        identical runs are linked in a chain, each to the next, so that copies do not fill memory. For all matches of
        one tune, pass it as `pieces` with `against`.
    """
    grams = [interval_grams(_pitches_of(p)) for p in pieces]
    if against is not None:
        return _match_grams(grams, [interval_grams(_pitches_of(p)) for p in against], threshold)
    first: dict[bytes, int] = {}
    last: dict[bytes, int] = {}
    pairs = []
    for i, g in enumerate(grams):
        key = g.tobytes()
        if len(g) and key in last:
            pairs.append((last[key], i))
        first.setdefault(key, i)
        last[key] = i
    distinct = sorted(first.values())
    found = _match_grams([grams[i] for i in distinct], [grams[i] for i in distinct], threshold)
    pairs += [(distinct[i], distinct[j]) for i, j in found if i < j]
    return sorted(pairs)


def _pitches_of(piece: HasMelody | np.ndarray) -> np.ndarray:
    return piece if isinstance(piece, np.ndarray) else piece.pitches


def _match_grams(grams: list[np.ndarray], others: list[np.ndarray], threshold: float) -> list[tuple[int, int]]:
    """Find pairs (i, j) of hash arrays that share more than `threshold` of the smaller one."""
    sizes = np.array([len(g) for g in others], np.int64)
    if not sizes.sum():
        return []
    owner = np.repeat(np.arange(len(others)), sizes)
    values = np.concatenate(others)
    order = np.argsort(values, kind="stable")
    owner, values = owner[order], values[order]
    pairs = []
    for i, mine in enumerate(grams):
        low, high = np.searchsorted(values, mine, "left"), np.searchsorted(values, mine, "right")
        hits = [owner[a:b] for a, b in zip(low, high, strict=True) if b > a]
        if not hits:
            continue
        shared = np.bincount(np.concatenate(hits), minlength=len(others))
        near = np.flatnonzero(shared > threshold * np.maximum(1, np.minimum(sizes, len(mine))))
        pairs += [(i, int(j)) for j in near]
    return pairs


def cluster_pieces(pieces: Sequence[SplitPiece], threshold: float = 0.3) -> list[int]:
    """Number the cluster of each piece; copies of one song and near duplicates share a cluster.

    Pieces without a melody, which have drums alone, are near duplicates only where they are equal.
    """
    sets = _DisjointSets(len(pieces))
    first: dict[tuple[bool, str], int] = {}
    for i, piece in enumerate(pieces):
        sets.join(first.setdefault((True, piece.group), i), i)
        if not len(piece.pitches):
            sets.join(first.setdefault((False, piece.fingerprint), i), i)
    for i, j in near_duplicates(pieces, threshold=threshold):
        sets.join(i, j)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(sets.find(i), len(numbers)) for i in range(len(pieces))]


def too_few(songs: int) -> DataError:
    """Build the error for a folder that cannot be split."""
    if songs < 2:
        return DataError(
            f"{songs} song with notes: training needs at least 2 different songs, one of them to validate on; "
            "add songs, or pass --val-split 0 to train without validation"
        )
    return DataError(
        f"all {songs} songs are near duplicates of one another (over 30 % of their 8-interval runs are shared): "
        "none can be held out; add different songs, or pass --val-split 0 to train without validation"
    )


def split_pieces(
    pieces: Sequence[SplitPiece], val_fraction: float, seed: int, fold: tuple[int, int] | None = None
) -> Split:
    """Hold out about val_fraction of the songs, in whole clusters.

    Copies by augment follow their song. Of a held-out song the original is scored, and no copy is trained on. The
    choice depends on the seed and on the songs' names, not on their order.

    Args:
        pieces: pieces of one data folder.
        val_fraction: share of songs to hold out, in [0, 1); above 0, at least one song is held out.
        seed: random seed.
        fold: hold out this fold, (number from 1, number of folds), in place of val_fraction.

    Raises:
        ConfigError: val_fraction is outside [0, 1).
        DataError: fewer than two clusters, fewer than folds, or no cluster with an original.
    """
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"--val-split is {val_fraction}; it must lie in [0, 1)")
    if val_fraction == 0 and fold is None:
        return Split(list(range(len(pieces))), [], [], cluster_pieces(pieces) if pieces else [], [])
    number = cluster_pieces(pieces)
    songs: dict[int, set[str]] = {}
    for piece, c in zip(pieces, number, strict=True):
        songs.setdefault(c, set()).add(piece.group)
    total = sum(len(s) for s in songs.values())
    if len(songs) < 2:
        raise too_few(total)
    scorable = {c for piece, c in zip(pieces, number, strict=True) if piece.is_original}
    if fold is None:
        held = _choose_clusters(songs, scorable, max(1, round(val_fraction * total)), seed)
    else:
        named = {min(songs[c]): c for c in scorable}
        chosen = hold_out_fold({name: len(songs[c]) for name, c in named.items()}, fold, seed)
        held = {named[name] for name in chosen}
    inside = [c in held for c in number]
    originals = [p.is_original for p in pieces]
    notes = []
    if joined := [len(s) for s in songs.values() if len(s) > 1]:
        clusters = "one cluster" if len(joined) == 1 else f"{len(joined)} clusters"
        notes.append(f"{sum(joined)} songs are near duplicates of another and stay together in {clusters}")
    return Split(
        train=[i for i, v in enumerate(inside) if not v],
        val=[i for i, v in enumerate(inside) if v and originals[i]],
        dropped=[i for i, v in enumerate(inside) if v and not originals[i]],
        clusters=number,
        notes=notes,
    )


def _choose_clusters(songs: dict[int, set[str]], scorable: set[int], wanted: int, seed: int) -> set[int]:
    """Choose clusters to hold out in random order, each that fits the wanted count; at least one, never all."""
    by_name = sorted(songs, key=lambda c: min(songs[c]))
    able = [c for c in by_name if c in scorable]
    if not able:
        raise DataError("no original song was found, only augmented copies; add the originals to the data folder")
    order = [able[i] for i in np.random.default_rng([seed, len(able)]).permutation(len(able))]
    held: set[int] = set()
    count = 0
    for c in order:
        if count + len(songs[c]) <= wanted and len(held) + 1 < len(songs):
            held.add(c)
            count += len(songs[c])
    return held or {min(order, key=lambda c: len(songs[c]))}
