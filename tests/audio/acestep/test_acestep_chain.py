"""ACE-Step through the command line: convert, preprocess, train, generate, evaluate, convert and fuse the adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import acestep_folder
import numpy as np
import pytest
from click.testing import CliRunner
from require import require

from musiclora.cli import main
from musiclora.convert.adapters.peft import read_peft

pytestmark = pytest.mark.usefixtures("plain_pictures")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("soundfile")
    folder = tmp_path_factory.mktemp("chain")
    acestep_folder.write_model(folder / "original", acestep_folder.BASE)
    acestep_folder.write_recordings(folder / "songs", 4, 1.4)
    return folder


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


def record(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(main, [*(str(a) for a in arguments), "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_whole_chain_from_recordings_to_one_checkpoint(home: Path, tmp_path: Path, backend_name: str) -> None:
    layout, backend = ("mlx" if backend_name == "mlx" else "diffusers"), ("--backend", backend_name)
    model, latents, trained = tmp_path / "model", tmp_path / "latents", tmp_path / "run"
    run("convert", "model", home / "original", model, "--to", layout)
    made = record("preprocess", "--data-dir", home / "songs", "--output-dir", latents, "--model", model, *backend)
    assert made["recordings"] == 4
    settings = ("--max-seq-len", 24, "--epochs", 2, "--lora-r", 4, "--lr", 5e-3, "--val-split", 0.3)
    run("train", "--data-dir", latents, "--output-dir", trained, "--model", model, *settings, *backend)
    adapter = trained / "adapter-best"
    assert json.loads((trained / "training_meta.json").read_text())["lora_r"] == 4

    words = ("--caption", "a tone", "--lyrics", "la la", "--bpm", 90, "--key", "C major", "--seconds", 1.2)
    new = tmp_path / "new.wav"
    short = ("--steps", 3, "--guidance", 3, "--seed", 7, *backend)
    listed = record(
        "generate", "--adapter-dir", adapter, "--model", model, "--output", new, *words, *short, "--compare"
    )
    assert [Path(file["path"]).name for file in listed["files"]] == ["new.wav", "new-base.wav"]
    soundfile = require("soundfile")
    adapted, base = (soundfile.read(tmp_path / name)[0] for name in ("new.wav", "new-base.wav"))
    assert adapted.shape == base.shape == (30 * 1920, 2)
    assert np.abs(adapted - base).max() > 1e-3

    scored = record("evaluate", "--data-dir", latents, "--adapter-dir", adapter, "--model", model, *backend)
    assert scored["loss"] != scored["base"]["loss"]

    for kind in ("diffusers", "comfyui", "kohya"):
        other = tmp_path / (f"{kind}.safetensors" if kind in ("comfyui", "kohya") else kind)
        run("convert", "adapter", adapter, other, "--to", kind, "--model", model, *backend)
        back = tmp_path / f"from-{kind}"
        run("convert", "adapter", other, back, "--to", "peft", "--model", model, *backend)
        one, two = read_peft(adapter), read_peft(back)
        assert one.ranks == two.ranks
        for name, array in one.state.items():
            np.testing.assert_allclose(two.state[name], array, rtol=1e-6, err_msg=name)

    fused = tmp_path / "fused"
    run("fuse", "--adapter-dir", adapter, "--model", model, "--output-dir", fused, "--to", "hf", *backend)
    whole = record("evaluate", "--data-dir", latents, "--model", fused, *backend)
    assert whole["loss"] == pytest.approx(scored["loss"], rel=1e-4)  # float32 sums of one product in place of two
    assert "acestep" in (fused / "config.json").read_text()
    facts = record("doctor", "--model", fused)["model"]
    assert (facts["kind"], facts["codec"], facts["text_encoder"]) == ("base", "vae", "text_encoder")


def test_an_adapter_crosses_to_the_other_backend(home: Path, tmp_path: Path, both_backends: None) -> None:
    latents = acestep_folder.write_latents(tmp_path / "latents", home / "original", count=4)
    settings = ("--max-seq-len", 40, "--epochs", 1, "--lora-r", 4, "--lr", 5e-3, "--lora-dropout", 0)
    common = ("--data-dir", latents, "--model", home / "original")
    run("train", *common, "--output-dir", tmp_path / "run", *settings, "--backend", "mlx")
    adapter = ("--adapter-dir", tmp_path / "run" / "adapter-last", "--max-seq-len", 40)
    losses = [record("evaluate", *common, *adapter, "--backend", name)["loss"] for name in ("mlx", "torch")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
