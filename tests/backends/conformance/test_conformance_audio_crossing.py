"""Exchange between backends: latents from one seed, adapters, and plain PEFT."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from audio_toys import CONFIGS, SPEC, FlowToy, conditioning_of

from musiclora import flow
from musiclora.backends import registry
from musiclora.backends.base import OptimSpec
from musiclora.convert.adapters.peft import write_peft

# What is promised of two libraries' float32, over seven updates in which guidance 4 multiplies rounding by up to nine:
# some 10,000 roundings of 1.2e-7 in a pass, as a random walk, times nine are 7e-4.
CROSSED = 1e-3


@pytest.fixture(params=sorted(CONFIGS))
def pair(request, both_backends, flow_folders):
    """The same toy on both backends."""
    name = request.param
    return [FlowToy(registry.get_backend(b), flow_folders[name], CONFIGS[name]) for b in registry.BACKENDS]


def close(left, right, tolerance):
    np.testing.assert_allclose(left, right, rtol=0, atol=tolerance * max(1, np.abs(right).max()))


def sampled(toy, model):
    batch = toy.batch()
    return flow.sample(model, model.prepare(conditioning_of(batch)), batch["noise"], 8, 4.0)


def test_same_seed_gives_the_same_latents_on_both_backends(pair):
    left, right = (sampled(toy, toy.load()) for toy in pair)
    close(left, right, CROSSED)


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
        close(sampled(there, other), sampled(here, model), CROSSED)


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
    assert len(found[0]) == len(pair[0].state(SPEC))


def test_adapter_of_either_backend_loads_in_plain_peft_without_a_word(pair, tmp_path):
    import torch
    from peft import PeftModel

    from musiclora.backends.torch.diffrhythm import DiT

    for toy in pair:
        model, batch, folder = trained(toy), toy.batch(), tmp_path / toy.backend.name
        write_peft(folder, SPEC, model.read_adapter(), base_model="toy", task_type=None, fan_in_fan_out=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # PEFT only warns of keys that are missing or unexpected
            plain = PeftModel.from_pretrained(DiT.from_folder(toy.folder), folder)
        names = {"style": "style_prompt", **{key: key for key in ("cond", "text", "time", "start_time", "duration")}}
        given = {names[key]: torch.from_numpy(value) for key, value in batch.items() if key in names}
        with torch.no_grad():
            found = plain(x=torch.from_numpy(batch["noise"]), **given).numpy()
        expected = model.velocity(batch["noise"], batch["time"], model.prepare(conditioning_of(batch)), 0.0)
        close(found, expected, 1e-4)
