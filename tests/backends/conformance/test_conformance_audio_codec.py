"""Each backend's codec against recordings of the original code."""

from __future__ import annotations

import numpy as np
import pytest
import tolerance
from audio_toys import GOLDEN, codec_path, golden
from require import require

from musiclora.audio.files import writing as audio_files
from musiclora.convert.errors import DataError
from musiclora.convert.models.oobleck import read_oobleck, write_oobleck

SOURCE = GOLDEN / "vae" / "vae_weight_norm.safetensors"


@pytest.fixture(scope="session", params=["weight-norm", "folded", "mlx"])
def codec(request, backend, tmp_path_factory):
    """The recorded codec as published, with its weight norm folded, and in the other layout."""
    if request.param == "weight-norm":
        return backend.load_codec(SOURCE)
    folder = tmp_path_factory.mktemp("codec") / "vae"
    checkpoint = read_oobleck(SOURCE)
    write_oobleck(folder, checkpoint.config, checkpoint.tensors(), "mlx" if request.param == "mlx" else "hf", "float32")
    return backend.load_codec(folder)


def close(found, expected):
    """float32 sums in another order, through all convolutions of an encoder or decoder."""
    limit = tolerance.rounding(codec_path(read_oobleck(SOURCE).config), max(1, np.abs(expected).max()))
    tolerance.assert_near(found, expected, limit)


def test_codec_says_what_the_original_is(codec):
    assert (codec.sample_rate, codec.hop, codec.latent_channels, codec.audio_channels) == (44100, 2048, 64, 2)


def test_encode_equals_the_original(codec):
    given = golden("vae/vae_io")
    mean, scale = codec.encode(given["waveform"])
    close(mean, given["mean"].transpose(0, 2, 1))
    close(scale, given["scale"].transpose(0, 2, 1))
    close(np.logaddexp(0, scale) + 1e-4, given["posterior_std"].transpose(0, 2, 1))


def test_decode_equals_the_original(codec):
    given = golden("vae/vae_io")
    close(codec.decode(given["latents"].transpose(0, 2, 1)), given["decoder_out"])
    close(codec.decode(given["mean"].transpose(0, 2, 1)), given["recon_from_mean"])


def test_decode_in_chunks_equals_the_original_in_chunks(codec):
    given = golden("vae/vae_io")
    close(codec.decode(given["chunk_latents"].transpose(0, 2, 1), 8, 4), given["chunk_decoder_out"])


def test_audio_is_written_as_the_originals_whole_numbers(tmp_path):
    """Divided by the peak of both channels, and truncated, not rounded."""
    soundfile = require("soundfile")
    given = golden("vae/vae_io")
    loudest, silent = audio_files.normalise_peak(given["chunk_decoder_out"][0])
    audio_files.write_audio(tmp_path / "out.wav", loudest, 44100)
    found, rate = soundfile.read(tmp_path / "out.wav", dtype="int16")
    assert (rate, silent) == (44100, False)
    np.testing.assert_array_equal(found.T, given["chunk_decoder_out_int16"])


def test_decode_of_less_than_a_chunk_is_one_decode(codec):
    latents = golden("vae/vae_io")["latents"].transpose(0, 2, 1)
    np.testing.assert_array_equal(codec.decode(latents, 8, 4), codec.decode(latents))


def test_samples_that_fill_no_frame_are_left_out(codec):
    waveform = golden("vae/vae_io")["waveform"]
    whole = codec.encode(waveform[..., : 3 * 2048])[0]
    found = codec.encode(waveform[..., : 3 * 2048 + 2047])[0]
    assert found.shape == whole.shape == (1, 3, 64)


@pytest.mark.parametrize("shape", [(1, 2, 2047), (1, 1, 4096), (2, 4096)], ids=["short", "mono", "flat"])
def test_encode_refuses_other_shapes_in_one_line(codec, shape):
    with pytest.raises(DataError) as caught:
        codec.encode(np.zeros(shape, np.float32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 4, 63), (4, 64)], ids=["channels", "flat"])
def test_decode_refuses_other_shapes_in_one_line(codec, shape):
    with pytest.raises(DataError) as caught:
        codec.decode(np.zeros(shape, np.float32))
    assert "\n" not in str(caught.value)
