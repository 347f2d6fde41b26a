"""Training the audio family: what a run leaves, exact resume, the style vector, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tolerance
import toy_audio
from session_helpers import stop_after

from musiclora.adapters import find_adapter
from musiclora.audio.style_files import read_style
from musiclora.backends.base import FAMILIES
from musiclora.backends.registry import BACKENDS, get_backend
from musiclora.convert.adapters.peft import read_peft
from musiclora.convert.files.safetensors_file import read_safetensors
from musiclora.errors import ConfigError, TrainingError
from musiclora.jobs import evaluate, open_session, train
from musiclora.training.config import TrainConfig
from musiclora.training.run_folder import Run

pytestmark = pytest.mark.usefixtures("plain_pictures")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_audio.write_base(tmp_path_factory.mktemp("audio") / "tiny")


@pytest.fixture(scope="module")
def latents(base, tmp_path_factory):
    return toy_audio.write_latents(tmp_path_factory.mktemp("latents") / "walks", base)


def settings(base, latents, output, backend, **changes):
    options = {
        "data_dir": str(latents),
        "output_dir": str(output),
        "model": str(base),
        "backend": backend,
        "max_seq_len": 24,
        "batch_size": 4,
        "grad_accum_steps": 2,
        "epochs": 2,
        "lr": 5e-3,
        "lora_r": 2,
        "val_split": 0.3,
        "seed": 5,
    }
    return TrainConfig(**{**options, **changes})


@pytest.fixture
def config(base, latents, backend_name, tmp_path):
    return lambda name="run", **changes: settings(base, latents, tmp_path / name, backend_name, **changes)


def trained(path):
    folder = Path(path) / "adapter-last"
    return {**read_peft(folder).state, "style": read_style(folder / "style.safetensors")}


def equal(first, second):
    return set(first) == set(second) and all(np.array_equal(first[k], second[k]) for k in first)


@pytest.mark.slow
def test_a_run_leaves_every_promised_file_and_learns(config, tmp_path):
    result = train(config(epochs=6))
    run = tmp_path / "run"
    names = {"adapter-best", "adapter-last", "training_meta.json", "metrics.jsonl", "loss.png", "config.toml", "state"}
    assert names <= {p.name for p in run.iterdir()}
    meta = json.loads((run / "training_meta.json").read_text())
    promised = (
        "base_model max_seq_len epochs batch_size grad_accum_steps lr weight_decay lora_r lora_alpha lora_dropout "
        "val_split best_val_loss"
    )
    assert set(promised.split()) <= set(meta)
    assert (meta["family"], meta["lora_dropout"], meta["style"]) == ("audio", 0.25, "trained")
    # The same windows in batches of another size: sums of float32 in another order.
    assert meta["best_val_loss"] == pytest.approx(result.after.loss, abs=1e-5)
    assert result.after.loss < result.before.loss - 0.01
    steps = [row for row in Run(run).read_metrics() if "lr" in row]
    assert [row["step"] for row in steps] == list(range(1, meta["steps"] + 1))
    assert steps[0]["frames_per_second"] > 0


@pytest.mark.slow
def test_the_adapter_folder_is_plain_peft_with_a_style_and_fingerprints(config, tmp_path, base):
    train(config())
    folder = tmp_path / "run" / "adapter-best"
    peft = json.loads((folder / "adapter_config.json").read_text())
    assert (peft["fan_in_fan_out"], peft["task_type"], peft["r"], peft["lora_alpha"]) == (False, None, 2, 4.0)
    keys = set(read_safetensors(folder / "adapter_model.safetensors"))
    assert "base_model.model.transformer_blocks.1.self_attn.q_proj.lora_B.weight" in keys
    assert "base_model.model.start_time_embed.time_mlp.2.lora_A.weight" in keys
    assert len(keys) == 2 * (2 * 4 + 4 + 2)
    style = read_safetensors(folder / "style.safetensors")["style"]
    assert style.shape == (512,)
    assert np.abs(style).max() > 0
    record = json.loads((folder / "musiclora.json").read_text())
    assert {"weights", "config", "codec"} <= set(record["fingerprints"])
    assert (record["family"], record["base_model"], record["base_kind"]) == ("audio", "", "local")
    assert str(tmp_path) not in json.dumps(record)
    assert "new.wav" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_training_goes_on_from_an_adapter_and_its_style(config, tmp_path):
    train(config("first"))
    first = str(tmp_path / "first" / "adapter-last")
    train(config("second", adapter_dir=first, max_steps=1, lr=1e-9))
    before, after = trained(tmp_path / "first"), trained(tmp_path / "second")
    assert np.abs(before["style"]).max() > 1e-4
    for name, array in before.items():  # one step of a learning rate of 1e-9 moves no value by more than about that
        np.testing.assert_allclose(after[name], array, atol=1e-6)


@pytest.mark.slow
def test_ctrl_c_saves_the_adapter_and_the_style(config):
    session = open_session(config())
    stop_after(session, 1)
    assert Run(session.run.path).read_progress().step == 1
    state = session.run.read_arrays("adapter")
    assert np.abs(state["style"]).max() > 0
    assert equal(trained(session.run.path), state)


@pytest.mark.slow
def test_a_run_stopped_and_resumed_equals_an_unbroken_one(base, latents, backend_name, tmp_path):
    """Bit for bit, in processes of their own: one that holds both frameworks may multiply with another BLAS."""
    code = (
        "import sys, json, os, signal\n"
        "from musiclora.training.config import TrainConfig\nfrom musiclora.jobs import open_session\n"
        "for settings, stop in json.loads(sys.argv[1]):\n"
        "    session = open_session(TrainConfig(**settings))\n"
        "    session.out.step = lambda n: n.progress.step == stop and os.kill(os.getpid(), signal.SIGINT)\n"
        "    try:\n        session.train()\n        assert not stop\n"
        "    except KeyboardInterrupt:\n        assert stop\n"
    )

    def start(*runs):
        """Train the runs one after the other in one process: it takes seconds to start."""
        configs = [(settings(base, latents, tmp_path / name, backend_name, epochs=3), stop) for name, stop in runs]
        given = [({k: v for k, v in c.as_toml().items() if k != "family"}, stop) for c, stop in configs]
        return subprocess.run([sys.executable, "-c", code, json.dumps(given)], check=False).returncode

    assert [start(("broken", 2), ("broken", 4)), start(("broken", 0), ("whole", 0))] == [0, 0]
    assert equal(trained(tmp_path / "whole"), trained(tmp_path / "broken"))
    rows = [[r["loss"] for r in Run(tmp_path / n).read_metrics() if "lr" in r] for n in ("whole", "broken")]
    assert rows[0] == rows[1]
    assert len(rows[0]) > 4


def test_held_out_recordings_are_never_trained_on(config):
    session = open_session(config())
    held_out = {r.checksum for r in session.task.held_out}
    assert held_out
    assert held_out.isdisjoint({r.checksum for r in session.task.train})
    scored = np.concatenate([b["latents"].reshape(-1) for b in session.task.held_out_batches(session.config, 4)])
    for epoch in range(3):
        for batch in session.task.training_epochs(session.config, 4).batches(epoch):
            assert not np.isin(batch["latents"][batch["valid"]].reshape(-1)[::7], scored).any()


@pytest.mark.slow
def test_the_same_command_on_a_finished_run_does_nothing_and_more_epochs_continue_it(config):
    first = train(config())
    again = train(config())
    assert again.already_finished
    assert again.after == first.after
    assert train(config(epochs=3)).progress.step > first.progress.step


@pytest.mark.slow
def test_another_style_or_other_recordings_are_another_run(config, base, tmp_path):
    train(config(epochs=1))
    other = toy_audio.write_latents(tmp_path / "other", base, count=5)
    shutil.rmtree(tmp_path / "moved", ignore_errors=True)
    with pytest.raises(TrainingError, match=r"the songs changed.*--restart"):
        train(config(epochs=1, data_dir=str(other)))


@pytest.mark.slow
def test_evaluating_the_best_adapter_gives_the_loss_that_training_found(config, base, tmp_path, backend_name):
    result = train(config(epochs=3))
    session = open_session(config("unused", epochs=3))
    held_out = {r.checksum for r in session.task.held_out}
    index = json.loads((Path(config().data_dir) / "index.json").read_text())
    part = tmp_path / "part"
    part.mkdir()
    kept = [item for item in index["items"] if item["sha256"] in held_out]
    (part / "index.json").write_text(json.dumps({**index, "items": kept}))
    for item in kept:
        shutil.copy(Path(config().data_dir) / f"{item['sha256']}.safetensors", part)
    found = evaluate(part, adapters=[str(result.run_dir / "adapter-best")], backend=backend_name, max_seq_len=24)
    assert found.score.loss == pytest.approx(result.after.loss, abs=1e-5)
    assert found.base.loss == pytest.approx(result.before.loss, abs=1e-5)
    assert found.gain.mean == pytest.approx(result.gain.mean, abs=1e-5)


@pytest.mark.slow
def test_the_longer_model_trains_with_its_duration(tmp_path, latents, backend_name):
    base = toy_audio.write_base(tmp_path / "long", duration_embedding=True)
    result = train(settings(base, latents, tmp_path / "run", backend_name, epochs=4))
    assert result.after.loss < result.before.loss
    state = read_peft(tmp_path / "run" / "adapter-best").state
    assert np.abs(state["duration_time_embed.time_mlp.0.lora_B.weight"]).max() > 0


@pytest.mark.slow
def test_styles_beside_the_latents_are_used_and_none_is_trained(config, base, tmp_path):
    styles = np.random.default_rng(0).standard_normal((6, 512)).astype(np.float32)
    styled = toy_audio.write_latents(tmp_path / "styled", base, style=lambda i: styles[i])
    session = open_session(config(data_dir=str(styled)))
    assert not session.task.trains_style
    assert all("style" in batch for batch in session.task.training_epochs(session.config, 2).batches(0))
    result = session.train()
    assert session.model.read_style() is None
    kept = read_style(result.run_dir / "adapter-best" / "style.safetensors")
    mean = np.stack([r.conditions["style"] for r in session.task.train]).mean(0)
    assert kept @ mean / np.linalg.norm(kept) / np.linalg.norm(mean) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_all_weights_can_be_trained_and_the_model_folder_keeps_its_codec(config, tmp_path, base, backend_name):
    result = train(config(trainable="all", epochs=3, lr=1e-3))
    folder = tmp_path / "run" / "model-best"
    assert (folder / "vae" / "model.safetensors").read_bytes() == (base / "vae" / "model.safetensors").read_bytes()
    found = evaluate(config().data_dir, str(folder), backend=backend_name, max_seq_len=24)
    before = evaluate(config().data_dir, str(base), backend=backend_name, max_seq_len=24)
    assert result.after.loss < result.before.loss
    assert found.score.loss < before.score.loss
    again = train(config(trainable="all", epochs=3, lr=1e-3))
    assert again.already_finished


def test_an_option_of_the_symbolic_family_is_refused_by_name(config, tmp_path):
    with pytest.raises(ConfigError, match=r"--transpose.*symbolic.*audio"):
        train(config(transpose=3))
    with pytest.raises(ConfigError, match=r"--mix-dir"):
        train(config(mix_dir=str(tmp_path)))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_base_that_knows_nothing_of_the_recordings_is_warned_of(config):
    said = []
    session = open_session(config())
    session.out.say = said.append
    session.train()
    assert any("no better than without hearing them" in text and "causal" in text for text in said)


@pytest.mark.parametrize("trained_on", BACKENDS)
@pytest.mark.slow
def test_an_adapter_gives_the_same_loss_on_both_backends(both_backends, base, latents, trained_on, tmp_path):
    result = train(settings(base, latents, tmp_path / "run", trained_on, lora_dropout=0.0))
    losses = {}
    for name in BACKENDS:
        found = evaluate(latents, str(base), [str(result.run_dir / "adapter-best")], name, max_seq_len=24)
        losses[name] = (found.score.loss, found.base.loss)
    # The toy's longest path has about 3,000 roundings; a velocity's error counts twice in its square.
    limit = 2 * tolerance.rounding(3000, losses["torch"])
    tolerance.assert_near(losses["mlx"], losses["torch"], limit)
    assert abs(losses["torch"][0] - losses["torch"][1]) > 10 * limit
    assert losses["mlx"][0] != losses["mlx"][1]


@pytest.mark.slow
def test_twenty_steps_give_the_same_losses_and_style_on_both_backends(both_backends, base, latents, tmp_path):
    for name in BACKENDS:
        train(settings(base, latents, tmp_path / name, name, lora_dropout=0.0, max_steps=20, epochs=None))
    losses = [[r["loss"] for r in Run(tmp_path / n).read_metrics() if "lr" in r] for n in BACKENDS]
    assert len(losses[0]) == 20
    np.testing.assert_allclose(*losses, atol=1e-4, rtol=0)  # promised for twenty steps of either family
    first, second = (trained(tmp_path / name) for name in BACKENDS)
    # AdamW divides by the root of the second moment: where a gradient is near zero its rounding decides a step's sign.
    apart, largest = np.abs(first["style"] - second["style"]), np.abs(first["style"]).max()
    assert np.quantile(apart, 0.98) < 0.02 * largest
    assert apart.max() < largest


@pytest.mark.slow
def test_the_style_is_part_of_what_was_learnt(config, base, backend_name, latents):
    result = train(config(epochs=6))
    adapter = find_adapter(str(result.run_dir))
    model = get_backend(backend_name).load(FAMILIES["audio"], base)
    model.inject_adapter(adapter.spec, adapter.state)
    session = open_session(config("unused", epochs=6))
    batches = list(session.task.held_out_batches(session.config, 8))
    without = sum(model.loss(b).total for b in batches)
    model.set_style(read_style(adapter.path / "style.safetensors"))
    assert sum(model.loss(b).total for b in batches) != without
