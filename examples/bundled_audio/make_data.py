"""Render what the bundled audio model is trained on: `python make_data.py OUT`.

Makes OUT/western, OUT/eastern, OUT/held and OUT/more.
Aird, Ryan and O'Neill from the installed music21 wheel, all in the public domain. The codec hears `western` and
`eastern`, the transformer `western` and `more`; `held` is measured on alone. No tune is in two files, and the Han songs
of the demo are in none.
"""

from __future__ import annotations

import sys
from pathlib import Path

from musiclora.demo.corpora import base_tunes, order_by_seed
from musiclora.demo.renders import EASTERN, WESTERN, read_songs, render_instruments
from musiclora.progress import Reporter

FOLDERS = {
    "western": (WESTERN, 180.0),
    "eastern": (EASTERN, 60.0),
    "held": ({**WESTERN, **EASTERN}, 20.0),
    "more": (WESTERN, 420.0),
}
TUNES, SEED = 240, 11


def main(out: Path, scale: float = 1.0) -> None:
    """Write the folders; scale shortens every recording, for a try."""
    reporter = Reporter()
    songs = read_songs(order_by_seed(base_tunes(), SEED)[: max(30, round(TUNES * scale))], reporter)
    for name, (instruments, seconds) in FOLDERS.items():
        made = render_instruments(songs, instruments, out / name, seconds * scale, reporter, f"rendering {name}")
        used = {tune for recording in made for tune in recording.tunes}
        songs = [song for song in songs if song.name not in used]
        sys.stdout.write(f"{out / name}: {len(made)} recordings of {len(used)} tunes\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(float, sys.argv[2:]))
