"""Comparison of a run in a folder with the run that is asked for; words on a finished run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomli_w

from musiclora.errors import TrainingError
from musiclora.training.config import TrainConfig
from musiclora.training.result import finished_line
from musiclora.training.resume import check_same_run
from musiclora.training.run_folder import CONFIG, META, Run


def config(folder, **options):
    return TrainConfig(data_dir="songs", output_dir=str(folder), backend="torch", **options)


def compare(folder, old, new, **meta):
    """Compare a run with options `old` on disk with one that is asked for with options `new`."""
    (folder / CONFIG).write_text(tomli_w.dumps({"train": config(folder, **old).as_toml()}))
    (folder / META).write_text(json.dumps({"data": "hash", **meta}))
    return check_same_run(Run(folder), config(folder, **new), "torch", "hash")


@pytest.mark.parametrize(
    ("family", "given"),
    [("symbolic", {"lora_r": 16, "lora_alpha": 32.0, "lr": 1e-3}), ("audio", {"lora_r": 8, "lora_dropout": 0.25})],
)
def test_a_default_that_is_given_the_second_time_is_the_same_run(tmp_path, family, given):
    assert "lora_r" not in compare(tmp_path, {"family": family}, {"family": family, **given})
    assert given.items() <= compare(tmp_path, {"family": family, **given}, {"family": family}).items()


def test_a_run_goes_on_with_the_learning_rate_it_began_with_where_the_default_has_changed(tmp_path):
    # A run of the version with a default of 2e-4 would have gone on with 1e-3, halfway down its schedule.
    assert compare(tmp_path, {}, {}, lr=2e-4)["lr"] == 2e-4
    assert compare(tmp_path, {"lr": 2e-4}, {}, lr=2e-4)["lr"] == 2e-4
    with pytest.raises(TrainingError, match=r"\(--lr was 0\.0002, is 0\.001\)"):
        compare(tmp_path, {}, {"lr": 1e-3}, lr=2e-4)


def test_another_value_than_the_default_is_named_as_an_option(tmp_path):
    # It said "lora_r was None, is 8".
    with pytest.raises(TrainingError, match=r"\(--lora-r was 16 \(the default\), is 8\)") as found:
        compare(tmp_path, {}, {"lora_r": 8})
    assert "None" not in str(found.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (0, 6, "songs are transposed by up to 6 semitones, were otherwise with --no-transpose or an earlier version"),
        (6, 0, "songs were transposed by up to 6 semitones, are not with --no-transpose"),
    ],
)
def test_the_semitones_of_a_pretraining_are_no_option_and_named_in_words(tmp_path, old, new, words):
    # `pretrain` has no option with a number of semitones, and yet it said "--transpose was 0, is 6".
    with pytest.raises(TrainingError, match=rf"\({words}\); use --restart or another folder"):
        compare(tmp_path, {"trainable": "all", "transpose": old}, {"trainable": "all", "transpose": new})
    with pytest.raises(TrainingError, match=f"--transpose was {old}, is {new}"):
        compare(tmp_path, {"transpose": old}, {"transpose": new})


def test_an_option_without_a_default_was_not_given(tmp_path):
    with pytest.raises(TrainingError, match=r"--tokenizer was not given, is 't.json'"):
        compare(tmp_path, {}, {"tokenizer": "t.json"})


@pytest.mark.parametrize(
    ("ended", "option"),
    [("steps", "--max-steps"), ("epochs", "--epochs"), ("", "--epochs"), ("time", "--minutes")],
)
def test_a_finished_run_names_the_option_that_makes_it_longer(ended, option):
    # A run that --max-steps had ended was told that more --epochs continue it.
    assert finished_line(Path("run"), ended).endswith(f"more {option} continue it")


def test_a_run_that_lost_its_patience_names_both_ways():
    assert "more --epochs or more --patience" in finished_line(Path("run"), "patience")


def test_a_run_from_before_an_option_existed_is_the_same_run_with_its_default(tmp_path):
    kinds = {"use_dora": False, "use_rslora": False, "lora_plus_ratio": 1.0}
    assert not kinds.keys() & compare(tmp_path, {}, {}).keys()
    compare(tmp_path, {}, kinds)
    compare(tmp_path, kinds, {})
    with pytest.raises(TrainingError, match=r"--use-dora was False \(the default\), is True"):
        compare(tmp_path, {}, {"use_dora": True})
    with pytest.raises(TrainingError, match=r"--lora-plus-ratio was 4.0, is 1.0 \(the default\)"):
        compare(tmp_path, {"lora_plus_ratio": 4.0}, {})
