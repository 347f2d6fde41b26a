"""`generate --train-dir` of the audio family: what a piece copies of recordings, or of their latents."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import toy_audio
from click.testing import CliRunner
from refusal import refused
from require import require
from sung_lines import write_sung

from musiclora.audio.piece_copies import PieceCopies
from musiclora.cli import main
from musiclora.evaluation.audio_copies.features import latent_frames
from musiclora.evaluation.audio_copies.meter import AudioCopyMeter

for _name in ("librosa", "soundfile", "soxr"):
    require(_name)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_audio.write_base(tmp_path_factory.mktemp("audio") / "tiny", max_frames=96)  # 4.5 s


def generate(base, output, backend_name, *options):
    fixed = ("--model", base, "--output", output, "--steps", 4, "--seed", 3, "--backend", backend_name)
    return CliRunner().invoke(main, ["generate", *map(str, (*fixed, *options))])


def test_a_piece_that_lies_among_the_training_recordings_is_a_copy(base, backend_name, tmp_path):
    train = write_sung(tmp_path / "train", [1, 2, 3, 4], 6)
    first = generate(base, tmp_path / "first.wav", backend_name)
    assert first.exit_code == 0, first.output
    shutil.copy(tmp_path / "first.wav", train)
    done = generate(base, tmp_path / "again.wav", backend_name, "--train-dir", train, "--json")
    (file,) = json.loads(done.stdout)["files"]
    assert (file["copy"]["copied"], file["copy"]["song"], file["copy"]["semitones"]) == (True, "first.wav", 0)
    assert file["copy"]["share"] > 0.8  # the last patch may not fill the piece
    assert file["copy"]["unseen"] == {"excerpts": 5, "as_similar": 0}
    line = generate(base, tmp_path / "line.wav", backend_name, "--train-dir", train)
    assert "like 0.0 to" in line.stdout
    assert "of first.wav; similarity" in line.stdout
    assert "5 training recordings against each other" in line.stderr


def test_latents_are_compared_with_a_latents_folder(base, backend_name, tmp_path):
    train = toy_audio.write_latents(tmp_path / "latents", base, frames=150)
    done = generate(base, tmp_path / "new.wav", backend_name, "--train-dir", train, "--json")
    (file,) = json.loads(done.stdout)["files"]
    assert (file["copy"]["measure"], file["copy"]["copied"]) == ("latents", False)


def test_a_short_piece_is_written_and_said_not_to_be_measured(base, backend_name, tmp_path):
    train = write_sung(tmp_path / "train", [1, 2, 3, 4], 6)
    options = ("--seconds", 1, "--train-dir", train)
    done = generate(base, tmp_path / "new.wav", backend_name, *options)
    assert done.exit_code == 0
    assert "not measured for copies: is 1.02 s long; copies are found in spans of at least" in done.stdout
    assert (
        "copy"
        not in json.loads(generate(base, tmp_path / "j.wav", backend_name, *options, "--json").stdout)["files"][0]
    )


def test_given_sound_is_not_counted(base, backend_name):
    rng = np.random.default_rng(0)
    songs = [np.cumsum(rng.normal(size=(300, 6)), axis=0) for _ in range(5)]
    meter = AudioCopyMeter([latent_frames(f"{i}", song, 21.5) for i, song in enumerate(songs)])
    copies = PieceCopies(meter, True, 21.5, ["remark"])
    assert copies.notes[0] == "remark"
    silence, piece = np.zeros((2, 10), np.float32), songs[1][:120]
    assert copies.measure(silence, 44100, piece, None).copied
    given = np.zeros(120, bool)
    assert copies.measure(silence, 44100, piece, given) == "nothing long enough to be compared is new in it"


@pytest.mark.parametrize("bad", ["missing", "empty", "avoid-copying"])
def test_what_cannot_be_measured_is_refused_and_nothing_is_written(base, backend_name, tmp_path, bad):
    folder = tmp_path / "train"
    options = ("--train-dir", folder)
    if bad == "empty":
        folder.mkdir()
    if bad == "avoid-copying":
        options = (*options, "--avoid-copying")
    done = generate(base, tmp_path / "new.wav", backend_name, *options)
    refused(done, {"avoid-copying": "symbolic family only"}.get(bad, f"--train-dir {folder}: no"))
    assert not (tmp_path / "new.wav").exists()
