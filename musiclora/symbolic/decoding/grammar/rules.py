"""Grammar rules of REMI, PerTok and other MidiTok vocabularies, which `automaton` compiles into an automaton."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import gcd
from typing import TYPE_CHECKING

from musiclora.symbolic.decoding.grammar.rests import count_lines, open_missing_bars

if TYPE_CHECKING:
    from miditok import MusicTokenizer as MidiTokTokenizer

PositionMove = tuple[str, int]  # ("stay" | "bar" | "limit" | "to" | "by", value)
STAY: PositionMove = ("stay", 0)
NOTE_TYPES = frozenset({"Pitch", "PitchDrum", "PitchIntervalTime", "PitchIntervalChord", "NoteOn", "DrumOn"})


@dataclass
class Rules:
    """Grammar rules of one tokenizer.

    Attributes:
        successors: successors[kind][token type] is the kind that follows; a missing type may not follow.
        moves: position move of each token; a token without an entry stays.
        limits: bar lengths, in positions.
        origin: position right after a bar line, below the first that a token may choose.
        start_limit: index of the bar length before the first time signature.
        ends: kinds after which no note is half written.
        note: remark on what the grammar cannot guarantee.
        repair: correction of base tokens that the rules cannot express.
        count_lines: counts the bar lines that base tokens pass after the beginning; None where each has a Bar token.
        types: types of the tokens whose text does not begin with it.
        unprogrammed: for a kind after which a program is in force, the same kind before the first program.
    """

    successors: dict[str, dict[str, str]]
    moves: dict[str, PositionMove] = field(default_factory=dict)
    limits: list[int] = field(default_factory=lambda: [1])
    origin: int = 0
    start_limit: int = 0
    ends: frozenset[str] = frozenset()
    note: str = ""
    repair: Callable[[list[str]], list[str]] = list
    count_lines: Callable[[list[str]], int] | None = None
    types: dict[str, str] = field(default_factory=lambda: {"Bar_End": "BarEnd"})
    unprogrammed: dict[str, str] = field(default_factory=dict)


def rules_for(tokenizer: MidiTokTokenizer, tokens: list[str]) -> Rules:
    """Build the rules of a MidiTok tokenizer with these base tokens."""
    builders = {"REMI": _build_remi_rules, "PerTok": _build_pertok_rules}
    return builders.get(type(tokenizer).__name__, _build_type_rules)(tokenizer, tokens)


def is_special(token: str) -> bool:
    """Return True for MidiTok's special tokens and their types."""
    return token.split("_")[0] in {"PAD", "BOS", "EOS", "MASK", "UNK", "SEP", "CLS"}


def _build_remi_rules(tokenizer: MidiTokTokenizer, tokens: list[str]) -> Rules:
    """Build rules for REMI: MidiTok's type graph, with positions that rise inside a bar and stay in it."""
    config = tokenizer.config
    if config.additional_params.get("max_bar_embedding") is not None:
        return _build_type_rules(tokenizer, tokens, "REMI with numbered bars does not decode its bars (MidiTok)")
    successors = _read_type_graph(tokenizer)
    for kind in set(successors) - {"Bar"}:
        successors[kind].pop("TimeSig", None)  # the decoder expects a new metre at the bar line only
    successors["Bar"].pop("Bar", None) if config.use_time_signatures else successors["Bar"].update(Bar="Bar")
    if "Bar_End" in tokens:
        for following in successors.values():
            if "Bar" in following:
                following["BarEnd"] = "BarEnd"
        successors["BarEnd"] = {"Bar": "Bar"}
    if "Rest" in successors:
        # a Rest may cross bar lines without a Bar token, depending on the notes before it: see `rests`
        successors["Rest"] = {k: k for k in ("Rest", "Position", "Bar", "TimeSig") if k in successors}
    successors["start"] = {"Bar": "Bar"}
    if "Rest" in successors and not config.use_time_signatures:
        successors["start"]["Rest"] = "Rest"  # the first bar has a token for its metre only, or for its first note

    def positions(time_signature: str) -> int:
        numerator, denominator = map(int, time_signature.split("/"))
        beat = tokenizer._tpb_per_ts.get(denominator, tokenizer.time_division * 4 // denominator)
        return int(numerator * beat // max(1, tokenizer._compute_ticks_per_pos(beat)))

    moves: dict[str, PositionMove] = {"Bar_None": ("bar", 0)}
    metres = {t: positions(t.split("_")[1]) for t in tokens if t.startswith("TimeSig_")}
    common = positions("4/4")
    limits = sorted({common, *metres.values()})
    moves |= {token: ("limit", limits.index(length)) for token, length in metres.items()}
    moves |= {t: ("to", int(t.split("_")[1])) for t in tokens if t.startswith("Position_")}
    moves |= {t: ("bar", 0) for t in tokens if t.startswith("Rest_")}
    note = "pitch intervals may leave the range, such notes are dropped" if config.use_pitch_intervals else ""
    ends = frozenset(k for k, following in successors.items() if "Bar" in following or k == "Bar") - {"start", "BarEnd"}
    found = Rules(successors, moves, limits, -1, limits.index(common), ends, note)
    if "Rest" in successors:
        found.repair, found.count_lines = partial(open_missing_bars, tokenizer), partial(count_lines, tokenizer)
    return found


def _build_pertok_rules(tokenizer: MidiTokTokenizer, tokens: list[str]) -> Rules:
    """Build rules for PerTok, for which MidiTok has no type graph.

    A note is Pitch [MicroTiming] [Velocity] [Duration]. The decoder places bar n at n bar lengths and ignores the
    shifts before it. Shifts therefore must not reach the bar line. The decoder also ignores Rest and Chord. A time
    signature inside a piece would move time backwards, so TimeSig comes first or not at all.
    """
    config = tokenizer.config
    programs = config.use_programs and config.one_token_stream_for_programs
    present = {t.split("_")[0] for t in tokens}
    pitch: dict[str, str] = {t: "Pitch" for t in ("Pitch", "PitchDrum") if t in present}
    chain: list[str] = [k for k in ("MicroTiming", "Velocity", "Duration") if k in present]
    begin = {"Program": "Program"} if programs else pitch
    if programs and config.program_changes:  # a program is written where it changes only
        begin = begin | pitch
    shift: dict[str, str] = {t: t for t in ("TimeShift", "Position") if t in present}
    following_note = begin | shift | {"Bar": "Bar"} | {t: t for t in ("Tempo",) if t in present}
    successors: dict[str, dict[str, str]] = {
        "start": following_note | {t: t for t in ("TimeSig",) if t in present},
        "Bar": following_note,
        "Tempo": begin | shift | {"Bar": "Bar"},
        "TimeSig": following_note,
    }
    for kind in shift:
        successors[kind] = dict(begin)
    last = "Pitch"
    for kind in chain:
        successors[last] = {kind: kind}
        last = kind
    successors[last] = following_note
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
    moves: dict[str, PositionMove] = {"Bar_None": ("bar", 0)}
    for token, n in ticks.items():
        op = ops.get(token.split("_")[0])
        moves[token] = (op, n // unit) if op else ("limit", limits.index(n // unit))
    return Rules(successors, moves, limits, 0, limits.index(common // unit), frozenset({last, "Bar", "Tempo"}))


def _pertok_ticks(token: str, tpq: int) -> int:
    """Compute the ticks of a TimeShift, Position or TimeSig token by PerTok's own arithmetic."""
    kind, value = token.split("_")
    if kind == "TimeSig":
        numerator, denominator = map(int, value.split("/"))
        return int(denominator / 4 * numerator * tpq)
    if kind == "Position":
        return int(value)
    beats, rest, resolution = map(int, value.split("."))
    return beats * resolution + rest


def _build_type_rules(tokenizer: MidiTokTokenizer, tokens: list[str], note: str = "") -> Rules:
    """Build rules from token types; without a type graph, exclude special tokens only."""
    name = type(tokenizer).__name__
    graph = _read_type_graph(tokenizer)
    if not graph:
        kinds = {t.split("_")[0] for t in tokens if not is_special(t)}
        graph = {kind: {k: k for k in kinds} for kind in kinds}
        note = note or f"{name} has no grammar: only special tokens are kept out"
    middle = {"Velocity", "Duration", "NoteOff", "DrumOff", "PedalOff", "MicroTiming"}
    graph["start"] = {k: k for k in graph if k not in middle}
    last = next((k for k in ("NoteOff", "Duration", "Velocity") if k in graph), None)
    ends = frozenset({last, "Bar", "TimeShift"} if last else NOTE_TYPES & graph.keys())
    return Rules(graph, ends=ends, note=note or f"the grammar of {name} knows the order of token types, not times")


def _read_type_graph(tokenizer: MidiTokTokenizer) -> dict[str, dict[str, str]]:
    """Return MidiTok's graph of token types without special and control tokens."""
    kinds = {k for k in tokenizer.tokens_types_graph if not is_special(k) and not k.startswith("AC")}
    return {k: {j: j for j in tokenizer.tokens_types_graph[k] if j in kinds} for k in kinds}
