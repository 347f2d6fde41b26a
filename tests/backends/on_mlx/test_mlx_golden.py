"""Inner values and gradients of the original audio model, recorded, against MLX's (see golden/diffrhythm)."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tolerance
from audio_toys import gradient_tolerance, velocity_tolerance

from musiclora.backends.base import FAMILIES
from musiclora.backends.mlx import dit
from musiclora.backends.mlx.backend import BACKEND
from musiclora.backends.mlx.objectives import FlowObjective
from musiclora.convert.files.safetensors_file import read_safetensors
from musiclora.convert.models.diffrhythm import read_diffrhythm

GOLDEN = Path(__file__).parents[2] / "golden" / "diffrhythm" / "dit"
PREFIX = "transformer."
CONFIG = read_diffrhythm(GOLDEN / "model.safetensors").config


@pytest.fixture(scope="module")
def model():
    return BACKEND.load(FAMILIES["audio"], GOLDEN / "model.safetensors")


@pytest.fixture
def taps(monkeypatch, model):
    """Inner values of the recorded forward pass, first row."""
    found = {}

    def record(name):
        real = getattr(dit, name)

        def spy(*args):
            found.setdefault(name, []).append((args, value := real(*args)))
            return value

        monkeypatch.setattr(dit, name, spy)

    for name in ("embedded", "text_states", "_position_convolutions", "dit_block", "linear"):
        record(name)
    given = read_safetensors(GOLDEN / "forward_inputs.safetensors")
    conditioning = {key: given[key] for key in ("cond", "text", "start_time")} | {"style": given["style_prompt"]}
    model.velocity(given["x"], given["time"], model.prepare(conditioning), 0.0)
    width = model.config.dim
    inner = {args[1]: value for args, value in found["embedded"]}
    inner |= {"text_embed": found["text_states"][0][1], "input_embed": found["_position_convolutions"][0][1]}
    inner |= {f"block_{i}": value.reshape(2, -1, width) for i, (_, value) in enumerate(found["dit_block"])}
    inner["norm_out"] = next(args[0] for args, _ in found["linear"] if args[1] == "proj_out").reshape(2, -1, width)
    return {name: np.array(value)[:1] for name, value in inner.items()}


def test_inner_values_equal_the_originals(taps):
    expected = read_safetensors(GOLDEN / "forward_taps_2048.safetensors")
    assert sorted(taps) == sorted(expected)
    for name, value in expected.items():
        tolerance.assert_near(taps[name], value, velocity_tolerance(CONFIG, value), name)


def recorded_batch():
    given, outputs = (read_safetensors(GOLDEN / f"train_{name}.safetensors") for name in ("inputs", "outputs"))
    valid = np.arange(given["x1"].shape[1]) < given["lens"][:, None]
    batch = {key: given[key] for key in ("time", "start_time", "text")} | {"valid": valid, "cond": outputs["cond"]}
    return {**batch, "latents": given["x1"], "noise": given["x0"], "style": given["style_prompt"]}, outputs


def test_gradients_of_all_base_weights_equal_the_originals(model):
    batch, outputs = recorded_batch()
    objective = FlowObjective(model, everything=True)
    sums = mx.grad(lambda t: objective.loss(t, {}, objective.arrays(batch), None, False))(objective.trained())
    grads = {key: dit.canonical(key, np.array(value)) / model.weight(batch) for key, value in sums.items()}
    norms = json.loads((GOLDEN / "train_scalars.json").read_text())["grad_norm_no_drop"]
    assert sorted(grads) == sorted(name.removeprefix(PREFIX) for name in norms)
    relative = gradient_tolerance(CONFIG, batch["valid"].size, batch["valid"].shape[1], 1.0)
    for name, norm in norms.items():
        found = np.linalg.norm(grads[name.removeprefix(PREFIX)].astype(np.float64))
        assert found == pytest.approx(norm, rel=relative, abs=1e-8), name
    recorded = {name: value for name, value in outputs.items() if name.startswith("grad.")}
    assert recorded
    for name, value in recorded.items():
        found = grads[name.removeprefix(f"grad.{PREFIX}")]
        tolerance.assert_near(found, value, relative * np.abs(value).max(), name)
