"""Parts of a score by instrument, by name of the track, or by its number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from musiclora.convert.errors import ConfigError, DataError, show_value
from musiclora.music.instruments import instrument_name, parse_instruments
from musiclora.symbolic.tokens.holds import DRUMS

if TYPE_CHECKING:
    from symusic import Score

_MOST_NAMED = 20


def program_of(track: Any) -> int:
    """Return the program of a track, -1 for drums."""
    return DRUMS if track.is_drum else int(track.program)


def find_parts(score: Score, wanted: Sequence[str]) -> list[int]:
    """Find the tracks that parts name.

    A part is the name of a track, `#N` for the N-th track with notes, or an instrument as for `--instruments`. The name
    of an instrument that no track has stands for those whose General MIDI name holds it.

    Args:
        score: score with the parts.
        wanted: the parts; none stands for all tracks with notes.

    Returns:
        indices into the score's tracks, ascending.

    Raises:
        DataError: the score has no such part; its parts are named.
    """
    played = [i for i, track in enumerate(score.tracks) if len(track.notes)]
    found: set[int] = set() if wanted else set(played)
    for text in wanted:
        own = _find_part(score, played, text.strip())
        if not own:
            raise DataError(
                f"--parts {show_value(text.strip())}: no such part; the file has {_list_parts(score, played)}"
            )
        found.update(own)
    return sorted(found)


def _find_part(score: Score, played: list[int], text: str) -> list[int]:
    """Return the tracks that one part names, by the first rule that finds any."""
    name = " ".join(text.casefold().split())
    by_name = [i for i in played if name and " ".join(score.tracks[i].name.casefold().split()) == name]
    if by_name:
        return by_name
    if text.startswith("#"):
        digits = text[1:].strip()
        number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 6 else 0
        return [played[number - 1]] if 1 <= number <= len(played) else []
    try:
        programs = parse_instruments(text)
    except ConfigError:
        programs = ()
    own = [i for i in played if program_of(score.tracks[i]) in programs]
    if own or not name or name.isdigit():
        return own
    return [i for i in played if name in instrument_name(program_of(score.tracks[i])).casefold()]


def _list_parts(score: Score, played: list[int]) -> str:
    """Name the parts of a score by number, instrument and name."""
    names = []
    for number, index in enumerate(played[:_MOST_NAMED], 1):
        track = score.tracks[index]
        title = f" {show_value(track.name.strip())}" if track.name.strip() else ""
        names.append(f"#{number} {instrument_name(program_of(track))}{title}")
    more = len(played) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
