"""`evaluate --generated-dir --reference-dir` of songs: the style card, its picture, and requests that are refused."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner
from melodies import changed, note_list, rows_of, tune, write_songs
from refusal import refused

from musiclora.cli import main

PNG = b"\x89PNG"


def written(folder, name, pieces):
    named = [note_list(f"{name}-{i:03d}", rows_of(piece), piece.bar_starts) for i, piece in enumerate(pieces)]
    return write_songs(folder, named)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("style")
    made = [tune(i) for i in range(50, 54)]
    written(root / "made", "piece", made)
    written(root / "bases", "piece", [changed(piece, tempo=0.5) for piece in made])
    shutil.copytree(root / "made", root / "compared")
    for path in (root / "bases").iterdir():
        shutil.copy(path, root / "compared" / f"{path.stem}-base.mid")
    written(root / "artist", "song", [tune(i) for i in range(8)])
    written(root / "rest", "song", [tune(i) for i in range(20, 26)])
    written(root / "three", "song", [tune(i) for i in range(3)])
    return root


def evaluate(*arguments):
    return CliRunner().invoke(main, ["evaluate", *(str(a) for a in arguments)])


def style(*arguments):
    done = evaluate(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_folders_of_songs_give_a_style_card(folders):
    done = evaluate("--generated-dir", folders / "made", "--reference-dir", folders / "artist")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("style: 4 pieces against 8 songs, in excerpts of 64 quarter notes")
    assert any(line.startswith("inter-onset time ") for line in lines)
    assert lines[-2].startswith("mean ")
    assert "as near as the artist's own songs" in lines[-1]


def test_the_baseline_is_a_folder_or_the_files_that_compare_wrote(folders):
    reference = ("--reference-dir", folders / "artist")
    given = style("--generated-dir", folders / "made", *reference, "--baseline-dir", folders / "bases")
    found = style("--generated-dir", folders / "compared", *reference)
    assert given["style"] == found["style"]
    assert given["style"]["gain"]["low"] > 0  # twice as fast is another style
    assert found["style"]["pieces"] == {"reference": 8, "generated": 4, "baseline": 4}
    assert any("4 files whose names end in -base" in note for note in found["notes"])


def test_both_measures_read_the_same_folders(folders):
    arguments = ("--generated-dir", folders / "compared", "--reference-dir", folders / "artist")
    found = style(*arguments, "--train-dir", folders / "rest")
    assert {entry["file"] for entry in found["copies"]} == {f"piece-00{i}.mid" for i in range(4)}
    assert found["style"]["pieces"]["rest"] == 6
    assert set(found) == {"copies", "threshold", "style", "notes"}


def test_too_few_reference_songs_leave_the_copies(folders):
    arguments = ("--generated-dir", folders / "made", "--reference-dir", folders / "three")
    refused(evaluate(*arguments), "--reference-dir: the style card takes at least 4")
    found = style(*arguments, "--train-dir", folders / "rest")
    assert "style" not in found
    assert any("at least 4 pieces" in note for note in found["notes"])


def test_a_picture_is_drawn_once(folders, tmp_path):
    arguments = ("--generated-dir", folders / "made", "--reference-dir", folders / "artist")
    picture = tmp_path / "card.png"
    assert evaluate(*arguments, "--picture", picture).exit_code == 0
    assert picture.read_bytes().startswith(PNG)
    refused(evaluate(*arguments, "--picture", picture), "exists already")
    assert evaluate(*arguments, "--picture", picture, "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--paired",), "--paired: for recordings only"),
        (("--rank",), "--rank: for recordings only"),
        (("--picture", "card.jpg"), "ends in .png"),
        (("--baseline-dir", "missing"), "missing"),
    ],
)
def test_requests_that_do_not_fit_are_refused(folders, more, said):
    refused(evaluate("--generated-dir", folders / "made", "--reference-dir", folders / "artist", *more), said)


def test_a_picture_takes_reference_songs(folders, tmp_path):
    arguments = ("--generated-dir", folders / "made", "--train-dir", folders / "rest")
    refused(evaluate(*arguments, "--picture", tmp_path / "card.png"), "--picture: belongs to the style card")
