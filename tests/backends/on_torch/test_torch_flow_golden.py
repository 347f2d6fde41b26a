"""Inner values and gradients of the original audio model, recorded, against torch's (see golden/diffrhythm)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tolerance
from audio_toys import GOLDEN, golden, gradient_tolerance, velocity_tolerance
from require import require

torch = require("torch")

from musiclora.backends.base import FAMILIES  # noqa: E402
from musiclora.backends.torch.backend import BACKEND  # noqa: E402
from musiclora.backends.torch.diffrhythm import DiT  # noqa: E402
from musiclora.backends.torch.objectives import FlowObjective  # noqa: E402
from musiclora.convert.models.diffrhythm import read_diffrhythm  # noqa: E402

PREFIX = "transformer."
CONFIG = read_diffrhythm(GOLDEN / "dit" / "model.safetensors").config


@pytest.fixture(scope="module")
def module():
    return DiT.from_folder(GOLDEN / "dit" / "model.safetensors")


def original_arguments():
    names = ("x", "cond", "text", "time", "style_prompt", "start_time")
    return {name: torch.from_numpy(value) for name, value in golden("dit/forward_inputs").items() if name in names}


@pytest.fixture
def taps(module):
    """Inner values of the recorded forward pass, first row."""
    parts = {name: getattr(module, name) for name in ("time_embed", "start_time_embed", "text_embed", "input_embed")}
    parts |= {f"block_{i}": block for i, block in enumerate(module.transformer_blocks)} | {"norm_out": module.norm_out}
    found, hooks = {}, []
    for name, part in parts.items():
        hooks.append(part.register_forward_hook(lambda _, __, value, name=name: found.update({name: value})))
    with torch.no_grad():
        module(**original_arguments())
    for hook in hooks:
        hook.remove()
    return {name: value[:1].numpy() for name, value in found.items()}


def test_inner_values_equal_the_originals(taps):
    expected = golden("dit/forward_taps_2048")
    assert sorted(taps) == sorted(expected)
    for name, value in expected.items():
        tolerance.assert_near(taps[name], value, velocity_tolerance(CONFIG, value), name)


@pytest.mark.parametrize("drop", ["drop_audio_cond", "drop_text", "drop_prompt"])
def test_the_module_called_as_the_original_drops_what_it_is_told(module, drop):
    case = {"drop_audio_cond": "drop_audio"}.get(drop, drop)
    with torch.no_grad():
        found = module(**original_arguments(), **{drop: True}).numpy()
    expected = golden("dit/forward_outputs")[f"out_2048_{case}"]
    tolerance.assert_near(found, expected, velocity_tolerance(CONFIG, expected))


def test_the_module_takes_one_time_for_all_rows(module):
    with torch.no_grad():
        found = module(**{**original_arguments(), "time": torch.tensor(0.59375)}).numpy()
    expected = golden("dit/forward_outputs")["out_2048_scalar_time"]
    tolerance.assert_near(found, expected, velocity_tolerance(CONFIG, expected))


def recorded_batch():
    given, outputs = golden("dit/train_inputs"), golden("dit/train_outputs")
    valid = np.arange(given["x1"].shape[1]) < given["lens"][:, None]
    batch = {key: given[key] for key in ("time", "start_time", "text")} | {"valid": valid, "cond": outputs["cond"]}
    return {**batch, "latents": given["x1"], "noise": given["x0"], "style": given["style_prompt"]}, outputs


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_gradients_of_all_base_weights_equal_the_originals(checkpointing):
    model = BACKEND.load(FAMILIES["audio"], GOLDEN / "dit" / "model.safetensors")
    batch, outputs = recorded_batch()
    objective = FlowObjective(model, everything=True)
    parameters = objective.trained()
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    (objective.loss(batch, None, checkpointing) / objective.weight(batch)).backward()
    grads = {name: parameter.grad.numpy() for name, parameter in parameters.items()}
    norms = json.loads((GOLDEN / "dit" / "train_scalars.json").read_text())["grad_norm_no_drop"]
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
