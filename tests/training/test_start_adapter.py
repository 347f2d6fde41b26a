"""Training that starts from an adapter."""

from __future__ import annotations

import json

import numpy as np
import pytest
from session_helpers import stop_after

from musiclora.convert.adapters.lora import LoraSpec, state_shapes
from musiclora.convert.adapters.peft import read_peft, write_peft
from musiclora.convert.models.gpt2 import read_checkpoint
from musiclora.errors import ConfigError, ConvertError
from musiclora.families import checkpoint_fingerprint
from musiclora.jobs import open_session, train
from musiclora.training.config import TrainConfig
from musiclora.training.start_adapter import take_adapter_settings

SPEC = LoraSpec(3, 4.5, 0.0, ("c_attn", "mlp.c_proj"), rslora=True)


@pytest.fixture
def state(tiny_base):
    rng = np.random.default_rng(0)
    shapes = state_shapes(SPEC, read_checkpoint(tiny_base).config.linear_shapes())
    return {name: (0.05 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def start(tiny_base, state, tmp_path):
    record = {"musiclora": "0.2", "fingerprints": checkpoint_fingerprint(tiny_base)}
    write_peft(tmp_path / "start", SPEC, state, base_model="", record=record)
    return tmp_path / "start"


@pytest.fixture
def config(tiny_base, tunes, any_backend, start, tmp_path):
    def make(name="run", **changes):
        settings = {
            "data_dir": str(tunes),
            "output_dir": str(tmp_path / name),
            "model": str(tiny_base),
            "adapter_dir": str(start),
            "backend": any_backend,
            "max_seq_len": 128,
            "batch_size": 4,
            "epochs": 1,
            "lora_dropout": 0.0,
            "val_split": 0.25,
            "num_workers": 1,
        }
        return TrainConfig(**{**settings, **changes})

    return make


def test_training_begins_at_the_adapters_arrays_with_its_settings(config, start, state):
    result = train(config(max_steps=1, lr=1e-9))
    found = read_peft(result.run_dir / "adapter-last")
    assert found.spec == LoraSpec(3, found.spec.alpha, 0.0, SPEC.targets)
    assert found.spec.scale == pytest.approx(SPEC.scale, rel=1e-15)
    for name, array in state.items():  # one step of a learning rate of 1e-9 moves no value by more than about that
        np.testing.assert_allclose(found.state[name], array, atol=1e-6)
    assert json.loads((result.run_dir / "training_meta.json").read_text())["adapter_dir"] == str(start)


@pytest.mark.slow
def test_a_run_that_starts_from_an_adapter_resumes_exactly(config):
    train(config("whole", lr=5e-3))
    stop_after(open_session(config("parts", lr=5e-3)), 2)
    train(config("parts", lr=5e-3))
    whole, parts = (read_peft(config(name).output_dir + "/adapter-last").state for name in ("whole", "parts"))
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lora_r": 4}, "--lora-r is 4, not 3"),
        ({"lora_alpha": 3.0, "lora_r": 3}, "--lora-alpha is 3.0, not 7.79"),
        ({"target_modules": ("c_fc",)}, "--target-modules is"),
        ({"adapter_dir": "nowhere"}, "--adapter-dir nowhere"),
    ],
    ids=["rank", "alpha", "targets", "no adapter"],
)
def test_options_that_contradict_the_adapter_are_refused_by_name(config, changes, named):
    with pytest.raises(ConfigError, match=named):
        take_adapter_settings(config(**changes))


def test_the_same_targets_in_another_order_and_no_adapter_are_accepted(config):
    taken, _ = take_adapter_settings(config(target_modules=("mlp.c_proj", "c_attn")))
    assert (taken.lora_r, taken.target_modules) == (3, SPEC.targets)
    plain = config(adapter_dir=None)
    assert take_adapter_settings(plain) == (plain, [])


def test_an_adapter_of_another_base_is_refused(config, start):
    record = json.loads((start / "musiclora.json").read_text())
    record["fingerprints"]["weights"] = "0" * 64
    (start / "musiclora.json").write_text(json.dumps(record))
    with pytest.raises(ConvertError, match="the weights"):
        take_adapter_settings(config())


def test_the_tokenizer_of_the_adapter_is_taken_where_it_is_not_the_bases(config, start, tiny_base):
    content = (tiny_base / "tokenizer.json").read_bytes()
    (start / "tokenizer.json").write_bytes(content)
    assert take_adapter_settings(config())[0].tokenizer is None
    (start / "tokenizer.json").write_bytes(content.replace(b'"REMI"', b'"TSD"'))
    assert take_adapter_settings(config())[0].tokenizer == str(start / "tokenizer.json")
