"""Runs that train DoRA, rsLoRA and LoRA+, on both backends and for both families."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy_audio
from click.testing import CliRunner
from session_helpers import stop_after

from musiclora.cli import main
from musiclora.convert.adapters.peft import read_peft
from musiclora.convert.files.safetensors_file import read_safetensors
from musiclora.convert.models.gpt2 import read_checkpoint
from musiclora.errors import ConfigError
from musiclora.jobs import open_session, train
from musiclora.training.config import TrainConfig
from musiclora.training.start_adapter import take_adapter_settings

KIND = {"use_dora": True, "use_rslora": True, "lora_plus_ratio": 4.0}


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """An audio base and latents to train it on."""
    base = toy_audio.write_base(tmp_path_factory.mktemp("audio") / "tiny")
    return base, toy_audio.write_latents(tmp_path_factory.mktemp("latents") / "walks", base)


@pytest.fixture(params=["symbolic", "audio"])
def make(request, config, backend_name):
    """Settings of a small run of each family on each backend."""
    if request.param == "symbolic":
        return lambda name="run", **changes: config(name, **{"backend": backend_name, **KIND, **changes})
    base, latents = request.getfixturevalue("audio")
    family = {"model": str(base), "data_dir": str(latents), "backend": backend_name, "max_seq_len": 24}
    return lambda name="run", **changes: config(name, **{**family, **KIND, **changes})


def arrays(folder: str | Path) -> dict[str, np.ndarray]:
    return read_peft(Path(folder)).model_state


def test_a_run_writes_what_peft_reads_and_says_what_it_trained(make):
    result = train(make())
    found = read_peft(result.run_dir / "adapter-last")
    assert (found.config["use_dora"], found.config["use_rslora"]) == (True, True)
    assert found.spec.scale == pytest.approx(found.spec.alpha / found.spec.rank**0.5)
    assert found.magnitudes.keys() == found.ranks.keys()
    meta = json.loads((result.run_dir / "training_meta.json").read_text())
    assert {key: meta[key] for key in KIND} == KIND
    assert meta["trained_parameters"] == sum(array.size for array in found.model_state.values())
    report = (result.run_dir / "report.html").read_text()
    assert all(option in report for option in ("--use-dora", "--use-rslora", "--lora-plus-ratio"))
    written = read_safetensors(result.run_dir / "adapter-last" / "adapter_model.safetensors")
    assert sum(name.endswith(".lora_magnitude_vector") for name in written) == len(found.ranks)


def test_a_stopped_run_ends_as_an_unbroken_one(make):
    train(make("whole"))
    stop_after(open_session(make("parts")), 1)
    train(make("parts"))
    whole, parts = (arrays(make(name).output_dir + "/adapter-last") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_the_size_of_the_update_is_that_of_the_change_of_the_weights(config, tiny_base):
    result = train(config(**KIND))
    found, weights = read_peft(result.run_dir / "adapter-best"), read_checkpoint(tiny_base).load()
    sizes = json.loads((result.run_dir / "training_meta.json").read_text())["update_size"]
    assert sizes.keys() == found.magnitudes.keys()
    for module, lengths in found.magnitudes.items():
        weight = weights[f"{module}.weight"].T.astype(np.float64)
        a, b = (found.state[f"{module}.lora_{part}.weight"].astype(np.float64) for part in "AB")
        moved = weight + found.spec.scale * b @ a
        changed = lengths[:, None] * moved / np.linalg.norm(moved, axis=1, keepdims=True) - weight
        expected = np.linalg.norm(changed) / np.linalg.norm(weight)
        assert sizes[module] == pytest.approx(expected, rel=1e-4, abs=1e-6)  # written with six digits
        assert expected > 1e-3


def test_training_goes_on_from_a_dora_adapter(config):
    first = train(config("first", use_dora=True))
    start = str(first.run_dir / "adapter-last")
    result = train(config("second", adapter_dir=start, lora_r=None, max_steps=1, lr=1e-9))
    before, after = arrays(start), arrays(result.run_dir / "adapter-last")
    assert before.keys() == after.keys()
    for name, array in before.items():  # one step of a learning rate of 1e-9 moves no value by more than about that
        np.testing.assert_allclose(after[name], array, atol=1e-6)
    with pytest.raises(ConfigError, match="--use-dora is False, not True"):
        take_adapter_settings(config("third", adapter_dir=start, lora_r=None, use_dora=False))


def test_a_plain_adapter_does_not_become_a_dora_adapter(config):
    first = train(config("first", max_steps=1))
    settings = replace(config("second", adapter_dir=str(first.run_dir / "adapter-last"), lora_r=None), use_dora=True)
    with pytest.raises(ConfigError, match="--use-dora is True, not False; leave these options out"):
        take_adapter_settings(settings)


def test_the_command_takes_the_options_and_refuses_a_ratio_in_one_line(tunes, tiny_base, tmp_path, any_backend):
    run = ["train", "--data-dir", str(tunes), "--model", str(tiny_base), "--output-dir", str(tmp_path / "run")]
    run += ["--backend", any_backend, "--max-seq-len", "128", "--max-steps", "2", "--use-dora", "--use-rslora"]
    refused = CliRunner().invoke(main, [*run, "--lora-plus-ratio", "0.5"])
    assert refused.exit_code == 2
    assert "--lora-plus-ratio is 0.5; it must be a finite number, at least 1" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
    done = CliRunner().invoke(main, [*run, "--lora-plus-ratio", "4"])
    assert done.exit_code == 0, done.stderr
    assert read_peft(tmp_path / "run" / "adapter-best").spec.dora


def test_options_that_were_not_given_are_not_written(config):
    assert not KIND.keys() & config().as_toml().keys()
    assert TrainConfig("d", "o", use_dora=True).as_toml()["use_dora"] is True
