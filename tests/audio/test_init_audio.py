"""Continuing and repainting: which frames of a recording are kept."""

from __future__ import annotations

import numpy as np
import pytest
import toy_audio
from require import require

from musiclora.audio.init_audio import Reference, read_reference, reference_of
from musiclora.audio.latents import blocks
from musiclora.audio.latents.blocks import encode_blocks
from musiclora.backends.registry import get_backend
from musiclora.errors import ConfigError

PACE, LONGEST = 10.0, 100


def of(frames, repaint=(), wanted=None):
    latents = np.arange(1, 1 + frames, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    return reference_of(latents, repaint, PACE, wanted, LONGEST)


def made(reference):
    return np.flatnonzero(reference.mask).tolist()


def test_a_recording_is_continued_to_the_length_asked_for():
    reference, notes = of(30, wanted=50)
    assert made(reference) == list(range(30, 50))
    assert reference.known[29, 0] == 30
    assert not reference.known[30:].any()
    assert not notes


def test_without_a_length_it_is_continued_to_what_the_model_holds_and_repainted_at_its_own():
    assert len(of(30)[0].mask) == LONGEST
    assert len(of(30, [(1, 2)])[0].mask) == 30


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(1, 2)], range(10, 20)),
        ([(-1, 0.5)], range(5)),
        ([(2.5, -1)], range(25, 30)),
        ([(0, 0.2), (2.9, 9)], [0, 1, 29]),
    ],
    ids=["inside", "from the beginning", "to the end", "two spans"],
)
def test_spans_are_made_anew_and_the_rest_is_kept(spans, expected):
    assert made(of(30, spans)[0]) == list(expected)


def test_a_recording_longer_than_wanted_is_cut_and_that_is_said():
    reference, notes = of(80, [(1, 2)], wanted=40)
    assert len(reference.mask) == 40
    assert "8.0 s are cut to 4.0 s" in notes[0]


@pytest.mark.parametrize(
    ("frames", "spans", "wanted", "words"),
    [
        (120, [], None, "nothing to continue"),
        (30, [], 30, "nothing would be generated"),
        (30, [(-1, -1)], None, "nothing of the recording would be kept"),
        (30, [(2, 1)], None, "--repaint 2 1"),
        (30, [(7, 8)], None, "--repaint 7 8"),
        (30, [(1, 1.05)], None, "--repaint 1 1.05"),
        (30, [(-3, 2)], None, "--repaint -3 2"),
        (30, [(float("nan"), 2)], None, "--repaint nan 2: both must be seconds"),
        (30, [(1, float("inf"))], None, "--repaint 1 inf: both must be seconds"),
    ],
    ids=["too long", "as long", "everything", "backwards", "outside", "empty", "negative", "nan", "infinite"],
)
def test_spans_that_make_no_sense_are_refused(frames, spans, wanted, words):
    with pytest.raises(ConfigError, match=words):
        of(frames, spans, wanted)


def test_rows_repeat_the_same_reference():
    known, mask = of(30, [(1, 2)])[0].rows(3)
    assert (known.shape, mask.shape) == ((3, 30, 3), (3, 30))
    assert np.array_equal(known[0], known[2])


HOP = 64


def sound_of(samples):
    """Stereo steps of a 16-bit file."""
    return (np.random.default_rng(0).integers(-9000, 9000, (2, samples)) / 32768).astype(np.float32)


def restored(mask, recorded, gain=0.5, made=0.25):
    """Piece whose decoded sound is constant: `made` at the recording's level."""
    mask = np.array(mask, bool)
    reference = Reference(np.zeros((len(mask), 3), np.float32), mask, sound_of(recorded), gain)
    return reference.restore_sound(np.full((2, len(mask) * HOP), made * gain, np.float32))


def test_kept_frames_are_the_recordings_own_samples_and_the_seams_lie_in_what_is_made():
    mask = np.zeros(12, bool)
    mask[4:8] = True
    found, sound = restored(mask, 12 * HOP), sound_of(12 * HOP)
    kept = ~np.repeat(mask, HOP)
    assert np.array_equal(found[:, kept], sound[:, kept])
    inside = slice(4 * HOP + HOP // 2, 8 * HOP - HOP // 2)
    np.testing.assert_allclose(found[:, inside], 0.25, atol=1e-6)
    for seam in (slice(4 * HOP, 4 * HOP + HOP // 2), slice(8 * HOP - HOP // 2, 8 * HOP)):
        low, high = np.minimum(sound[:, seam], 0.25), np.maximum(sound[:, seam], 0.25)
        assert ((low - 1e-6 <= found[:, seam]) & (found[:, seam] <= high + 1e-6)).all()


@pytest.mark.parametrize("recorded", [4 * HOP, 4 * HOP - 10, 4 * HOP + 5], ids=["whole frames", "padded", "a rest"])
def test_a_continuation_fades_in_over_the_recordings_last_samples(recorded):
    mask = np.arange(10) >= 4
    found, sound = restored(mask, recorded), sound_of(recorded)
    end = min(recorded, 4 * HOP)
    assert np.array_equal(found[:, : end - HOP // 2], sound[:, : end - HOP // 2])
    np.testing.assert_allclose(found[:, end:], 0.25, atol=1e-6)


def test_what_is_made_is_turned_down_where_it_would_pass_full_scale_and_the_rest_is_not():
    mask = np.array([False, False, True, True])
    found = restored(mask, 4 * HOP, made=3.0)
    np.testing.assert_allclose(found[:, 2 * HOP + HOP // 2 :], 1.0, atol=1e-6)
    assert np.array_equal(found[:, : 2 * HOP], sound_of(4 * HOP)[:, : 2 * HOP])


class LoudCodec:
    """Codec whose latents grow with the level, as a small codec's do."""

    sample_rate, hop, audio_channels, latent_channels = 44100, 2048, 2, 6

    def encode(self, audio):
        frames = audio.shape[-1] // self.hop
        level = np.abs(audio[..., : frames * self.hop].reshape(len(audio), 2, frames, self.hop)).mean((1, 3))
        mean = np.repeat(40 * level[..., None], self.latent_channels, 2).astype(np.float32)
        return mean, np.full_like(mean, -20.0)  # softplus makes it small


@pytest.mark.parametrize(("amplitude", "words"), [(0.9, "dB quieter"), (0.001, "dB louder")])
def test_a_recording_to_continue_is_encoded_at_the_level_that_the_codec_knows(tmp_path, amplitude, words):
    # At a peak of -6 dB dense music gave latents of 20, on which a model goes wrong.
    soundfile = require("soundfile")
    noise = np.random.default_rng(0).uniform(-amplitude, amplitude, (2048 * 20, 2))
    noise[100] = amplitude
    soundfile.write(tmp_path / "loud.wav", noise, 44100, subtype="FLOAT")
    reference, notes = read_reference(tmp_path / "loud.wav", [(0.2, 0.4)], LoudCodec(), None, LONGEST, 0, peak=0.5012)
    kept = reference.known[~reference.mask]
    assert 0.8 < float(np.sqrt(np.square(kept).mean())) <= 1.01
    assert any(words in text and "its latents are not too large" in text for text in notes)
    decoded = np.zeros((2, 2048 * 20), np.float32)
    start = 2048 * 12
    np.testing.assert_array_equal(reference.restore_sound(decoded)[:, start:], noise.T.astype(np.float32)[:, start:])


def test_a_recording_whose_latents_are_usual_keeps_the_peak_of_6_db_below_full_scale(tmp_path):
    soundfile = require("soundfile")
    sound = np.zeros((2048 * 10, 2))
    sound[::2048] = 0.25
    soundfile.write(tmp_path / "clicks.wav", sound, 44100, subtype="FLOAT")
    reference, notes = read_reference(tmp_path / "clicks.wav", [(0.1, 0.2)], LoudCodec(), None, LONGEST, 0, peak=0.5012)
    assert reference.gain == pytest.approx(0.5012 / 0.25)
    assert not notes


@pytest.mark.parametrize("samples", [2048 * 70 + 99, 2048 * 30], ids=["blocks and a rest", "one pass"])
def test_a_long_recording_is_encoded_in_blocks_that_change_nothing(any_backend, tmp_path, monkeypatch, samples):
    toy_audio.write_codec(tmp_path / "vae")
    codec = get_backend(any_backend).load_codec(tmp_path / "vae")
    sound = 0.3 * np.random.default_rng(0).standard_normal((2, samples)).astype(np.float32)
    monkeypatch.setattr(blocks, "MEMORY_BLOCK_FRAMES", 25)
    monkeypatch.setattr(blocks, "MARGIN_FRAMES", 12)
    whole = codec.encode(sound[None] * np.float32(0.5))
    for part, expected in zip(encode_blocks(sound, codec, 0.5), whole, strict=True):
        # The toy's encoder reaches fewer frames than the margin; what is left is rounding.
        np.testing.assert_allclose(part, expected[0], atol=1e-5 * np.abs(expected).max())


def test_a_continuation_without_a_length_adds_the_frames_that_are_given():
    latents = np.zeros((30, 3), np.float32)
    assert len(reference_of(latents, (), PACE, None, LONGEST, 20)[0].mask) == 50
    assert len(reference_of(latents, (), PACE, None, LONGEST, 500)[0].mask) == LONGEST
    assert len(reference_of(latents, [(1, 2)], PACE, None, LONGEST, 20)[0].mask) == 30
