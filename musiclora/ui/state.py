"""Record that all tabs of the page share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from musiclora.ui.options import OptionField
from musiclora.ui.workspace import Workspace


@dataclass(frozen=True)
class Page:
    """All that the tabs share.

    Attributes:
        workspace: the folder that the page works in.
        fields: options of each command by its name, such as `train`.
        cache: folder for pictures and sound of the page; it is removed when the page ends.
    """

    workspace: Workspace
    fields: Mapping[str, Sequence[OptionField]]
    cache: Path = field(default_factory=Path)
