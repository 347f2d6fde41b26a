"""Shell completion of values that are plain text for the commands: folders, models, presets, named choices."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from musiclora.bundled import BUNDLED_MODELS
from musiclora.training.schedule import SCHEDULES

_PRESETS = Path(__file__).parents[1] / "training" / "presets"

# Copies, because the modules that own these names import numpy; tests compare the two.
PRETRAIN_SIZES = ("tiny", "small", "medium")
WEIGHINGS = ("tokens", "songs")
_FILES = frozenset({"style", "lyrics", "vae", "source"})


class CompletedText(click.types.StringParamType):
    """Text type with shell completion: names with their descriptions, then paths of a kind ("dir", "file" or "")."""

    def __init__(self, names: Mapping[str, str], path_kind: str = "") -> None:
        self.names = names
        self.path_kind = path_kind

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """List the names that begin with the incomplete word, and a request to the shell for paths."""
        # bash drops the words before a request for paths, so that the request comes first
        paths = [CompletionItem(incomplete, type=self.path_kind)] if self.path_kind else []
        return paths + [CompletionItem(n, help=h) for n, h in self.names.items() if n.startswith(incomplete)]


def add_completion(command: click.Command) -> click.Command:
    """Give the text parameters of a command and of its subcommands a type that completes."""
    for param in command.params:
        if type(param.type) is click.types.StringParamType and (found := _completed_type(command.name, param.name)):
            param.type = found
    for child in command.commands.values() if isinstance(command, click.Group) else ():
        add_completion(child)
    return command


def _completed_type(command: str | None, name: str | None) -> CompletedText | None:
    if name is None:
        return None
    if name == "preset":
        return CompletedText(dict.fromkeys(PRETRAIN_SIZES, "") if command == "pretrain" else _describe_presets())
    if name in (choices := {"weigh": WEIGHINGS, "lr_schedule": SCHEDULES}):
        return CompletedText(dict.fromkeys(choices[name], ""))
    if name in ("model", "base"):
        return CompletedText(dict.fromkeys(BUNDLED_MODELS, ""), "dir")
    if name == "tokenizer":
        names = ("own", "band", "arrival") if command == "pretrain" else ("arrival",)
        return CompletedText(dict.fromkeys(names, ""), "file")
    if name == "adapters" or name.endswith("_dir"):
        return CompletedText({}, "dir")
    return CompletedText({}, "file") if name in _FILES else None


def _describe_presets() -> dict[str, str]:
    """Read the presets here: musiclora.training.config imports numpy, a quarter of a second at each Tab."""
    paths = sorted(_PRESETS.glob("*.toml"))
    return {path.stem: str(tomllib.loads(path.read_text(encoding="utf-8"))["description"]) for path in paths}
