"""Bases and adapters: where they come from, and whether they belong together."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from huggingface_hub.utils import filter_repo_objects

from musiclora.adapters import base_of, check_base, find_adapter
from musiclora.backends import lora_init
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.adapters.peft import write_peft
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, read_checkpoint, write_checkpoint
from musiclora.errors import ConfigError, ConvertError
from musiclora.families import checkpoint_fingerprint
from musiclora.models import find_model, recorded_base

SPEC = LoraSpec(2, 4.0, 0.0, ("c_attn",))


@pytest.fixture
def adapter(tiny_base, tmp_path):
    """An adapter that records the tiny base."""
    state = lora_init.initial(SPEC, read_checkpoint(tiny_base).config.linear_shapes(), 0)
    record = {"fingerprints": checkpoint_fingerprint(tiny_base)}
    write_peft(tmp_path / "a", SPEC, state, base_model=str(tiny_base), record=record)
    return tmp_path / "a"


def rename_base(folder, name, **record):
    """Change the base that an adapter names, and entries of its record."""
    for file, changes in (("adapter_config.json", {"base_model_name_or_path": name}), ("musiclora.json", record)):
        content = json.loads((folder / file).read_text()) | changes
        (folder / file).write_text(json.dumps(content))


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
    with pytest.raises(ConfigError, match=r"if a folder is meant, there is none .*; offline, use --model bundled"):
        find_model("xingjianll/midi-gpt2")


def test_a_licence_is_read_from_the_models_card(tiny_base, tmp_path):
    assert find_model(str(tiny_base)).licence == "unknown"
    shutil.copytree(tiny_base, tmp_path / "m")
    (tmp_path / "m" / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    assert find_model(str(tmp_path / "m")).licence == "mit"


def test_adapters_of_different_bases_need_a_model_named(adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "c")
    rename_base(tmp_path / "c", "other/base", base_kind="hub")
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


@pytest.mark.parametrize(
    ("name", "record", "expected"),
    [
        ("bundled-audio", {}, ("bundled", "bundled-audio")),
        ("owner/name", {}, ("hub", "owner/name")),
        ("gpt2", {"note": "another tool's"}, ("hub", "gpt2")),
        ("tiny", {"musiclora": "0.2", "base_model": "tiny"}, ("local", "tiny")),
        ("owner/name", {"musiclora": "0.3", "base_kind": "hub"}, ("hub", "owner/name")),
        ("", {"musiclora": "0.3", "base_kind": "local"}, ("local", "")),
        # Earlier versions: the configuration has what was typed, the record the folder's own name or the Hub id.
        ("owner/name", {"musiclora": "0.2", "base_model": "owner/name"}, ("hub", "owner/name")),
        ("models/diffrhythm", {"musiclora": "0.2", "base_model": "diffrhythm"}, ("local", "models/diffrhythm")),
        ("models/x", {"musiclora": "0.2", "base_model": "models/x", "blend": {}}, ("local", "models/x")),
        ("/home/me/base", {}, ("local", "/home/me/base")),
    ],
    ids=[
        "bundled",
        "another tool's",
        "without an owner",
        "older, typed in place",
        "hub",
        "local",
        "older hub",
        "older local",
        "older blend",
        "path",
    ],
)
def test_a_recorded_local_base_is_never_taken_for_a_hub_id(name, record, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recorded_base(name, record) == expected


def test_a_folder_that_another_tool_recorded_is_no_hub_id_where_it_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert recorded_base("owner/name", {}) == ("local", "owner/name")


def test_a_local_base_that_is_not_here_is_asked_for_by_its_fingerprint(adapter, tiny_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("musiclora.models.fetch_from_hub", lambda *arguments: pytest.fail("asked of the Hub"))
    weights = checkpoint_fingerprint(tiny_base)["weights"][:8]
    rename_base(adapter, "models/tiny", base_model="tiny")
    with pytest.raises(ConfigError, match=f"needs the base with the fingerprint {weights}.*give it as --model"):
        base_of(None, [find_adapter(str(adapter))])


def test_the_run_folder_around_an_adapter_leads_to_its_local_base(adapter, tiny_base, tmp_path):
    run = tmp_path / "run"
    shutil.move(adapter, run / "adapter-best")
    rename_base(run / "adapter-best", None, base_kind="local", base_model="")
    (run / "training_meta.json").write_text(json.dumps({"base_model": str(tiny_base)}))
    assert base_of(None, [find_adapter(str(run))]).path == tiny_base


def test_a_hub_base_that_an_adapter_records_is_not_told_as_an_option(adapter, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rename_base(adapter, "owner/name", base_kind="hub")
    with pytest.raises(ConfigError) as error:
        base_of(None, [find_adapter(str(adapter))])
    assert str(error.value).startswith("the adapter's base owner/name: not in the local cache")
    assert str(error.value).endswith("; give a copy of it as --model")


@pytest.mark.parametrize("value", [5, "x", ["a"], {"weights": 3}], ids=str)
def test_fingerprints_of_a_wrong_type_are_named(adapter, value):
    rename_base(adapter, None, fingerprints=value)
    with pytest.raises(ConvertError, match=r"musiclora\.json: fingerprints.* is .*, expected"):
        find_adapter(str(adapter))


def test_a_revision_of_a_hub_id_is_fetched_and_recorded(tiny_base, tmp_path, monkeypatch):
    asked, patterns = [], []

    def download(name, *, revision, allow_patterns, ignore_patterns):
        asked.append((name, revision))
        patterns.append((allow_patterns, ignore_patterns))
        return str(tiny_base)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert find_model("owner/name@v1.2").name == "owner/name@v1.2"
    find_model("owner/name")
    find_model("owner/name@refs/pr/3")
    assert asked == [("owner/name", "v1.2"), ("owner/name", None), ("owner/name", "refs/pr/3")]
    files = [
        "config.json",
        "model.safetensors",
        "cfm_model.pt",
        "acestep-v15-turbo/silence_latent.pt",
        "vae/config.json",
        "acestep-5Hz-lm-1.7B/model.safetensors",
        "demo.wav",
        "acestep-v15-turbo/modeling.py",
    ]
    allow, ignore = patterns[0]
    assert list(filter_repo_objects(files, allow_patterns=allow, ignore_patterns=ignore)) == files[:5]


def test_an_adapter_keeps_the_revision_of_its_base_where_peft_looks_for_it(tiny_base, tmp_path, monkeypatch):
    state = lora_init.initial(SPEC, read_checkpoint(tiny_base).config.linear_shapes(), 0)
    write_peft(tmp_path / "a", SPEC, state, base_model="owner/name@v1.2")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/name", "v1.2")
    assert find_adapter(str(tmp_path / "a")).base_model == "owner/name@v1.2"
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: str(tmp_path / "a"))
    assert find_adapter("owner/adapter@v3").base_model == "owner/name@v1.2"


@pytest.mark.parametrize("name", ["owner/name@", "./base@v1", "owner/name@v1 x", "owner/model.pt@v1"])
def test_what_is_no_revision_of_a_hub_id_is_refused(name):
    with pytest.raises(ConfigError, match="no Hub id"):
        find_model(name)
