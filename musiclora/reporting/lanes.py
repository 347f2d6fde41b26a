"""Lanes of a picture: one for each instrument, with its name and colour, and rows of drums."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from musiclora.errors import DataError
from musiclora.music.drums import drum_order
from musiclora.music.instruments import DRUMS, instrument_name
from musiclora.reporting.roll import Roll

MOST_LANES = 16  # the drum grid counts as one
MOST_DRUM_ROWS = 24
OTHER_DRUMS = 128  # row of the drums that are used least, where there are too many
# Distinct for each kind of colour blindness, and at least 3 to 1 against white; the first is that of a single track.
COLOURS = ("#2563a8", "#a0880d", "#7b1d0a", "#0da057", "#b239ef", "#c46494", "#602460", "#57534e")
OTHERS_COLOUR = "#78716c"
_FEWEST_SEMITONES = 12  # of a lane, so that a C is always in it
# Place of each family of General MIDI (program // 8) from the top: winds, strings, keys, guitars, effects, basses.
_FAMILY_ORDER = (9, 5, 8, 10, 15, 7, 6, 2, 1, 0, 3, 11, 12, 4, 13, 14)
# Index into COLOURS that each family takes unless another lane has it, so that pictures of one report agree.
_FAMILY_COLOURS = (0, 5, 7, 3, 2, 4, 4, 1, 6, 5, 5, 4, 7, 1, 7, 7)
_Part = tuple[int, str]  # program and the track's own name, empty where it has none


@dataclass(frozen=True)
class Lane:
    """One or several tracks that are drawn together.

    Attributes:
        label: name of the instrument or track.
        colour: of its notes, as #rrggbb.
        low, high: lowest and highest pitch that the lane shows.
        parts: program and name of the tracks, as they stand in the rolls.
    """

    label: str
    colour: str
    low: int
    high: int
    parts: frozenset[_Part]


@dataclass(frozen=True)
class Limits:
    """Axes that several rolls share.

    Attributes:
        low, high: lowest and highest pitch of all.
        end: in quarter notes.
        bars: bar lines of each roll, in quarter notes.
        lanes: from the top down; empty where one instrument plays without drums, by not too many tracks to tell apart.
        drums: General MIDI drums in the order of their rows from the bottom up.
    """

    low: int
    high: int
    end: float
    bars: tuple[np.ndarray, ...] = ()
    lanes: tuple[Lane, ...] = ()
    drums: tuple[int, ...] = ()

    @property
    def has_lanes(self) -> bool:
        """Return True where instruments or drums have lanes of their own."""
        return bool(self.lanes or self.drums)


def shared_limits(rolls: Sequence[Roll]) -> Limits:
    """Return limits that hold all the rolls, with at least an octave and a half of pitches where there are no lanes.

    Raises:
        DataError: there is no note to draw.
    """
    if not sum(roll.count for roll in rolls):
        raise DataError("there are no notes to draw")
    end = max(roll.end for roll in rolls)
    pitches = np.concatenate([roll.pitch for roll in rolls])
    low, high = (int(pitches.min()) - 2, int(pitches.max()) + 2) if len(pitches) else (60, 60)
    missing = max(0, 18 - (high - low))
    low, high = max(0, low - missing // 2), min(127, high + missing - missing // 2)
    drums = _drum_rows(np.concatenate([roll.hits[:, 1] for roll in rolls]))
    programs = {program for roll in rolls for program in roll.programs if program != DRUMS}
    limits = Limits(low, high, end, tuple(roll.bars for roll in rolls))
    names = {name for roll in rolls for name in roll.names if name}
    if not drums and len(programs) < 2 and len(names) <= len(COLOURS):
        return limits
    return replace(limits, lanes=_list_lanes(rolls, MOST_LANES - bool(drums)), drums=drums)


def lane_numbers(roll: Roll, limits: Limits) -> np.ndarray:
    """Number the lane of each note of a roll, int64 [N]."""
    known = {part: number for number, lane in enumerate(limits.lanes) for part in lane.parts}
    tracks = [known.get(part, -1) for part in zip(roll.programs, roll.names, strict=True)]
    found: np.ndarray = np.array(tracks, np.int64)[roll.track]
    return found


def drum_rows(roll: Roll, limits: Limits) -> np.ndarray:
    """Number the row of each drum of a roll from the bottom up, int64 [D]."""
    row = {drum: number for number, drum in enumerate(limits.drums)}
    return np.array([row.get(int(drum), len(row) - 1) for drum in roll.hits[:, 1]], np.int64)


def list_instruments(roll: Roll) -> list[str]:
    """Name the instruments of a roll in the order of its lanes, drums last."""
    limits = shared_limits([roll])
    pitched = sorted({program for program in roll.programs if program != DRUMS})
    names = [lane.label for lane in limits.lanes] or [instrument_name(program) for program in pitched]
    return [*names, *(["drums"] if limits.drums else [])]


def _drum_rows(found: np.ndarray) -> tuple[int, ...]:
    """List the drums that are used; those used least share the row OTHER_DRUMS where there are too many."""
    counts = Counter(found.astype(int).tolist())
    drums = [drum for drum, _ in counts.most_common(MOST_DRUM_ROWS - (len(counts) > MOST_DRUM_ROWS))]
    rows = sorted(drums, key=drum_order)
    return (*rows, *([OTHER_DRUMS] if len(counts) > len(rows) else []))


def _list_lanes(rolls: Sequence[Roll], most: int) -> tuple[Lane, ...]:
    """Return a lane for each program and name; tracks are put together where there would be too many."""
    notes = _notes_by_part(rolls)
    groups: dict[_Part, list[_Part]] = {}
    for groups in _groupings(notes, rolls):
        if len(groups) <= most:
            break
    others: list[_Part] = []
    if len(groups) > most:
        order = sorted(groups.items(), key=lambda item: -sum(len(notes[part]) for part in item[1]))
        others = [part for _, parts in order[most - 1 :] for part in parts]
        groups = dict(order[: most - 1])
    place = {part: number for number, part in enumerate(notes)}
    keys = sorted(groups, key=lambda key: (_FAMILY_ORDER[key[0] // 8], place[groups[key][0]]))
    shared = Counter(name for _, name in keys)
    lanes = []
    for (program, name), colour in zip(keys, _pick_colours([program for program, _ in keys]), strict=True):
        instrument = instrument_name(program)
        label = f"{name} ({instrument})" if name and shared[name] > 1 else name or instrument
        lanes.append(_lane(label, colour, groups[program, name], notes))
    if others:
        lanes.append(_lane(f"{len({program for program, _ in others})} others", OTHERS_COLOUR, others, notes))
    return tuple(lanes)


def _notes_by_part(rolls: Sequence[Roll]) -> dict[_Part, np.ndarray]:
    """Collect the pitches of each program and name, in the order in which they appear."""
    found: dict[_Part, list[np.ndarray]] = defaultdict(list)
    for roll in rolls:
        for number, part in enumerate(zip(roll.programs, roll.names, strict=True)):
            pitches = roll.pitch[roll.track == number]
            if len(pitches):
                found[part].append(pitches)
    return {part: np.concatenate(pitches) for part, pitches in found.items()}


def _groupings(notes: dict[_Part, np.ndarray], rolls: Sequence[Roll]) -> Iterator[dict[_Part, list[_Part]]]:
    """Group tracks by program and name, then by name, then by program; a name that most instruments share is none."""
    programs: dict[str, set[int]] = defaultdict(set)
    for roll in rolls:
        for program, name in zip(roll.programs, roll.names, strict=True):
            programs[name].add(program)
    all_programs = len(set().union(*programs.values()))
    shared = {name for name, users in programs.items() if len(users) > 1 and 2 * len(users) > all_programs}
    own = {(program, name): "" if name in shared else name for program, name in notes}
    names: dict[int, set[str]] = defaultdict(set)
    for (program, _), name in own.items():
        names[program] |= {name} if name else set()
    # a track without a name goes to the only one of its program
    keys = {
        part: (part[0], name or (min(names[part[0]]) if len(names[part[0]]) == 1 else "")) for part, name in own.items()
    }
    yield _merge(keys)
    main: dict[str, int] = {}  # of each name the program that plays most
    for part in sorted(notes, key=lambda part: len(notes[part])):
        main[keys[part][1]] = part[0]
    yield _merge({part: (main[name] if name else program, name) for part, (program, name) in keys.items()})
    yield _merge({part: (part[0], "") for part in notes})


def _merge(keys: dict[_Part, _Part]) -> dict[_Part, list[_Part]]:
    groups: dict[_Part, list[_Part]] = defaultdict(list)
    for part, key in keys.items():
        groups[key].append(part)
    return dict(groups)


def _lane(label: str, colour: str, parts: Sequence[_Part], notes: dict[_Part, np.ndarray]) -> Lane:
    pitches = np.concatenate([notes[part] for part in parts])
    low, high = int(pitches.min()) - 1, int(pitches.max()) + 1
    missing = max(0, _FEWEST_SEMITONES - 1 - (high - low))
    return Lane(label, colour, low - missing // 2, high + missing - missing // 2, frozenset(parts))


def _pick_colours(programs: Sequence[int]) -> list[str]:
    """Pick a colour for each lane: its family's where that is free, else one that is used least and not next to it."""
    picked: list[int | None] = []
    for program in programs:
        wanted = _FAMILY_COLOURS[program // 8]
        picked.append(None if wanted in picked else wanted)
    for number, found in enumerate(picked):
        if found is None:
            near = set(picked[max(0, number - 1) : number + 2])
            used = Counter(picked)
            picked[number] = min(range(len(COLOURS)), key=lambda index: (index in near, used[index], index))
    return [COLOURS[index or 0] for index in picked]
