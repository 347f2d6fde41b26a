"""Tokens of MidiTok's vocabularies that write one note."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from musiclora.symbolic.tokens.holds import DRUMS
from musiclora.symbolic.tokens.merge import has_all_durations
from musiclora.symbolic.tokens.protocol import NoteSpans

if TYPE_CHECKING:
    from miditok import MusicTokenizer as MidiTokTokenizer

PITCH_TYPES = ("Pitch", "PitchDrum", "PitchIntervalTime", "PitchIntervalChord")
_STARTS = (*PITCH_TYPES, "NoteOn", "DrumOn")
_DRUM_STARTS = ("PitchDrum", "DrumOn")
_AFTER_PITCH = ("MicroTiming", "Velocity", "Duration")
_PIANO = 0


def parts_after_pitch(inner: MidiTokTokenizer, kind: str) -> list[str] | None:
    """List the types of the tokens that follow the pitch of a note; None where only decoding tells the notes."""
    config = inner.config
    if not has_all_durations(inner) or config.use_pitch_intervals or kind not in ("REMI", "PerTok"):
        return None
    shifted = kind == "PerTok" and config.additional_params.get("use_microtiming")
    parts = {"MicroTiming": shifted, "Velocity": config.use_velocities, "Duration": True}
    return [part for part, present in parts.items() if present]


def find_note_spans(tokens: Sequence[str], spelt: Sequence[np.ndarray]) -> NoteSpans:
    """Find the tokens of each note: a program right before its pitch, the pitch, and what describes the note after it.

    A token that ends a note (NoteOff) is not of its span, nor is a program that holds for several notes. A note whose
    last tokens are cut off counts. Where a learnt token writes several notes, their spans overlap.

    Args:
        tokens: text of each base id.
        spelt: base ids of each id, int [m] each; m is 1 but for learnt ids.
    """
    base = np.concatenate([np.zeros(0, np.int64), *spelt]).astype(np.int64)
    owner = np.repeat(np.arange(len(spelt)), [len(part) for part in spelt])
    pairs = [token.partition("_") for token in tokens]
    kinds = np.array([kind for kind, _, _ in pairs])[base]
    programs = np.array([int(value) if kind == "Program" else _PIANO for kind, _, value in pairs])[base]
    at = np.flatnonzero(np.isin(kinds, _STARTS))
    start, stop = at, at + 1
    for kind in ("MicroTiming", "Program"):  # PerTok writes a shift between program and pitch
        start = start - ((start > 0) & (kinds[start - 1] == kind))
    following = np.concatenate([kinds, [""]])
    for kind in _AFTER_PITCH:
        stop = stop + (following[stop] == kind)
    marks = np.flatnonzero(kinds == "Program")
    program = np.concatenate([[_PIANO], programs[marks]])[np.searchsorted(marks, at, side="right")]
    program[np.isin(kinds[at], _DRUM_STARTS)] = DRUMS
    return NoteSpans(owner[start], owner[stop - 1] + 1, program)
