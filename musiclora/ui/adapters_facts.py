"""Facts of adapters on disk for the page: what they were trained on, gain, copies, card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musiclora.convert.errors import ConvertError
from musiclora.convert.files.fingerprint import RECORD
from musiclora.convert.files.json_file import read_optional_json
from musiclora.evaluation.scores import count_pieces
from musiclora.reporting.model_card import card_body
from musiclora.ui.workspace import Workspace

HEADINGS = ("adapter", "base", "family", "rank", "songs", "gain", "copies")
_MOST_CARD_BYTES = 200_000
_UNKNOWN = "not recorded"


@dataclass(frozen=True)
class AdapterFacts:
    """Facts of one adapter in words; what is not recorded is `not recorded`.

    Attributes:
        label: its folder.
        base: name of its base.
        family: `symbolic` or `audio`.
        rank: rank of its matrices.
        songs: number of songs that it was trained on, and that were held out.
        gain: gain over the base on the held-out songs, with its 95 % interval.
        copies: number of samples that copy a training song.
    """

    label: str
    base: str
    family: str
    rank: str
    songs: str
    gain: str
    copies: str

    @property
    def row(self) -> list[str]:
        """The facts in the order of HEADINGS."""
        return [self.label, self.base, self.family, self.rank, self.songs, self.gain, self.copies]


def adapter_table(workspace: Workspace) -> list[list[str]]:
    """Return a row of facts for each adapter of the workspace, the latest first."""
    return [read_facts(workspace, label).row for label in workspace.adapter_folders()]


def read_facts(workspace: Workspace, label: str) -> AdapterFacts:
    """Read the facts of an adapter; a damaged file counts as one that records nothing.

    Raises:
        ConfigError: the folder is not in the workspace.
    """
    folder = workspace.inside(label, "adapter")
    record, config = _read(folder / RECORD), _read(folder / "adapter_config.json")
    base = record.get("base_model") or config.get("base_model_name_or_path") or "a local folder"
    return AdapterFacts(
        label,
        _short_base(workspace, str(base)),
        str(record.get("family") or _UNKNOWN),
        str(config.get("r", _UNKNOWN)),
        _songs(record),
        _gain(record.get("gain")),
        _copies(record.get("copies")),
    )


def read_card(workspace: Workspace, label: str) -> str:
    """Return the text of an adapter's card as Markdown that loads nothing from elsewhere.

    Pictures become links, and HTML is shown as text: both would make the browser ask other hosts.

    Raises:
        ConfigError: the folder is not in the workspace.
    """
    path = workspace.inside(label, "adapter") / "README.md"
    try:
        text = path.read_bytes()[:_MOST_CARD_BYTES].decode(errors="replace")
    except OSError:
        return "This adapter has no card."
    return re.sub(r"!(?=\[)", "", card_body(text).replace("<", "&lt;"))


def _read(path: Path) -> Mapping[str, Any]:
    with suppress(ConvertError):
        return read_optional_json(path)
    return {}


def _short_base(workspace: Workspace, base: str) -> str:
    return workspace.label(Path(base)) if Path(base).is_absolute() else base


def _songs(record: Mapping[str, Any]) -> str:
    songs, held_out = record.get("songs"), record.get("held_out")
    if not isinstance(songs, int):
        trained = record.get("trained_on")
        return f"{len(trained)}" if isinstance(trained, list) else _UNKNOWN
    return f"{songs:,} + {held_out:,} held out" if isinstance(held_out, int) else f"{songs:,}"


def _gain(found: Any) -> str:
    """Format a gain with its interval: `0.250 bits a note (0.180 to 0.320)`."""
    if not isinstance(found, dict):
        return _UNKNOWN
    mean, low, high, songs = (found.get(name) for name in ("mean", "low", "high", "songs"))
    if not isinstance(mean, int | float):
        return _UNKNOWN
    unit = str(found.get("unit", "bits a note"))
    text = f"{mean:.3f} {'lower loss' if unit == 'loss' else unit}"
    if isinstance(low, int | float) and isinstance(high, int | float):
        return f"{text} ({low:.3f} to {high:.3f})"
    return f"{text} ({count_pieces(songs)}, too few for an interval)" if isinstance(songs, int) else text


def _copies(found: Any) -> str:
    if not isinstance(found, dict) or not _are_counts([found.get("copied"), found.get("samples")]):
        return _UNKNOWN
    return f"{found['copied']} of {count_pieces(found['samples'], 'samples')}"


def _are_counts(values: Sequence[Any]) -> bool:
    return all(type(value) is int for value in values)
