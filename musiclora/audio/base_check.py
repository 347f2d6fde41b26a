"""Whether an audio base knows the recordings it is to learn: its loss against the best guess without hearing them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from musiclora.backends.base import Arrays, LossSum
from musiclora.evaluation.scores import total_loss

# A base this close to the guess, or above it, has not learnt anything about these latents.
_GUESSING = 0.95
# Loading the model a second time, with the other causal switch, is worth it up to this size of its file.
_SMALL = 1 << 30


def guess_loss(batches: Sequence[Arrays]) -> float:
    """Loss of the best velocity that is a multiple of the noisy latents, the multiple depending on the time alone.

    For independent latents of variance s it is (t s - (1 - t)) / (t^2 s + (1 - t)^2) times x_t (linear regression of
    latents - noise on x_t); a network that has learnt anything about music stays well below its loss.
    """
    squares = values = 0.0
    for batch in batches:
        squares += float(np.square(batch["latents"]).sum(dtype=np.float64))
        values += float(batch["valid"].sum()) * batch["latents"].shape[2]
    variance = squares / max(values, 1.0)
    total = weight = 0.0
    for batch in batches:
        t, latents, noise = batch["time"][:, None, None], batch["latents"], batch["noise"]
        slope = (t * variance - (1 - t)) / (t * t * variance + (1 - t) ** 2)
        error = np.square(latents - noise - slope * (t * latents + (1 - t) * noise))
        total += float((error * batch["valid"][:, :, None]).sum(dtype=np.float64))
        weight += float(batch["valid"].sum()) * latents.shape[2]
    return total / max(weight, 1.0)


def check_base_loss(
    name: str, folder: Path, loss: float, batches: Sequence[Arrays], load: Callable[[Path], Any]
) -> str | None:
    """A warning where a base does no better than the guess; it says so where the other causal switch is better.

    Args:
        name, folder: the base.
        loss: its loss on the batches.
        batches: of held-out recordings.
        load: loads a model folder.
    """
    guess = guess_loss(batches)
    if not loss >= _GUESSING * guess:
        return None
    text = f"{name} predicts these recordings no better than without hearing them (loss {loss:.3f}, guess {guess:.3f})"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    causal = bool(config.get("causal", False))
    other = _other_switch(folder, config, causal, batches, load)
    if other is not None and other < _GUESSING * min(loss, guess):
        return (
            f"{text}, but with the causal switch {'off' if causal else 'on'} its loss is {other:.3f}: convert it again "
            f"{'without' if causal else 'with'} --causal (weights of the v1.0 line are causal, those of v1.2 are not)"
        )
    return f"{text}: it may be another base, its latents another codec's, or its causal switch ({causal}) wrong"


def _other_switch(
    folder: Path, config: dict[str, Any], causal: bool, batches: Sequence[Arrays], load: Callable[[Path], Any]
) -> float | None:
    """Loss with the other causal switch; None for models too large to load a second time."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name != "config.json"]
    if sum(path.stat().st_size for path in files) > _SMALL:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "other"
        copy.mkdir()
        for path in files:
            shutil.copyfile(path, copy / path.name)
        (copy / "config.json").write_text(json.dumps({**config, "causal": not causal}), encoding="utf-8")
        model = load(copy)
        sums: list[LossSum] = [model.loss(batch) for batch in batches]
    return total_loss(sums).mean
