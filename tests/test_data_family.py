"""Recordings, latents and songs are recognised, so that a command without the right --model says which one to give."""

from __future__ import annotations

import json
import shutil

import pytest
import toy_audio
from click.testing import CliRunner

from musiclora.cli import main
from musiclora.families import spec_of_data

DEFAULT = "xingjianll/midi-gpt2"


@pytest.fixture
def folders(tmp_path, tunes):
    """Folders of songs, recordings and latents, and an empty one."""
    toy_audio.write_base(tmp_path / "base")
    (tmp_path / "empty").mkdir()
    return {
        "songs": tunes,
        "recordings": toy_audio.write_recordings(tmp_path / "recordings", count=1, seconds=0.2),
        "latents": toy_audio.write_latents(tmp_path / "latents", tmp_path / "base", count=2),
        "empty": tmp_path / "empty",
    }


def call(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_a_folder_tells_its_family_and_a_mixed_or_empty_one_does_not(folders, tmp_path):
    found = {name: spec_of_data(folder) for name, folder in folders.items()}
    families = {name: spec and spec.family for name, spec in found.items()}
    assert families == {"songs": "symbolic", "recordings": "audio", "latents": "audio", "empty": None}
    shutil.copytree(folders["songs"], tmp_path / "mixed")
    shutil.copy(next(folders["recordings"].iterdir()), tmp_path / "mixed")
    assert spec_of_data(tmp_path / "mixed") is None


@pytest.mark.parametrize("command", ["train", "preprocess"])
@pytest.mark.parametrize("data", ["recordings", "latents"])
def test_without_a_model_recordings_and_latents_are_not_taken_for_songs(folders, tmp_path, command, data):
    result = call(command, "--data-dir", folders[data], "--output-dir", tmp_path / "out")
    assert result.exit_code == 2
    assert f"holds recordings, and the default model {DEFAULT} learns songs in MIDI or ABC" in result.stderr
    assert "give --model bundled-audio" in result.stderr
    assert not (tmp_path / "out").exists()


def test_songs_are_not_taken_for_recordings(folders, tmp_path):
    result = call("train", "--data-dir", folders["songs"], "--model", "bundled-audio", "--output-dir", tmp_path / "out")
    assert result.exit_code == 2
    assert "holds songs in MIDI or ABC, and bundled-audio learns recordings; give --model bundled " in result.stderr


def test_evaluate_names_the_family_too(folders):
    result = call("evaluate", "--data-dir", folders["latents"], "--model", "bundled")
    assert result.exit_code == 2
    assert "holds recordings, and bundled learns songs" in result.stderr


def test_doctor_describes_latents_and_the_audio_model_beside_them(folders):
    found = json.loads(call("doctor", folders["latents"], "--json").stdout)
    assert found["model"]["name"] == "bundled-audio"
    assert (found["latents"]["recordings"], found["latents"]["files"]) == (2, 2)
    assert found["latents"]["latents_size"] == pytest.approx(1.5, abs=0.3)  # sine of amplitude 2, and a walk of 0.5


@pytest.mark.parametrize("data", ["recordings", "latents"])
def test_pretrain_says_that_it_is_for_symbolic_music(folders, tmp_path, data):
    result = call("pretrain", "--data-dir", folders[data], "--output-dir", tmp_path / "out")
    assert result.exit_code == 2
    assert (
        "holds recordings, and pretrain makes symbolic bases only; train adapts --model bundled-audio" in result.stderr
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ended", ["epochs", None])
def test_doctor_says_what_a_run_folder_is(tmp_path, ended):
    meta = {"base_model": "bundled", "family": "symbolic", "steps": 40, "ended": ended, "best_val_loss": 1.25}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "training_meta.json").write_text(json.dumps(meta))
    result = call("doctor", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    end = "finished (epochs)" if ended else "not finished; the same command resumes it"
    assert f"a run folder of bundled, 40 steps, best held-out loss 1.2500, {end}; it holds no music" in result.stdout
    assert json.loads(call("doctor", tmp_path / "run", "--json").stdout)["folder"]["kind"] == "run"


@pytest.mark.parametrize(("file", "kind"), [("adapter_config.json", "an adapter"), ("config.json", "a model")])
def test_doctor_says_that_an_adapter_or_a_model_is_no_music(tmp_path, file, kind):
    (tmp_path / file).write_text("{}")
    result = call("doctor", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert f"the folder of {kind}, no music" in result.stdout
