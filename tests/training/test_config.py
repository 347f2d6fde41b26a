"""Options: their order, their checks, TOML."""

from __future__ import annotations

import dataclasses

import pytest

from musiclora.errors import ConfigError
from musiclora.training.config import TrainConfig, resolve_config

FOLDERS = {"data_dir": "d", "output_dir": "o"}


def write(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_options_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    path = write(tmp_path, "lr = 1e-3\nlora_r = 4\n")
    config = resolve_config({**FOLDERS, "lr": 5e-4, "epochs": None}, "capacity", path)
    assert (config.lr, config.lora_r, config.lora_alpha, config.seed) == (5e-4, 4, 64.0, 42)


def test_a_preset_on_the_command_line_wins_over_the_one_in_the_file(tmp_path):
    path = write(tmp_path, "preset = 'conservative'\n")
    assert resolve_config(FOLDERS, None, path).lora_r == 8
    assert resolve_config(FOLDERS, "capacity", path).lora_r == 32


def test_the_defaults_are_those_that_the_guide_promises():
    config = resolve_config(FOLDERS)
    lora = config.lora()
    assert (lora.rank, lora.alpha, lora.dropout, lora.targets) == (16, 32.0, 0.05, ("c_attn", "c_fc", "c_proj"))
    assert (config.max_seq_len, config.weight_decay, config.max_grad_norm) == (1024, 0.01, 1.0)
    assert (config.val_split, config.seed, config.model) == (0.1, 42, "xingjianll/midi-gpt2")
    assert config.training_defaults.learning_rate == 1e-3
    assert resolve_config({**FOLDERS, "family": "audio"}).training_defaults.learning_rate == 2e-4


def test_alpha_follows_the_rank_where_it_is_not_given():
    assert resolve_config({**FOLDERS, "lora_r": 8}).lora().scale == resolve_config(FOLDERS).lora().scale == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step = 3", "unknown key 'step'"),
        ("epoch = 3", "did you mean 'epochs'"),
        ("epochs = 'three'", 'epochs is "three", expected a whole number'),
        ("epochs = true", "epochs is true, expected a whole number"),
        ("[train]\nlrr = 1\nzzz = 2", r"\[train\]: unknown key 'lrr'; did you mean 'lr'\?; unknown key 'zzz'"),
        ("lr = ", "not valid TOML"),
    ],
    ids=["unknown", "near miss", "wrong type", "bool for int", "two at once", "no TOML"],
)
def test_a_wrong_file_is_refused_with_every_problem_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        resolve_config(FOLDERS, None, write(tmp_path, text))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "--lr is 0.0; it must be above 0"),
        ({"lr": float("nan")}, "--lr is nan"),
        ({"val_split": 1.0}, "--val-split is 1.0"),
        ({"lora_r": 0, "epochs": 0}, "--epochs is 0; it must be at least 1; --lora-r is 0"),
        ({"lr_schedule": "step"}, "cosine, linear, constant"),
        ({"backend": "jax"}, "auto, mlx, torch"),
    ],
    ids=["zero rate", "nan", "all held out", "two at once", "schedule", "backend"],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        resolve_config({**FOLDERS, **options})


def test_folders_must_be_given():
    with pytest.raises(ConfigError, match="--data-dir and --output-dir"):
        resolve_config({})
    with pytest.raises(ConfigError, match="--preset 'fast' is unknown"):
        resolve_config(FOLDERS, "fast")


def test_what_a_run_writes_can_be_read_again(tmp_path):
    import tomli_w

    config = resolve_config({**FOLDERS, "target_modules": ("c_attn",), "lr": 1e-5, "epochs": 3})
    path = write(tmp_path, tomli_w.dumps({"train": config.as_toml()}))
    assert resolve_config({}, None, path) == config


def test_every_field_of_the_record_is_read_from_a_file(tmp_path):
    values = {f.name: getattr(resolve_config(FOLDERS), f.name) for f in dataclasses.fields(TrainConfig)}
    assert set(resolve_config(FOLDERS).as_toml()) <= set(values)


@pytest.mark.parametrize("name", ["data_dir", "output_dir", "model"])
def test_a_path_that_the_settings_file_cannot_hold_is_refused(name):
    given = {"data_dir": "a", "output_dir": "b", name: "/music/\udcff"}
    with pytest.raises(ConfigError, match=rf"--{name.replace('_', '-')} /music/\\udcff: its name is no UTF-8 text"):
        resolve_config(given)


@pytest.mark.parametrize("ratio", [0.5, 0.0, -4.0, float("inf"), float("nan")], ids=str)
def test_a_lora_plus_ratio_below_one_or_not_finite_is_refused(ratio):
    with pytest.raises(ConfigError, match=r"--lora-plus-ratio is .*; it must be a finite number, at least 1"):
        resolve_config({**FOLDERS, "lora_plus_ratio": ratio})


def test_the_kind_of_adapter_is_plain_lora_unless_asked_for(tmp_path):
    assert (resolve_config(FOLDERS).lora().dora, resolve_config(FOLDERS).lora().rslora) == (False, False)
    asked = resolve_config(FOLDERS, None, write(tmp_path, "use_dora = true\nuse_rslora = true\n")).lora()
    assert (asked.dora, asked.rslora, asked.scale) == (True, True, 32 / 4)
