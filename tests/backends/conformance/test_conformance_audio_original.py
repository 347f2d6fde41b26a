"""Each backend's audio transformer against recordings of the original code."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tolerance
from audio_toys import GOLDEN, golden, gradient_tolerance, loss_tolerance, path, velocity_tolerance

from musiclora import flow
from musiclora.backends.base import FAMILIES, OptimSpec
from musiclora.convert.adapters.lora import LoraSpec, state_keys
from musiclora.convert.models.diffrhythm import read_diffrhythm

CONFIG = read_diffrhythm(GOLDEN / "dit" / "model.safetensors").config
DROPS = {
    "none": (),
    "drop_audio": ("drop_audio",),
    "drop_text": ("drop_text",),
    "drop_prompt": ("drop_style",),
    "drop_audio_text": ("drop_audio", "drop_text"),
    "drop_all": ("drop_audio", "drop_text", "drop_style"),
}


def close(found, expected, limit=None):
    """float32 sums in another order. (The tanh form of GELU would differ by 1e-3.)"""
    limit = velocity_tolerance(CONFIG, np.asarray(expected)) if limit is None else limit
    tolerance.assert_near(found, expected, limit)


def forward(model, drops=(), time=None):
    given = golden("dit/forward_inputs")
    conditioning = {
        "cond": given["cond"],
        "text": given["text"],
        "style": given["style_prompt"],
        "start_time": given["start_time"],
        **{name: np.array(True) for name in drops},
    }
    if model.has_duration:
        conditioning["duration"] = given["duration"]
    return model.velocity(given["x"], given["time"] if time is None else time, model.prepare(conditioning), 0.0)


@pytest.mark.parametrize("case", DROPS)
@pytest.mark.parametrize("length", ["2048", "6144"])
def test_velocity_equals_the_original_whatever_is_dropped(original, length, case):
    expected = golden("dit/forward_outputs")[f"out_{length}_{case}"]
    close(forward(original(length), DROPS[case]), expected)


@pytest.mark.parametrize("length", ["2048", "6144"])
def test_one_time_for_all_rows_equals_the_original(original, length):
    expected = golden("dit/forward_outputs")[f"out_{length}_scalar_time"]
    close(forward(original(length), time=0.59375), expected)


def test_causal_attention_equals_the_original_of_v1(original):
    expected = golden("dit/forward_outputs")["out_2048_v1code_none"]
    close(forward(original("v1")), expected)
    assert np.abs(forward(original("2048")) - expected).max() > 0.1


def test_guidance_goes_from_the_pass_without_conditions_through_the_one_with_them(original):
    given, model = golden("dit/forward_inputs"), original("2048")
    conditioning = {
        "cond": given["cond"],
        "text": given["text"],
        "style": given["style_prompt"],
        "negative_style": given["style_prompt"],
        "start_time": given["start_time"],
    }
    found = model.velocity(given["x"], given["time"], model.prepare(conditioning), 3.0)
    outputs = golden("dit/forward_outputs")
    p, q = outputs["out_2048_none"], outputs["out_2048_drop_audio_text"]
    close(found, p + 3 * (p - q), velocity_tolerance(CONFIG, p, 3.0))  # the errors of p and q count 4 and 3 times


def training_batch():
    given = golden("dit/train_inputs")
    return {
        "latents": given["x1"],
        "noise": given["x0"],
        "time": given["time"],
        "text": given["text"],
        "style": given["style_prompt"],
        "start_time": given["start_time"],
        "valid": np.arange(given["x1"].shape[1]) < given["lens"][:, None],
    }


@pytest.mark.parametrize(
    ("drops", "key"), [((), "loss_no_drop"), (DROPS["drop_all"], "loss_all_dropped")], ids=["no_drop", "all_dropped"]
)
def test_loss_equals_the_original(original, drops, key):
    expected = json.loads((GOLDEN / "dit" / "train_scalars.json").read_text())[key]
    batch = training_batch() | {name: np.array(True) for name in drops}
    found = original("2048").loss(batch)
    assert found.mean == pytest.approx(expected, rel=loss_tolerance(CONFIG, batch["valid"].shape[1]))
    assert found.weight == batch["valid"].sum() * 64


@pytest.mark.parametrize("module", ["transformer_blocks.0.self_attn.q_proj", "proj_out"], ids=["attention", "output"])
def test_gradient_of_an_adapter_is_the_originals_gradient_projected(flow_backend, original_folders, module):
    """With B = 0, the slope in B is scale x G A^T, where G is the original's own gradient of the weight."""
    gradient = golden("dit/train_outputs")[f"grad.transformer.{module}.weight"]
    spec = LoraSpec(4, 8.0, 0.0, (module,))
    key_a, key_b = state_keys(module)
    rng = np.random.default_rng(3)
    state = {
        key_a: rng.standard_normal((4, gradient.shape[1])).astype(np.float32),
        key_b: np.zeros((gradient.shape[0], 4), np.float32),
    }
    model = flow_backend.load(FAMILIES["audio"], original_folders["2048"])
    model.inject_adapter(spec, state)
    training = model.start_training(OptimSpec(max_grad_norm=0.0))
    training.step([training_batch()], 1e-4)
    moments = training.read_state()
    expected = spec.scale * gradient @ state[key_a].T
    # The first moment after one step is a tenth of the gradient.
    valid = training_batch()["valid"]
    limit = gradient_tolerance(CONFIG, valid.size, valid.shape[1], float(np.abs(expected).max()))
    close(10 * moments[f"exp_avg.{key_b}"], expected, limit)
    close(moments[f"exp_avg.{key_a}"], 0, 1e-9)


def test_gradients_of_all_weights_equal_the_originals(flow_backend, original_folders):
    outputs = golden("dit/train_outputs")
    norms = json.loads((GOLDEN / "dit" / "train_scalars.json").read_text())["grad_norm_no_drop"]
    model = flow_backend.load(FAMILIES["audio"], original_folders["2048"])
    training = model.start_training(OptimSpec(max_grad_norm=0.0), "all")
    training.step([training_batch()], 1e-6)
    moments = {k.removeprefix("exp_avg."): 10 * v for k, v in training.read_state().items() if k.startswith("exp_avg.")}
    assert len(norms) == len(moments)
    sizes = {f"transformer.{k}": float(np.linalg.norm(v.astype(np.float64))) for k, v in moments.items()}
    for name, value in norms.items():
        assert sizes[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    valid = training_batch()["valid"]
    for name in (key for key in outputs if key.startswith("grad.")):
        plain, expected = name.removeprefix("grad.transformer."), outputs[name]
        if moments[plain].size == expected.size and moments[plain].ndim == expected.ndim:
            limit = gradient_tolerance(CONFIG, valid.size, valid.shape[1], max(1.0, float(np.abs(expected).max())))
            close(moments[plain].reshape(expected.shape), expected, limit)


def sampling(model, negative="negative_style_prompt"):
    """Inputs of the recorded samplings: one conditioning for two pieces."""
    given = golden("dit/sample_inputs")

    def twice(key):
        return np.repeat(given[key], 2, axis=0)

    conditioning = {
        "text": twice("text"),
        "style": twice("style_prompt"),
        "negative_style": twice(negative),
        "start_time": twice("start_time"),
        "cond": np.zeros_like(given["y0"]),
    }
    if model.has_duration:
        conditioning["duration"] = twice("song_duration")
    return given, conditioning


class Watched:
    """A model that keeps every state it is asked about."""

    def __init__(self, model):
        self.model, self.states = model, []

    def velocity(self, x, time, prepared, guidance):
        self.states.append(np.array(x))
        return self.model.velocity(x, time, prepared, guidance)


# Seven updates of a seventh each, in which guidance 4 multiplies rounding by up to nine; values reach 5.
SAMPLED = 9 * tolerance.rounding(path(CONFIG, golden("dit/sample_inputs")["y0"].shape[1]), 5.0)


def test_sampling_follows_the_originals_way_state_by_state(original):
    model = Watched(original("2048"))
    given, conditioning = sampling(model.model)
    end = flow.sample(model, model.model.prepare(conditioning), given["y0"], 8, 4.0)
    expected = golden("dit/sample_outputs")
    close(np.stack([*model.states, end]), expected["generate_2048_traj"], SAMPLED)
    close(end, expected["generate_2048_out"], SAMPLED)


def test_sampling_with_a_duration_equals_the_original(original):
    model = original("6144")
    given, conditioning = sampling(model)
    end = flow.sample(model, model.prepare(conditioning), given["y0"], 8, 4.0)
    close(end, golden("dit/sample_outputs")["generate_6144_out"], SAMPLED)


def test_sampling_without_guidance_equals_the_original(original):
    model = original("2048")
    given, conditioning = sampling(model)
    end = flow.sample(model, model.prepare(conditioning), given["y0"], 8, 0.0)
    close(end, golden("dit/sample_outputs")["nocfg_2048_out"], SAMPLED)


def test_repainting_equals_the_original_before_and_after_known_frames_are_put_back(original):
    model = original("2048")
    given, conditioning = sampling(model)
    mask = np.zeros(given["y0"].shape[:2], bool)
    for start, end in given["edit_segments"]:
        mask[:, start:end] = True
    known = np.repeat(given["ref_latent"], 2, axis=0)
    prepared = model.prepare({**conditioning, "cond": np.where(mask[..., None], 0, known).astype(np.float32)})
    expected = golden("dit/sample_outputs")
    close(flow.sample(model, prepared, given["y0"], 8, 4.0), expected["edit_2048_last_state"], SAMPLED)
    found = flow.sample(model, prepared, given["y0"], 8, 4.0, known, mask)
    close(found, expected["edit_2048_out"], SAMPLED)
    np.testing.assert_array_equal(found[~mask], known[~mask])
