"""Timbre references: the segments and latents that diffusers' pipeline takes of a recording."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import acestep_folder
import numpy as np
import pytest
from require import require

from musiclora.audio.acestep.timbre import choose_segments, timbre_latents
from musiclora.backends.registry import get_backend
from musiclora.errors import DataError

soundfile = require("soundfile")
RATE = 30


@pytest.mark.parametrize("samples", [7, 31, 30 * RATE - 1, 30 * RATE, 47 * RATE + 11, 200 * RATE])
def test_segments_are_the_pipelines(samples: int) -> None:
    torch, pipeline = require("torch"), require("diffusers").AceStepPipeline
    sound, seen = np.random.default_rng(0).standard_normal((2, samples)).astype(np.float32), []

    class Codec:
        dtype = torch.float32

        def encode(self, audio: Any) -> Any:
            seen.append(audio[0].numpy())
            return SimpleNamespace(latent_dist=SimpleNamespace(sample=lambda: audio))

    owner = SimpleNamespace(sample_rate=RATE, vae=Codec())
    pipeline.prepare_reference_audio_latents(owner, torch.from_numpy(sound), 1, "cpu", torch.float32)
    assert np.array_equal(choose_segments(sound, RATE), seen[0])
    assert seen[0].shape == (2, 30 * RATE)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory, any_backend: str) -> Any:
    folder = acestep_folder.write_model(tmp_path_factory.mktemp("ace") / "model", text_encoder=False)
    return get_backend(any_backend).load_codec(folder / "vae")


def test_latents_are_thirty_seconds_and_follow_the_seed(tmp_path: Path, codec: Any) -> None:
    soundfile.write(tmp_path / "voice.wav", acestep_folder.tone(2, 1), 48000)
    found = timbre_latents(tmp_path / "voice.wav", codec, 1)
    assert (found.shape, found.dtype) == ((750, 6), np.float32)
    assert np.array_equal(found, timbre_latents(tmp_path / "voice.wav", codec, 1))
    assert not np.array_equal(found, timbre_latents(tmp_path / "voice.wav", codec, 2))


def test_a_reference_that_is_short_or_silent_is_refused(tmp_path: Path, codec: Any) -> None:
    soundfile.write(tmp_path / "short.wav", acestep_folder.tone(0.2, 1), 48000)
    soundfile.write(tmp_path / "silent.wav", np.zeros((96000, 2)), 48000)
    with pytest.raises(DataError, match=r"--reference .*short.wav: 0.20 s are too short for a timbre; give 1 s"):
        timbre_latents(tmp_path / "short.wav", codec, 1)
    with pytest.raises(DataError, match=r"--reference .*silent.wav: is silent"):
        timbre_latents(tmp_path / "silent.wav", codec, 1)
