"""Scores in formats that are not read are named, with what to do; a MIDI file in a RIFF wrapper is read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from musiclora.cli import main
from musiclora.symbolic.reading.read_folder import read_music

TESTS = Path(__file__).parents[2]
GOOD = TESTS / "data" / "nasty_midi" / "00_good_reference.mid"
KIND = "a MuseScore file"
WORDS = "which is not read: export it as MIDI (MuseScore and most editors can)"


def test_scores_in_formats_that_are_not_read_are_named_beside_songs(tmp_path):
    shutil.copy(GOOD, tmp_path / "good.mid")
    (tmp_path / "score.mscz").write_bytes(b"PK")
    (tmp_path / "b.GPX").write_bytes(b"PK")
    rows = {r.file: (r.status, r.why) for r in read_music(tmp_path, workers=1).health}

    assert rows == {
        "score.mscz": ("skipped", f"{KIND}, {WORDS}"),
        "b.GPX": ("skipped", f"Guitar Pro, {WORDS}"),
        "good.mid": ("kept", ""),
    }


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["doctor", "IN"], 0),
        (["doctor", "IN/score.mscz"], 2),
        (["augment", "--input-dir", "IN", "--output-dir", "OUT"], 2),
        (["preprocess", "--data-dir", "IN", "--output-dir", "OUT", "--model", "bundled"], 2),
    ],
    ids=["doctor", "one file", "augment", "preprocess"],
)
def test_commands_name_a_folder_of_foreign_scores(tmp_path, arguments, code):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "score.mscz").write_bytes(b"PK")
    given = [text.replace("IN", str(tmp_path / "in")).replace("OUT", str(tmp_path / "out")) for text in arguments]
    result = CliRunner().invoke(main, given)

    assert result.exit_code == code
    assert f"{KIND}, {WORDS}" in result.output
    assert not (tmp_path / "out").exists()


def test_a_riff_midi_file_is_read(tmp_path):
    data = GOOD.read_bytes()
    size = len(data)
    riff = b"RIFF" + (size + 12).to_bytes(4, "little") + b"RMIDdata" + size.to_bytes(4, "little")
    (tmp_path / "a.rmi").write_bytes(riff + data)

    assert [(r.status, r.notes) for r in read_music(tmp_path, workers=1).health] == [("repaired", 16)]
