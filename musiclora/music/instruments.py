"""Programs of General MIDI 1: names, those that an option lists, and that of a track."""

from __future__ import annotations

import difflib
import re
from typing import Any

from musiclora.convert.errors import ConfigError, list_names, show_value

DRUMS = -1  # program of drum tracks, as MidiTok has it
MOST_INSTRUMENTS = 15  # channels of MIDI besides the drums'
# The sound set of General MIDI 1 (MIDI Manufacturers Association, 1991), programs 0 to 127, sixteen families of eight.
_NAMES = (
    *("Acoustic Grand Piano", "Bright Acoustic Piano", "Electric Grand Piano", "Honky-tonk Piano"),
    *("Electric Piano 1", "Electric Piano 2", "Harpsichord", "Clavi"),
    *("Celesta", "Glockenspiel", "Music Box", "Vibraphone", "Marimba", "Xylophone", "Tubular Bells", "Dulcimer"),
    *("Drawbar Organ", "Percussive Organ", "Rock Organ", "Church Organ"),
    *("Reed Organ", "Accordion", "Harmonica", "Tango Accordion"),
    *("Acoustic Guitar (nylon)", "Acoustic Guitar (steel)", "Electric Guitar (jazz)", "Electric Guitar (clean)"),
    *("Electric Guitar (muted)", "Overdriven Guitar", "Distortion Guitar", "Guitar Harmonics"),
    *("Acoustic Bass", "Electric Bass (finger)", "Electric Bass (pick)", "Fretless Bass"),
    *("Slap Bass 1", "Slap Bass 2", "Synth Bass 1", "Synth Bass 2"),
    *("Violin", "Viola", "Cello", "Contrabass", "Tremolo Strings", "Pizzicato Strings", "Orchestral Harp", "Timpani"),
    *("String Ensemble 1", "String Ensemble 2", "SynthStrings 1", "SynthStrings 2"),
    *("Choir Aahs", "Voice Oohs", "Synth Voice", "Orchestra Hit"),
    *("Trumpet", "Trombone", "Tuba", "Muted Trumpet", "French Horn", "Brass Section", "SynthBrass 1", "SynthBrass 2"),
    *("Soprano Sax", "Alto Sax", "Tenor Sax", "Baritone Sax", "Oboe", "English Horn", "Bassoon", "Clarinet"),
    *("Piccolo", "Flute", "Recorder", "Pan Flute", "Blown Bottle", "Shakuhachi", "Whistle", "Ocarina"),
    *("Lead 1 (square)", "Lead 2 (sawtooth)", "Lead 3 (calliope)", "Lead 4 (chiff)"),
    *("Lead 5 (charang)", "Lead 6 (voice)", "Lead 7 (fifths)", "Lead 8 (bass + lead)"),
    *("Pad 1 (new age)", "Pad 2 (warm)", "Pad 3 (polysynth)", "Pad 4 (choir)"),
    *("Pad 5 (bowed)", "Pad 6 (metallic)", "Pad 7 (halo)", "Pad 8 (sweep)"),
    *("FX 1 (rain)", "FX 2 (soundtrack)", "FX 3 (crystal)", "FX 4 (atmosphere)"),
    *("FX 5 (brightness)", "FX 6 (goblins)", "FX 7 (echoes)", "FX 8 (sci-fi)"),
    *("Sitar", "Banjo", "Shamisen", "Koto", "Kalimba", "Bag Pipe", "Fiddle", "Shanai"),
    *("Tinkle Bell", "Agogo", "Steel Drums", "Woodblock", "Taiko Drum", "Melodic Tom", "Synth Drum", "Reverse Cymbal"),
    *("Guitar Fret Noise", "Breath Noise", "Seashore", "Bird Tweet"),
    *("Telephone Ring", "Helicopter", "Applause", "Gunshot"),
)
_DRUMS_NAME = "Drums"
# Words that are no name of the standard, or the beginning of several: a family stands for its most usual instrument.
_SHORT_NAMES = {
    **dict.fromkeys(("drums", "drum", "drum kit", "drum set", "drumkit", "drumset", "percussion"), DRUMS),
    **dict.fromkeys(("piano", "grand piano", "acoustic piano", "grand"), 0),
    **dict.fromkeys(("electric piano", "e piano", "epiano", "rhodes"), 4),
    **dict.fromkeys(("clavinet", "clav"), 7),
    **dict.fromkeys(("chromatic percussion", "vibes"), 11),
    **dict.fromkeys(("organ", "hammond", "hammond organ"), 16),
    **dict.fromkeys(("pipe organ",), 19),
    **dict.fromkeys(("harmonium",), 20),
    **dict.fromkeys(("concertina", "bandoneon"), 23),
    **dict.fromkeys(("nylon guitar", "classical guitar", "spanish guitar"), 24),
    **dict.fromkeys(("guitar", "acoustic guitar", "steel guitar", "folk guitar"), 25),
    **dict.fromkeys(("jazz guitar",), 26),
    **dict.fromkeys(("electric guitar", "clean guitar"), 27),
    **dict.fromkeys(("muted guitar",), 28),
    **dict.fromkeys(("overdrive guitar",), 29),
    **dict.fromkeys(("distorted guitar",), 30),
    **dict.fromkeys(("double bass", "upright bass"), 32),
    **dict.fromkeys(("bass", "bass guitar", "electric bass", "finger bass"), 33),
    **dict.fromkeys(("pick bass", "picked bass"), 34),
    **dict.fromkeys(("slap bass",), 36),
    **dict.fromkeys(("synth bass",), 38),
    **dict.fromkeys(("violoncello",), 42),
    **dict.fromkeys(("harp",), 46),
    **dict.fromkeys(("strings", "string ensemble", "ensemble"), 48),
    **dict.fromkeys(("synth strings",), 50),
    **dict.fromkeys(("choir",), 52),
    **dict.fromkeys(("voice", "voices"), 53),
    **dict.fromkeys(("horn", "horns"), 60),
    **dict.fromkeys(("brass",), 61),
    **dict.fromkeys(("synth brass",), 62),
    **dict.fromkeys(("sax", "saxophone", "alto saxophone", "reed"), 65),
    **dict.fromkeys(("soprano saxophone",), 64),
    **dict.fromkeys(("tenor saxophone",), 66),
    **dict.fromkeys(("baritone saxophone",), 67),
    **dict.fromkeys(("cor anglais",), 69),
    **dict.fromkeys(("pipe",), 73),
    **dict.fromkeys(("panpipes", "pan pipes"), 75),
    **dict.fromkeys(("tin whistle",), 78),
    **dict.fromkeys(("square lead", "synth lead", "lead"), 80),
    **dict.fromkeys(("saw lead", "sawtooth lead"), 81),
    **dict.fromkeys(("warm pad", "synth pad", "pad"), 89),
    **dict.fromkeys(("bagpipe", "bagpipes"), 109),
    **dict.fromkeys(("steel drum", "steelpan", "steel pan"), 114),
}


def program_of(track: Any) -> int:
    """Return the program of a symusic track, -1 for drums."""
    return DRUMS if track.is_drum else int(track.program)


def instrument_name(program: int) -> str:
    """Return the General MIDI name of a program, `Drums` for -1.

    Raises:
        ValueError: it lies outside -1..127.
    """
    if program == DRUMS:
        return _DRUMS_NAME
    if not 0 <= program < len(_NAMES):
        raise ValueError(f"program {program} is outside -1..127")
    return _NAMES[program]


def parse_instruments(text: str) -> tuple[int, ...]:
    """Read the value of `--instruments`, such as `piano, bass, drums` or `0,33,drums`.

    A name is one of General MIDI, a short or family name, or the beginning of one that leaves no choice; case, hyphens
    and brackets do not matter. Numbers count programs from 0.

    Returns:
        programs 0..127, -1 for drums, each once in the order given.

    Raises:
        ConfigError: a name is unknown or stands for several instruments, a number is no program, nothing is named, or
            more than 15 instruments besides the drums.
    """
    parts = [part for part in text.split(",") if part.strip()]
    if not parts:
        raise ConfigError("--instruments: names no instrument; give for example piano,bass,drums")
    programs = tuple(dict.fromkeys(_read_instrument(part) for part in parts))
    count = len(programs) - (DRUMS in programs)
    if count > MOST_INSTRUMENTS:
        raise ConfigError(
            f"--instruments: {count} instruments besides drums; MIDI has {MOST_INSTRUMENTS} channels for them"
        )
    return programs


def _read_instrument(text: str) -> int:
    """Return the program of one name or number."""
    key = _normalise(text)
    if key.isascii() and key.isdigit() and not text.strip().startswith("-"):
        number = int(key) if len(key) < 5 else len(_NAMES)
        if number < len(_NAMES):
            return number
        raise ConfigError(f"--instruments {show_value(text.strip())}: programs are numbered 0 to 127, or give a name")
    if key in _PROGRAMS:
        return _PROGRAMS[key]
    found = sorted({program for name, program in _PROGRAMS.items() if key and name.startswith(key)})
    if len(found) == 1:
        return found[0]
    if found:
        names = list_names([instrument_name(program) for program in found], 6)
        raise ConfigError(f"--instruments {show_value(text.strip())}: may be {names}; give one of them")
    near = difflib.get_close_matches(key[:40], _PROGRAMS, n=8, cutoff=0.6)
    named = list(dict.fromkeys(instrument_name(_PROGRAMS[name]) for name in near))[:3]
    advice = f"the closest are {', '.join(named)}" if named else "give a General MIDI name, a number 0 to 127, or drums"
    raise ConfigError(f"--instruments {show_value(text.strip())}: no such instrument; {advice}")


def _normalise(text: str) -> str:
    """Reduce a name to its words: lower case, one space between them, no punctuation."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


_PROGRAMS = {**{_normalise(name): i for i, name in enumerate(_NAMES)}, **_SHORT_NAMES}
