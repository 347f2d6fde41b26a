"""Proof of the audio copy meter: known spans of recordings inserted in others, against recordings that nobody copied.

`python tests/benchmarks/audio_copying.py --output-dir OUT` prints the tables as Markdown and writes OUT/results-*.json.
Material: tunes rendered with the demo's soundfont (`tests/benchmarks/audio_copy_clips.py`), on one instrument and on
five; with `--material orchestra` the recordings of Debian's package wesnoth-1.16-music (GPL-2+; downloaded into
OUT, see audio_real.py). Pieces last 40 s, of which 5, 10, 25 or 50 % are replaced by a span of a training recording
under one change. The meter's constants were chosen on other tunes (the part 'tuning'), never on these.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from audio_copy_clips import (
    CHANGES,
    CLIP_SECONDS,
    INSTRUMENTS,
    RATE,
    SONG_SECONDS,
    clips_without_variants,
    distinct_songs,
    insert_span,
    orchestra,
    render_recordings,
)

from musiclora.audio.model import codec_folder
from musiclora.backends.base import Codec
from musiclora.backends.registry import choose, get_backend
from musiclora.demo.renders import portions
from musiclora.evaluation.audio_copies.features import Frames, sound_frames
from musiclora.evaluation.audio_copies.meter import AudioCopyMeter, AudioCopyResult
from musiclora.models import find_model

SHARES = (0.05, 0.1, 0.25, 0.5)
SIZES = (4, 8, 16)  # training recordings, for the table of false alarms
FALSE_ALARM = 0.01
ORCHESTRA = "orchestra"


@dataclass(frozen=True)
class Cell:
    """Outcome on pieces of one kind.

    Attributes:
        material, change, share: the kind.
        pieces: number of pieces.
        found: share above the score that at most 1 % of the unseen clips exceed.
        own: share above the meter's own threshold.
        area: area under the ROC curve.
        located: of the pieces above the own threshold, the share whose best span overlaps the inserted one.
        covered: mean share of the piece that the meter calls copied.
    """

    material: str
    change: str
    share: float
    pieces: int
    found: float
    own: float
    area: float
    located: float
    covered: float


def frames(name: str, audio: np.ndarray) -> Frames:
    return sound_frames(name, audio, RATE)


def calibrated(train: Sequence[np.ndarray]) -> AudioCopyMeter:
    return AudioCopyMeter([frames(f"{i}", song) for i, song in enumerate(train)], piece_seconds=CLIP_SECONDS)


def limit_of(negatives: np.ndarray) -> float:
    """Return the least score that at most FALSE_ALARM of the negatives exceed."""
    return float(np.sort(negatives)[-1 - int(FALSE_ALARM * len(negatives))])


def overlaps(found: AudioCopyResult, start: float, share: float) -> bool:
    first, last = found.spans[0].seconds
    return first < start + share * CLIP_SECONDS and last > start


def measure_material(
    material: str, train: list[np.ndarray], clips: list[np.ndarray], pieces: int, codec: Codec
) -> tuple[list[Cell], dict[str, object]]:
    """Measure the unseen clips, then every kind of piece."""
    meter = calibrated(train)
    unseen = [meter.measure(frames("clip", clip)) for clip in clips]
    negatives = np.array([found.similarity for found in unseen])
    limit, rng, cells = limit_of(negatives), np.random.default_rng(1), []
    for change in CHANGES:
        for share in SHARES:
            results = []
            for number in range(pieces):
                host, song = clips[number % len(clips)], train[int(rng.integers(len(train)))]
                piece, start, _ = insert_span(host, song, share, change, rng, codec)
                results.append((meter.measure(frames("piece", piece)), start))
            scores = np.array([found.similarity for found, _ in results])
            hits = [overlaps(found, start, share) for found, start in results if found.copied]
            area = float(np.mean(scores[:, None] > negatives))
            covered = float(np.mean([found.share for found, _ in results]))
            own = float(np.mean(scores > meter.threshold))
            located = float(np.mean(hits)) if hits else float("nan")
            found_share = float(np.mean(scores > limit))
            cells.append(Cell(material, change, share, pieces, found_share, own, area, located, covered))
            print(cells[-1], file=sys.stderr, flush=True)
    facts: dict[str, object] = {
        "train": len(train),
        "clips": len(clips),
        "threshold": meter.threshold,
        "limit": limit,
        "false_alarms": {len(train): int((negatives > meter.threshold).sum())},
        "highest_unseen": float(negatives.max()),
    }
    alarms: dict[int, int] = facts["false_alarms"]  # type: ignore[assignment]
    for size in (size for size in SIZES if size < len(train)):
        few = calibrated(train[:size])
        alarms[size] = sum(few.measure(frames("clip", clip)).copied for clip in clips)
    return cells, facts


def measure_speed(train: Sequence[np.ndarray]) -> dict[str, float]:
    """Time 40 recordings of three minutes and a piece of three minutes, on one core, put together from others."""
    rng = np.random.default_rng(2)
    songs = [np.concatenate([train[i] for i in rng.permutation(len(train))[:9]])[: 180 * RATE] for _ in range(41)]
    started = time.perf_counter()
    found = [frames(f"{i}", song) for i, song in enumerate(songs)]
    read = time.perf_counter()
    meter = AudioCopyMeter(found[:40], piece_seconds=180)
    fitted = time.perf_counter()
    meter.measure(found[40])
    done = time.perf_counter()
    return {"features": (read - started) / 41, "calibration": fitted - read, "piece": done - fitted}


def markdown(cells: Sequence[Cell], facts: dict[str, object]) -> str:
    """Format the cells of one material, the shares of a row side by side."""
    rows = ["", f"{cells[0].material}: {facts}", "", "| change | found | own threshold | area | located | covered |"]
    rows.append("|---|---|---|---|---|---|")
    for change in dict.fromkeys(cell.change for cell in cells):
        row = [cell for cell in cells if cell.change == change]
        columns = [
            " / ".join("-" if np.isnan(value := getattr(cell, name)) else f"{100 * value:.0f}" for cell in row)
            for name in ("found", "own", "area", "located", "covered")
        ]
        rows.append(f"| {change} | {' | '.join(columns)} |")
    return "\n".join(rows)


def read_material(name: str, output_dir: Path, clips: int, train: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return training recordings and unseen clips, rendered or downloaded into a folder."""
    if name == ORCHESTRA:
        return orchestra(output_dir / "package", clips)
    songs = distinct_songs("test")
    used = sum(len(run) for run in list(portions(songs, SONG_SECONDS))[:train])
    folders = (output_dir / f"test-{name}-{part}" for part in ("train", "clips"))
    instruments = INSTRUMENTS[name]
    recordings = render_recordings(songs[:used], instruments, next(folders), SONG_SECONDS, train)
    unseen = render_recordings(songs[used:], instruments, next(folders), CLIP_SECONDS, clips)
    new = clips_without_variants(songs[:used], songs[used:], CLIP_SECONDS, clips)
    return recordings, [unseen[i] for i in new]


@click.command()
@click.option("--output-dir", type=click.Path(path_type=Path), required=True)
@click.option("--material", type=click.Choice([*INSTRUMENTS, ORCHESTRA]), multiple=True, default=list(INSTRUMENTS))
@click.option("--pieces", default=20, show_default=True, help="Pieces of each kind.")
@click.option("--clips", default=120, show_default=True, help="Unseen clips.")
@click.option("--train", default=40, show_default=True, help="Training recordings that are rendered.")
@click.option("--backend", default="torch", show_default=True, help="Runs the codec.")
def main(output_dir: Path, material: tuple[str, ...], pieces: int, clips: int, train: int, backend: str) -> None:
    """Print the tables of docs/benchmarks.md."""
    codec = get_backend(choose(backend)).load_codec(codec_folder(find_model("bundled-audio"), None))
    for name in material:
        recordings, unseen = read_material(name, output_dir, clips, train)
        cells, facts = measure_material(name, recordings, unseen, pieces, codec)
        facts["seconds"] = measure_speed(recordings)
        result = {"cells": [asdict(cell) for cell in cells], "facts": facts}
        (output_dir / f"results-{name}.json").write_text(json.dumps(result, indent=1))
        print(markdown(cells, facts), flush=True)


if __name__ == "__main__":
    main()
