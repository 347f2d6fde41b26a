"""Form of a training: which options the page shows in front, and the command line of its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from musiclora.errors import ConfigError
from musiclora.ui.options import OptionField, choose_fields, command_arguments
from musiclora.ui.workspace import Workspace

BUNDLED_BASES = ("bundled", "bundled-band", "bundled-audio")
FRONT = ("epochs", "sample_every", "stop_when_copying", "backend")  # beside songs, base, preset and the run's name
OWN = ("data_dir", "output_dir", "model", "preset")  # the page has controls of its own for these
PLACES = ("adapter_dir", "tokenizer", "mix_dir", "style", "vae")  # options that may name a file or folder
HIDDEN = ("config_file", "list_presets", "dry_run", "restart")


def front_fields(fields: Sequence[OptionField]) -> list[OptionField]:
    """Return the options that are shown without unfolding."""
    return choose_fields(fields, FRONT)


def folded_fields(fields: Sequence[OptionField]) -> list[OptionField]:
    """Return the options that are shown when they are asked for."""
    return [field for field in fields if field.name not in (*FRONT, *OWN, *HIDDEN)]


def suggest_name(workspace: Workspace, songs: str | None) -> str:
    """Return a name for a run that no folder has yet."""
    stem = (songs or "run").rstrip("/").rpartition("/")[2] or "run"
    number = 1
    while (workspace.runs / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


def training_arguments(
    workspace: Workspace,
    songs: str | None,
    base: str | None,
    preset: str | None,
    name: str | None,
    fields: Sequence[OptionField],
    values: Mapping[str, Any],
) -> list[str]:
    """Return the words after `musiclora train` for the values of the form.

    Raises:
        ConfigError: songs or base are not chosen, the name is none, or a path leads out of the page's folder.
    """
    folder = workspace.label(workspace.inside(songs))
    if not (base or "").strip():
        raise ConfigError("choose a base first")
    run = workspace.label(workspace.new_folder(workspace.runs, name, "run"))
    words = [f"--data-dir={folder}", f"--output-dir={run}", f"--model={workspace.confine(base or '', 'base')}"]
    words += [f"--preset={preset}"] if preset else []
    places = {name: workspace.confine(str(values[name])) for name in PLACES if values.get(name)}
    return words + command_arguments(fields, {**values, **places})
