"""Time the copy meter: indexing 1,000 training songs, and measuring one piece of 1,000 notes against them.

Usage: python tests/benchmarks/copy_meter.py
With --enumerate it tries all n-grams of small intervals against the hashed index of 20 songs instead, as someone could
who wants to know what an adapter's copy index holds.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from copy_songs import Excerpt, insert_span, read_corpus

from musiclora.evaluation.copies.grams import GRAM_NOTES, hash_keys
from musiclora.evaluation.copies.hashed import hash_songs
from musiclora.evaluation.copies.index import CopyIndex
from musiclora.evaluation.copies.measure import measure_piece
from musiclora.evaluation.copies.meter import CopyMeter
from musiclora.evaluation.copies.notes import NoteList

SONGS, NOTES = 1000, 1000
LARGEST_STEP = 7  # semitones, for --enumerate
KINDS = (("ryan", 4.0), ("oneill", 4.0), ("ryan", 2.0), ("han", 2.0), ("aird", 4.0), ("oneill", 3.0))


def long_piece(tunes: list[Excerpt], song: Excerpt) -> NoteList:
    """Join unseen tunes and two bars of a training song into a piece of NOTES notes."""
    tunes = [insert_span(tunes[0], song, 2, "plain", np.random.default_rng(0)), *tunes[1:]]
    rows, start = [], 0.0
    for tune in tunes:
        moved = tune.rows.copy()
        moved[:, 0] += start
        rows.append(moved)
        start += tune.bars * tune.bar
    joined = np.concatenate(rows)[:NOTES]
    return Excerpt("piece", joined, tunes[0].bar, int(start / tunes[0].bar)).note_list()


def timed(action, repeats: int) -> tuple[float, float]:
    """Return median wall time and median CPU time in seconds."""
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return float(np.median(walls)), float(np.median(cpus))


def enumerate_grams(songs: list[NoteList]) -> None:
    """Print how many n-grams of songs are found by hashing all that have steps of LARGEST_STEP semitones at most."""
    begin = time.process_time()
    hashes = np.unique(hash_songs(songs).hashes)
    steps = np.arange(-LARGEST_STEP, LARGEST_STEP + 1) + 31  # as gram_keys writes them
    tails = np.zeros(1, np.uint64)
    for place in range(1, GRAM_NOTES - 1):
        tails = (tails[:, None] | (steps.astype(np.uint64) << np.uint64(6 * place))).reshape(-1)
    rhythms = np.arange(3).astype(np.uint64)
    ratios = np.zeros(1, np.uint64)
    for place in range(GRAM_NOTES - 2):
        ratios = (ratios[:, None] | (rhythms << np.uint64(30 + 2 * place))).reshape(-1)
    hits, tried = [], 0
    for step in steps.astype(np.uint64):
        for ratio in ratios:
            found = hash_keys(tails | step | ratio)
            tried += len(found)
            hits.append(found[hashes[np.minimum(np.searchsorted(hashes, found), len(hashes) - 1)] == found])
    every = np.concatenate(hits)
    known = np.unique(every)
    print(
        f"{tried} n-grams tried in {time.process_time() - begin:.0f} s of CPU: {len(known)} of {len(hashes)} hashes of "
        f"{len(songs)} songs have one, {len(every) - len(known)} of these more than one"
    )


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--enumerate", action="store_true")
    options = parser.parse_args()
    repeats, first = options.repeats, read_corpus(*KINDS[0])
    unseen, songs = first[:16], first[16:]
    if options.enumerate:
        enumerate_grams([song.note_list() for song in songs[:20]])
        return
    for kind in KINDS[1:]:
        if len(songs) < SONGS:
            songs += read_corpus(*kind)
    if len(songs) < SONGS:
        raise SystemExit(f"{len(songs)} songs in the music21 wheel; {SONGS} are needed")
    train = [song.note_list() for song in songs[:SONGS]]
    piece = long_piece(unseen, songs[0])
    index, hashed = CopyIndex(train), hash_songs(train)
    cases = {
        f"indexing {len(train)} songs of {sum(map(len, train))} notes": lambda: CopyIndex(train),
        "the same with the scale of unseen songs": lambda: CopyMeter.from_songs(train),
        f"one piece of {len(piece)} notes": lambda: measure_piece(piece, index),
        "the same by the hashed n-grams": lambda: hashed.measure(piece),
    }
    for name, action in cases.items():
        wall, cpu = timed(action, repeats)
        print(f"{name}: {wall:.3f} s ({cpu:.3f} s of CPU)")


if __name__ == "__main__":
    main()
