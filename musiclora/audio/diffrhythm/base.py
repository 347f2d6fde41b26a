"""DiffRhythm model folders: facts for `doctor`, and the check of a base against held-out recordings."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from musiclora.audio.base_check import doubt_text, level_advice
from musiclora.audio.latents.levels import LARGE_LATENTS
from musiclora.audio.loss_baseline import baseline_loss, latent_size
from musiclora.backends.base import Arrays, LossSum, Model
from musiclora.convert.files.json_file import read_json
from musiclora.convert.files.temporary import scratch_folder
from musiclora.convert.models.diffrhythm import read_diffrhythm
from musiclora.evaluation.scores import total_loss
from musiclora.evaluation.verdict import GUESS_SHARE, BaseCheck

_RELOAD_BYTES = 1 << 30  # largest file size of a model that is loaded a second time, with the other causal switch


def diffrhythm_facts(folder: Path) -> dict[str, Any]:
    """Collect size and codec of a DiffRhythm folder, for `doctor`."""
    c = read_diffrhythm(folder).config
    return {
        "max_frames": c.max_frames,
        "dim": c.dim,
        "depth": c.depth,
        "causal": c.causal,
        "codec": "vae" if (folder / "vae").is_dir() else None,
    }


def check_base_loss(
    name: str, folder: Path, loss: float, batches: Sequence[Arrays], load: Callable[[Path], Model]
) -> BaseCheck:
    """Compare the base's loss with a closed-form linear baseline.

    Args:
        name, folder: the base.
        loss: its loss on the batches.
        batches: of recordings.
        load: loads a model folder.

    Returns:
        Both losses, and a warning where the base is no better. The warning names the level of the recordings where
        their latents are too large, and the causal switch where its other value is better.
    """
    check = BaseCheck(loss, baseline_loss(batches))
    if check.is_known:
        return check
    text = doubt_text(name, check)
    if latent_size(batches) > LARGE_LATENTS:
        return dataclasses.replace(check, warning=f"{text}; {level_advice(batches)}")
    config = read_json(folder / "config.json")
    causal = bool(config.get("causal", False))
    other = _switched_loss(folder, config, causal, batches, load)
    if other is not None and other < GUESS_SHARE * min(loss, check.guess):
        text = (
            f"{text}, but with the causal switch {'off' if causal else 'on'} its loss is {other:.3f}: convert it again "
            f"{'without' if causal else 'with'} --causal (weights of the v1.0 line are causal, those of v1.2 are not)"
        )
    else:
        text += f": it may be another base, its latents another codec's, or its causal switch ({causal}) wrong"
    return dataclasses.replace(check, warning=text)


def _switched_loss(
    folder: Path, config: dict[str, Any], causal: bool, batches: Sequence[Arrays], load: Callable[[Path], Model]
) -> float | None:
    """Compute the loss with the other causal switch; None for models too large to load a second time."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name != "config.json"]
    if sum(path.stat().st_size for path in files) > _RELOAD_BYTES:
        return None
    with scratch_folder() as scratch:
        copy = scratch / "other"
        copy.mkdir()
        for path in files:
            shutil.copyfile(path, copy / path.name)
        (copy / "config.json").write_text(json.dumps({**config, "causal": not causal}), encoding="utf-8")
        model = load(copy)
        sums: list[LossSum] = [model.loss(batch) for batch in batches]
    return total_loss(sums).mean
