"""The numbers of the band base's card: `python measure.py MODEL TUNES ARRANGEMENTS [BACKEND]`; prints JSON.

TUNES is what examples/bundled_base/make_data.py wrote, ARRANGEMENTS what make_data.py here wrote of it. Bits a note of
the held-out arrangements and of the held-out melodies alone, also by kind of token, beside those of the bundled base of
tunes; what 50 new pieces hold; and how much of the training tunes' runs of 8 intervals the part of each piece that
copies most shares, with the same for the held-out arrangements, which copy nothing.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from symusic import Score

from musiclora.symbolic.dataset.batches import song_batches
from musiclora.symbolic.dataset.pieces import load_pieces
from musiclora.symbolic.decoding.pieces import generate_pieces
from musiclora.symbolic.decoding.request import GenerationRequest
from musiclora.symbolic.model import open_model

SAMPLES, TOKENS = 50, 1000
# Kinds of tokens that a base of tunes has too: what is left of the bits without instruments, loudness and tempo.
TUNE_KINDS = ("Bar", "TimeSig", "Position", "Pitch", "PitchDrum", "Duration", "EOS")


def tune_measures() -> ModuleType:
    """The measurements of the base of tunes, whose script has the same name."""
    path = Path(__file__).parents[1] / "bundled_base" / "measure.py"
    spec = importlib.util.spec_from_file_location("measure_tunes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bits_by_kind(model: str, folder: Path, backend: str) -> dict[str, float]:
    """Bits a note of a folder of music: in all, without what tunes lack, and by kind of token."""
    opened = open_model(model, backend=backend)
    pieces = load_pieces(folder, opened.tokenizer).pieces
    kinds = np.array([token.partition("_")[0] for token in opened.tokenizer.tokens])
    bits: Counter[str] = Counter()
    for batches in song_batches(pieces, opened.tokenizer, opened.model.n_positions):
        for batch in batches:
            logits = opened.model.logits(batch)[:, :-1]
            targets, scored = batch["tokens"][:, 1:], batch["loss_mask"][:, 1:]
            top = logits.max(-1, keepdims=True)
            norm = top[..., 0] + np.log(np.exp(logits - top).sum(-1))
            losses = (norm - np.take_along_axis(logits, targets[..., None], -1)[..., 0]) / np.log(2)
            for kind in np.unique(kinds[targets[scored]]):
                bits[str(kind)] += float(losses[scored & (kinds[targets] == kind)].sum())
    notes = sum(piece.notes for piece in pieces)
    found = {kind: round(value / notes, 3) for kind, value in bits.most_common()}
    tune = sum(bits[kind] for kind in TUNE_KINDS)
    return {"all": round(bits.total() / notes, 3), "tune": round(tune / notes, 3), "notes": notes, **found}


def part_lines(score: Score) -> list[np.ndarray]:
    """The highest note of each onset of every pitched part with nine notes or more."""
    lines = []
    for track in score.tracks:
        highest: dict[int, int] = {}
        for note in () if track.is_drum else track.notes:
            highest[note.time] = max(note.pitch, highest.get(note.time, 0))
        if len(highest) > 8:
            lines.append(np.array([highest[time] for time in sorted(highest)]))
    return lines


def copying(scores: Sequence[Score], tunes: ModuleType, owners: dict[int, list[int]]) -> dict[str, float]:
    """Copy measures of the part of each piece that shares most with the one training tune that is closest."""
    closest, anywhere = [], []
    for score in scores:
        found = [tunes.overlap([line], owners) for line in part_lines(score) if len(np.unique(line)) > 4]
        if found:
            most = max(found, key=lambda one: float(one["runs_shared_with_closest_tune_largest"]))
            closest.append(float(most["runs_shared_with_closest_tune_largest"]))
            anywhere.append(float(most["runs_found_in_training_median"]))
    return {
        "pieces": len(closest),
        "runs_found_in_training_median": round(statistics.median(anywhere), 3),
        "runs_shared_with_closest_tune_median": round(statistics.median(closest), 3),
        "runs_shared_with_closest_tune_largest": round(max(closest), 3),
        "pieces_over_30_percent": sum(share > tunes.COPY for share in closest),
    }


def contents(scores: Sequence[Score]) -> dict[str, Any]:
    """What pieces hold: parts, drums, levels of loudness, metres."""
    parts = [len(score.tracks) for score in scores]
    metres = Counter(f"{score.time_signatures[0].numerator}/{score.time_signatures[0].denominator}" for score in scores)
    return {
        "parts_median": statistics.median(parts),
        "parts_most": max(parts),
        "with_drums": sum(any(track.is_drum for track in score.tracks) for score in scores),
        "alone": parts.count(1),
        "notes_median": statistics.median(score.note_num() for score in scores),
        "metres": dict(metres.most_common()),
    }


def samples(model: str, backend: str) -> list[Score]:
    """New pieces at the default sampling settings."""
    opened = open_model(model, backend=backend)
    request = GenerationRequest(max_new_tokens=TOKENS, count=SAMPLES, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        for piece in generate_pieces(opened.model, opened.tokenizer, request):
            piece.save(Path(folder) / f"{piece.number:03d}.mid")
        return [Score(str(path)) for path in sorted(Path(folder).glob("*.mid"))]


def main(model: str, tunes: Path, arrangements: Path, backend: str = "torch") -> dict[str, Any]:
    """All numbers of the card."""
    measures = tune_measures()
    owners = measures.owners_of_runs(measures.melodies(tunes / "train"))
    new = samples(model, backend)
    held_out = [Score(str(path)) for path in sorted((arrangements / "held-out").glob("*.mid"))]
    return {
        "held_out_arrangements": bits_by_kind(model, arrangements / "held-out", backend),
        "held_out_melodies": bits_by_kind(model, arrangements / "alone", backend),
        "held_out_melodies_by_the_base_of_tunes": bits_by_kind("bundled", arrangements / "alone", backend),
        "target_style": bits_by_kind(model, arrangements / "target", backend),
        "samples": {**contents(new), **copying(new, measures, owners)},
        "held_out": {**contents(held_out), **copying(held_out, measures, owners)},
    }


if __name__ == "__main__":
    model, tunes, arrangements, *rest = sys.argv[1:]
    sys.stdout.write(json.dumps(main(model, Path(tunes), Path(arrangements), *rest), indent=2) + "\n")
