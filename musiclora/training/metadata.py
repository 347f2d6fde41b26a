"""training_meta.json: what a run was and what it achieved."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from musiclora import __version__
from musiclora.training.config import TrainConfig
from musiclora.training.plan import TrainingPlan
from musiclora.training.run_folder import RunProgress
from musiclora.training.task import Scores

_FROM_CONFIG = ("weight_decay", "lr_schedule", "val_split", "seed", "trainable", "max_grad_norm")


def run_meta(
    config: TrainConfig,
    plan: TrainingPlan,
    progress: RunProgress,
    facts: Mapping[str, Any],
    scores: Scores | None,
    update: Mapping[str, float],
) -> dict[str, Any]:
    """Content of training_meta.json.

    Args:
        config: the options.
        plan: what was planned where nothing was given.
        progress: how far the run is.
        facts: what the session knows: base_model, tokenizer, backend, songs and so on.
        scores: held-out scores of the base and of the best arrays, None before the end or without held-out songs.
        update: ||dW|| / ||W|| by module.
    """
    spec = config.lora()
    return {
        "musiclora": __version__,
        **facts,
        "epochs": plan.epochs,
        "batch_size": plan.batch_size,
        "grad_accum_steps": plan.accumulate,
        "lr": config.lr if config.lr is not None else config.family_record.learning_rate,
        "warmup_steps": plan.warmup,
        "lora_r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": spec.dropout,
        "target_modules": list(spec.targets),
        **{name: getattr(config, name) for name in _FROM_CONFIG},
        "steps": progress.step,
        "seconds": round(progress.seconds, 1),
        "ended": progress.ended,
        "base_val_loss": progress.base,
        "best_val_loss": progress.best,
        "best_step": progress.best_step,
        "before": dataclasses.asdict(scores.before) if scores else None,
        "after": dataclasses.asdict(scores.after) if scores else None,
        "update_size": {name: round(ratio, 6) for name, ratio in update.items()},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) if progress.ended else None,
    }
