"""Training ACE-Step on latents: with conditions and with a trained one, turbo and base, resumed, scored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import acestep_folder
import numpy as np
import pytest

from musiclora.convert.adapters.peft import read_peft
from musiclora.errors import ConfigError, DataError
from musiclora.jobs import evaluate, train
from musiclora.reporting.loss_plot import loss_figure
from musiclora.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("plain_pictures")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("models")
    kinds = {"turbo": acestep_folder.TURBO, "base": acestep_folder.BASE}
    return {name: acestep_folder.write_model(home / name, config, text_encoder=False) for name, config in kinds.items()}


@pytest.fixture(scope="module")
def latents(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("latents")
    write = acestep_folder.write_latents
    return {"words": write(home / "words", models["turbo"]), "plain": write(home / "plain", models["turbo"], rows=None)}


def options(data: Path, model: Path, run: Path, backend: str, **more: Any) -> TrainConfig:
    given = {"max_seq_len": 40, "epochs": 3, "lora_r": 4, "lr": 3e-3, "val_split": 0.3, "seed": 5, **more}
    return TrainConfig(str(data), str(run), str(model), backend=backend, **given)


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["turbo", "base"])
def test_training_with_conditions_lowers_the_held_out_loss(
    models: dict[str, Path], latents: dict[str, Path], tmp_path: Path, any_backend: str, kind: str
) -> None:
    run = tmp_path / "run"
    train(options(latents["words"], models[kind], run, any_backend, epochs=6))
    meta = json.loads((run / "training_meta.json").read_text())
    assert meta["best_val_loss"] < meta["base_val_loss"]
    evaluated = [row for row in rows_of(run) if "val_loss" in row and row["step"]]
    quarters = [[row[f"val_time_{k}_loss"] for k in (1, 2, 3, 4)] for row in evaluated]
    # Every quarter holds the same windows at one time each, so that the mean of the quarters is the loss.
    np.testing.assert_allclose(np.mean(quarters, axis=1), [row["val_loss"] for row in evaluated], rtol=1e-4)
    adapter = read_peft(run / "adapter-best")
    assert set(adapter.ranks) == {
        f"layers.{i}.{part}.{name}"
        for i in range(2)
        for part in ("self_attn", "cross_attn")
        for name in ("q_proj", "k_proj", "v_proj", "o_proj")
    }
    config = json.loads((run / "adapter-best" / "adapter_config.json").read_text())
    assert config["task_type"] == "FEATURE_EXTRACTION"
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 4.0, 0.1)
    assert not (run / "adapter-best" / "style.safetensors").exists()
    assert (adapter.record["style"], adapter.record["kind"]) == ("recordings", kind)


def test_without_conditions_one_is_trained_and_scored(
    models: dict[str, Path], latents: dict[str, Path], tmp_path: Path, any_backend: str
) -> None:
    run = tmp_path / "run"
    train(options(latents["plain"], models["base"], run, any_backend))
    from musiclora.audio.style_files import read_style

    style = read_style(run / "adapter-best" / "style.safetensors")
    assert style is not None
    assert style.shape == (16, acestep_folder.TURBO.encoder.hidden)
    found = evaluate(latents["plain"], str(models["base"]), [str(run / "adapter-best")], any_backend, max_seq_len=40)
    assert found.base is not None
    assert found.score.loss < found.base.loss


def test_a_killed_and_resumed_run_equals_an_unbroken_one(
    models: dict[str, Path], latents: dict[str, Path], tmp_path: Path, backend_name: str
) -> None:
    """Bit for bit, in processes of their own: one that holds both frameworks may multiply with another BLAS."""
    code = (
        "import sys, json, os, signal\n"
        "from musiclora.training.config import TrainConfig\nfrom musiclora.jobs import open_session\n"
        "for settings, stop in json.loads(sys.argv[1]):\n"
        "    session = open_session(TrainConfig(**settings))\n"
        "    session.out.step = lambda n: n.progress.step == stop and os.kill(os.getpid(), signal.SIGKILL)\n"
        "    session.train()\n"
    )
    data = "words" if backend_name == "mlx" else "plain"  # one each: a process takes seconds to start

    def start(*runs: tuple[str, int]) -> int:
        sizes = {"epochs": 2, "batch_size": 1, "grad_accum_steps": 1}
        configs = [options(latents[data], models["base"], tmp_path / name, backend_name, **sizes) for name, _ in runs]
        settings = [{k: v for k, v in c.as_toml().items() if k not in ("family", "architecture")} for c in configs]
        given = json.dumps([[one, stop] for one, (_, stop) in zip(settings, runs, strict=True)])
        return subprocess.run([sys.executable, "-c", code, given], check=False, capture_output=True).returncode

    assert [start(("broken", 6)), start(("broken", 0), ("whole", 0))] == [-9, 0]
    names = ["adapter_model.safetensors", *(["style.safetensors"] if data == "plain" else [])]
    for name in names:
        one, two = ((tmp_path / run / "adapter-last" / name).read_bytes() for run in ("whole", "broken"))
        assert one == two, name
    losses = [[r["loss"] for r in rows_of(tmp_path / run) if "lr" in r] for run in ("whole", "broken")]
    assert losses[0] == losses[1]
    assert len(losses[0]) > 6


def test_the_plan_says_what_is_needed_and_what_is_learnt(
    models: dict[str, Path], latents: dict[str, Path], tmp_path: Path, any_backend: str
) -> None:
    from musiclora.progress import Reporter

    said: list[str] = []

    class Listener(Reporter):
        def say(self, text: str) -> None:
            said.append(text)

    train(options(latents["plain"], models["turbo"], tmp_path / "run", any_backend, epochs=1), Listener())
    text = "\n".join(said)
    assert "one condition of 16 rows is trained with the adapter, in place of words" in text
    assert "memory, counted: " in text


def test_what_does_not_fit_is_one_line(
    models: dict[str, Path], latents: dict[str, Path], tmp_path: Path, any_backend: str
) -> None:
    with pytest.raises(ConfigError, match="--style: for DiffRhythm only"):
        train(options(latents["words"], models["turbo"], tmp_path / "a", any_backend, style="x.npy"))
    mixed = acestep_folder.write_latents(tmp_path / "mixed", models["turbo"], count=3)
    more = acestep_folder.write_latents(tmp_path / "more", models["turbo"], count=4, rows=None)
    index = json.loads((more / "index.json").read_text())
    for file in more.glob("*.safetensors"):
        if not (mixed / file.name).exists():
            (mixed / file.name).write_bytes(file.read_bytes())
    (mixed / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="some recordings have a condition and some have none"):
        train(options(mixed, models["turbo"], tmp_path / "b", any_backend))
    assert not (tmp_path / "a").exists()


def test_the_loss_plot_keeps_its_scale_and_the_command_asks_for_words(
    models: dict[str, Path], latents: dict[str, Path], tmp_path: Path, any_backend: str
) -> None:
    result = train(options(latents["words"], models["turbo"], tmp_path / "run", any_backend, epochs=1))
    assert result.example == 'new.wav --caption "WORDS"'
    assert '--output new.wav --caption "WORDS"' in (tmp_path / "run" / "adapter-best" / "README.md").read_text()
    (axis, *_) = loss_figure(rows_of(tmp_path / "run")).axes
    labels = [line.get_label() for line in axis.get_lines()]
    # The quarters lie far apart and would flatten the curves that matter.
    assert not [label for label in labels if "time" in str(label)]
    assert "held-out recordings" in " ".join(map(str, labels)) or "held-out songs" in " ".join(map(str, labels))
