"""ACE-Step's sampling: schedules, adaptive projected guidance and repainting, as diffusers' pipeline computes them."""

from __future__ import annotations

import dataclasses

import acestep_toys
import numpy as np
import pytest
from require import require

from musiclora.audio.acestep.contexts import context_of, read_silence
from musiclora.audio.acestep.guidance import AdaptiveGuidance
from musiclora.audio.acestep.sampling import (
    PieceConditions,
    Schedule,
    context_for,
    own_schedule,
    sample_latents,
    sample_pieces,
)
from musiclora.audio.flow_sampling import solve_pieces
from musiclora.audio.init_audio import Reference
from musiclora.backends.base import FAMILIES
from musiclora.backends.registry import BACKENDS, get_backend
from musiclora.convert.models.acestep import read_acestep
from musiclora.errors import DataError

FRAMES, SECONDS, SEED = 23, 0.92, 5  # an odd length, so that the last patch is padded
TURBO = acestep_toys.SMALL
BASE = dataclasses.replace(TURBO, is_turbo=False, model_version="base")
# The issue asks for 1e-3; the toys' latents are of size 1 to 5.
TOLERANCE = 1e-3
TURBO_TIMES = {
    1.0: [1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125],
    2.0: [1.0, 14 / 15, 6 / 7, 10 / 13, 2 / 3, 6 / 11, 0.4, 2 / 9],
    3.0: [1.0, 0.9545, 0.9, 0.8333, 0.75, 0.6429, 0.5, 0.3],
}


class Pipeline:
    """diffusers' pipeline with random weights, saved to a folder that both backends load."""

    def __init__(self, config, folder):
        self.config, self.folder = config, folder
        self.pipe = acestep_toys.diffusers_pipeline(config)
        torch = require("torch")
        with torch.no_grad():  # what is initialised as constants matters then, too
            for model in (self.pipe.transformer, self.pipe.condition_encoder):
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.manual_seed(parameter.numel())))
        self.pipe.save_pretrained(folder)
        self.pipe.set_progress_bar_config(disable=True)

    def call(self, noise, **options):
        """Run the pipeline; return its latents and the condition that it computed."""
        torch, seen = require("torch"), []
        hook = self.pipe.condition_encoder.register_forward_hook(lambda module, given, found: seen.append(found[0]))
        try:
            made = self.pipe(
                prompt=["slow tango"] * len(noise),
                lyrics=["la la"] * len(noise),
                vocal_language=["en"] * len(noise),
                audio_duration=SECONDS,
                latents=torch.from_numpy(noise),
                output_type="latent",
                **options,
            ).audios
        finally:
            hook.remove()
        return made.numpy(), seen[0][0].numpy()

    def load(self, backend_name):
        return get_backend(backend_name).load(FAMILIES["audio"], self.folder)

    def conditions(self, condition):
        return PieceConditions(condition, context_for(read_silence(self.folder), FRAMES))


@pytest.fixture(scope="module")
def turbo(tmp_path_factory):
    return Pipeline(TURBO, tmp_path_factory.mktemp("turbo") / "pipeline")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return Pipeline(BASE, tmp_path_factory.mktemp("base") / "pipeline")


def noise_of(count, channels=TURBO.latent_dim):
    """Take the noise of the pieces of SEED."""
    return np.stack(solve_pieces(lambda noise, on_pass: noise, 0, SEED, count, (FRAMES, channels), lambda *_: None))


@pytest.mark.parametrize("shift", [1.0, 2.0, 3.0])
def test_turbos_eight_times_are_those_of_its_table(shift):
    times = Schedule(8, shift, 1.0).times
    np.testing.assert_allclose(1 - times[:-1], TURBO_TIMES[shift], atol=5e-5)
    assert times[-1] == 1


@pytest.mark.parametrize("steps", [1, 5, 8, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0, 0.7])
def test_times_are_the_pipelines(turbo, steps, shift):
    theirs = turbo.pipe._get_timestep_schedule(steps, shift).double().numpy()
    np.testing.assert_allclose(1 - Schedule(steps, shift, 1.0).times[:-1], theirs, atol=1e-6)  # theirs are float32


def test_a_checkpoint_has_its_own_schedule():
    assert own_schedule(TURBO) == Schedule(8, 3.0, 1.0)
    assert own_schedule(dataclasses.replace(TURBO, is_turbo=False)) == Schedule(8, 3.0, 1.0)  # its version says it
    assert own_schedule(dataclasses.replace(TURBO, model_version=None)) == Schedule(8, 3.0, 1.0)
    assert own_schedule(BASE) == Schedule(50, 1.0, 7.0)
    assert own_schedule(dataclasses.replace(BASE, model_version=None)) == Schedule(50, 1.0, 7.0)


@pytest.mark.parametrize("scale", [1.5, 7.0, 15.0])
def test_guidance_is_the_pipelines_step_after_step(scale):
    torch = require("torch")
    theirs = require("diffusers.guiders.adaptive_projected_guidance")
    rng, ours, buffer = np.random.default_rng(0), AdaptiveGuidance(scale), theirs.MomentumBuffer(-0.75)
    for size in (0.01, 1.0, 3.0, 0.0):
        p = rng.standard_normal((2, FRAMES, 4)).astype(np.float32)
        q = p + np.float32(size) * rng.standard_normal(p.shape).astype(np.float32)
        expected = theirs.normalized_guidance(
            torch.from_numpy(p), torch.from_numpy(q), scale - 1, buffer, 0.0, 2.5, True, (1,)
        )
        np.testing.assert_allclose(ours.combine(p, q), expected.numpy(), atol=1e-4)
    constant = np.zeros((1, 3, 2), np.float32)
    assert np.array_equal(AdaptiveGuidance(7.0).combine(constant, constant), constant)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_turbos_latents_are_the_pipelines(turbo, backend_name, shift):
    expected, condition = turbo.call(noise_of(2), num_inference_steps=8, shift=shift)
    found = sample_latents(turbo.load(backend_name), Schedule(8, shift, 1.0), turbo.conditions(condition), SEED, 2)
    assert np.abs(expected - noise_of(2)).max() > 0.5
    np.testing.assert_allclose(np.stack(found), expected, atol=TOLERANCE)


@pytest.mark.parametrize(("steps", "scale"), [(12, 7.0), (5, 2.5)])
def test_guided_latents_are_the_pipelines(base, backend_name, steps, scale):
    expected, condition = base.call(noise_of(2), num_inference_steps=steps, shift=1.0, guidance_scale=scale)
    model = base.load(backend_name)
    found = sample_latents(model, Schedule(steps, 1.0, scale), base.conditions(condition), SEED, 2)
    np.testing.assert_allclose(np.stack(found), expected, atol=TOLERANCE)
    plain = sample_latents(model, Schedule(steps, 1.0, 1.0), base.conditions(condition), SEED, 2)
    assert np.abs(np.stack(plain) - expected).max() > 0.05


def test_the_same_seed_gives_the_same_latents_on_both_backends(both_backends, base):
    condition = np.random.default_rng(1).standard_normal((9, BASE.encoder.hidden)).astype(np.float32)
    for schedule in (Schedule(8, 3.0, 1.0), Schedule(8, 1.0, 7.0)):
        one, other = (
            sample_latents(base.load(name), schedule, base.conditions(condition), SEED, 1)[0] for name in BACKENDS
        )
        np.testing.assert_allclose(one, other, atol=TOLERANCE)


def test_repainting_shows_the_kept_frames_and_puts_them_back(turbo, backend_name):
    torch = require("torch")
    rng = np.random.default_rng(2)
    known, mask = rng.standard_normal((FRAMES, TURBO.latent_dim)).astype(np.float32), np.zeros(FRAMES, bool)
    mask[7:15] = True
    context = context_for(read_silence(turbo.folder), FRAMES, Reference(known, mask))
    # The mask's and the source's part of the pipeline, from its own functions on the same latents.
    theirs = turbo.pipe._build_chunk_mask("repaint", FRAMES, 1, "cpu", torch.float32, TURBO.latent_dim, 0.28, 0.6, True)
    silence, _ = turbo.pipe.prepare_src_latents("cpu", torch.float32, 1, latent_length=FRAMES)
    source = torch.where(theirs > 0.5, silence, torch.from_numpy(known))
    assert np.array_equal(context, torch.cat([source, theirs], -1)[0].numpy())

    _, condition = turbo.call(noise_of(1), num_inference_steps=1)
    model, conditions = turbo.load(backend_name), PieceConditions(condition, context)
    (found,) = sample_latents(model, Schedule(8, 3.0, 1.0), conditions, SEED, 1, Reference(known, mask))
    assert np.array_equal(found[~mask], known[~mask])
    (free,) = sample_latents(model, Schedule(8, 3.0, 1.0), conditions, SEED, 1)
    assert np.array_equal(found[mask], free[mask])
    assert np.abs(free[~mask] - known[~mask]).max() > 0.01


def test_pieces_of_a_training_follow_the_checkpoints_own_schedule(base, any_backend):
    condition = np.random.default_rng(1).standard_normal((4, BASE.encoder.hidden)).astype(np.float32)
    model = base.load(any_backend)
    made = sample_pieces(model, base.folder, condition, 2, SEED, FRAMES)
    again = sample_latents(model, Schedule(50, 1.0, 7.0), base.conditions(condition), SEED, 2)
    assert np.array_equal(np.stack(made), np.stack(again))
    assert np.array_equal(np.stack(made), np.stack(sample_pieces(model, base.folder, condition, 2, SEED, FRAMES)))


def test_without_a_condition_the_null_condition_is_used_and_nothing_is_guided(base, any_backend):
    null = dict(read_acestep(base.folder).tensors(["null_condition_emb"]))["null_condition_emb"].reshape(1, -1)
    model, calls = base.load(any_backend), []
    guided = sample_latents(
        model, Schedule(3, 1.0, 7.0), base.conditions(None), SEED, 1, None, lambda *p: calls.append(p)
    )
    given = sample_latents(model, Schedule(3, 1.0, 1.0), base.conditions(np.asarray(null, np.float32)), SEED, 1)
    np.testing.assert_allclose(guided[0], given[0], atol=1e-5)  # one row and its attention, in another batch
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_a_piece_longer_than_the_silence_is_refused(turbo):
    silence = read_silence(turbo.folder)
    with pytest.raises(DataError, match="at most"):
        context_of(silence, len(silence) + 1)
