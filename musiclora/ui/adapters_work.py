"""Work on adapters: blend, fuse, rename, push; nothing is replaced."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from musiclora.convert.files.folder_lock import is_locked
from musiclora.errors import ConfigError
from musiclora.training.run_folder import CONFIG, META
from musiclora.ui.options import OptionField, command_arguments
from musiclora.ui.workspace import Workspace

OWN = ("adapters", "output_dir", "dry_run", "sample")  # controls of the page's own; it sends a run's own sample
PARTS = ("adapter-best", "adapter-last")  # of a run folder


def own_fields(fields: Sequence[OptionField]) -> list[OptionField]:
    """Return the options of a command that have a control built from them."""
    return [field for field in fields if field.name not in OWN]


def blend_arguments(
    workspace: Workspace,
    fields: Sequence[OptionField],
    adapters: Sequence[tuple[str, float]],
    name: str | None,
    values: Mapping[str, Any],
) -> list[str]:
    """Return the words after `musiclora` that blend adapters into a new one.

    Raises:
        ConfigError: fewer than two adapters, or a name that is none or taken.
    """
    if len(adapters) < 2:
        raise ConfigError("choose at least two adapters to blend")
    target = _new_name(workspace, name, "adapter")
    parts = [f"{_argument(workspace, label)}:{strength:g}" for label, strength in adapters]
    return ["blend", *command_arguments(own_fields(fields), values), *parts, f"./{workspace.label(target)}"]


def fuse_arguments(
    workspace: Workspace,
    fields: Sequence[OptionField],
    adapters: Sequence[tuple[str, float]],
    name: str | None,
    values: Mapping[str, Any],
) -> list[str]:
    """Return the words after `musiclora` that fuse adapters into their base.

    Raises:
        ConfigError: no adapter, or a name that is none or taken.
    """
    if not adapters:
        raise ConfigError("choose an adapter to fuse")
    target = _new_name(workspace, name, "model")
    words = [f"--adapter-dir={_argument(workspace, label)}:{strength:g}" for label, strength in adapters]
    words.append(f"--output-dir={workspace.label(target)}")
    return ["fuse", *words, *command_arguments(own_fields(fields), values)]


def push_arguments(
    workspace: Workspace,
    fields: Sequence[OptionField],
    label: str | None,
    repository: str | None,
    values: Mapping[str, Any],
    *,
    dry_run: bool,
) -> list[str]:
    """Return the words after `musiclora` that upload an adapter, or list what would be uploaded.

    Raises:
        ConfigError: no adapter is chosen, or the name on the Hub is none.
    """
    owner, slash, name = (repository or "").strip().partition("/")
    if not (owner and slash and name) or "/" in name or owner.startswith("-"):
        raise ConfigError("give the name on the Hub as OWNER/NAME")
    folder = _argument(workspace, label or "")
    options = command_arguments(own_fields(fields), values)
    return ["push", *options, *(["--dry-run"] if dry_run else []), folder, f"{owner}/{name}"]


def renamed_folder(workspace: Workspace, label: str | None) -> Path:
    """Return the folder that a rename moves: the run's for an adapter inside a run, else the adapter's own.

    Raises:
        ConfigError: no adapter is chosen, or it is gone.
    """
    folder = workspace.inside(label, "adapter")
    run = folder.parent
    return run if folder.name in PARTS and (run / META).is_file() and (run / CONFIG).is_file() else folder


def rename_adapter(workspace: Workspace, label: str | None, name: str | None) -> str:
    """Rename an adapter's folder, or the run that it belongs to; return the adapter's new label.

    Raises:
        ConfigError: a process trains there, or the new name is none or taken.
    """
    adapter, folder = workspace.inside(label, "adapter"), renamed_folder(workspace, label)
    if folder == workspace.root.resolve():
        raise ConfigError(f"{label}: is the page's own folder, which cannot be renamed here")
    if any(is_locked(place) for place in (folder, adapter.parent)):
        raise ConfigError(f"{workspace.label(folder)}: a process trains there; stop it first")
    target = workspace.new_folder(folder.parent, name, "folder")
    # `x-latents` beside a run is its cache of encoded recordings, which a resumed run looks for by its own name
    moves = [(folder, target)]
    latents = folder.with_name(f"{folder.name}-latents")
    if folder != adapter and latents.is_dir():
        moves.append((latents, target.with_name(f"{target.name}-latents")))
    for _, new in moves:
        if os.path.lexists(new):
            raise ConfigError(f"{workspace.label(new)}: exists already; choose another name")
    for old, new in moves:
        old.rename(new)
    return workspace.label(target / adapter.relative_to(folder))


def _new_name(workspace: Workspace, name: str | None, what: str) -> Path:
    target = workspace.new_folder(workspace.adapters, name, what)
    if os.path.lexists(target):
        raise ConfigError(f"{workspace.label(target)}: exists already; choose another name")
    return target


def _argument(workspace: Workspace, label: str) -> str:
    """Return an adapter's label as an argument that does not begin with a dash."""
    return f"./{workspace.label(workspace.inside(label, 'adapter'))}"


def describe_result(output: Any) -> str:
    """Format what a command printed with `--json` in one line."""
    if not isinstance(output, dict):
        return "done"
    words = [f"written: {output['path']}"] if isinstance(output.get("path"), str) else []
    if isinstance(output.get("rank"), int):
        words.append(f"rank {output['rank']}")
    if isinstance(output.get("error"), float) and output["error"]:
        words.append(f"compressed, the update changed by {100 * output['error']:.2f} %")
    if isinstance(output.get("url"), str):
        words.append(output["url"])
    notes = output.get("notes")
    return "; ".join([*words, *(map(str, notes) if isinstance(notes, list) else ())]) or "done"


def push_list(output: Any) -> str:
    """Format the files of a dry run as Markdown."""
    files = output.get("files") if isinstance(output, dict) else None
    if not isinstance(files, list):
        return ""
    return "\n".join(f"* {_file_line(file)}" for file in files)


def _file_line(file: Any) -> str:
    if not isinstance(file, dict):
        return f"`{file}`"
    name = file.get("path") or file.get("name")
    size = file.get("bytes", file.get("size"))
    return f"`{name}`, {size:,} bytes" if isinstance(size, int) else f"`{name}`"
