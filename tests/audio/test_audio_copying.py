"""`evaluate --generated-dir --train-dir` of recordings."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from require import require
from sung_lines import write_sung

from musiclora.audio.latents.store import INDEX
from musiclora.cli import main

for _name in ("librosa", "soundfile", "soxr"):
    require(_name)


def evaluate(*arguments):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)], catch_exceptions=False)


def test_evaluate_names_the_copy_and_leaves_out_what_cannot_be_read(tmp_path):
    made = write_sung(tmp_path / "made", [2, 50])
    train = write_sung(tmp_path / "train" / "sub", list(range(5))).parent
    (train / "broken.wav").write_bytes(b"RIFF")
    done = evaluate("--generated-dir", made, "--train-dir", train, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    rows = {row["file"]: row for row in result["copies"]}
    assert [rows["2.wav"][key] for key in ("copied", "song")] == [True, "sub/2.wav"]
    assert rows["2.wav"]["share"] > 0.9  # the last patch may not fill the piece
    assert rows["2.wav"]["seconds"] == rows["2.wav"]["song_seconds"]
    assert [rows["50.wav"][key] for key in ("copied", "share")] == [False, 0]
    assert rows["50.wav"]["similarity"] <= result["threshold"] < rows["2.wav"]["similarity"]
    assert any("left out 1 of 6" in note and "broken.wav" in note for note in result["notes"])


def test_evaluate_measures_distances_and_copies_in_one_call(tmp_path):
    made, train = write_sung(tmp_path / "made", [1, 60]), write_sung(tmp_path / "train", list(range(4)))
    held_out = write_sung(tmp_path / "held-out", [10, 11, 12, 13])
    done = evaluate("--generated-dir", made, "--train-dir", train, "--reference-dir", held_out, "--json")
    result = json.loads(done.stdout)
    assert {"afd", "copies", "threshold"} <= set(result)
    assert "scale of copies: 4 held-out recordings" in result["notes"]
    text = evaluate("--generated-dir", made, "--train-dir", train).stdout
    assert "1.wav: copied: 100% of it" in text or "1.wav: copied: 9" in text
    assert "1 of 2 recordings copy a training recording" in text


def test_a_single_training_recording_takes_the_stated_threshold(tmp_path):
    made, train = write_sung(tmp_path / "made", [1, 60]), write_sung(tmp_path / "train", [1])
    done = evaluate("--generated-dir", made, "--train-dir", train)
    assert "fewer than 4 are no scale" in done.stderr
    assert "1.wav: copied" in done.stdout
    assert "60.wav: not copied" in done.stdout


@pytest.mark.parametrize("bad", ["empty", "short", "latents"])
def test_folders_that_cannot_be_compared_are_refused_in_one_line(tmp_path, bad):
    made, train = write_sung(tmp_path / "made", [1]), tmp_path / "train"
    train.mkdir()
    if bad == "short":
        write_sung(train, [1, 2], 1.5)
    if bad == "latents":
        (train / INDEX).write_text("{}")
    done = evaluate("--generated-dir", made, "--train-dir", train)
    said = {"empty": "no recordings in this folder", "short": "at least 2.23 s", "latents": "holds latents"}[bad]
    assert done.exit_code == 2
    assert said in done.stderr
    assert "--train-dir" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
