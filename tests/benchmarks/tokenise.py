"""Time reading and tokenising of 1,000 O'Neill tunes, as MIDI and as ABC, and of 1,000 songs of bands.

Usage: python tests/benchmarks/tokenise.py
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from symusic import Note, Score, Tempo, Track

from musiclora.demo.corpora import corpus_tunes
from musiclora.symbolic.dataset.pieces import load_pieces
from musiclora.symbolic.reading.read_folder import read_music
from musiclora.symbolic.tokens.tokenizers import load_tokenizer

_PARTS, _NOTES_A_PART = 6, 500


def write_tunes(folder: Path, count: int) -> dict[str, Path]:
    """The first tunes as one ABC file and as MIDI files."""
    texts, midi = folder / "abc", folder / "midi"
    texts.mkdir()
    midi.mkdir()
    tunes = corpus_tunes("oneill")[:count]
    (texts / "tunes.abc").write_text("\n\n".join(t.text for t in tunes) + "\n", encoding="utf-8")
    for i, song in enumerate(read_music(texts).songs):
        song.score.dump_midi(str(midi / f"{i:04d}.mid"))
    return {"midi": midi, "abc": texts}


def write_bands(folder: Path, count: int) -> Path:
    """Songs of 3,000 notes for five instruments and drums, at random."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        score = Score(480)
        score.tempos.append(Tempo(0, float(rng.integers(70, 160))))
        for part in range(_PARTS):
            track = Track(program=8 * part, is_drum=part == _PARTS - 1)
            track.notes = Note.from_numpy(
                time=np.sort(rng.integers(0, 480 * 400, _NOTES_A_PART)).astype(np.int32),
                duration=rng.integers(60, 900, _NOTES_A_PART).astype(np.int32),
                pitch=rng.integers(30, 90, _NOTES_A_PART).astype(np.int8),
                velocity=rng.integers(1, 127, _NOTES_A_PART).astype(np.int8),
            )
            score.tracks.append(track)
        score.dump_midi(str(folder / f"{number:04d}.mid"))
    return folder


def timed(folder: Path, tokenizer: str, workers: int) -> dict[str, float]:
    """Wall time, and CPU time of parent and children (what the wall time would be on one idle core)."""
    before, began = os.times(), time.perf_counter()
    pieces = load_pieces(folder, load_tokenizer(tokenizer), workers=workers).pieces
    wall, after = time.perf_counter() - began, os.times()
    return {"pieces": len(pieces), "wall_s": round(wall, 2), "cpu_s": round(sum(after[:4]) - sum(before[:4]), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tunes", type=int, default=1000)
    parser.add_argument("--band-tokenizer", action="append", default=[], help="tokenizer.json or its folder, for bands")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=("midi", "abc", "bands"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folders = write_tunes(Path(temporary), options.tunes)
        sources = {kind: (folder, ("own", "public")) for kind, folder in folders.items()}
        sources["bands"] = (write_bands(Path(temporary) / "bands", options.tunes), ("arrival", *options.band_tokenizer))
        for kind, (folder, tokenizers) in sources.items():
            if options.only and kind != options.only:
                continue
            for tokenizer in tokenizers:
                runs = [timed(folder, tokenizer, options.workers) for _ in range(options.repeats)]
                best = min(runs, key=lambda run: run["wall_s"])
                sys.stdout.write(json.dumps({"source": kind, "tokenizer": tokenizer, **best}) + "\n")


if __name__ == "__main__":
    main()
