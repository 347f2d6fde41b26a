"""Options of `generate` for bands: what goes together, what is refused, and a whole command."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
from band_scores import band, notes_of
from click.testing import CliRunner
from reference_session import HashModel
from refusal import refused
from symusic import Note, Score, Tempo, Track

from musiclora.cli import main
from musiclora.symbolic.decoding.loudness import Loudness
from musiclora.symbolic.tokens.arrival import ArrivalTokenizer


def call(*arguments):
    return CliRunner().invoke(main, ["generate", "--model", "bundled", *map(str, arguments)])


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "song.mid"
    band(0, 4).dump_midi(str(path))
    return path


@pytest.fixture
def arrival_model(monkeypatch):
    """An arrival-time model in the place of the bundled one."""
    opened = SimpleNamespace(
        model=HashModel(early=0.05),
        tokenizer=ArrivalTokenizer(),
        base=SimpleNamespace(name="toy"),
        backend="none",
        adapters=(),
        notes=(),
        notes_at_once=lambda adapted: None,
        loudness=lambda adapted: Loudness({0: (99, 98, 97)}),
        programs=frozenset(),
    )
    monkeypatch.setattr("musiclora.symbolic.generate.open_model", lambda *_, **__: opened)


REFUSALS = [
    (("--parts", "melody"), "--parts: there is no --accompany to take parts of"),
    (("--from-bar", 1), "--from-bar: there is no --infill with a gap"),
    (("--to-seconds", 1), "--to-seconds: there is no --infill with a gap"),
    (("--from-end",), "--from-end: there is no --prompt to take bars of"),
    (("--prompt", "SONG", "--from-end"), "--from-end: give --prompt-bars N"),
    (("--prompt", "SONG", "--accompany", "SONG"), "--prompt and --accompany: give one of them"),
    (("--infill", "SONG", "--accompany", "SONG"), "--accompany and --infill: give one of them"),
    (("--infill", "SONG"), "--infill: give the gap as --from-bar and --to-bar"),
    (("--infill", "SONG", "--from-bar", 1), "--infill: give the gap as"),
    (("--infill", "SONG", "--from-bar", 1, "--to-seconds", 2), "--infill: give the gap as"),
    (("--infill", "SONG", "--from-bar", 3, "--to-bar", 2), "--from-bar 3 --to-bar 2: bars count from 1"),
    (("--infill", "SONG", "--from-bar", 0, "--to-bar", 2), "--from-bar 0 --to-bar 2: bars count from 1"),
    (("--infill", "SONG", "--from-bar", 1, "--to-bar", 99), "--to-bar 99: the file has"),
    (("--infill", "SONG", "--from-seconds", 2, "--to-seconds", 2), "--from-seconds 2 --to-seconds 2: it must"),
    (("--infill", "SONG", "--from-seconds", -1, "--to-seconds", 2), "--from-seconds -1 --to-seconds 2: it must"),
    (("--infill", "SONG", "--from-seconds", "nan", "--to-seconds", 2), "is not a finite number"),
    (("--infill", "SONG", "--from-seconds", 500, "--to-seconds", 501), "--infill: the gap begins at 500.00 s"),
    (("--infill", "SONG", "--from-seconds", 1, "--to-seconds", 500), "--to-seconds 500: the file ends at 7.52 s"),
    (("--accompany", "SONG", "--parts", "sax"), '--parts "sax": no such part; the file has #1 Violin "melody"'),
    (("--accompany", "SONG", "--parts", ","), "--parts: names no part"),
    (("--accompany", "NONE"), "there is no such file"),
    (("--accompany", "EMPTY"), "EMPTY"),
    (("--infill", "EMPTY", "--from-bar", 1, "--to-bar", 1), "EMPTY"),
    (("--instruments", "piano,theremin"), "theremin"),
    (("--instruments", ",".join(map(str, range(40)))), "40 instruments"),
    (("--instruments", ""), "--instruments: names no instrument"),
]


@pytest.mark.parametrize(("options", "message"), REFUSALS, ids=[" ".join(map(str, o))[:60] for o, _ in REFUSALS])
def test_what_does_not_go_together_is_one_line(options, message, song, tmp_path, arrival_model):
    empty = tmp_path / "empty.mid"
    Score(480).dump_midi(str(empty))
    places = {"SONG": song, "NONE": tmp_path / "none.mid", "EMPTY": empty}
    result = call("--output", tmp_path / "out.mid", *(places.get(option, option) for option in options))
    line = refused(result)
    assert message.replace("EMPTY", str(empty)) in line
    assert not (tmp_path / "out.mid").exists()


@pytest.mark.parametrize("option", ["--accompany", "--parts", "--infill"])
def test_help_names_the_tokens_that_an_option_needs(option):
    text = " ".join(CliRunner().invoke(main, ["generate", "--help"]).output.split())
    assert re.search(rf" {option} (PATH|LIST) Arrival-time tokens: ", text)


@pytest.mark.parametrize(
    "options", [("--accompany", "SONG"), ("--infill", "SONG", "--from-bar", 1, "--to-bar", 2)], ids=lambda o: o[0]
)
def test_the_bundled_model_names_one_that_can(options, song, tmp_path):
    result = call("--output", tmp_path / "out.mid", *(song if option == "SONG" else option for option in options))
    assert "stanford-crfm/music-small-800k" in refused(result)


def test_the_song_is_no_output(song, arrival_model):
    before = song.read_bytes()
    for options in (("--accompany", song), ("--infill", song, "--from-bar", 1, "--to-bar", 2)):
        refused(call("--output", song, *options, "--overwrite"))
    assert song.read_bytes() == before


def test_accompany_writes_a_file_with_the_given_part(song, tmp_path, arrival_model):
    out = tmp_path / "out.mid"
    result = call("--output", out, "--accompany", song, "--parts", "melody", "--instruments", "piano,drums", "--json")
    assert result.exit_code == 0, result.output
    given, found = notes_of(Score(str(song)), [0]), notes_of(Score(str(out)))
    assert given <= found
    assert {note[0] for note in found - given} <= {0, -1}
    entry = json.loads(result.stdout)["files"][0]
    assert entry["prompt_notes"] == given.total()
    assert entry["notes"] == found.total()
    assert "it is that of the training songs" in result.stderr


def test_what_is_repaired_in_a_file_is_said(tmp_path, arrival_model):
    score = band(0, 2)
    score.tempos.append(Tempo(96, 3000))
    score.dump_midi(str(tmp_path / "song.mid"))
    result = call("--output", tmp_path / "out.mid", "--accompany", tmp_path / "song.mid", "--max-new-tokens", 30)
    assert result.exit_code == 0, result.output
    assert "--accompany: impossible tempos dropped: 1" in result.stderr
    assert "merged" not in result.stderr


def test_given_silences_and_long_notes_come_back(tmp_path, arrival_model):
    score = band(0, 2)
    score.tracks[0].notes.append(Note(96 * 90, 96 * 80, 60, 90))
    score.tracks[0].notes.append(Note(96 * 230, 50, 62, 90))
    score.dump_midi(str(tmp_path / "song.mid"))
    out = tmp_path / "out.mid"
    result = call("--output", out, "--accompany", tmp_path / "song.mid", "--max-new-tokens", 30)
    assert result.exit_code == 0, result.output
    assert notes_of(Score(str(tmp_path / "song.mid"))) <= notes_of(Score(str(out)))


@pytest.mark.parametrize(
    "options", [("--prompt",), ("--accompany",), ("--infill", "--from-bar", 1, "--to-bar", 1)], ids=lambda o: o[0]
)
def test_what_the_reader_found_is_said_of_every_given_file(options, tmp_path, arrival_model):
    score = Score(480)
    for name in ("lead", "Drums"):
        notes = [Note(480 * i, 240, 60 + i, 90) for i in range(8)]
        score.tracks.append(Track(name=name, program=5 * (name == "lead"), notes=notes))
    score.dump_midi(str(tmp_path / "song.mid"))
    option, *rest = options
    out = tmp_path / "out.mid"
    result = call("--output", out, option, tmp_path / "song.mid", *rest, "--max-new-tokens", 30)
    assert result.exit_code == 0, result.output
    assert f"{option}: looks like drums but is not on channel 10" in result.stderr


@pytest.mark.parametrize("end", [(), ("--from-end",)], ids=["first", "last"])
def test_a_prompt_of_fewer_bars_than_asked_for_is_said(end, song, tmp_path, arrival_model):
    options = ("--prompt", song, "--prompt-bars", 40, *end, "--max-new-tokens", 30)
    result = call("--output", tmp_path / "out.mid", *options)
    assert result.exit_code == 0, result.output
    assert "--prompt-bars 40: the file has 5 bars; all of it is continued" in result.stderr
    result = call("--output", tmp_path / "five.mid", "--prompt", song, "--prompt-bars", 5, "--max-new-tokens", 30)
    assert "--prompt-bars" not in result.output


def test_the_loudness_of_no_new_notes_is_not_spoken_of(song, tmp_path, arrival_model, monkeypatch):
    monkeypatch.setattr("musiclora.symbolic.decoding.arrival.pieces.draw_events", lambda *_: None)
    result = call("--output", tmp_path / "out.mid", "--accompany", song)
    assert "piece 1: the model wrote no note" in result.stderr
    assert "loudness" not in result.stderr


def test_a_gap_of_bars_includes_its_last(song, tmp_path, arrival_model):
    out = tmp_path / "out.mid"
    result = call("--output", out, "--infill", song, "--from-bar", 2, "--to-bar", 2)
    assert result.exit_code == 0, result.output
    assert "with the gap filled" in result.stdout
    bar = 3 * 96
    before, after = notes_of(Score(str(song))), notes_of(Score(str(out)))
    assert {note for note in before if not bar <= note[1] < 2 * bar} <= set(after)
    assert all(bar <= note[1] < 2 * bar for note in after - before)
    assert all(bar <= note[1] < 2 * bar for note in before - after)
