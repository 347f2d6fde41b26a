"""The jobs behind the commands, for programs: train, pretrain, evaluate, generate, demo."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from musiclora.progress import Reporter
from musiclora.training.config import TrainConfig
from musiclora.training.result import TrainResult
from musiclora.training.session import Session

if TYPE_CHECKING:
    from musiclora.demo.symbolic import demo
    from musiclora.evaluating import evaluate
    from musiclora.generating import generate
    from musiclora.symbolic.pretrain import pretrain

__all__ = ["Reporter", "TrainResult", "demo", "evaluate", "generate", "pretrain", "train"]

# Each job loads its own half of the package when it is asked for.
_HOMES = {"demo": "demo", "evaluate": "evaluating", "generate": "generating", "pretrain": "pretrain"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"musiclora.{_HOMES[name]}"), name)


def train(config: TrainConfig, reporter: Reporter | None = None, restart: bool = False) -> TrainResult:
    """Adapt a base model to a folder of music; resumes an unfinished run in the same folder."""
    return Session(config, reporter).train(restart)
