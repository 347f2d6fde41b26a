"""Request and result of `musiclora evaluate --generated-dir`, for every family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class ComparisonRequest:
    """Folders to compare.

    Attributes:
        generated_dir: generated music.
        reference_dir: real music to measure the distance to.
        train_dir: music that the adapter was trained on, to measure copies of.
        baseline_dir: generated music of a baseline, such as the base model. None takes the base's versions that
            `generate --compare` wrote, if there are any.
        paired: also compare files of the same name.
        rank: also list the generated files by their distance.
        picture: PNG file to draw.
        overwrite: replace a picture that exists.
        vae: codec that encodes recordings, to compare their latents, too; for recordings only.
        backend: `auto`, `mlx` or `torch`, for the codec.
    """

    generated_dir: Path
    reference_dir: Path | None = None
    train_dir: Path | None = None
    baseline_dir: Path | None = None
    paired: bool = False
    rank: bool = False
    picture: Path | None = None
    overwrite: bool = False
    vae: Path | None = None
    backend: str = "auto"


class ComparisonPart(Protocol):
    """Result of one measure."""

    @property
    def notes(self) -> Sequence[str]:
        """Remarks for the user."""

    def as_json(self) -> dict[str, Any]:
        """Build the measure's keys of the object for `--json`."""

    def lines(self) -> list[str]:
        """Format the result as lines."""


@dataclass(frozen=True)
class FolderComparison:
    """Results of all measures of a request, in order."""

    parts: tuple[ComparisonPart, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks of all measures, each once."""
        return tuple(dict.fromkeys(note for part in self.parts for note in part.notes))

    def as_json(self) -> dict[str, Any]:
        """Build the object for `--json`: the keys of all measures, and `notes`.

        Objects of the same key, such as `real_vs_real`, are joined.
        """
        keys: dict[str, Any] = {}
        for part in self.parts:
            for name, value in part.as_json().items():
                both = isinstance(value, dict) and isinstance(keys.get(name), dict)
                keys[name] = {**keys[name], **value} if both else value
        return {**keys, "notes": list(self.notes)}

    def lines(self) -> list[str]:
        """Format the results as lines."""
        return [line for part in self.parts for line in part.lines()]
