"""What adapters and models record of their songs for generation: notes at once, loudness, instruments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from musiclora.errors import list_names
from musiclora.music.instruments import DRUMS, MOST_INSTRUMENTS, instrument_name, program_of
from musiclora.symbolic.decoding.grammar.onset_keys import onset_record
from musiclora.symbolic.decoding.loudness import LOUDNESS_RECORD, find_loudness

if TYPE_CHECKING:
    from symusic import Score

INSTRUMENTS_RECORD = "instruments"  # key of musiclora.json
ANY_INSTRUMENTS = "any"  # value of --instruments


def programs_in(scores: Iterable[Score]) -> list[int]:
    """List the programs of scores that have notes, -1 for drums, in ascending order."""
    return sorted({program_of(track) for score in scores for track in score.tracks if len(track.notes)})


def merge_songs_records(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Build the entries of musiclora.json for the sum of some adapters.

    Args:
        records: content of their musiclora.json.
    """
    loudness = find_loudness(records)
    programs = recorded_programs(records)
    return {
        **onset_record(records),
        **({LOUDNESS_RECORD: loudness.as_json()} if loudness else {}),
        **({INSTRUMENTS_RECORD: sorted(programs)} if programs else {}),
    }


def recorded_programs(records: Sequence[Mapping[str, Any]]) -> frozenset[int]:
    """Return the programs of all songs of some adapters; empty where one of them does not say it."""
    found: set[int] = set()
    for record in records:
        programs = record.get(INSTRUMENTS_RECORD)
        if not isinstance(programs, list) or not all(type(p) is int and DRUMS <= p <= 127 for p in programs):
            return frozenset()
        found.update(programs)
    return frozenset(found)


def songs_instruments(programs: Iterable[int], given: Score | None = None) -> frozenset[int] | None:
    """Choose the instruments of a piece in the style of songs.

    Args:
        programs: those of the songs.
        given: score that the piece continues or completes, whose instruments may go on.

    Returns:
        The programs; None for any, where the songs have none or more than MIDI has channels for.
    """
    found = frozenset(programs)
    if not found or len(found - {DRUMS}) > MOST_INSTRUMENTS:
        return None
    return found | frozenset(programs_in([given])) if given is not None else found


def describe_instruments(programs: Iterable[int]) -> str:
    """Say that pieces have the instruments of the songs."""
    names = list_names([instrument_name(program) for program in sorted(programs)], 8)
    return f"instruments: those of the training songs ({names}); --instruments any draws from all"
