"""Parts of a score by instrument, by name of the track, or by its number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from musiclora.convert.errors import DataError, show_value
from musiclora.music.instruments import instrument_name, program_of
from musiclora.music.part_names import named_programs, normalise_name, track_number

if TYPE_CHECKING:
    from symusic import Score

_MOST_NAMED = 20


def find_parts(score: Score, wanted: Sequence[str]) -> list[int]:
    """Find the tracks that parts name.

    A part is the name of a track, `#N` or `track N` for the N-th track with notes, or an instrument as for
    `--instruments`, also by words of its General MIDI name.

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
    name, number = normalise_name(text), track_number(text)
    if by_name := [i for i in played if name and normalise_name(score.tracks[i].name) == name]:
        return by_name
    if number is not None:
        return played[number - 1 : number] if number else []
    programs = named_programs(text, {program_of(score.tracks[i]) for i in played})
    return [i for i in played if program_of(score.tracks[i]) in programs]


def _list_parts(score: Score, played: list[int]) -> str:
    """Name the parts of a score by number, instrument and name."""
    names = []
    for number, index in enumerate(played[:_MOST_NAMED], 1):
        track = score.tracks[index]
        title = f" {show_value(track.name.strip())}" if track.name.strip() else ""
        names.append(f"#{number} {instrument_name(program_of(track))}{title}")
    more = len(played) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
