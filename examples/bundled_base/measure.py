"""The numbers of the model card: `python measure.py MODEL DATA`, DATA as make_data.py wrote it; prints JSON.

Held-out bits a note, and how much 50 samples copy: the share of a piece's runs of 8 intervals that stand anywhere in
the training tunes, the same for the one training tune that is closest, and how many pieces share over 30 % of their
runs with one tune. Held-out tunes, which copy nothing, are the measure of what is usual in the style.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.symbolic.dataset.splits import interval_grams
from musiclora.symbolic.decoding.pieces import generate_pieces
from musiclora.symbolic.decoding.request import GenerationRequest
from musiclora.symbolic.evaluate import evaluate_songs
from musiclora.symbolic.model import open_model
from musiclora.symbolic.reading.read_folder import read_music

SAMPLES, TOKENS, COPY = 50, 500, 0.3
Owners = dict[int, list[int]]


def owners_of_runs(tunes: Sequence[np.ndarray]) -> Owners:
    """Which tunes hold each run of 8 intervals, by its hash."""
    owners: Owners = defaultdict(list)
    for number, pitches in enumerate(tunes):
        for run in interval_grams(pitches).tolist():
            owners[run].append(number)
    return owners


def overlap(pieces: Sequence[np.ndarray], owners: Owners) -> dict[str, float]:
    """Medians over pieces of the two shares, and the number of pieces that copy one tune."""
    anywhere, closest = [], []
    for pitches in pieces:
        runs = interval_grams(pitches).tolist()
        if runs:
            anywhere.append(sum(run in owners for run in runs) / len(runs))
            counts = Counter(tune for run in runs for tune in owners.get(run, ()))
            closest.append(max(counts.values(), default=0) / len(runs))
    return {
        "pieces": len(anywhere),
        "runs_found_in_training_median": round(statistics.median(anywhere), 3),
        "runs_shared_with_closest_tune_median": round(statistics.median(closest), 3),
        "runs_shared_with_closest_tune_largest": round(max(closest), 3),
        "pieces_over_30_percent": sum(share > COPY for share in closest),
    }


def melodies(folder: Path) -> list[np.ndarray]:
    """Pitches of every tune of a folder."""
    return [song.pitches for song in read_music(folder, keep_scores=False).songs]


def samples(model: str) -> list[np.ndarray]:
    """Melodies of new pieces at the default sampling settings."""
    opened = open_model(model)
    request = GenerationRequest(max_new_tokens=TOKENS, count=SAMPLES, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        for piece in generate_pieces(opened.model, opened.tokenizer, request):
            piece.save(Path(folder) / f"{piece.number:03d}.mid")
        return melodies(Path(folder))


def main(model: str, data: Path) -> dict[str, Any]:
    """All numbers of the card."""
    owners = owners_of_runs(melodies(data / "train"))
    score = evaluate_songs(data / "held-out", model).score
    return {
        "held_out_bits_per_note": round(score.bits_per_note, 3),
        "held_out_loss": round(score.loss, 4),
        "held_out_notes": score.notes,
        "samples": overlap(samples(model), owners),
        "held_out": overlap(melodies(data / "held-out"), owners),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], Path(sys.argv[2])), indent=2) + "\n")
