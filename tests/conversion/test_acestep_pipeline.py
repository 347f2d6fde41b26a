"""An adapter trained here changes the latents of diffusers' own pipeline as it changes ours."""

from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import acestep_toys as toys
import numpy as np
import pytest
from require import require

from musiclora.backends import lora_init, registry
from musiclora.backends.base import FAMILIES, Arrays, FlowModel, OptimSpec
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.adapters.peft import write_peft

# Alpha differs from the rank, so that a scale that is lost shows.
SPEC = LoraSpec(4, 12.0, 0.1, ("q_proj", "k_proj", "v_proj", "o_proj"))
FRAMES = 51  # odd, so that the last patch is padded
LATENTS = 1e-3  # of the largest value: what is promised for 8 steps


@pytest.fixture(scope="module")
def pipeline() -> Any:
    found = toys.diffusers_pipeline(toys.SMALL)
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module")
def folder(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("pipeline")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.save_pretrained(path)
    return path


def run_pipeline(pipeline: Any, noise: np.ndarray) -> tuple[np.ndarray, dict[str, Any], list[float]]:
    """Return the latents of 8 steps, the transformer's last inputs, and the times from 1 to 0."""
    torch, seen = require("torch"), {}
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda module, given, named: seen.update(named), with_kwargs=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pipeline(
            "a slow waltz",
            lyrics="la la la",
            audio_duration=FRAMES / 25,
            latents=torch.from_numpy(noise.copy()),
            output_type="latent",
        )
    hook.remove()
    return found.audios.detach().numpy(), seen, pipeline.scheduler.sigmas.tolist()


def conditioning_of(seen: dict[str, Any]) -> Arrays:
    condition = seen["encoder_hidden_states"].detach().numpy()
    return {
        "condition": condition,
        "condition_valid": np.ones(condition.shape[:2], bool),
        "context": seen["context_latents"].detach().numpy(),
    }


def run_ours(model: FlowModel, given: Arrays, noise: np.ndarray, times: list[float]) -> np.ndarray:
    """Euler steps of our interface, whose time is 1 - t."""
    prepared, x = model.prepare(given), noise
    for now, after in pairwise(times):
        x = x + np.float32(now - after) * model.velocity(x, 1 - now, prepared, 0.0)
    return x


def train(model: FlowModel, given: Arrays) -> None:
    """Train four steps on random latents under the pipeline's condition."""
    model.inject_adapter(SPEC, lora_init.initial(SPEC, model.linear_shapes(), 1))
    training = model.start_training(OptimSpec(seed=2, checkpointing=True))
    rng, shape = np.random.default_rng(3), (1, FRAMES, model.latent_channels)
    for _ in range(4):
        latents, noise = rng.standard_normal((2, *shape), np.float32)
        batch = {"latents": latents, "noise": noise, "time": rng.random(1, np.float32)}
        result = training.step([{**batch, "valid": np.ones(shape[:2], bool), **given}], 0.02)
        assert np.isfinite(result.grad_norm)


def test_an_adapter_changes_the_pipelines_latents_as_ours(
    backend_name: str, pipeline: Any, folder: Path, tmp_path: Path
) -> None:
    require("peft")
    noise = np.random.default_rng(0).standard_normal((1, FRAMES, toys.SMALL.latent_dim), np.float32)
    base, seen, times = run_pipeline(pipeline, noise)
    assert len(times) == 9
    given = conditioning_of(seen)
    model: Any = registry.get_backend(backend_name).load(FAMILIES["audio"], folder)
    limit = LATENTS * float(np.abs(base).max())
    np.testing.assert_allclose(run_ours(model, given, noise, times), base, rtol=0, atol=limit)

    train(model, given)
    ours = run_ours(model, given, noise, times)
    state = model.read_adapter()
    write_peft(tmp_path / "a", SPEC, state, base_model="", task_type="FEATURE_EXTRACTION", fan_in_fan_out=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.load_lora_weights(str(tmp_path / "a"), weight_name="adapter_model.safetensors")
    try:
        theirs, _, _ = run_pipeline(pipeline, noise)
    finally:
        pipeline.unload_lora_weights()
    assert np.abs(theirs - base).max() > 100 * limit
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=limit)
