"""The model families: which one a model folder is of, and which module does a family's part of each command."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from musiclora.backends.base import FAMILIES, Family
from musiclora.errors import ConfigError

__all__ = ["FAMILIES", "Family", "family_of", "job", "refuse_foreign"]

_MODEL_TYPES = {"gpt2": "symbolic", "diffrhythm": "audio"}

# Imported when they are asked for: a command loads the code of one family only.
_JOBS = {
    "symbolic": {
        "train": "musiclora.symbolic.task:load_symbolic_task",
        "generate": "musiclora.symbolic.generate:generate_from_options",
        "evaluate": "musiclora.symbolic.evaluate:evaluate_songs",
        "preprocess": "musiclora.symbolic.preprocess:preprocess_songs",
    },
    "audio": {
        "train": "musiclora.audio.task:load_audio_task",
        "generate": "musiclora.audio.generate:generate_from_options",
        "evaluate": "musiclora.audio.evaluate:evaluate_recordings",
        "preprocess": "musiclora.audio.preprocess:preprocess_recordings",
    },
}

# Options of commands that one family alone has, by the name of their parameter.
_OPTIONS = {
    "symbolic": (
        "tokenizer",
        "max_new_tokens",
        "temperature",
        "top_p",
        "top_k",
        "prompt",
        "prompt_bars",
        "transpose",
        "mix_dir",
        "mix_ratio",
    ),
    "audio": (
        "seconds",
        "steps",
        "guidance",
        "style",
        "negative_style",
        "init_audio",
        "repaint",
        "vae",
        "posterior",
    ),
}


def family_of(folder: Path) -> str:
    """The family of a model folder, by the model_type of its config.json.

    A folder that says nothing, or another architecture, counts as symbolic: its reader then says what is wrong.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "symbolic"
    kind = config.get("model_type") if isinstance(config, dict) else None
    return _MODEL_TYPES.get(str(kind), "symbolic")


def job(family: str, command: str) -> Any:
    """The function with a family's part of `train`, `generate`, `evaluate` or `preprocess`."""
    module, _, name = _JOBS[family][command].partition(":")
    return getattr(importlib.import_module(module), name)


def refuse_foreign(family: str, model: str, given: Mapping[str, Any]) -> None:
    """Refuse options of another family than the model's.

    Args:
        family: the model's.
        model: its name, for the message.
        given: options by parameter name; None and empty ones were not given.

    Raises:
        ConfigError: at least one option is another family's; all are named.
    """
    for other, names in _OPTIONS.items():
        foreign = [name for name in names if other != family and given.get(name) not in (None, ())]
        if foreign:
            options = ", ".join("--" + name.replace("_", "-") for name in foreign)
            raise ConfigError(f"{options}: for models of the {other} family only, and {model} is of the {family} one")
