"""Result of `musiclora preprocess` for recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musiclora.audio.latents.survey import Encoded
from musiclora.evaluation.scores import count_pieces


@dataclass(frozen=True)
class LatentsResult:
    """Result of `preprocess` for recordings.

    Attributes:
        folder: the latents folder.
        backend: name of the backend that encoded.
        encoded: what was encoded.
        words: remarks on the recordings' words, for models that read them.
    """

    folder: Path
    backend: str
    encoded: Encoded
    words: Sequence[str] = ()

    def record(self) -> dict[str, Any]:
        """Build the object for `--json`."""
        e = self.encoded
        return {
            "output_dir": self.folder,
            "backend": self.backend,
            "files": e.files,
            "recordings": e.recordings,
            "seconds": e.seconds,
            "encoded": e.fresh,
            "left_out": e.left_out,
            "remarks": e.remarks,
            "words": list(self.words),
        }

    def lines(self) -> list[str]:
        """Describe the result in lines."""
        e = self.encoded
        kept = e.files - e.fresh
        segments = f" ({e.files:,} segments)" if e.files > e.recordings else ""
        found = f"{count_pieces(e.recordings, 'recordings')}{segments}, {e.seconds / 60:.1f} minutes"
        return [f"{found}, as latents in {self.folder}{f' ({kept:,} were there already)' if kept else ''}"]

    def notes(self) -> list[str]:
        """List the files left out and the remarks on recordings and words."""
        return [*self.encoded.notes(), *self.words]
