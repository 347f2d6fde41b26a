"""Parts of a song that a soundfont cannot play: silent ones, and those whose instrument it lacks."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from musiclora.music.instruments import instrument_name
from musiclora.symbolic.formats.midi_events import CONTROL, PROGRAM
from musiclora.symbolic.rendering.parts import TICKS_PER_SECOND, Part, pass_midi, split_passes

PlayMidi = Callable[[bytes], tuple[np.ndarray, int]]  # audio float32 [N, channels], and its rate in Hz
SILENT_PEAK = 1e-6
_SLOT_SECONDS, _HOLD_SECONDS, _LEAD_SECONDS = 2, 0.6, 0.1  # of one probe note, of its sound, of the silence before it
_PEDALS = (64, 66, 69)
_DRUM_BANK = 128
_BANK_SELECT = (0, 32)
_PRESET_BYTES, _MOST_PRESETS = 38, 65536


def missing_remarks(parts: Sequence[Part], end: int, soundfont: Path, play: PlayMidi) -> list[str]:
    """Say which parts make no sound, and which instruments the soundfont lacks; empty where it plays all.

    Args:
        parts: of the song, which makes some sound.
        end: tick of its last note's end.
        soundfont: the file, whose list of presets is read.
        play: plays a MIDI file with it.
    """
    silent = _silent_parts(parts, end, play) if len(parts) > 1 else []
    remarks = []
    if silent:
        names = ", ".join(dict.fromkeys(_describe_part(parts[number]) for number in silent))
        verb = "makes" if len(silent) == 1 else "make"
        remarks.append(
            f"{len(silent)} of {len(parts)} parts {verb} no sound ({names}): the soundfont lacks the instrument or "
            "these notes of it, or they are too soft"
        )
    known = soundfont_presets(soundfont)
    heard = [part for number, part in enumerate(parts) if number not in silent]
    lacking = dict.fromkeys(_describe_part(part) for part in heard if known and not _has_preset(part, known))
    if lacking:
        remarks.append(f"the soundfont lacks {', '.join(lacking)}: another instrument of it is heard")
    return remarks


def soundfont_presets(path: Path) -> set[tuple[int, int]]:
    """Read the (bank, program) pairs of a .sf2 soundfont; empty where its list of presets cannot be found."""
    with path.open("rb") as file:
        if file.read(4) != b"RIFF" or file.seek(12) != 12:
            return set()
        while len(head := file.read(12)) == 12:
            kind, size, form = struct.unpack("<4sI4s", head)
            if (kind, form) == (b"LIST", b"pdta"):
                kind, size = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
                rows = file.read(min(size, _PRESET_BYTES * _MOST_PRESETS)) if kind == b"phdr" else b""
                starts = range(0, len(rows) - 2 * _PRESET_BYTES + 1, _PRESET_BYTES)  # the last one ends the list
                pairs = (struct.unpack("<HH", rows[start + 20 : start + 24]) for start in starts)
                return {(bank, program) for program, bank in pairs}
            file.seek(size - 4 + size % 2, 1)
    return set()


def _program_of(part: Part) -> int:
    """Return the program of a part's first note."""
    rows = part.settings[(part.settings[:, 1] == PROGRAM) & (part.settings[:, 0] <= part.notes[:, 0].min())]
    return int(rows[-1, 2]) if len(rows) else 0


def _describe_part(part: Part) -> str:
    return "drums" if part.is_drum else instrument_name(_program_of(part))


def _has_preset(part: Part, known: set[tuple[int, int]]) -> bool:
    """Return True where the soundfont has the drum kit or program; any bank counts where the song chooses one."""
    if part.is_drum:
        return any(bank == _DRUM_BANK for bank, _ in known)
    program = _program_of(part)
    chooses = bool(((part.settings[:, 1] == CONTROL) & np.isin(part.settings[:, 2], _BANK_SELECT)).any())
    return any(other == program and (bank == 0 or (chooses and bank != _DRUM_BANK)) for bank, other in known)


def _silent_parts(parts: Sequence[Part], end: int, play: PlayMidi) -> list[int]:
    """Number the parts that make no sound.

    One pass plays the loudest note of each part in turn. A part that is not heard there is played alone, as a whole,
    before it counts.
    """
    order = {id(part): number for number, part in enumerate(parts)}
    found = []
    for group in split_passes(parts):
        probes = [_probe_note(part, slot) for slot, part in enumerate(group)]
        audio, rate = play(pass_midi(probes, len(group) * _SLOT_SECONDS * TICKS_PER_SECOND))
        size = np.abs(audio).max(axis=1)
        for slot, part in enumerate(group):
            start = int(slot * _SLOT_SECONDS * rate)
            lead, last = start + int(_LEAD_SECONDS * rate), start + int((_LEAD_SECONDS + _HOLD_SECONDS) * rate)
            before = float(size[start:lead].max(initial=0.0))  # of the note of the slot before, as it fades
            if float(size[lead:last].max(initial=0.0)) <= max(before, SILENT_PEAK):
                alone, _ = play(pass_midi([part], end))
                found += [order[id(part)]] if np.abs(alone).max(initial=0.0) < SILENT_PEAK else []
    return sorted(found)


def _probe_note(part: Part, slot: int) -> Part:
    """Return a part with its loudest note alone, moved into a slot, and the settings that it had then."""
    begin, _, pitch, velocity = part.notes[part.notes[:, 3].argmax()].tolist()
    pedal = (part.settings[:, 1] == CONTROL) & np.isin(part.settings[:, 2], _PEDALS)
    settings = part.settings[(part.settings[:, 0] <= begin) & ~pedal].copy()
    settings[:, 0] = slot * _SLOT_SECONDS * TICKS_PER_SECOND
    start = round((slot * _SLOT_SECONDS + _LEAD_SECONDS) * TICKS_PER_SECOND)
    notes = np.array([[start, start + int(_HOLD_SECONDS * TICKS_PER_SECOND), pitch, velocity]], np.int64)
    return Part(part.is_drum, settings, notes)
