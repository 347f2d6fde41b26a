"""New pieces: made by `musiclora generate`, and kept in folders of their own."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musiclora.convert.files.atomic import atomic_folder, write_json
from musiclora.convert.files.json_file import TEXT, list_of, object_with, read_json
from musiclora.errors import ConfigError
from musiclora.formats import BASE_MARK
from musiclora.ui.commands import CommandState, run_command
from musiclora.ui.make_form import PieceRequest, generation_arguments
from musiclora.ui.options import OptionField
from musiclora.ui.workspace import Workspace

RECORD = "made.json"
_FILE = {"name": TEXT, "kind": TEXT, "line": TEXT}
_FIELDS = {"arguments": list_of(TEXT), "files": list_of(object_with(_FILE, _FILE)), "notes": list_of(TEXT)}
_KIND = object_with(_FIELDS, _FIELDS)


@dataclass(frozen=True)
class MadeFile:
    """File of a piece.

    Attributes:
        path: absolute path.
        line: length, ending and copies in words.
    """

    path: Path
    line: str


@dataclass(frozen=True)
class Pair:
    """The same piece by the base alone and by the adapters, from one seed; one of them may be missing."""

    base: MadeFile | None = None
    adapted: MadeFile | None = None


@dataclass(frozen=True)
class Piece:
    """Result of one generation.

    Attributes:
        label: its folder.
        arguments: words after `musiclora generate` that make it again.
        pairs: one for each of `--count`.
        notes: remarks of the command.
    """

    label: str
    arguments: Sequence[str]
    pairs: Sequence[Pair]
    notes: Sequence[str] = ()


def make_piece(
    workspace: Workspace, fields: Sequence[OptionField], request: PieceRequest
) -> Generator[CommandState | Piece]:
    """Make a piece by `musiclora generate`; yield its progress, and the piece at the end.

    Its folder is new and appears whole or not at all. Closing the iterator ends the command.

    Raises:
        ConfigError: the values of the form are wrong, or the command failed; the message is its last line.
    """
    folder = free_folder(workspace.pieces, request.stem)
    final = generation_arguments(workspace, fields, request, f"{workspace.label(folder)}/{folder.name}")
    with atomic_folder(folder) as temporary:
        output = f"{workspace.label(temporary)}/{folder.name}"
        words = ["generate", *generation_arguments(workspace, fields, request, output)]
        state = CommandState()
        # closed before the folder is removed: the command may still write into it
        with closing(run_command(words, workspace.root)) as states:
            for state in states:
                if state.code is None:
                    yield state
        if state.failed:
            raise ConfigError(state.line or f"musiclora generate ended with exit code {state.code}")
        write_json(temporary / RECORD, _record(final, state.output))
    yield read_piece(workspace, workspace.label(folder))


def free_folder(parent: Path, stem: str) -> Path:
    """Return the first of STEM-1, STEM-2 ... that is not in a folder yet."""
    number = 1
    while (path := parent / f"{stem}-{number}").exists():
        number += 1
    return path


def _record(arguments: Sequence[str], output: dict[str, Any]) -> dict[str, Any]:
    files = [
        {
            "name": Path(file["path"]).name,
            "kind": file["kind"],
            "line": file["line"].removeprefix(f"{file['path']}: "),
        }
        for file in output["files"]
    ]
    return {"arguments": list(arguments), "files": files, "notes": output["notes"]}


def list_pieces(workspace: Workspace) -> list[str]:
    """List the pieces that were made on the page by label, the latest first."""
    found = [path.parent for path in workspace.pieces.glob(f"*/{RECORD}") if not path.parent.name.startswith(".")]
    found.sort(key=lambda folder: -(folder / RECORD).stat().st_mtime)
    return [workspace.label(folder) for folder in found]


def read_piece(workspace: Workspace, label: str | None) -> Piece:
    """Read a piece from its folder.

    Raises:
        ConfigError: it is not there, or its files are gone.
        ConvertError: its record is damaged.
    """
    folder = workspace.inside(label, "piece")
    record = read_json(folder / RECORD, _KIND)
    pairs: dict[str, dict[str, MadeFile]] = {}
    for file in record["files"]:
        path = folder / Path(file["name"]).name
        kind = "base" if file["kind"] == "base" else "adapted"
        if path.is_file():
            stem = path.stem.removesuffix(BASE_MARK) if kind == "base" else path.stem
            pairs.setdefault(stem, {})[kind] = MadeFile(path, file["line"])
    if not pairs:
        raise ConfigError(f"{label}: its files are gone")
    return Piece(
        workspace.label(folder), record["arguments"], [Pair(**pair) for pair in pairs.values()], record["notes"]
    )
