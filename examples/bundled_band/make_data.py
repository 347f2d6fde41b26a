"""Write the arrangements that the band base is trained on: `python make_data.py TUNES OUT`.

TUNES is what examples/bundled_base/make_data.py wrote. OUT/train and OUT/held-out get one MIDI file for each tune of
TUNES/train and TUNES/held-out, OUT/alone the melodies of TUNES/held-out without a band, and OUT/target the bundled
Northumbrian tunes in the style that is not in the training set.
"""

from __future__ import annotations

import sys
import zlib
from collections import Counter
from pathlib import Path

from arrange import Mixture, arrange, in_simple_time, metre_of
from styles import TARGET_STYLE
from symusic import Score

from musiclora.bundled import BUNDLED
from musiclora.symbolic.reading.read_folder import read_music

SEED = 10
ALONE = Mixture(alone=1.0)
TARGET = Mixture(alone=0.0, small=0.0, styles=(TARGET_STYLE,))


def write_arrangements(tunes: Path, out: Path, mixture: Mixture | None = None) -> Counter[str]:
    """Arrange a folder of tunes; the others, of unusual metres, are written as they are.

    Returns:
        Counts of files, notes, parts and tunes that were left as they are.
    """
    out.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    for song in read_music(tunes).songs:
        score: Score = song.score
        if mixture is TARGET:
            score = in_simple_time(score)
        arranged = arrange(score, (SEED, zlib.crc32(song.source.stem.encode())), mixture)
        counts["as they are"] += arranged is None
        if arranged is None and mixture is not None:
            continue
        written = arranged or score
        written.dump_midi(str(out / f"{song.source.stem}.mid"))
        counts["files"] += 1
        counts["notes"] += written.note_num()
        counts["drum notes"] += sum(len(track.notes) for track in written.tracks if track.is_drum)
        counts[f"{len(written.tracks)} parts"] += 1
        counts[f"metre {metre_of(written)}"] += 1
    return counts


def main(tunes: Path, out: Path) -> None:
    """Write the four folders and say what is in them."""
    work = (
        (tunes / "train", "train", None),
        (tunes / "held-out", "held-out", None),
        (tunes / "held-out", "alone", ALONE),
        (BUNDLED / "tunes", "target", TARGET),
    )
    for folder, name, mixture in work:
        counts = write_arrangements(folder, out / name, mixture)
        sys.stdout.write(f"{out / name}: {', '.join(f'{n} {what}' for what, n in sorted(counts.items()))}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
