"""MusicXML: repeats, ties, pickups, transposition, drums; and files that must not be read."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from require import require

from musiclora.errors import DataError
from musiclora.families import spec_of_data
from musiclora.symbolic.formats import musicxml
from musiclora.symbolic.formats.musicxml import read_musicxml, unpack_mxl
from musiclora.symbolic.reading.worker import ReadTask, examine_file

NOTE = "<note><pitch><step>{}</step>{}<octave>{}</octave></pitch><duration>{}</duration>{}</note>"


def note(name, duration, more=""):
    """A note such as `F#4` in MusicXML."""
    alter = f"<alter>{1 if '#' in name else -1}</alter>" if name[1] in "#b" else ""
    return NOTE.format(name[0], alter, name[-1], duration, more)


def measure(number, content, more=""):
    return f'<measure number="{number}"{more}>{content}</measure>'


TIME = "<time><beats>4</beats><beat-type>4</beat-type></time>"
BEGIN = f"<attributes><divisions>6</divisions><key><fifths>2</fifths></key>{TIME}"


def score(*parts, head=""):
    """A score of parts, each (element of the part list, measures)."""
    lists = "".join(f'<score-part id="P{i}">{info}</score-part>' for i, (info, _) in enumerate(parts, 1))
    music = "".join(f'<part id="P{i}">{measures}</part>' for i, (_, measures) in enumerate(parts, 1))
    text = f'<?xml version="1.0" encoding="UTF-8"?>{head}<score-partwise version="4.0">'
    return f"{text}<part-list>{lists}</part-list>{music}</score-partwise>"


def named(name, program=1):
    instrument = f'<score-instrument id="I-{name}"><instrument-name>{name}</instrument-name></score-instrument>'
    return (
        f"<part-name>{name}</part-name>{instrument}"
        f'<midi-instrument id="I-{name}"><midi-program>{program}</midi-program></midi-instrument>'
    )


def read(tmp_path, text, suffix=".musicxml"):
    path = tmp_path / f"song{suffix}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_musicxml(path)


def notes_of(track, quarter):
    return [(n.time / quarter, n.duration / quarter, n.pitch) for n in track.notes]


@pytest.fixture(autouse=True)
def reader():
    require("music21")


def test_repeats_are_unfolded_with_their_endings_and_ties_joined(tmp_path):
    first = '<barline location="left"><ending number="1" type="start"/></barline>'
    back = '<barline location="right"><ending number="1" type="stop"/><repeat direction="backward"/></barline>'
    second = '<barline location="left"><ending number="2" type="start"/></barline>'
    stop = '<barline location="right"><ending number="2" type="stop"/></barline>'
    bars = [
        measure(1, BEGIN + "</attributes>" + note("D4", 18) + note("E4", 6, '<tie type="start"/>')),
        measure(2, first + note("E4", 24, '<tie type="stop"/>') + back),
        measure(3, second + note("A4", 24) + stop),
    ]
    found, remarks = read(tmp_path, score((named("Flute", 74), "".join(bars))))
    (track,) = found.tracks
    assert notes_of(track, found.ticks_per_quarter) == [
        (0, 3, 62),
        (3, 5, 64),
        (8, 3, 62),
        (11, 1, 64),
        (12, 4, 69),
    ]
    assert (track.program, track.name, remarks) == (73, "Flute", ())
    assert [(k.key, k.tonality) for k in found.key_signatures] == [(2, 0)]


def test_a_pickup_ends_on_the_first_bar_line(tmp_path):
    bars = measure(0, BEGIN + "</attributes>" + note("D4", 6), ' implicit="yes"') + measure(1, note("E4", 24))
    found, _ = read(tmp_path, score((named("Flute"), bars)))
    assert notes_of(found.tracks[0], found.ticks_per_quarter) == [(3, 1, 62), (4, 4, 64)]


def test_a_transposing_instrument_sounds_as_it_is_heard(tmp_path):
    transpose = "<transpose><diatonic>-1</diatonic><chromatic>-2</chromatic></transpose>"
    bar = measure(1, f"{BEGIN}{transpose}</attributes>{note('D4', 24)}")
    found, _ = read(tmp_path, score((named("Clarinet", 72), bar)))
    assert [n.pitch for n in found.tracks[0].notes] == [60]


def test_tempos_metres_triplets_chords_and_grace_notes(tmp_path):
    tempo = '<direction><direction-type><words>slow</words></direction-type><sound tempo="90"/></direction>'
    triplet = "<time-modification><actual-notes>3</actual-notes><normal-notes>2</normal-notes></time-modification>"
    grace = "<note><grace/><pitch><step>C</step><octave>5</octave></pitch></note>"
    bar = BEGIN + "</attributes>" + tempo + "".join(note(name, 2, triplet) for name in ("F#4", "G4", "A4"))
    chord = note("D4", 18) + note("A4", 18).replace("<note>", "<note><chord/>")
    three = "<attributes><time><beats>3</beats><beat-type>4</beat-type></time></attributes>"
    bars = measure(1, bar + grace + chord) + measure(2, three + note("D4", 18))
    found, remarks = read(tmp_path, score((named("Piano"), bars)))
    quarter = found.ticks_per_quarter
    times = [(round(n.time / quarter, 4), n.pitch) for n in found.tracks[0].notes]
    assert times == [(0, 66), (0.3333, 67), (0.6667, 69), (1, 62), (1, 69), (4, 62)]
    assert [(m.time / quarter, m.numerator) for m in found.time_signatures] == [(0, 4), (4, 3)]
    assert [round(t.qpm) for t in found.tempos] == [90]
    assert remarks == ("1 grace notes, which have no length of their own, are left out",)


def drum_part(first="P1-I36", second="P1-I39"):
    keys = "".join(
        f'<midi-instrument id="P1-I{k}"><midi-channel>10</midi-channel><midi-unpitched>{k}</midi-unpitched>'
        "</midi-instrument>"
        for k in (36, 39)
    )
    hits = "".join(
        "<note><unpitched><display-step>F</display-step><display-octave>4</display-octave></unpitched>"
        f"<duration>12</duration>{f'<instrument id={chr(34)}{name}{chr(34)}/>' if name else ''}</note>"
        for name in (first, second)
    )
    return f"<part-name>Drums</part-name>{keys}", measure(1, BEGIN + "</attributes>" + hits)


def test_drums_have_the_keys_of_their_instruments(tmp_path):
    found, remarks = read(tmp_path, score(drum_part()))
    assert found.tracks[0].is_drum
    assert [n.pitch for n in found.tracks[0].notes] == [35, 38]
    assert remarks == ()


def test_drums_without_a_key_are_counted(tmp_path):
    found, remarks = read(tmp_path, score(drum_part(second="")))
    assert [n.pitch for n in found.tracks[0].notes] == [35]
    assert remarks == ("1 drum notes without a MIDI key are left out",)


def packed(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/"), data)
    return buffer.getvalue()


SIMPLE = score((named("Flute"), measure(1, BEGIN + "</attributes>" + note("D4", 24))))


def test_a_compressed_file_is_unpacked_by_its_container(tmp_path):
    container = b'<container><rootfiles><rootfile full-path="b.musicxml"/></rootfiles></container>'
    data = packed(**{"META-INF/container.xml": container, "a.xml": "<wrong/>", "b.musicxml": SIMPLE})
    found, _ = read(tmp_path, data, ".mxl")
    assert found.note_num() == 1
    assert read(tmp_path, packed(**{"only.xml": SIMPLE}), ".mxl")[0].note_num() == 1
    assert read(tmp_path, SIMPLE.replace("UTF-8", "UTF-16").encode("utf-16"), ".xml")[0].note_num() == 1


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
FOREIGN_FILE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (score((named("x"), "")).encode(), "no notes|no parts|cannot be read"),
        (score((named("&b;"), ""), head=BOMB), "declares entities"),
        (score((named("&a;"), ""), head=FOREIGN_FILE), "declares entities"),
        (SIMPLE[:-40].encode(), "damaged MusicXML"),
        (b"no xml at all", "damaged MusicXML"),
        (b"", "damaged MusicXML"),
        (b"\xff\xfe\x00", "damaged MusicXML"),
        (b'<?xml version="1.0" encoding="no-such-code"?><a/>', "damaged MusicXML"),
        (b"<html/>", "cannot be read|no parts|no notes"),
        (b"PK\x03\x04nothing", "damaged"),
        (packed(**{"a.txt": "x"}), "holds no score"),
    ],
    ids=[
        "no measures",
        "entities that grow",
        "another file",
        "cut",
        "text",
        "empty",
        "half a letter",
        "encoding",
        "other xml",
        "no zip",
        "no score",
    ],
)
def test_a_bad_file_is_one_line(tmp_path, data, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, data)


def test_a_file_that_unpacks_without_end_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(musicxml, "MAX_XML_BYTES", 10_000)
    with pytest.raises(DataError, match="MB unpacked"):
        unpack_mxl(packed(**{"a.xml": b" " * 100_000}))


def test_the_reader_of_training_takes_it_and_names_what_is_damaged(tmp_path):
    (tmp_path / "a.musicxml").write_text(SIMPLE)
    (tmp_path / "b.mxl").write_bytes(b"PK\x03\x04nothing")
    (good,) = examine_file(ReadTask(str(tmp_path / "a.musicxml")), None, True)
    assert (good.error, good.notes) == ("", 1)
    (bad,) = examine_file(ReadTask(str(tmp_path / "b.mxl")), None, True)
    assert bad.error.startswith("the compressed MusicXML file is damaged")


def test_xml_beside_recordings_makes_no_songs_of_them(tmp_path):
    (tmp_path / "library.xml").write_text("<plist/>")
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    assert spec_of_data(tmp_path).family == "audio"


def test_a_file_of_another_program_is_read():
    found, _ = read_musicxml(Path(__file__).parents[2] / "golden" / "found" / "score.musicxml")
    assert found.note_num() > 0
