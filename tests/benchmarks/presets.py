"""What each preset of `train` does to held-out loss and to copying: 15 Han songs, the bundled base.

    python tests/benchmarks/presets.py --cache /tmp/presets --seeds 2

Each preset trains on 15 songs, 3 of which it holds out for early stopping, and is scored on 60 songs it never saw. Then
it writes pieces, which the copy meter compares with the 15 songs; the 60 unseen songs are the meter's scale.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from statistics import mean, stdev

from style_data import draw
from symusic import Score

from musiclora.evaluation.copies.meter import CopyMeter
from musiclora.evaluation.copies.notes import NoteList, note_list
from musiclora.jobs import evaluate, generate, train
from musiclora.symbolic.reading.read_folder import read_music
from musiclora.training.config import list_presets, resolve_config

SONGS, UNSEEN = 15, 60


def notes_of(path: Path, score: Score) -> NoteList:
    """Build the copy meter's notes of a score; the tick per quarter is its unit, bars do not count here."""
    quarter = score.ticks_per_quarter
    rows = [(n.time / quarter, n.pitch, i) for i, track in enumerate(score.tracks) for n in track.notes]
    return note_list(path.name, rows, [0.0])


def read_notes(folder: Path) -> list[NoteList]:
    return [notes_of(song.source, song.score) for song in read_music(folder, workers=1).songs]


def measure(preset: str, seed: int, cache: Path, backend: str, pieces: int) -> dict[str, float]:
    """Train one preset with one seed; the gain on unseen songs, and how the pieces match the training songs."""
    result_file = cache / f"{preset}-{seed}-{pieces}.json"
    if result_file.is_file():
        return json.loads(result_file.read_text())
    songs, unseen = draw("han", seed, cache, SONGS, UNSEEN)
    run, out = cache / f"run-{preset}-{seed}", cache / f"pieces-{preset}-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    options: dict[str, object] = {
        "data_dir": str(songs),
        "output_dir": str(run),
        "model": "bundled",
        "backend": backend,
    }
    options |= {"seed": seed, "val_split": 0.2, "num_workers": 1}
    trained = train(resolve_config(options, None if preset == "defaults" else preset))
    scored = evaluate(unseen, adapters=[str(run)], backend=backend, workers=1)
    out.mkdir()
    generate(out / "p.mid", adapters=[str(run)], backend=backend, count=pieces, seed=seed)
    meter = CopyMeter.from_songs(read_notes(songs), read_notes(unseen))
    found = [meter.measure(notes_of(path, Score(path))) for path in sorted(out.glob("*.mid"))]
    assert scored.gain is not None
    row = {
        "gain": scored.gain.mean,
        "base": scored.base.bits_per_note,
        "steps": trained.progress.step,
        "best_step": trained.progress.best_step,
        "copied": sum(f.copied for f in found) / len(found),
        "longest": mean(f.longest_match_notes for f in found),
        "share": mean(f.share for f in found),
    }
    result_file.write_text(json.dumps(row))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--pieces", type=int, default=20)
    parser.add_argument("--backend", default="torch")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    print("| preset | gain, bits a note | over the defaults | best step | copied | longest, notes | in matches |")
    print("|---|---|---|---|---|---|---|", flush=True)
    first: list[float] = []
    for preset in ("defaults", *list_presets()):
        rows = [measure(preset, s, options.cache, options.backend, options.pieces) for s in range(options.seeds)]
        gains = [row["gain"] for row in rows]
        first = first or gains
        more = "" if preset == "defaults" else spread([a - b for a, b in zip(gains, first, strict=True)])
        copied = round(sum(row["copied"] for row in rows) * options.pieces)
        print(
            f"| {preset} | {spread(gains)} | {more} | {mean(r['best_step'] for r in rows):.0f} | "
            f"{copied} of {len(rows) * options.pieces} | {mean(r['longest'] for r in rows):.1f} | "
            f"{mean(r['share'] for r in rows):.1%} |",
            flush=True,
        )


def spread(values: list[float]) -> str:
    """Format the mean and the standard deviation over the seeds."""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
