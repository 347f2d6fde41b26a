"""Exchange between backends: latents from one seed, adapters, and plain PEFT."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from acestep_toy import CONFIGS as ACESTEP_CONFIGS
from acestep_toy import make_toy
from audio_toys import CONFIGS, SPEC

from musiclora import flow
from musiclora.backends import registry
from musiclora.backends.base import OptimSpec
from musiclora.convert.adapters.peft import write_peft

# What is promised of two libraries' float32, over seven updates in which guidance 4 multiplies rounding by up to nine:
# some 10,000 roundings of 1.2e-7 in a pass, as a random walk, times nine are 7e-4.
CROSSED = 1e-3


def on_both(name, folders):
    """The same toy on both backends."""
    return [make_toy(registry.get_backend(b), folders, name) for b in registry.BACKENDS]


@pytest.fixture(params=[*sorted(CONFIGS), *sorted(ACESTEP_CONFIGS)])
def pair(request, both_backends, flow_folders):
    """Toys of both architectures."""
    return on_both(request.param, flow_folders)


@pytest.fixture(params=sorted(CONFIGS))
def diffrhythm_pair(request, both_backends, flow_folders):
    return on_both(request.param, flow_folders)


def close(left, right, tolerance):
    np.testing.assert_allclose(left, right, rtol=0, atol=tolerance * max(1, np.abs(right).max()))


def sampled(toy, model):
    batch = toy.batch()
    return flow.sample(model, model.prepare(toy.conditioning(batch)), batch["noise"], 8, 4.0)


def test_same_seed_gives_the_same_latents_on_both_backends(pair):
    left, right = (sampled(toy, toy.load()) for toy in pair)
    valid = pair[0].batch()["valid"]
    close(left[valid], right[valid], CROSSED)


def trained(toy):
    model = toy.adapted()
    training = model.start_training(OptimSpec())
    for seed in range(2):
        training.step([toy.batch(seed=seed)], 0.005)
    return model


def test_adapter_trained_on_one_backend_does_the_same_on_the_other(pair):
    for here, there in (pair, pair[::-1]):
        model = trained(here)
        other = there.adapted(state=dict(model.read_adapter()))
        valid = here.batch()["valid"]
        close(sampled(there, other)[valid], sampled(here, model)[valid], CROSSED)


def test_gradients_are_the_same_on_both_backends(pair):
    found = []
    for toy in pair:
        training = toy.adapted().start_training(OptimSpec(max_grad_norm=0.0))
        training.step([toy.batch()], 1e-4)
        found.append({k: v for k, v in training.read_state().items() if k.startswith("exp_avg.")})
    largest = max(np.abs(v).max() for v in found[0].values())
    assert sorted(found[0]) == sorted(found[1])
    for name, value in found[0].items():
        np.testing.assert_allclose(value, found[1][name], rtol=0, atol=1e-4 * largest, err_msg=name)
    assert len(found[0]) == len(pair[0].state())


def test_adapter_of_either_backend_loads_in_plain_peft_without_a_word(diffrhythm_pair, tmp_path):
    import torch
    from peft import PeftModel

    from musiclora.backends.torch.diffrhythm import DiT

    for toy in diffrhythm_pair:
        model, batch, folder = trained(toy), toy.batch(), tmp_path / toy.backend.name
        write_peft(folder, SPEC, model.read_adapter(), base_model="toy", task_type=None, fan_in_fan_out=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # PEFT only warns of keys that are missing or unexpected
            plain = PeftModel.from_pretrained(DiT.from_folder(toy.folder), folder)
        names = {"style": "style_prompt", **{key: key for key in ("cond", "text", "time", "start_time", "duration")}}
        given = {names[key]: torch.from_numpy(value) for key, value in batch.items() if key in names}
        with torch.no_grad():
            found = plain(x=torch.from_numpy(batch["noise"]), **given).numpy()
        expected = model.velocity(batch["noise"], batch["time"], model.prepare(toy.conditioning(batch)), 0.0)
        close(found, expected, 1e-4)
