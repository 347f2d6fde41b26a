"""Bad input of generate with ACE-Step: one line, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import acestep_folder
import numpy as np
import pytest
import toy_audio
from click.testing import CliRunner
from refusal import refused
from require import require
from safetensors.numpy import load_file

from musiclora.cli import main
from musiclora.convert.adapters.lora import LoraSpec, state_keys
from musiclora.convert.adapters.peft import write_peft
from musiclora.convert.files.safetensors_file import write_safetensors
from musiclora.families import checkpoint_fingerprint

soundfile = require("soundfile")
RATE = 48000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, adapters and recordings that belong together or do not."""
    root = tmp_path_factory.mktemp("ace")
    acestep_folder.write_model(root / "turbo")
    acestep_folder.write_model(root / "base", acestep_folder.BASE)
    acestep_folder.write_model(root / "mute", text_encoder=False)
    acestep_folder.write_model(root / "deaf", codec=False)
    toy_audio.write_base(root / "diffrhythm")
    fingerprints = checkpoint_fingerprint(root / "turbo")
    acestep_folder.write_adapter(root / "turbos", fingerprints=fingerprints, kind="turbo")
    soundfile.write(root / "song.wav", acestep_folder.tone(1.6, 1), RATE)
    soundfile.write(root / "short.wav", acestep_folder.tone(0.2, 1), RATE)
    soundfile.write(root / "silent.wav", np.zeros((2 * RATE, 2)), RATE)
    (root / "latin.txt").write_bytes("là là".encode("latin-1"))
    (root / "folder").mkdir()
    return root


def generate(root: Path, model: str, output: Path, backend: str, *options: object) -> Any:
    settings = ["--model", root / model, "--output", output, "--backend", backend]
    given = [str(root / o[1:]) if isinstance(o, str) and o.startswith("@") else str(o) for o in options]
    return CliRunner().invoke(main, ["generate", *map(str, settings), *given])


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("turbo", ("--seconds", 0), ("--seconds is 0.0; it must be above 0",)),
        ("turbo", ("--seconds", 700), ("--seconds is 700; this model makes 0.6 to 600.0 s",)),
        ("turbo", ("--seconds", 0.1), ("--seconds is 0.1; this model makes 0.6 to 600.0 s",)),
        ("turbo", ("--bpm", 0), ("--bpm is 0; it must be at least 1",)),
        ("turbo", ("--lyrics", "@latin.txt"), ("latin.txt: is no UTF-8 text (byte 2)",)),
        ("turbo", ("--lyrics", "@folder"), ("folder: is a folder; give a text file",)),
        ("turbo", ("--reference", "@short.wav"), ("short.wav: 0.20 s are too short for a timbre",)),
        ("turbo", ("--reference", "@silent.wav"), ("silent.wav: is silent",)),
        ("turbo", ("--reference", "@latin.txt"), ("latin.txt",)),
        ("turbo", ("--reference", "@none.wav"), ("--reference", "none.wav: there is no such file")),
        ("turbo", ("--init-audio", "@none.wav"), ("--init-audio", "none.wav: there is no such file")),
        (
            "turbo",
            ("--init-audio", "@song.wav", "--repaint", 5, 6),
            ("--repaint 5 6: no part of a recording",),
        ),
        ("turbo", ("--repaint", 0, 1), ("--repaint: there is no recording to repaint",)),
        ("turbo", ("--guidance", 0.5), ("--guidance is 0.5; for ACE-Step it is the usual scale",)),
        ("turbo", ("--style", "jazz"), ("--style: for DiffRhythm only", "is ACE-Step")),
        ("turbo", ("--temperature", 1), ("--temperature: for models of the symbolic family only",)),
        ("diffrhythm", ("--caption", "jazz", "--shift", 3), ("--caption, --shift: for ACE-Step only", "is DiffRhythm")),
        ("mute", ("--caption", "jazz"), ("--caption: ", "has no text encoder; put text_encoder/")),
        ("mute", (), ("has no text encoder, and no adapter with a trained condition is given",)),
        ("deaf", (), ("has no codec beside it (vae/); give --vae",)),
        ("base", ("--adapter-dir", "@turbos"), ("trained on a turbo checkpoint, and this is a base one",)),
        ("turbo", ("--compare",), ("--compare: there is no adapter",)),
    ],
    ids=lambda value: "_".join(map(str, value))[:24] if isinstance(value, tuple) else value,
)
def test_what_cannot_be_made_is_one_line(
    root: Path, any_backend: str, tmp_path: Path, model: str, options: tuple[object, ...], words: tuple[str, ...]
) -> None:
    refused(generate(root, model, tmp_path / "new.wav", any_backend, *options), *words)
    assert not list(tmp_path.iterdir())


def test_an_input_is_never_overwritten(root: Path, any_backend: str, tmp_path: Path) -> None:
    shutil.copy(root / "song.wav", tmp_path / "song.wav")
    content = (tmp_path / "song.wav").read_bytes()
    for option in ("--reference", "--init-audio"):
        done = generate(root, "turbo", tmp_path / "song.wav", any_backend, option, tmp_path / "song.wav", "--overwrite")
        refused(done, option)
    assert (tmp_path / "song.wav").read_bytes() == content


def test_an_adapter_of_diffrhythm_is_refused_by_name(root: Path, any_backend: str, tmp_path: Path) -> None:
    module, spec = "transformer.transformer_blocks.0.self_attn.q_proj", LoraSpec(2, 4.0, 0.0, ("q_proj",))
    key_a, key_b = state_keys(module)
    state = {key_a: np.ones((2, 64), np.float32), key_b: np.ones((64, 2), np.float32)}
    write_peft(tmp_path / "other", spec, state, base_model="", task_type=None, fan_in_fan_out=False)
    done = generate(root, "turbo", tmp_path / "new.wav", any_backend, "--adapter-dir", tmp_path / "other")
    refused(done, "DiffRhythm", "ACE-Step", "--model")
    assert not (tmp_path / "new.wav").exists()


def test_a_model_with_half_its_shards_is_one_line(root: Path, any_backend: str, tmp_path: Path) -> None:
    folder = shutil.copytree(root / "turbo", tmp_path / "half")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(sorted(tensors))}
    for shard in set(shards.values()):
        held = {name: array for name, array in tensors.items() if shards[name] == shard}
        write_safetensors(folder / shard, held, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    options = (any_backend, "--seconds", 0.8, "--steps", 1)
    assert generate(root, str(folder), tmp_path / "whole.wav", *options).exit_code == 0
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused(generate(root, str(folder), tmp_path / "new.wav", *options), "model-00002-of-00002.safetensors")
    assert not (tmp_path / "new.wav").exists()


def test_a_folder_of_a_text_encoder_alone_is_one_line(root: Path, any_backend: str, tmp_path: Path) -> None:
    done = generate(root, "turbo/text_encoder", tmp_path / "new.wav", any_backend, "--caption", "jazz")
    refused(done, "text_encoder")
