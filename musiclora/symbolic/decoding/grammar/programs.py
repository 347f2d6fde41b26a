"""Programs in the grammar: a note follows a program, and drums have pitches of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from musiclora.symbolic.decoding.grammar.rules import Rules
from musiclora.symbolic.tokens.holds import DRUMS

_DRUM_TYPES = frozenset({"PitchDrum", "DrumOn", "DrumOff"})
_PITCHED_TYPES = frozenset({"Pitch", "PitchIntervalTime", "PitchIntervalChord", "NoteOn", "NoteOff"})
_NOTE_TYPES = _DRUM_TYPES | _PITCHED_TYPES
_DRUMS_TOKEN = f"Program_{DRUMS}"
_DRUMS_TYPE = "ProgramDrums"
# What is in force after a kind of token; the suffix of the kind's name.
_NOTHING, _INSTRUMENT, _DRUM_KIT = "", "/instrument", "/drums"
_Successors = Mapping[str, Mapping[str, str]]


def follow_programs(rules: Rules, tokens: Sequence[str]) -> Rules:
    """Let the rules remember whether an instrument or the drums are in force, and forbid notes before either.

    A kind from which a note may come without a new program exists three times: before the first program, and after one
    of an instrument or of the drums. Where drums have pitch tokens of their own, those follow the drums' program only.

    Args:
        rules: rules of a tokenizer that writes all tracks in one stream.
        tokens: base tokens.
    """
    if not any(token.startswith("Program_") for token in tokens):
        return rules
    apart = _DRUMS_TOKEN in tokens and any(token.partition("_")[0] in _DRUM_TYPES for token in tokens)
    forbidden = {_NOTHING: _NOTE_TYPES, _INSTRUMENT: _DRUM_TYPES, _DRUM_KIT: _PITCHED_TYPES}
    if not apart:
        forbidden = {_NOTHING: _NOTE_TYPES, _INSTRUMENT: frozenset()}
    copied = _kinds_before_notes(rules.successors)

    def name_of(kind: str, context: str) -> str:
        return kind + context if kind in copied else kind

    successors: dict[str, dict[str, str]] = {}
    for kind, following in rules.successors.items():
        for context in forbidden if kind in copied and kind != "start" else (_NOTHING,):
            found = {
                name: name_of(target, context) for name, target in following.items() if name not in forbidden[context]
            }
            if "Program" in following:
                found["Program"] = name_of(following["Program"], _INSTRUMENT)
                if apart:
                    found[_DRUMS_TYPE] = name_of(following["Program"], _DRUM_KIT)
            successors[name_of(kind, context)] = found
    _remove_dead_ends(successors)
    return dataclasses.replace(
        rules,
        successors=successors,
        types=rules.types | ({_DRUMS_TOKEN: _DRUMS_TYPE} if apart else {}),
        ends=frozenset(name_of(kind, context) for kind in rules.ends for context in forbidden),
        unprogrammed={name_of(kind, context): kind for kind in copied & successors.keys() for context in forbidden},
    )


def drop_drum_durations(rules: Rules) -> Rules:
    """Let no duration follow the drums' notes, for tokenizers that write durations for other programs only."""
    successors = {kind: dict(following) for kind, following in rules.successors.items()}
    copies: dict[str, str] = {}

    def copy(kind: str) -> str:
        """Return the name of a kind's copy after a drum, from which the note goes on without a duration."""
        if kind not in copies:
            copies[kind] = kind + "/struck"
            found: dict[str, str] = {}
            for name, target in rules.successors[kind].items():
                if name == "Duration":
                    found |= rules.successors[target]
                else:
                    found[name] = copy(target) if name in ("MicroTiming", "Velocity") else target
            successors[copies[kind]] = found
        return copies[kind]

    for kind, following in rules.successors.items():
        for name in _DRUM_TYPES & following.keys():
            successors[kind][name] = copy(following[name])
    last = {copied for kind, copied in copies.items() if "Duration" in rules.successors[kind]}
    return dataclasses.replace(rules, successors=successors, ends=rules.ends | last)


def _kinds_before_notes(successors: _Successors) -> set[str]:
    """List the kinds from which a note may come without a program in between."""
    found: set[str] = set()
    while True:
        more = {
            kind
            for kind, following in successors.items()
            if any(name in _NOTE_TYPES or (name != "Program" and to in found) for name, to in following.items())
        }
        if more == found:
            return found
        found = more


def _remove_dead_ends(successors: dict[str, dict[str, str]]) -> None:
    """Remove the ways to kinds after which nothing may come, in place."""
    while dead := {kind for kind, following in successors.items() if not following}:
        for kind in dead:
            del successors[kind]
        for kind, following in successors.items():
            successors[kind] = {name: to for name, to in following.items() if to not in dead}
