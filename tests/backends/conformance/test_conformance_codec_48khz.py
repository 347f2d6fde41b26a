"""Each backend's codec at ACE-Step's rates, 48,000 samples and 25 frames a second, against diffusers' own class."""

from __future__ import annotations

import acestep_toys as toys
import numpy as np
import pytest
import tolerance
from require import require

from musiclora.convert.files.safetensors_file import read_safetensors, write_safetensors
from musiclora.convert.models.oobleck import read_oobleck, write_oobleck

LATENTS, HOP = 8, 1920
# Two right computations differ by float32 rounding through 40 convolutions.
TOLERANCE = 5e-4


@pytest.fixture(scope="session")
def reference():
    """diffusers' codec, with Snakes that bend and gains that are not the norms of their directions."""
    torch = require("torch")
    codec = toys.diffusers_codec(LATENTS, (1, 2, 4, 8, 16))
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            if name.endswith((".alpha", ".beta")):
                parameter.normal_(0, 0.3)
            elif name.endswith("weight_g"):
                parameter.mul_(1.5)
    return codec


@pytest.fixture(scope="session", params=["diffusers", "mlx"])
def codec(request, backend, reference, tmp_path_factory):
    """The backend's codec from the folder that diffusers wrote, and from its copy in the MLX layout."""
    folder = tmp_path_factory.mktemp("codec48")
    reference.save_pretrained(folder / "diffusers")
    if request.param == "mlx":
        checkpoint = read_oobleck(folder / "diffusers")
        write_oobleck(folder / "mlx", checkpoint.config, checkpoint.tensors(), "mlx", "float32")
    return backend.load_codec(folder / request.param)


def close(found, expected):
    tolerance.assert_near(found, expected, TOLERANCE * max(1.0, float(np.abs(expected).max())))


def test_the_codec_knows_its_rates(codec):
    assert (codec.sample_rate, codec.hop, codec.latent_channels, codec.audio_channels) == (48000, HOP, LATENTS, 2)
    assert codec.sample_rate / codec.hop == 25


def test_encoding_equals_diffusers(codec, reference):
    torch = require("torch")
    # More frames than are encoded at one time, and samples that fill no frame.
    audio = np.random.default_rng(0).uniform(-1, 1, (1, 2, 140 * HOP + 700)).astype(np.float32)
    with torch.inference_mode():
        found = reference.encode(torch.from_numpy(audio)).latent_dist
    mean, scale = codec.encode(audio)
    assert mean.shape == (1, 140, LATENTS)
    close(mean, found.mean.numpy().transpose(0, 2, 1))
    close(scale, found.scale.numpy().transpose(0, 2, 1))


@pytest.mark.parametrize("frames", [1, 7, 60])
def test_decoding_equals_diffusers(frames, codec, reference):
    torch = require("torch")
    latents = np.random.default_rng(frames).standard_normal((2, frames, LATENTS), np.float32)
    with torch.inference_mode():
        expected = reference.decode(torch.from_numpy(latents.transpose(0, 2, 1).copy())).sample.numpy()
    found = codec.decode(latents)
    assert found.shape == (2, 2, frames * HOP)
    close(found, expected)
    assert np.abs(expected).max() > 0.01


def test_chunks_whose_overlap_covers_the_decoders_reach_have_no_seams(codec):
    latents = np.random.default_rng(5).standard_normal((1, 90, LATENTS), np.float32)
    close(codec.decode(latents, 40, 24), codec.decode(latents))


def test_a_bare_file_of_these_strides_is_at_48_khz(reference, tmp_path):
    reference.save_pretrained(tmp_path / "full")
    arrays = read_safetensors(tmp_path / "full" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "bare").mkdir()
    write_safetensors(tmp_path / "bare" / "codec.safetensors", arrays)
    found = read_oobleck(tmp_path / "bare").config
    assert found == read_oobleck(tmp_path / "full").config
    assert found.sample_rate == 48000
