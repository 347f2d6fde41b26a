"""Train/validation split of recordings that puts no sound on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musiclora.audio.latents.load import load_recordings
from musiclora.audio.windows import Recording
from musiclora.errors import DataError
from musiclora.evaluation.groups import group_related
from musiclora.models import BaseModel
from musiclora.progress import Reporter
from musiclora.training.config import TrainConfig
from musiclora.training.fold_summary import note_nothing_held_out
from musiclora.training.subsets import hold_out_fold, keep_share


@dataclass(frozen=True)
class Split:
    """Recordings of a run.

    Attributes:
        train, held_out: recordings, split.
        notes: remarks on the data for the user.
        codec: fingerprint of the codec that made the latents.
    """

    train: Sequence[Recording]
    held_out: Sequence[Recording]
    notes: Sequence[str]
    codec: str


def split_recordings(
    recordings: Sequence[Recording],
    val_fraction: float,
    seed: int,
    fold: tuple[int, int] | None = None,
    kept_share: tuple[float, int] | None = None,
) -> tuple[list[Recording], list[Recording], list[str]]:
    """Hold out about val_fraction of the recordings, whole ones only, or one fold of a cross-validation.

    Segments of one recording stay on one side, and so do recordings with the same sound. The choice depends on the seed
    and the names, not on the order.

    Args:
        recordings: of one data folder.
        val_fraction: share to hold out; 0 holds out none.
        seed: random seed.
        fold: hold out this fold, (number from 1, number of folds), in place of val_fraction.
        kept_share: train on this share of the rest only, chosen with this seed; None trains on all of it.

    Returns:
        Recordings to train on, held-out recordings, and notes for the user.

    Raises:
        DataError: fewer than two different recordings, or fewer than folds.
    """
    if val_fraction == 0 and fold is None:
        return list(recordings), [], []
    groups = _group_recordings(recordings)
    if len(groups) < 2:
        raise DataError(
            f"{len(groups)} different recording: training needs at least 2, one of them to validate on (pieces cut "
            "from one recording stay together); add recordings, or pass --val-split 0 to train without validation"
        )
    wanted = max(1, round(val_fraction * len(groups)))
    names = sorted(groups)
    order = np.random.default_rng([seed, len(names)]).permutation(len(names))
    chosen = {names[i] for i in order[: min(wanted, len(names) - 1)]}
    if fold is not None:
        chosen = hold_out_fold(dict.fromkeys(names, 1), fold, seed)
    rest = set(names) - chosen
    if kept_share is not None:
        rest = keep_share(sorted(rest), *kept_share)
    held, kept = ({id(r) for name in part for r in groups[name]} for part in (chosen, rest))
    train = [r for r in recordings if id(r) in kept]
    together = sum(len({r.source for r in group}) > 1 for group in groups.values())
    notes = [f"{together} groups of recordings hold the same sound and stay together"] if together else []
    return train, [r for r in recordings if id(r) in held], notes


def recording_labels(recordings: Sequence[Recording]) -> list[str]:
    """Name the recording that each segment belongs to; recordings with the same sound share a name."""
    label = {id(r): name for name, group in _group_recordings(recordings).items() for r in group}
    return [label[id(r)] for r in recordings]


def _group_recordings(recordings: Sequence[Recording]) -> dict[str, list[Recording]]:
    """Group recordings that share a source or a sound, by the first of their names."""
    sounds = [hashlib.sha256(np.ascontiguousarray(r.latents).tobytes()).hexdigest() for r in recordings]
    keys = [
        (f"source {r.source}", f"sound {r.checksum}", f"latents {sound}")
        for r, sound in zip(recordings, sounds, strict=True)
    ]
    groups = [[recordings[i] for i in group] for group in group_related(keys)]
    return {min(r.name for r in group): group for group in groups}


def load_split(config: TrainConfig, base: BaseModel, backend: str, reporter: Reporter) -> Split:
    """Encode or read the recordings of a run, and split them.

    Recordings are encoded into `<output-dir>-latents`, next to the run, where later starts find them.

    Raises:
        MusicLoraError: whatever does not fit, in one line.
    """
    output = config.main_folder  # folds share their run's latents
    cache = output.with_name(output.name + "-latents")
    found = load_recordings(Path(config.data_dir), base, config.vae, backend, cache, reporter, config.caption)
    split = (config.val_split, config.seed, config.held_fold, config.kept_share)
    train, held_out, notes = split_recordings(found.recordings, *split)
    notes += note_nothing_held_out(config, "recordings")
    return Split(train, held_out, [*found.notes, *notes], found.codec)
