"""The symbolic demo on a user's own songs: base, split, openings and refusals."""

from __future__ import annotations

import shutil

import pytest
from click.testing import CliRunner
from refusal import refused
from session_helpers import RememberingReporter

from musiclora.bundled import bundled_songs, bundled_tunes
from musiclora.cli import main
from musiclora.convert.adapters.peft import read_peft
from musiclora.demo.songs import BAND_BASE, MELODY_BASE, own_songs
from musiclora.demo.symbolic import symbolic_demo, symbolic_next_commands
from musiclora.demo.symbolic_result import SymbolicDemoOptions
from musiclora.errors import ConfigError, DataError
from musiclora.evaluation.scores import LEAST_SONGS
from musiclora.symbolic.dataset.splits import near_duplicates


def copy_songs(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, folder)
    return folder


@pytest.mark.parametrize(
    ("files", "base", "reason"),
    [
        (bundled_tunes, MELODY_BASE, "every song has one part, without drums"),
        (bundled_songs, BAND_BASE, "drum notes and"),
    ],
    ids=["melodies", "bands"],
)
def test_the_base_is_chosen_by_what_the_songs_hold_and_the_reason_is_said(tmp_path, files, base, reason):
    out = RememberingReporter()
    music = own_songs(copy_songs(tmp_path / "mine", files()[:8]), tmp_path / "demo", 7, out)
    assert music.base.name == base
    assert [line for line in out.said if line.startswith(f"base: {base}, since ") and reason in line]


def test_a_fourth_is_held_out_without_relatives_and_scored(tmp_path):
    data = copy_songs(tmp_path / "mine", bundled_tunes()[:24])
    music = own_songs(data, tmp_path / "demo", 7, RememberingReporter())
    assert music.songs.held_out == music.test
    assert len(music.test) == LEAST_SONGS
    assert not near_duplicates(music.songs.train, music.test)
    assert not [note for note in music.notes if "too few" in note.lower()]


def test_three_songs_make_a_demo_that_says_it_can_show_no_gain(tmp_path):
    out = RememberingReporter()
    data = copy_songs(tmp_path / "mine", bundled_tunes()[:3])
    (data / "broken.mid").write_bytes(b"MThd nothing")
    music = own_songs(data, tmp_path / "demo", 7, out)
    assert (len(music.songs.train), len(music.test)) == (2, 1)
    assert any("a gain on 1 song may be chance" in line for line in out.said)
    assert any(music.test[0].name in line for line in out.said if line.startswith("held out: 1 of 3 songs"))
    assert any("broken.mid" in line for line in out.said)


def test_openings_come_from_subfolders_and_from_files_of_several_tunes(tmp_path):
    first, second, *rest = bundled_tunes()[:6]
    data = copy_songs(tmp_path / "mine" / "below", rest).parent
    both = [path.read_text().replace("X:1\n", f"X:{number}\n") for number, path in enumerate((first, second), 1)]
    (data / "two.abc").write_text("\n".join(both))
    music = own_songs(data, tmp_path / "demo", 7, RememberingReporter())
    every = [*music.songs.train, *music.test]
    music.test[:] = every
    openings = dict(music.openings())
    assert {"two.abc#1", "two.abc#2", *(path.stem for path in rest)} == set(openings)
    assert sum(score.note_num() for score in openings.values()) == sum(piece.notes for piece in every)


def test_songs_that_are_one_song_are_refused_in_a_line(tmp_path):
    data = copy_songs(tmp_path / "mine", bundled_tunes()[:1])
    shutil.copy(next(data.iterdir()), data / "again.abc")
    with pytest.raises(DataError, match="a demo needs at least two different songs"):
        own_songs(data, tmp_path / "demo", 7, RememberingReporter())


def test_a_demo_inside_its_songs_folder_is_refused(tmp_path):
    data = copy_songs(tmp_path / "mine", bundled_tunes()[:3])
    with pytest.raises(ConfigError, match="DATA_DIR"):
        own_songs(data, data / "demo", 7, RememberingReporter())


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (None, [], ["no such file or folder", "give a folder of songs or recordings"]),
        ([], [], ["holds neither songs in MIDI or ABC nor recordings"]),
        (["a.mid", "a.wav"], [], ["holds both", "choose one by --family"]),
        (["a.mid"], ["--family", "audio"], ["holds songs in MIDI or ABC", "--family symbolic"]),
        (["a.mid"], [], ["none of 1 music file can be used"]),
    ],
    ids=["gone", "empty", "mixed", "other family", "broken"],
)
def test_a_folder_that_does_not_do_is_refused_in_a_line_and_nothing_is_written(tmp_path, names, options, words):
    data, output = tmp_path / "mine", tmp_path / "demo"
    if names is not None:
        data.mkdir()
    for name in names or ():
        (data / name).write_bytes(b"MThd nothing")
    refused(CliRunner().invoke(main, ["demo", str(data), "--output-dir", str(output), *options]), *words)
    assert not output.exists()


@pytest.mark.slow
def test_the_demo_on_three_own_songs_leaves_adapter_music_and_an_honest_report(any_backend, tmp_path):
    data, folder = copy_songs(tmp_path / "my songs", bundled_tunes()[:3]), tmp_path / "demo"
    options = SymbolicDemoOptions(steps=3, pieces=1, tokens=60)
    result = symbolic_demo(folder, any_backend, options, RememberingReporter(), data)
    assert result.base == MELODY_BASE
    assert result.gain.songs == 1
    assert any("on 1 song held out, by which the best step was chosen too" in line for line in result.lines())
    assert read_peft(folder / "run" / "adapter-best").spec.rank == 16
    assert {"01-base.mid", "01-adapted.mid", "01-base.png"} <= {path.name for path in (folder / "music").iterdir()}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "bundled learns my songs" in page
    assert "may be chance" in page
    assert "No verdict, too few songs" in page
    commands = symbolic_next_commands(result)
    assert any(f"--data-dir '{data}'" in command for command in commands)
    assert not any("--instruments" in command for command in commands)
