"""Bad input through the command line: one clear line, exit code 2, nothing half-written."""

from __future__ import annotations

import functools
import json
import shutil

import pytest
from click.testing import CliRunner
from refusal import refused

from musiclora.cli import main
from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors

pytestmark = pytest.mark.usefixtures("plain_pictures")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return CliRunner().invoke(main, [str(a) for a in arguments])

    return call


@pytest.fixture(scope="module")
def train_in(tiny_base, tunes, any_backend):
    def call(folder, **options):
        settings = {
            "data_dir": tunes,
            "output_dir": folder / "run",
            "model": tiny_base,
            "backend": any_backend,
            "max_seq_len": 128,
            "batch_size": 2,
            "max_steps": 2,
            "num_workers": 1,
            "lora_r": 2,
        }
        settings.update(options)
        pairs = [("--" + name.replace("_", "-"), value) for name, value in settings.items()]
        return CliRunner().invoke(main, ["train", *(str(part) for pair in pairs for part in pair)])

    return call


@pytest.fixture
def train(train_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return functools.partial(train_in, tmp_path)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "music"
    made.mkdir()
    return made


def no_notes(folder, tunes):
    (folder / "silence.abc").write_text("X:1\nT:Silence\nM:4/4\nL:1/4\nK:C\nz4|z4|\n")


def one_song(folder, tunes):
    shutil.copy(min(tunes.glob("*.abc")), folder)


def no_music(folder, tunes):
    (folder / "song.mid").write_bytes(b"<html>404 Not Found</html>")
    (folder / "notes.txt").write_text("hello")


def empty(folder, tunes):
    """Leave it empty."""


@pytest.mark.parametrize(
    "fill", [empty, no_music, no_notes, one_song], ids=["empty", "nothing readable", "no notes", "one song"]
)
def test_a_folder_that_cannot_be_trained_on_is_refused(train, folder, tunes, tmp_path, fill):
    fill(folder, tunes)
    refused(train(data_dir=folder), str(folder) if fill is not one_song else "song")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_not_there_is_named(train, tmp_path):
    refused(train(data_dir=tmp_path / "nowhere"), "nowhere")


def test_a_model_that_is_not_there_is_named(train):
    refused(train(model="no/such/model/here"), "no/such/model/here")


def test_offline_the_public_base_is_refused_with_the_way_out(train, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(train(model="xingjianll/midi-gpt2"), "xingjianll/midi-gpt2", "--model bundled")


def changed_config(source, target, **changes):
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


def test_a_base_that_is_not_gpt2_is_refused(train, tiny_base, tmp_path):
    refused(train(model=changed_config(tiny_base, tmp_path / "other", model_type="llama")), "llama")


def test_a_tokenizer_that_does_not_fit_is_refused(train, tmp_path):
    from musiclora.symbolic.tokens.tokenizers import public_tokenizer

    (tmp_path / "tokenizer").mkdir()
    public_tokenizer().save(tmp_path / "tokenizer")
    refused(train(tokenizer=tmp_path / "tokenizer"), "292", "285")


def test_targets_that_match_nothing_are_refused(train, tmp_path):
    refused(train(target_modules="q_proj"), "q_proj", "c_attn")
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_finite_are_refused(train, tiny_base, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_base, broken)
    arrays = {name: array.copy() for name, array in read_safetensors(broken / "model.safetensors").items()}
    arrays["transformer.h.0.mlp.c_fc.weight"][0, 0] = float("nan")
    (broken / "model.safetensors").unlink()
    write_safetensors(broken / "model.safetensors", arrays, {"format": "pt"})
    refused(train(model=broken), "transformer.h.0.mlp.c_fc.weight")
    assert not (tmp_path / "run").exists()


def test_a_learning_rate_that_blows_up_ends_with_one_line(train, tmp_path):
    result = train(lr=1e30, max_steps=8, warmup_steps=0, max_grad_norm=0, patience=99)
    refused(result, "not finite", "--lr")
    assert not (tmp_path / "run" / "adapter-best").exists()


def test_an_output_folder_that_is_a_file_or_lies_in_one_is_refused(train, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(train(output_dir=tmp_path / "file"), "file")
    refused(train(output_dir=tmp_path / "file" / "run"), "file", "choose another --output-dir")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture(scope="module")
def trained(train_in, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert train_in(folder).exit_code == 0
    return folder / "run"


@pytest.fixture
def adapter(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run") / "adapter-best"


def test_an_adapter_for_another_base_is_refused_and_may_be_allowed(
    run, adapter, tiny_base, tunes, tmp_path, any_backend
):
    from musiclora.convert.models.gpt2 import fresh_tensors, read_checkpoint, write_checkpoint

    other = tmp_path / "other"
    extra = {"tokenizer.json": (tiny_base / "tokenizer.json").read_bytes()}
    config = read_checkpoint(tiny_base).config
    write_checkpoint(other, config, fresh_tensors(config, 99), "hf", extra_files=extra)
    options = [
        "--data-dir",
        tunes,
        "--adapter-dir",
        adapter,
        "--model",
        other,
        "--backend",
        any_backend,
        "--num-workers",
        1,
    ]
    refused(run("evaluate", *options), "another base", "weights", "--allow-base-mismatch")
    assert run("evaluate", *options, "--allow-base-mismatch").exit_code == 0


def test_evaluate_prints_exactly_one_object(run, adapter, tunes, any_backend):
    result = run(
        "evaluate",
        "--data-dir",
        tunes,
        "--adapter-dir",
        adapter,
        "--backend",
        any_backend,
        "--json",
        "--num-workers",
        1,
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert {"loss", "perplexity", "bits_per_note", "tokens"} <= set(found)
    assert found["tokens"] > 1000


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 64, b'\x08\0\0\0\0\0\0\0{"a":1}'], ids=["empty", "lying header", "no offsets"]
)
def test_a_damaged_adapter_is_refused(run, adapter, content, any_backend, tmp_path):
    (adapter / "adapter_model.safetensors").write_bytes(content)
    refused(
        run("generate", "--adapter-dir", adapter, "--output", tmp_path / "x.mid", "--backend", any_backend),
        "adapter_model",
    )
    assert not (tmp_path / "x.mid").exists()


def test_an_output_without_an_ending_becomes_midi_and_another_ending_is_refused(run, tiny_base, any_backend, tmp_path):
    common = ["generate", "--model", tiny_base, "--backend", any_backend, "--max-new-tokens", 48]
    refused(run(*common, "--output", tmp_path / "new.wav"), "new.wav", ".mid")
    result = run(*common, "--output", tmp_path / "new", "--count", 2)
    assert result.exit_code == 0, result.stderr
    assert sorted(p.name for p in tmp_path.glob("new*")) == ["new-001.mid", "new-002.mid"]
