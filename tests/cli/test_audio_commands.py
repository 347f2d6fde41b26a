"""The audio family through the command line: what is printed, and one line for what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import toy_audio
from click.testing import CliRunner
from refusal import refused
from require import require

from musiclora.cli import main


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_audio.write_base(tmp_path_factory.mktemp("audio") / "tiny")


@pytest.fixture(scope="module")
def latents(base, tmp_path_factory):
    return toy_audio.write_latents(tmp_path_factory.mktemp("latents") / "walks", base)


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def train(base, latents, output, backend, *more):
    return call(
        "train",
        "--data-dir",
        latents,
        "--output-dir",
        output,
        "--model",
        base,
        "--backend",
        backend,
        "--max-seq-len",
        24,
        "--max-steps",
        2,
        "--lora-r",
        2,
        *more,
    )


@pytest.fixture(scope="module")
def run(base, latents, any_backend, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = train(base, latents, folder, any_backend, "--json")
    assert result.exit_code == 0, result.stderr
    return folder, result


def test_train_prints_one_object_and_says_the_plan_in_frames(run):
    folder, result = run
    found = json.loads(result.stdout)
    assert found["after"]["loss"] == pytest.approx(found["before"]["loss"] - found["gain"]["mean"], abs=1e-6)
    assert (found["unit"], found["run_dir"]) == ("frames", str(folder))
    assert "frames an epoch" in result.stderr
    assert "one style vector is trained with the adapter" in result.stderr


def test_train_names_the_next_command(base, latents, any_backend, tmp_path):
    result = train(base, latents, tmp_path / "run", any_backend)
    assert result.stdout.strip().endswith("--output new.wav")


def test_evaluate_prints_the_loss_of_base_and_adapter(run, latents, any_backend):
    arguments = ["evaluate", "--data-dir", latents, "--adapter-dir", run[0], "--backend", any_backend]
    found = json.loads(call(*arguments, "--max-seq-len", 24, "--json").stdout)
    trained = json.loads(run[1].stdout)
    # The gain is over the recordings that it was not trained on, hence that of the training's held-out scores.
    assert found["gain"]["mean"] == pytest.approx(trained["gain"]["mean"], rel=1e-3)
    assert (found["songs"], found["trained_on"]) == (6, 6 - found["gain"]["songs"])
    assert (found["gain"]["low"], found["verdict"]["style"]) == (None, "flat")
    table = call(*arguments).stdout
    assert "with adapter" in table
    assert "the gain is over the other" in table
    assert "bits" not in table


def test_generate_writes_and_says_what_it_wrote(run, any_backend, tmp_path):
    require("soundfile")
    result = call(
        "generate",
        "--adapter-dir",
        f"{run[0]}:0.5",
        "--output",
        tmp_path / "new.flac",
        "--backend",
        any_backend,
        "--steps",
        3,
        "--seconds",
        1,
        "--compare",
        "--json",
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [Path(f["path"]).name for f in found["files"]] == ["new.flac", "new-base.flac"]
    assert "no negative style is given: zeros are used" in result.stderr


def test_repainting_from_the_beginning_is_not_read_as_an_option(run, any_backend, tmp_path):
    require("soundfile")
    toy_audio.write_recordings(tmp_path / "in", 1, 1.5)
    result = call(
        "generate",
        "--adapter-dir",
        run[0],
        "--output",
        tmp_path / "new.wav",
        "--backend",
        any_backend,
        "--steps",
        3,
        "--init-audio",
        tmp_path / "in" / "tone-0.wav",
        "--repaint",
        -1,
        0.5,
        "--repaint",
        1.2,
        -1,
    )
    assert result.exit_code == 0, result.stderr


def test_options_of_the_other_family_are_refused_by_name(base, latents, run, any_backend, tmp_path):
    refused(
        train(base, latents, tmp_path / "r", any_backend, "--transpose", 2, "--tokenizer", "x"),
        "--tokenizer",
        "--transpose",
        "symbolic",
        "audio",
    )
    generate = ["generate", "--adapter-dir", run[0], "--backend", any_backend, "--output", tmp_path / "new.wav"]
    refused(call(*generate, "--max-new-tokens", 5), "--max-new-tokens", "symbolic")
    refused(call("evaluate", "--data-dir", latents, "--adapter-dir", run[0], "--tokenizer", "x"), "--tokenizer")
    assert not list(tmp_path.iterdir())


def test_a_symbolic_model_refuses_the_options_of_audio(tiny_base, tunes, any_backend, tmp_path):
    refused(
        call(
            "train",
            "--data-dir",
            tunes,
            "--output-dir",
            tmp_path / "r",
            "--model",
            tiny_base,
            "--backend",
            any_backend,
            "--style",
            "x",
        ),
        "--style",
        "audio",
    )
    assert not list(tmp_path.iterdir())


def test_a_codec_that_is_not_there_or_another_one_is_refused(base, run, any_backend, tmp_path):
    generate = ["generate", "--adapter-dir", run[0], "--backend", any_backend, "--output", tmp_path / "new.wav"]
    refused(call(*generate, "--vae", tmp_path / "nowhere"), "--vae", "nowhere")
    other = toy_audio.OobleckConfig(6, (1, 2), (32, 64), latent_dim=6, encoder_latent_dim=12)
    toy_audio.write_codec(tmp_path / "other", other)
    refused(call(*generate, "--vae", tmp_path / "other"), "another codec", "--allow-base-mismatch")
    bare = tmp_path / "bare"
    shutil.copytree(base, bare)
    shutil.rmtree(bare / "vae")
    refused(call(*generate, "--model", bare), "no codec beside it", "--vae")
    assert not (tmp_path / "new.wav").exists()


def test_an_adapter_for_another_base_is_refused(run, latents, any_backend, tmp_path):
    other = toy_audio.write_base(tmp_path / "other", conv_layers=0)
    refused(
        call("evaluate", "--data-dir", latents, "--adapter-dir", run[0], "--model", other, "--backend", any_backend),
        "another base",
        "--allow-base-mismatch",
    )


def test_one_recording_is_too_few(base, any_backend, tmp_path):
    one = toy_audio.write_latents(tmp_path / "one", base, count=1)
    refused(train(base, one, tmp_path / "run", any_backend), "at least 2", "--val-split 0")
    assert not (tmp_path / "run").exists()


def test_a_rate_that_blows_up_ends_with_one_line(base, latents, any_backend, tmp_path):
    result = train(
        base,
        latents,
        tmp_path / "run",
        any_backend,
        "--lr",
        1e30,
        "--warmup-steps",
        0,
        "--max-grad-norm",
        0,
        "--max-steps",
        8,
    )
    refused(result, "not finite", "--lr")
