"""Instruments by name and number: the General MIDI table, and the value of --instruments."""

from __future__ import annotations

import pytest

from musiclora.errors import ConfigError
from musiclora.music.instruments import instrument_name, parse_instruments


def test_every_program_is_found_by_its_name_number_and_name_in_other_spellings():
    names = [instrument_name(program) for program in range(128)]
    assert len(set(names)) == 128
    for program, name in enumerate(names):
        bare = name.lower().replace("(", "").replace(")", "").replace("-", " ")
        for text in (name, name.upper(), bare, bare.replace(" ", "_"), str(program)):
            assert parse_instruments(text) == (program,), text


@pytest.mark.parametrize(
    ("program", "name"),
    # the first of each family of eight, and the two ends of the table
    [
        *[(0, "Acoustic Grand Piano"), (8, "Celesta"), (16, "Drawbar Organ"), (24, "Acoustic Guitar (nylon)")],
        *[(32, "Acoustic Bass"), (40, "Violin"), (48, "String Ensemble 1"), (56, "Trumpet"), (64, "Soprano Sax")],
        *[(72, "Piccolo"), (80, "Lead 1 (square)"), (88, "Pad 1 (new age)"), (96, "FX 1 (rain)"), (104, "Sitar")],
        *[(112, "Tinkle Bell"), (120, "Guitar Fret Noise"), (127, "Gunshot"), (-1, "Drums")],
    ],
)
def test_names_stand_where_general_midi_has_them(program, name):
    assert instrument_name(program) == name


@pytest.mark.parametrize("program", [-2, 128])
def test_a_number_outside_the_table_has_no_name(program):
    with pytest.raises(ValueError, match="outside"):
        instrument_name(program)


@pytest.mark.parametrize(
    ("text", "programs"),
    [
        ("piano,bass,drums", (0, 33, -1)),
        (" Piano , 0, DRUMS,drum kit ", (0, -1)),
        ("strings,brass,guitar,organ,sax,choir", (48, 61, 25, 16, 65, 52)),
        ("harp", (46,)),
        ("harps", (6,)),
        ("vib", (11,)),
        ("electric bass (pick),trump", (34, 56)),
        ("33,", (33,)),
        ("drums,piano", (-1, 0)),
    ],
)
def test_families_short_names_beginnings_and_numbers(text, programs):
    assert parse_instruments(text) == programs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no instrument"),
        (" , ", "names no instrument"),
        ("128", "0 to 127"),
        ("99999999999999999999", "0 to 127"),
        ("-1", "no such instrument"),
        ("violine", "the closest are Violin"),
        ("xqzw", "General MIDI name"),
        ("tr", "may be Tremolo Strings, Trumpet, Trombone"),
        ("()", "no such instrument"),
        (",".join(map(str, range(16))), "16 instruments besides drums"),
    ],
)
def test_what_names_no_instrument_is_one_line(text, words):
    with pytest.raises(ConfigError, match=r"^--instruments") as error:
        parse_instruments(text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_fifteen_instruments_and_drums_are_taken():
    assert len(parse_instruments(",".join([*map(str, range(15)), "drums"]))) == 16


def test_outside_text_is_made_printable():
    with pytest.raises(ConfigError) as error:
        parse_instruments("\x1b[31mred" + "x" * 5000)
    assert "\x1b" not in str(error.value)
    assert len(str(error.value)) < 300
