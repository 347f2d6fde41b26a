"""Bases and adapters: where they come from, and whether they belong together."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from musiclora.adapters import base_of, check_base, find_adapter
from musiclora.backends import lora_init
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.adapters.peft import write_peft
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, read_checkpoint, write_checkpoint
from musiclora.errors import ConfigError, ConvertError
from musiclora.families import checkpoint_fingerprint
from musiclora.models import find_model

SPEC = LoraSpec(2, 4.0, 0.0, ("c_attn",))


@pytest.fixture
def adapter(tiny_base, tmp_path):
    """An adapter that records the tiny base."""
    state = lora_init.initial(SPEC, read_checkpoint(tiny_base).config.linear_shapes(), 0)
    record = {"fingerprints": checkpoint_fingerprint(tiny_base)}
    write_peft(tmp_path / "a", SPEC, state, base_model=str(tiny_base), record=record)
    return tmp_path / "a"


def test_the_recorded_base_is_taken_where_none_is_given(adapter, tiny_base):
    found = find_adapter(str(adapter))
    base = base_of(None, [found])
    assert base.path == tiny_base
    assert check_base(found, base) == []


def test_a_base_in_the_other_layout_is_the_same_base(adapter, tiny_base, tmp_path):
    checkpoint = read_checkpoint(tiny_base)
    extra = {"tokenizer.json": (tiny_base / "tokenizer.json").read_bytes()}
    write_checkpoint(tmp_path / "mlx", checkpoint.config, checkpoint.tensors(), "mlx", extra_files=extra)
    assert check_base(find_adapter(str(adapter)), find_model(str(tmp_path / "mlx"))) == []


def test_another_base_is_refused_with_the_part_that_differs(adapter, tiny_base, tmp_path):
    config = read_checkpoint(tiny_base).config
    extra = {"tokenizer.json": (tiny_base / "tokenizer.json").read_bytes()}
    write_checkpoint(tmp_path / "b", config, fresh_tensors(config, 77), "hf", extra_files=extra)
    with pytest.raises(ConvertError, match=r"weights.* differ.*--allow-base-mismatch"):
        check_base(find_adapter(str(adapter)), find_model(str(tmp_path / "b")))
    assert len(check_base(find_adapter(str(adapter)), find_model(str(tmp_path / "b")), allow_mismatch=True)) == 1


def test_an_adapter_of_another_tool_is_used_with_a_note(adapter, tiny_base):
    (adapter / "musiclora.json").unlink()
    (text,) = check_base(find_adapter(str(adapter)), find_model(str(tiny_base)))
    assert "no fingerprint" in text


def test_a_run_folder_stands_for_its_best_adapter(adapter, tmp_path):
    shutil.move(adapter, tmp_path / "run" / "adapter-best")
    assert find_adapter(str(tmp_path / "run")).path.name == "adapter-best"


@pytest.mark.parametrize("name", ["nowhere/at/all", "/no/such/folder", "plain"], ids=str)
def test_a_model_that_is_nowhere_is_named(name):
    with pytest.raises(ConfigError, match=name):
        find_model(name)


def test_a_hub_id_offline_says_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="--model bundled"):
        find_model("xingjianll/midi-gpt2")


def test_a_licence_is_read_from_the_models_card(tiny_base, tmp_path):
    assert find_model(str(tiny_base)).licence == "unknown"
    shutil.copytree(tiny_base, tmp_path / "m")
    (tmp_path / "m" / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    assert find_model(str(tmp_path / "m")).licence == "mit"


def test_adapters_of_different_bases_need_a_model_named(adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "c")
    config = json.loads((tmp_path / "c" / "adapter_config.json").read_text())
    (tmp_path / "c" / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "other/base"}))
    with pytest.raises(ConfigError, match="different bases"):
        base_of(None, [find_adapter(str(adapter)), find_adapter(str(tmp_path / "c"))])


@pytest.fixture
def public_like(tmp_path):
    """A random model with the public base's vocabulary and no tokenizer beside it, so that PerTok is inferred."""
    shape = Gpt2Config(292, 160, 32, 2, 2, 64)
    tensors = {name: array * np.float32(0.1) for name, array in fresh_tensors(shape, 0).items()}
    tensors.update({n: np.ones_like(a) for n, a in tensors.items() if ".ln_" in n and n.endswith("weight")})
    write_checkpoint(tmp_path / "public", shape, tensors, "hf")
    return tmp_path / "public"


@pytest.mark.slow
def test_an_inferred_tokenizer_and_a_base_that_guesses_are_refused_and_may_be_allowed(
    public_like, tunes, tmp_path, any_backend
):
    from musiclora.jobs import train
    from musiclora.training.config import TrainConfig

    config = {
        "data_dir": str(tunes),
        "output_dir": str(tmp_path / "run"),
        "model": str(public_like),
        "backend": any_backend,
        "max_seq_len": 128,
        "max_steps": 1,
        "num_workers": 1,
        "val_split": 0.25,
    }
    with pytest.raises(ConfigError, match=r"no better than chance.*--tokenizer"):
        train(TrainConfig(**config))
    assert not (tmp_path / "run").exists()
    assert train(TrainConfig(**config, allow_base_mismatch=True)).progress.step == 1


@pytest.mark.parametrize("name", ["./nowhere", "../nowhere", "models/my--base", "no..where/base", "owner/name-"])
def test_a_path_that_leads_nowhere_is_no_hub_id(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no such file or folder, and it is no Hub id"):
        find_model(name)


def test_a_base_that_was_converted_from_the_recorded_one_is_accepted_with_a_note(adapter, tiny_base, tmp_path):
    from musiclora.conversion.model import convert_model

    convert_model(str(tiny_base), tmp_path / "half", "hf", "float16")
    (text,) = check_base(find_adapter(str(adapter)), find_model(str(tmp_path / "half")))
    assert "conversion" in text


def test_the_tokenizer_that_an_adapter_was_trained_with_wins_over_the_bases(adapter, tiny_base, any_backend):
    from musiclora.symbolic.model import open_model
    from musiclora.symbolic.tokens.tokenizer import MusicTokenizer, load_miditok

    miditok = load_miditok()
    config = miditok.TokenizerConfig(use_velocities=False, pitch_range=(40, 90), special_tokens=["PAD", "BOS", "EOS"])
    other = MusicTokenizer(miditok.TSD(config))
    assert open_model(None, [str(adapter)], any_backend).tokenizer.kind == "REMI"
    (adapter / "tokenizer.json").write_text(other.to_json())
    assert open_model(None, [str(adapter)], any_backend).tokenizer.kind == "TSD"
