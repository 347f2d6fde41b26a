"""Names by which a user chooses parts of a song: tracks by name or number, instruments by name."""

from __future__ import annotations

import re
from collections.abc import Iterable

from musiclora.convert.errors import ConfigError
from musiclora.music.instruments import DRUMS, instrument_name, parse_instruments

_NUMBER = re.compile(r"(?:#|track) ?([0-9]{1,5})", re.ASCII)


def normalise_name(text: str) -> str:
    """Reduce a track's name for comparison: no case, one space between words."""
    return " ".join(text.split()).casefold()


def track_number(text: str) -> int | None:
    """Read `#3` or `track 3`, the third track with notes; None for any other name."""
    found = _NUMBER.fullmatch(normalise_name(text))
    return int(found[1]) if found else None


def named_programs(text: str, programs: Iterable[int]) -> set[int]:
    """Return those of some programs that a name means: by name or number, or by words of their name.

    All guitars are `guitar`. Drums are named as drums only, and steel drums are no drums.

    Args:
        text: one name or number.
        programs: programs of a song, -1 for drums.
    """
    try:
        exact = set(parse_instruments(text))
    except ConfigError:
        exact = set()
    wanted = normalise_name(text)
    by_word = bool(wanted) and DRUMS not in exact and not wanted.isdigit()
    return {program for program in programs if program in exact or (by_word and _has_words(program, wanted))}


def _has_words(program: int, wanted: str) -> bool:
    """Return True where the name of an instrument holds every word."""
    return set(wanted.split()) <= set(instrument_name(program).casefold().partition("(")[0].split())
