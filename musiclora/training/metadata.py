"""Records of a run: config.toml with its settings, training_meta.json with what it achieved."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musiclora import __version__
from musiclora.convert.files.atomic import atomic_write, write_json
from musiclora.evaluation.copy_figures import CopyFigures
from musiclora.evaluation.verdict import BaseCheck
from musiclora.training.config import TrainConfig
from musiclora.training.further_losses import FurtherLoss, further_entries
from musiclora.training.plan import TrainingPlan
from musiclora.training.run_folder import CONFIG, META, RunProgress
from musiclora.training.task import Scores

_FROM_CONFIG = ("weight_decay", "lr_schedule", "val_split", "seed", "trainable", "max_grad_norm", "weigh")


@dataclass(frozen=True)
class RunFacts:
    """Facts of a run that its options and its plan do not hold.

    Attributes:
        backend: `mlx` or `torch`.
        dtype: of the base.
        row_length: longest row in units.
        songs: numbers of training and held-out songs.
        data_hash: of all songs and of the split.
        extra: the family's own entries.
        base_check: loss of the base before training next to a guess's; None where it was not scored.
        parameters: numbers of trained and of all parameters.
    """

    backend: str
    dtype: str
    row_length: int
    songs: tuple[int, int]
    data_hash: str
    extra: Mapping[str, Any]
    base_check: BaseCheck | None = None
    parameters: tuple[int, int] = (0, 0)


def write_config(folder: Path, config: TrainConfig, plan: TrainingPlan) -> None:
    """Write config.toml: the options, with the planned value where none was given."""
    import tomli_w

    resolved = dataclasses.replace(
        config,
        batch_size=plan.batch_size,
        grad_accum_steps=plan.accumulate,
        epochs=plan.epochs,
        warmup_steps=plan.warmup,
    ).as_toml()
    atomic_write(folder / CONFIG, tomli_w.dumps({"train": resolved}))


def write_metadata(
    folder: Path,
    config: TrainConfig,
    plan: TrainingPlan,
    progress: RunProgress,
    facts: RunFacts,
    scores: Scores | None = None,
    update: Mapping[str, float] | None = None,
    further: Mapping[str, FurtherLoss] | None = None,
    copies: CopyFigures | None = None,
) -> None:
    """Write training_meta.json.

    Args:
        folder: the run folder.
        config: the options.
        plan: values of the options that were not given.
        progress: how far the run is.
        facts: what else is known of the run.
        scores: held-out scores of the base and of the best arrays, None before the end or without held-out songs.
        update: ||dW|| / ||W|| by module.
        further: held-out losses under other conditions, by key of metrics.jsonl; None before the end.
        copies: copy figures of samples of the adapter that is kept; None before the end.
    """
    spec = config.lora()
    content = {
        "musiclora": __version__,
        "base_model": config.model,
        "family": config.family,
        "max_seq_len": facts.row_length,
        "backend": facts.backend,
        "dtype": facts.dtype,
        "songs": facts.songs[0],
        "songs_held_out": facts.songs[1],
        "data": facts.data_hash,
        **facts.extra,
        "epochs": plan.epochs,
        "batch_size": plan.batch_size,
        "grad_accum_steps": plan.accumulate,
        "lr": config.lr if config.lr is not None else config.training_defaults.learning_rate,
        "warmup_steps": plan.warmup,
        "lora_r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": spec.dropout,
        "target_modules": list(spec.targets),
        "use_dora": spec.dora,
        "use_rslora": spec.rslora,
        "lora_plus_ratio": config.lora_plus_ratio or 1.0,
        "adapter_dir": config.adapter_dir,
        "trained_parameters": facts.parameters[0],
        "trained_share": round(facts.parameters[0] / max(facts.parameters[1], 1), 8),
        "base_check": dataclasses.asdict(facts.base_check) if facts.base_check else None,
        **{name: getattr(config, name) for name in _FROM_CONFIG},
        "steps": progress.step,
        "seconds": round(progress.seconds, 1),
        "ended": progress.ended,
        "base_val_loss": progress.base,
        "best_val_loss": progress.best,
        "best_step": progress.best_step,
        **further_entries(further or {}),
        "before": dataclasses.asdict(scores.before) if scores else None,
        "after": dataclasses.asdict(scores.after) if scores else None,
        "copies": copies.as_json() if copies else None,
        "update_size": {name: round(ratio, 6) for name, ratio in (update or {}).items()},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) if progress.ended else None,
    }
    write_json(folder / META, content)
