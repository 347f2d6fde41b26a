"""Options and result of `musiclora listen make`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ListeningRequest:
    """Options of `listen make`.

    Attributes:
        base_dir, adapted_dir, real_dir: folders of MIDI files or recordings; where the first two are one folder, the
            files that `generate --compare` marked are the base's.
        output: the page, a .html file; the key is written beside it.
        seconds: length of an excerpt; shorter where a piece is.
        count: excerpts of each kind; None takes up to eight.
        seed: decides pieces, places and opaque ids; None draws one.
        soundfont: .sf2 file for MIDI; None searches.
        title: heading of the page.
        overwrite: replace a page and key that exist.
    """

    base_dir: Path
    adapted_dir: Path
    real_dir: Path
    output: Path
    seconds: float = 15.0
    count: int | None = None
    seed: int | None = None
    soundfont: Path | None = None
    title: str = "Listening test"
    overwrite: bool = False

    @property
    def key(self) -> Path:
        """Path of the key file."""
        return self.output.with_suffix(".key.json")

    def folders(self) -> dict[str, Path]:
        """Return the folder of each condition."""
        return {"base": self.base_dir, "adapted": self.adapted_dir, "real": self.real_dir}


@dataclass(frozen=True)
class ListeningTest:
    """Result of `listen make`.

    Attributes:
        page, key: the files written.
        test: fingerprint of the page's contents.
        count: excerpts of each kind.
        references: excerpts of the style that are not rated.
        seconds: length of an excerpt.
        loudness: common loudness, LUFS.
        seed: of the draws.
        bytes: size of the page.
        remarks: files left out, and reasons to doubt the comparison.
    """

    page: Path
    key: Path
    test: str
    count: int
    references: int
    seconds: float
    loudness: float
    seed: int
    bytes: int
    remarks: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Return the values for --json."""
        return {**dataclasses.asdict(self), "remarks": list(self.remarks)}

    def lines(self) -> list[str]:
        """Describe the result."""
        return [
            f"wrote {self.page}: {self.count} excerpts each of base, adapted and real, {self.references} references, "
            f"{self.seconds:.1f} s at {self.loudness:.1f} LUFS, {self.bytes / 1e6:.1f} MB",
            f"wrote {self.key}: which excerpt is which; send listeners the page alone",
        ]
