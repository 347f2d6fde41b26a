"""MLX's own parts of the codec: sine, pieces, chunks and refusals."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import tolerance
from audio_toys import codec_path

from musiclora.backends import codec_chunks
from musiclora.backends.mlx import device, oobleck
from musiclora.backends.mlx.backend import BACKEND
from musiclora.convert.errors import BackendError, ConfigError, ConvertError, DataError
from musiclora.convert.models.oobleck import OobleckConfig, write_oobleck

CONFIG = OobleckConfig(4, (1, 2), (2, 4), 3, 6, 2, 8000)
HOP = 8


def write(folder, config=CONFIG):
    rng = np.random.default_rng(2)
    arrays = ((name, rng.standard_normal(shape) * 0.4) for name, shape in config.tensor_shapes().items())
    write_oobleck(folder, config, ((name, value.astype(np.float32)) for name, value in arrays), "hf", "float32")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("codec") / "vae")


@pytest.fixture(scope="module")
def codec(folder):
    return BACKEND.load_codec(folder)


def normal(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
def test_snake_adds_the_square_of_a_sine(monkeypatch, gpu):
    monkeypatch.setattr(device, "is_gpu", lambda: gpu)
    x, frequency, amplitude = np.linspace(-60, 60, 4001, dtype=np.float32), np.float32([0.5, 3]), np.float32([2, 0.1])
    found = oobleck.snake(mx.array(x)[None, :, None], mx.array(frequency), mx.array(amplitude))
    wide = x[:, None].astype(np.float64)
    # The argument is rounded by half a unit of 180, times the slope of 2 sin^2; six roundings of values of 62 follow.
    limit = 180 * tolerance.unit() * 2 + tolerance.rounding(6, 62.0)
    expected = wide + amplitude * np.sin((x[:, None] * frequency).astype(np.float64)) ** 2
    np.testing.assert_allclose(np.array(found)[0], expected, rtol=0, atol=limit)


def test_audio_encoded_in_pieces_equals_audio_encoded_at_once(codec, monkeypatch):
    audio = normal(2, 2, 90 * HOP + 5)
    whole = codec.encode(audio)
    assert whole[0].shape == whole[1].shape == (2, 90, 3)
    monkeypatch.setattr(codec_chunks, "PIECE_FRAMES", 7)
    for left, right in zip(codec.encode(audio), whole, strict=True):
        # other shapes of products add in another order
        tolerance.assert_near(left, right, tolerance.rounding(codec_path(CONFIG), right))


def test_reach_covers_every_frame_that_a_sample_touches(codec):
    audio, at = normal(1, 2, 120 * HOP), 60
    changed = audio.copy()
    changed[..., at * HOP : (at + 1) * HOP] += 1
    differs = np.abs(codec.encode(audio)[0] - codec.encode(changed)[0]).max(axis=(0, 2)) > 0
    reach = codec_chunks.reach(CONFIG)
    assert differs[at]
    assert not differs[: at - reach].any()
    assert not differs[at + reach + 1 :].any()
    assert codec_chunks.reach(OobleckConfig(128, (1, 2, 4, 8, 16), (2, 4, 4, 8, 8))) == 9


@pytest.mark.parametrize(
    ("frames", "expected"),
    [(100, [0]), (128, [0]), (129, [0, 1]), (224, [0, 96]), (300, [0, 96, 172]), (320, [0, 96, 192])],
)
def test_chunks_begin_every_advance_and_the_last_ends_with_the_latents(frames, expected):
    assert codec_chunks.starts(frames, 128, 32) == expected


def test_chunks_give_up_half_their_overlap_at_inner_edges_only(codec):
    latents = normal(1, 30, 3)
    found = codec.decode(latents, 12, 4)
    # Chunks begin at 0, 8, 16 and 18; their seams lie two frames after each.
    bounds, begins = [0, 10, 18, 20, 30], [0, 8, 16, 18]
    for begin, left, right in zip(begins, bounds, bounds[1:], strict=False):
        alone = codec.decode(latents[:, begin : begin + 12])
        part = alone[..., (left - begin) * HOP : (right - begin) * HOP]
        tolerance.assert_near(found[..., left * HOP : right * HOP], part, tolerance.rounding(codec_path(CONFIG), part))


def test_a_batch_decodes_as_its_rows_do(codec):
    latents = normal(3, 9, 3)
    rows = np.concatenate([codec.decode(row[None]) for row in latents])
    tolerance.assert_near(codec.decode(latents), rows, tolerance.rounding(codec_path(CONFIG), rows))


@pytest.mark.parametrize("settings", [(8, 8), (0, 0), (8, -1)])
def test_chunks_that_do_not_advance_are_refused(codec, settings):
    with pytest.raises(ConfigError, match="overlap"):
        codec.decode(normal(1, 30, 3), *settings)


def test_other_shapes_are_refused(codec):
    with pytest.raises(DataError, match=r"\[B, 2, N\]"):
        codec.encode(normal(1, 1, 100))
    with pytest.raises(DataError, match="at least 8"):
        codec.encode(normal(1, 2, HOP - 1))
    with pytest.raises(DataError, match=r"\[B, T, 3\]"):
        codec.decode(normal(1, 5, 4))


def test_a_model_folder_gives_the_codec_inside_it(folder, codec):
    assert (codec.sample_rate, codec.hop, codec.latent_channels, codec.audio_channels) == (8000, HOP, 3, 2)
    inner = BACKEND.load_codec(folder.parent)
    np.testing.assert_array_equal(inner.decode(normal(1, 4, 3)), codec.decode(normal(1, 4, 3)))


@pytest.mark.parametrize(
    ("config", "what"),
    [(OobleckConfig(4, (1, 2), (3, 4), 3, 6), "odd stride 3"), (OobleckConfig(4, (1,), (2,), 3, 5), "need 6")],
)
def test_a_codec_without_whole_frames_or_a_scale_is_refused(tmp_path, config, what):
    with pytest.raises(ConvertError, match=what):
        BACKEND.load_codec(write(tmp_path / "vae", config))


def test_an_unknown_dtype_is_refused(folder):
    with pytest.raises(BackendError, match="float8"):
        BACKEND.load_codec(folder, dtype="float8")


def test_a_half_precision_codec_stays_near_float32(folder, codec):
    half = BACKEND.load_codec(folder, dtype="bfloat16")
    latents = normal(1, 12, 3)
    whole, found = codec.decode(latents), half.decode(latents)
    assert found.dtype == np.float32
    # eight bits through some thirty layers
    assert np.abs(found - whole).mean() < 0.1 * np.abs(whole).mean()
