"""The jobs behind the commands, for programs: train, pretrain, evaluate, generate, demo."""

from __future__ import annotations

from musiclora.composing import compose as generate
from musiclora.config import TrainConfig
from musiclora.demo import demo
from musiclora.pretrain import pretrain
from musiclora.results import Reporter, TrainResult
from musiclora.scoring import evaluate
from musiclora.session import Session

__all__ = ["Reporter", "TrainResult", "demo", "evaluate", "generate", "pretrain", "train"]


def train(config: TrainConfig, reporter: Reporter | None = None, restart: bool = False) -> TrainResult:
    """Adapt a base model to a folder of music; resumes an unfinished run in the same folder."""
    return Session(config, reporter).train(restart)
