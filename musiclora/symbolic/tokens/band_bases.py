"""Bases whose tokens hold instruments and drums."""

from __future__ import annotations

from musiclora.symbolic.tokens.holds import Holds
from musiclora.symbolic.tokens.kept import Kept

BAND_BASES = ("bundled-band", "stanford-crfm/music-small-800k")


def name_band_bases(kept: Kept, holds: Holds) -> list[str]:
    """Name the bases that hold songs' drums and instruments where these tokens cannot; one line, or none."""
    several = kept.instruments > kept.songs and not holds.programs
    if not (kept.drums or kept.foreign or several):
        return []
    return [f"bases whose tokens hold instruments and drums: --model {' or '.join(BAND_BASES)}"]
