"""The bundled audio model: small, alike on both backends, and it knows what it was made for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from require import require

from musiclora import flow
from musiclora.audio.diffrhythm.conditions import DiffRhythmForm
from musiclora.audio.loss_baseline import baseline_loss
from musiclora.audio.windows import Recording, fixed_batches
from musiclora.backends import registry
from musiclora.backends.base import FAMILIES
from musiclora.convert.models.diffrhythm import read_diffrhythm
from musiclora.convert.models.oobleck import read_oobleck
from musiclora.demo.renders import render_instruments
from musiclora.evaluation.audio_features import log_mel, resample_mono, stft_magnitudes
from musiclora.evaluation.scores import total_loss
from musiclora.models import find_model
from musiclora.music.wav import read_wav
from musiclora.progress import Reporter
from musiclora.symbolic.reading.read_folder import read_music


@pytest.fixture(scope="module")
def folder():
    return find_model("bundled-audio").path


@pytest.fixture(scope="module")
def rendered(tmp_path_factory, tunes):
    """Tunes that it was not trained on, played by a violin: float32 [1, 2, N]."""
    require("midirenderer")
    songs = read_music(tunes).songs
    (made,) = render_instruments(songs[:3], {"violin": 40}, tmp_path_factory.mktemp("r"), 20, Reporter(), "rendering")
    audio, _ = read_wav(made.path)
    return np.ascontiguousarray(audio.T[None, :, : 256 * 2048])


def test_model_and_codec_together_have_the_promised_size(folder):
    files = [folder / "model.safetensors", folder / "vae" / "model.safetensors"]
    parts = [read_diffrhythm(folder).config.tensor_shapes(), read_oobleck(folder / "vae").config.tensor_shapes()]

    assert sum(path.stat().st_size for path in files) <= 12e6
    assert sum(math.prod(shape) for shapes in parts for shape in shapes.values()) > 5e6


def test_card_says_what_it_is_made_of_and_that_it_is_a_demonstration(folder):
    card = (folder / "README.md").read_text(encoding="utf-8")

    for said in ("license: apache-2.0", "demonstration", "public domain", "held-out", "21.5 Hz"):
        assert said in card


@pytest.mark.slow
def test_codec_plays_what_it_hears(backend_name, folder, rendered):
    codec = registry.get_backend(backend_name).load_codec(folder)
    made = codec.decode(codec.encode(rendered)[0])
    pictures = [log_mel(stft_magnitudes(resample_mono(audio[0], codec.sample_rate)) ** 2) for audio in (made, rendered)]
    alike = np.corrcoef(*(picture.ravel() for picture in pictures))[0, 1]
    shifted = np.corrcoef(pictures[0].ravel(), np.roll(pictures[1], 90, axis=1).ravel())[0, 1]

    assert alike > 0.7
    assert alike > shifted + 0.1  # not only the instrument: the notes, too, at their time


def test_codec_is_the_same_on_both_backends(both_backends, folder, rendered):
    codecs = [registry.get_backend(name).load_codec(folder) for name in registry.BACKENDS]
    means = [codec.encode(rendered[:, :, : 64 * 2048])[0] for codec in codecs]
    # Float32 sums of 4096 products in another order, through steep sines.
    np.testing.assert_allclose(*means, rtol=0, atol=1e-3)
    np.testing.assert_allclose(*(codec.decode(means[0]) for codec in codecs), rtol=0, atol=1e-3)


@pytest.mark.slow
def test_base_predicts_music_that_it_has_not_heard_better_than_guessing(backend_name, folder, rendered):
    backend = registry.get_backend(backend_name)
    model, codec = backend.load(FAMILIES["audio"], folder), backend.load_codec(folder)
    latents = codec.encode(rendered)[0][0]
    config = read_diffrhythm(folder).config
    recording = Recording("violin", "violin", "0" * 64, latents)
    form = DiffRhythmForm(config.max_frames, config.max_frames, config.duration_embedding)
    batches = list(fixed_batches([recording], form, 8))

    assert total_loss([model.loss(batch) for batch in batches]).mean < 0.9 * baseline_loss(batches)


def test_same_seed_gives_the_same_latents_on_both_backends(both_backends, folder):
    noise = np.random.default_rng(5).standard_normal((1, 64, 64), np.float32)
    given = {"valid": np.ones((1, 64), bool), "start_time": np.zeros(1, np.float32)}
    made = []
    for name in registry.BACKENDS:
        model = registry.get_backend(name).load(FAMILIES["audio"], folder)
        made.append(flow.sample(model, model.prepare(given), noise, 12, 0.0))

    np.testing.assert_allclose(*made, rtol=0, atol=1e-3)
