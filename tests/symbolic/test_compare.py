"""`evaluate --generated-dir --train-dir` of songs: keys, scale, and folders that are refused."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from melodies import changed, inserted, note_list, rows_of, tune, write_songs
from refusal import refused

from musiclora.cli import main

SONGS = [tune(i) for i in range(12)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("copies")
    made = {
        "copy": changed(SONGS[2], semitones=5, tempo=2.0),
        "part": inserted(tune(40), SONGS[6], first_bar=2, bars=4, at_bar=10),
        "own": tune(41),
    }
    pieces = [note_list(name, rows_of(piece), piece.bar_starts) for name, piece in made.items()]
    write_songs(root / "made", pieces)
    (root / "made" / "broken.mid").write_bytes(b"MThd\0\0")
    write_songs(root / "train", SONGS)
    write_songs(root / "unseen", [tune(i) for i in range(20, 26)])
    write_songs(root / "one", SONGS[:1])
    return root


def evaluate(*arguments):
    return CliRunner().invoke(main, ["evaluate", *(str(a) for a in arguments)])


def test_copies_are_listed_with_the_place_in_piece_and_song(folders):
    done = evaluate("--generated-dir", folders / "made", "--train-dir", folders / "train", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    copies = {entry["file"]: entry for entry in found["copies"]}
    assert sorted(copies) == ["copy.mid", "own.mid", "part.mid"]
    assert {name: entry["copied"] for name, entry in copies.items()} == {
        "copy.mid": True,
        "part.mid": True,
        "own.mid": False,
    }
    assert (copies["copy.mid"]["song"], copies["part.mid"]["song"]) == ("tune-2.mid", "tune-6.mid")
    assert copies["copy.mid"]["longest_match_notes"] == len(SONGS[2])
    assert copies["copy.mid"]["share"] == 1.0
    first, last = copies["part.mid"]["bars"]
    assert (first in (10, 11), last in (14, 15)) == (True, True)
    assert copies["part.mid"]["song_bars"] == [first - 8, last - 8]
    assert copies["part.mid"]["longest_match_bars"] == last - first + 1
    assert isinstance(found["threshold"], int)
    assert any("broken.mid" in note for note in found["notes"])


def test_held_out_songs_are_the_scale_where_they_are_given(folders):
    pair = ("--generated-dir", folders / "made", "--train-dir", folders / "train")
    every = evaluate(*pair, "--reference-dir", folders / "unseen").stdout.splitlines()
    lines = every[: next(i for i, line in enumerate(every) if line.startswith("style: "))]
    assert lines[0].startswith("copy.mid: copied: longest match 64 notes")
    assert all("unseen songs of this artist: " in line for line in lines)
    assert lines[-1].startswith("2 of 3 samples copy a training song")
    alone = evaluate(*pair).stdout.splitlines()
    assert all("with each other" in line for line in alone)


def test_a_single_training_song_gives_the_default_threshold_and_says_so(folders):
    done = evaluate("--generated-dir", folders / "made", "--train-dir", folders / "one", "--json")
    found = json.loads(done.stdout)
    assert found["threshold"] == 12
    assert any("too few songs" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("missing", "train"), "missing"),
        (("made", "missing"), "missing"),
        (("empty", "train"), "empty"),
        (("made", "empty"), "empty"),
        (("damaged", "train"), "none of 1 music file can be used"),
        (("made", "damaged"), "none of 1 music file can be used"),
        (("made", "short"), "no song to compare with has 6 notes"),
    ],
)
def test_folders_without_songs_are_refused_in_one_line(folders, tmp_path, names, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "x.mid").write_bytes(b"MThd\0\0")
    write_songs(tmp_path / "short", [note_list("x", rows_of(SONGS[0])[:4], [0.0, 4.0])])
    made, train = (folders / name if (folders / name).is_dir() else tmp_path / name for name in names)
    refused(evaluate("--generated-dir", made, "--train-dir", train), said)


@pytest.mark.parametrize(
    "arguments", [["--train-dir", "a"], ["--generated-dir", "a", "--train-dir", "b", "--data-dir", "c"]]
)
def test_incomplete_options_are_refused(arguments):
    refused(evaluate(*arguments), "--generated-dir")
