"""Measure the bundled audio model for its card: `python measure.py DATA CODEC [--model FOLDER] [--clips 32]`.

Prints JSON: the codec's reconstruction distance; the held-out loss of the transformer and the linear baseline; and the
distance of stretches of 1.5 seconds to the nearest stretch of the training data, for generated and for held-out music.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from common import read_folder, say
from train_base import encoded
from train_codec import distance

from musiclora.audio.diffrhythm.conditions import DiffRhythmConditions, DiffRhythmForm
from musiclora.audio.diffrhythm.sampling import FlowRequest, sample_latents
from musiclora.audio.loss_baseline import baseline_loss
from musiclora.audio.windows import Recording, fixed_batches
from musiclora.backends.base import FAMILIES
from musiclora.backends.registry import get_backend
from musiclora.evaluation.scores import total_loss
from musiclora.models import find_model

STRETCH = 32  # frames, 1.5 seconds


def stretches(latents: np.ndarray, hop: int) -> np.ndarray:
    """Runs of 32 frames every `hop` frames, [N, 32 C]."""
    starts = range(0, len(latents) - STRETCH + 1, hop)
    return np.stack([latents[i : i + STRETCH].reshape(-1) for i in starts])


def nearest(pieces: list[np.ndarray], trained: list[np.ndarray]) -> np.ndarray:
    """Root mean square distance from each stretch of the pieces to the nearest one that was trained on."""
    asked = np.concatenate([stretches(piece, STRETCH) for piece in pieces])
    best = np.full(len(asked), np.inf)
    for latents in trained:
        known = stretches(latents, 1)
        for part in np.array_split(known, max(1, len(known) // 4000)):
            squares = (asked**2).sum(1)[:, None] - 2 * asked @ part.T + (part**2).sum(1)
            best = np.minimum(best, squares.min(1))
    found: np.ndarray = np.sqrt(np.maximum(best, 0) / asked.shape[1])
    return found


def main() -> None:
    """Measure and print."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("codec", type=Path)
    parser.add_argument("--model", default="bundled-audio")
    parser.add_argument("--clips", type=int, default=32)
    options = parser.parse_args()
    folder, backend = find_model(options.model).path, get_backend("torch")
    model, codec = backend.load(FAMILIES["audio"], folder), backend.load_codec(folder)
    held_sound = read_folder(options.data / "held")
    apart = {}
    for name, sound in held_sound.items():
        x = sound[None, :, 44100 : 44100 + 256 * codec.hop]
        made = codec.decode(codec.encode(x)[0])
        apart[name.split("/")[1]] = float(distance(torch.from_numpy(made), torch.from_numpy(np.array(x))))
    trained = encoded(options.codec, read_folder(options.data / "western", options.data / "more"))
    western = {name.split("/")[1] for name in trained}
    held = {k: codec.encode(v[None])[0][0] for k, v in held_sound.items() if k.split("/")[1] in western}
    form = DiffRhythmForm(model.max_frames, model.max_frames, model.has_duration)
    recordings = [Recording(k, k, f"{i:064d}", v) for i, (k, v) in enumerate(held.items())]
    batches = list(fixed_batches(recordings, form, 16))
    request = FlowRequest(seed=1, count=options.clips, steps=24, guidance=0.0)
    clips = sample_latents(model, request, model.max_frames, DiffRhythmConditions())
    copies = {
        name: np.quantile(nearest(pieces, list(trained.values())), [0.05, 0.5]).round(3).tolist()
        for name, pieces in (("generated", clips), ("held-out", list(held.values())))
    }
    say(
        json.dumps(
            {
                "codec_distance": {"mean": float(np.mean(list(apart.values()))), **apart},
                "held_out_loss": total_loss([model.loss(batch) for batch in batches]).mean,
                "guess": baseline_loss(batches),
                "nearest_trained_stretch_5_and_50_percent": copies,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
