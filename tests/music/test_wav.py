"""16-bit PCM WAV files: round trips, clipping, and agreement with the standard library."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest

from musiclora.music.wav import read_wav, write_wav

RATE = 22050


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_file_that_was_read_is_written_back_bit_for_bit(tmp_path, channels):
    samples = np.random.default_rng(0).integers(-32767, 32768, (500, channels)).astype("<i2")
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((channels, 2, RATE, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    audio, rate = read_wav(tmp_path / "a.wav")
    assert (audio.dtype, audio.shape, rate) == (np.float32, samples.shape, RATE)
    np.testing.assert_array_equal(audio * 32768, samples)
    write_wav(tmp_path / "b.wav", audio, rate, full_scale=32768)
    assert (tmp_path / "b.wav").read_bytes() == (tmp_path / "a.wav").read_bytes()


def test_samples_beyond_full_scale_are_clipped_alike_on_both_sides():
    buffer = io.BytesIO()
    write_wav(buffer, np.array([[-2.0], [-1.0], [0.0], [1.0], [2.0]], np.float32), RATE)
    buffer.seek(0)
    with wave.open(buffer) as file:
        found = np.frombuffer(file.readframes(5), "<i2")
    assert found.tolist() == [-32767, -32767, 0, 32767, 32767]


def test_a_file_without_samples_is_read_as_an_empty_array():
    buffer = io.BytesIO()
    write_wav(buffer, np.zeros((0, 2), np.float32), RATE)
    buffer.seek(0)
    assert read_wav(buffer)[0].shape == (0, 2)
