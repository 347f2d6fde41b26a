"""Write the tunes that the bundled base is trained on: `python make_data.py OUT` makes OUT/train and OUT/held-out.

Aird, Ryan and O'Neill from the installed music21 wheel, without near-duplicates of music that is kept for tests
(Northumbrian Minstrelsy, which holds the bundled tunes, and the Han songs), without near-exact copies among themselves,
and with a fixed sixteenth of the tunes that resemble no other held out.
"""

from __future__ import annotations

import sys
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from musiclora.demo.corpora import CorpusTune, base_tunes, corpus_tunes, write_tunes
from musiclora.symbolic.dataset.splits import near_duplicates
from musiclora.symbolic.reading.read_folder import Song, read_music

KEPT_FOR_TESTS = ("northumbrian", "han")
COPY = 0.8  # share of 8-interval runs above which two tunes are the same piece in two printings
HELD_OUT = 16  # one in so many


def read(tunes: Sequence[CorpusTune]) -> tuple[list[CorpusTune], list[Song]]:
    """The tunes that can be read, each with its notes."""
    by_name = {tune.name: tune for tune in tunes}
    with tempfile.TemporaryDirectory() as folder:
        write_tunes(tunes, Path(folder))
        songs = read_music(Path(folder), keep_scores=False).songs
    return [by_name[song.source.stem] for song in songs], songs


def without_copies(songs: Sequence[Song]) -> set[int]:
    """Indices of one piece, the longest, of each set of near-exact copies."""
    kept = set(range(len(songs)))
    for i, j in near_duplicates(songs, threshold=COPY):
        if i in kept and j in kept:
            kept.discard(min(i, j, key=lambda k: (len(songs[k].pitches), -k)))
    return kept


def main(out: Path) -> None:
    """Write the two folders and say what was left out."""
    tunes, songs = read(base_tunes())
    _, kept_out = read([tune for name in KEPT_FOR_TESTS for tune in corpus_tunes(name)])
    tainted = {i for i, _ in near_duplicates(songs, against=kept_out)}
    clean = [i for i in range(len(songs)) if i not in tainted]
    tunes, songs = [tunes[i] for i in clean], [songs[i] for i in clean]
    related = {i for pair in near_duplicates(songs) for i in pair}
    held_out = {i for i, t in enumerate(tunes) if i not in related and zlib.crc32(t.name.encode()) % HELD_OUT == 0}
    kept = without_copies(songs) - held_out
    notes = [sum(songs[i].notes for i in part) for part in (kept, held_out)]
    write_tunes([tunes[i] for i in sorted(kept)], out / "train")
    write_tunes([tunes[i] for i in sorted(held_out)], out / "held-out")
    copies = len(tunes) - len(kept) - len(held_out)
    sys.stdout.write(
        f"{len(tainted)} tunes taken out as near-duplicates of music kept for tests, {copies} as near-exact copies\n"
        f"{out / 'train'}: {len(kept)} tunes, {notes[0]} notes\n"
        f"{out / 'held-out'}: {len(held_out)} tunes, {notes[1]} notes\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
