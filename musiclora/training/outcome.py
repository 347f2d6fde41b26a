"""Outcome of a run as an adapter's record and card state it: split, gain, copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from musiclora.evaluation.copies.samples import SampleCopies
from musiclora.evaluation.scores import Gain, count_pieces


@dataclass(frozen=True)
class RunOutcome:
    """What is known of an adapter when it is saved.

    Attributes:
        songs: numbers of training and held-out songs.
        pieces: `songs` or `recordings`.
        gain: held-out loss of the base minus the adapter's; None before the end or without held-out songs.
        copies: copy figures of samples; None before the end, and where they cannot be measured.
    """

    songs: tuple[int, int]
    pieces: str = "songs"
    gain: Gain | None = None
    copies: SampleCopies | None = None

    def record(self) -> dict[str, Any]:
        """Return the entries of musiclora.json."""
        return {
            "held_out": self.songs[1],
            **({"gain": asdict(self.gain)} if self.gain else {}),
            **({"copies": self.copies.as_json()} if self.copies else {}),
        }

    def lines(self) -> Sequence[str]:
        """Describe split, gain and copies for the card."""
        trained, held_out = self.songs
        lines = [f"split: {count_pieces(trained, self.pieces)} trained on, {held_out} held out"]
        if self.gain:
            lines.append(f"on the held-out {self.pieces}: {self.gain.describe()}")
        return [*lines, f"copying: {self.copies.line()}"] if self.copies else lines
