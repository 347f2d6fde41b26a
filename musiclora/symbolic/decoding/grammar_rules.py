"""What may follow what in REMI, in PerTok, and in other MidiTok vocabularies: the rules that grammar.py compiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import gcd
from typing import Any

Transition = tuple[str, int]  # ("stay" | "bar" | "limit" | "to" | "by", value)
STAY: Transition = ("stay", 0)
NOTES = frozenset({"Pitch", "PitchDrum", "PitchIntervalTime", "PitchIntervalChord", "NoteOn", "DrumOn"})


@dataclass
class Rules:
    """The rules of one tokenizer.

    Attributes:
        successors: successors[what came last][token type] is the next «what came last».
        moves: how a token moves the position; a token that is not named stays.
        limits: lengths of bars, in positions.
        origin: position right after a bar line, below the first that may be chosen.
        start_limit: index of the limit that holds before any metre is given.
        ends: after these no note is half written.
        note: what cannot be promised.
        repair: puts right in decoded base tokens what the rules cannot see.
    """

    successors: dict[str, dict[str, str]]
    moves: dict[str, Transition] = field(default_factory=dict)
    limits: list[int] = field(default_factory=lambda: [1])
    origin: int = 0
    start_limit: int = 0
    ends: frozenset[str] = frozenset()
    note: str = ""
    repair: Callable[[list[str]], list[str]] = list


def rules_for(tokenizer: Any, tokens: list[str]) -> Rules:
    """Rules for a MidiTok tokenizer with these base tokens."""
    builders = {"REMI": _remi_rules, "PerTok": _pertok_rules}
    return builders.get(type(tokenizer).__name__, _generic_rules)(tokenizer, tokens)


def is_special(token: str) -> bool:
    """Whether a base token (or its type) is one of MidiTok's special tokens."""
    return token.split("_")[0] in {"PAD", "BOS", "EOS", "MASK", "UNK", "SEP", "CLS"}


def _remi_rules(tokenizer: Any, tokens: list[str]) -> Rules:
    """REMI: MidiTok's type graph, with positions that rise inside a bar and stay in it."""
    config = tokenizer.config
    if config.additional_params.get("max_bar_embedding") is not None:
        return _generic_rules(tokenizer, tokens, "REMI with numbered bars does not decode its bars (MidiTok)")
    successors = _type_graph(tokenizer)
    for kind in set(successors) - {"Bar"}:
        successors[kind].pop("TimeSig", None)  # the decoder expects a new metre at the bar line only
    successors["Bar"].pop("Bar", None) if config.use_time_signatures else successors["Bar"].update(Bar="Bar")
    if "Bar_End" in tokens:
        for following in successors.values():
            if "Bar" in following:
                following["BarEnd"] = "BarEnd"
        successors["BarEnd"] = {"Bar": "Bar"}
    if "Rest" in successors:
        # a Rest may cross bar lines without a Bar token, depending on the notes before it: see _forward
        successors["Rest"] = {k: k for k in ("Rest", "Position", "Bar")}
    successors["start"] = {"Bar": "Bar"}

    def positions(time_signature: str) -> int:
        numerator, denominator = map(int, time_signature.split("/"))
        beat = tokenizer._tpb_per_ts.get(denominator, tokenizer.time_division * 4 // denominator)
        return int(numerator * beat // max(1, tokenizer._compute_ticks_per_pos(beat)))

    moves: dict[str, Transition] = {"Bar_None": ("bar", 0)}
    metres = {t: positions(t.split("_")[1]) for t in tokens if t.startswith("TimeSig_")}
    common = positions("4/4")
    limits = sorted({common, *metres.values()})
    moves |= {token: ("limit", limits.index(length)) for token, length in metres.items()}
    moves |= {t: ("to", int(t.split("_")[1])) for t in tokens if t.startswith("Position_")}
    moves |= {t: ("bar", 0) for t in tokens if t.startswith("Rest_")}
    note = "pitch intervals may leave the range, such notes are dropped" if config.use_pitch_intervals else ""
    ends = frozenset(k for k, following in successors.items() if "Bar" in following or k == "Bar") - {"start", "BarEnd"}
    repair = partial(_forward, tokenizer) if "Rest" in successors else list
    return Rules(successors, moves, limits, -1, limits.index(common), ends, note, repair)


def _forward(tokenizer: Any, tokens: list[str]) -> list[str]:
    """Begin a new bar where a REMI Position after a Rest would go back in time.

    A Rest counts from the end of the longest note and may cross bar lines, which a finite automaton of a handy size
    cannot follow. This walks through the tokens with the decoder's own arithmetic.
    """
    out: list[str] = []
    metre: list[str] = []
    beat = tokenizer.time_division
    bar_length, bar_start, now, end, rested = 4 * beat, 0, 0, 0, False
    for token in tokens:
        kind, value = token.split("_")
        if token == "Bar_None":
            now = bar_start = bar_start + (bar_length if "Bar_None" in out else 0)
        elif kind == "TimeSig":
            numerator, denominator = map(int, value.split("/"))
            beat, metre = tokenizer._tpb_per_ts[denominator], [token]
            bar_length = numerator * beat
        elif kind == "Rest":
            now = max(end, now) + tokenizer._tpb_rests_to_ticks[beat][value]
            bar_start += (now - bar_start) // bar_length * bar_length
        elif kind == "Position":
            target = bar_start + int(value) * tokenizer._compute_ticks_per_pos(beat)
            if rested and target < now:
                out += ["Bar_None", *metre]
                bar_start, target = bar_start + bar_length, target + bar_length
            now = target
        elif kind == "Duration" and not out[-1].startswith("Pedal"):
            end = max(end, now + tokenizer._tpb_tokens_to_ticks[beat][value])
        elif kind in {"Tempo", "KeySig"}:
            end = max(end, now)
        rested = kind == "Rest"
        out.append(token)
    return out


def _pertok_rules(tokenizer: Any, tokens: list[str]) -> Rules:
    """PerTok, for which MidiTok has no graph.

    A note is Pitch [MicroTiming] [Velocity] [Duration]. The decoder sets a Bar at its number times the bar's length
    whatever the shifts before it added up to, so shifts must not reach the bar line. It ignores Rest and Chord; a metre
    that changes in mid-piece would move time backwards, so TimeSig comes first or not at all.
    """
    config = tokenizer.config
    programs = config.use_programs and config.one_token_stream_for_programs
    present = {t.split("_")[0] for t in tokens}
    pitch: dict[str, str] = {t: "Pitch" for t in ("Pitch", "PitchDrum") if t in present}
    chain: list[str] = [k for k in ("MicroTiming", "Velocity", "Duration") if k in present]
    begin = {"Program": "Program"} if programs else pitch
    shift: dict[str, str] = {t: t for t in ("TimeShift", "Position") if t in present}
    anything = begin | shift | {"Bar": "Bar"} | {t: t for t in ("Tempo",) if t in present}
    successors: dict[str, dict[str, str]] = {
        "start": anything | {t: t for t in ("TimeSig",) if t in present},
        "Bar": anything,
        "Tempo": begin | shift | {"Bar": "Bar"},
        "TimeSig": anything,
    }
    for kind in shift:
        successors[kind] = dict(begin)
    last = "Pitch"
    for kind in chain:
        successors[last] = {kind: kind}
        last = kind
    successors[last] = anything
    if programs:
        placed = {"MicroTiming": "Placed"}
        successors["Program"] = placed if "MicroTiming" in chain else pitch
        successors["Placed"] = pitch

    ticks = {
        t: _pertok_ticks(t, tokenizer.tpq) for t in tokens if t.split("_")[0] in {"TimeShift", "Position", "TimeSig"}
    }
    common = 4 * tokenizer.tpq
    unit = gcd(common, *ticks.values())
    limits = sorted({common // unit, *(n // unit for t, n in ticks.items() if t.startswith("TimeSig_"))})
    ops = {"TimeShift": "by", "Position": "to"}
    moves: dict[str, Transition] = {"Bar_None": ("bar", 0)}
    for token, n in ticks.items():
        op = ops.get(token.split("_")[0])
        moves[token] = (op, n // unit) if op else ("limit", limits.index(n // unit))
    return Rules(successors, moves, limits, 0, limits.index(common // unit), frozenset({last, "Bar", "Tempo"}))


def _pertok_ticks(token: str, tpq: int) -> int:
    """Ticks of a TimeShift, Position or TimeSig token, by PerTok's own arithmetic."""
    kind, value = token.split("_")
    if kind == "TimeSig":
        numerator, denominator = map(int, value.split("/"))
        return int(denominator / 4 * numerator * tpq)
    if kind == "Position":
        return int(value)
    beats, rest, resolution = map(int, value.split("."))
    return beats * resolution + rest


def _generic_rules(tokenizer: Any, tokens: list[str], note: str = "") -> Rules:
    """Token types only, or nothing but the special tokens where MidiTok has no graph."""
    name = type(tokenizer).__name__
    graph = _type_graph(tokenizer)
    if not graph:
        kinds = {t.split("_")[0] for t in tokens if not is_special(t)}
        graph = {kind: {k: k for k in kinds} for kind in kinds}
        note = note or f"{name} has no grammar: only special tokens are kept out"
    middle = {"Velocity", "Duration", "NoteOff", "DrumOff", "PedalOff", "MicroTiming"}
    graph["start"] = {k: k for k in graph if k not in middle}
    last = next((k for k in ("NoteOff", "Duration", "Velocity") if k in graph), None)
    ends = frozenset({last, "Bar", "TimeShift"} if last else NOTES & graph.keys())
    return Rules(graph, ends=ends, note=note or f"the grammar of {name} knows the order of token types, not times")


def _type_graph(tokenizer: Any) -> dict[str, dict[str, str]]:
    """MidiTok's graph of token types without special and control tokens."""
    kinds = {k for k in tokenizer.tokens_types_graph if not is_special(k) and not k.startswith("AC")}
    return {k: {j: j for j in tokenizer.tokens_types_graph[k] if j in kinds} for k in kinds}
