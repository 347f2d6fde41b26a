"""Scores as plain values and numpy arrays, for messages between processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from symusic import Score

_SCORE_EVENTS = ("tempos", "time_signatures", "key_signatures")
_TRACK_EVENTS = ("notes", "controls", "pitch_bends", "pedals")


def pack_score(score: Score) -> dict[str, Any]:
    """Convert a score in ticks to a dictionary of numbers, strings and arrays; lyrics and markers are left out."""
    return {
        "ticks_per_quarter": score.ticks_per_quarter,
        **{name: dict(getattr(score, name).numpy()) for name in _SCORE_EVENTS},
        "tracks": [
            {
                "program": track.program,
                "is_drum": track.is_drum,
                "name": track.name,
                **{name: dict(getattr(track, name).numpy()) for name in _TRACK_EVENTS},
            }
            for track in score.tracks
        ],
    }


def unpack_score(record: dict[str, Any]) -> Score:
    """Build the score that `pack_score` converted.

    Raises:
        KeyError, TypeError, ValueError: the record has another form.
    """
    from symusic import Score, Track

    score = Score(int(record["ticks_per_quarter"]))
    for name in _SCORE_EVENTS:
        setattr(score, name, _build_events(name, record[name]))
    for entry in record["tracks"]:
        track = Track(program=int(entry["program"]), is_drum=bool(entry["is_drum"]), name=str(entry["name"]))
        for name in _TRACK_EVENTS:
            setattr(track, name, _build_events(name, entry[name]))
        score.tracks.append(track)
    return score


def _build_events(name: str, columns: dict[str, np.ndarray]) -> Any:
    import symusic

    kind = {
        "tempos": symusic.Tempo,
        "time_signatures": symusic.TimeSignature,
        "key_signatures": symusic.KeySignature,
        "notes": symusic.Note,
        "controls": symusic.ControlChange,
        "pitch_bends": symusic.PitchBend,
        "pedals": symusic.Pedal,
    }[name]
    if len({len(column) for column in columns.values()}) > 1:
        raise ValueError(f"columns of different lengths in {name}")
    return kind.from_numpy(**columns)
