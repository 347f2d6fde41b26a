"""Levels of recordings before a codec: too loud ones are turned down, others are left alone, and it is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from musiclora.audio.latents.encode import encode_recordings
from musiclora.audio.latents.levels import LARGE_LATENTS, choose_gain_db, latents_size, level_notes, wanted_size
from musiclora.audio.latents.store import known_items, put_latents, write_index
from musiclora.convert.files.safetensors_file import read_safetensors


class LinearCodec:
    """Codec whose latents grow with the level, as those of a small one do: 10 times the channels' mean."""

    sample_rate, hop, latent_channels, audio_channels = 44100, 2048, 2, 2
    calls = 0

    def encode(self, audio):
        self.calls += 1
        frames = audio.shape[2] // self.hop
        parts = audio[:, :, : frames * self.hop].reshape(audio.shape[0], 2, frames, self.hop)
        mean = 10 * np.sqrt(np.square(parts).mean(3)).transpose(0, 2, 1).astype(np.float32)
        return mean, np.zeros_like(mean)


def write_tone(path, size, seconds=2.0):
    t = np.arange(int(44100 * seconds)) / 44100
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, np.stack([size * np.sqrt(2) * np.sin(2 * np.pi * 220 * t)] * 2, 1), 44100, subtype="FLOAT")
    return path


def encode(folder, cache, codec=None):
    found = encode_recordings(folder, cache, codec or LinearCodec(), "f")
    items = json.loads((cache / "index.json").read_text())["items"]
    return found, {item["source"]: (item, read_safetensors(cache / f"{item['sha256']}.safetensors")) for item in items}


def test_a_recording_that_is_too_loud_is_turned_down_to_the_usual_size(tmp_path):
    write_tone(tmp_path / "songs" / "loud.wav", 0.5)  # its latents would have a size of 5
    write_tone(tmp_path / "songs" / "usual.wav", 0.12)
    found, items = encode(tmp_path / "songs", tmp_path / "cache")
    loud, usual = items["loud.wav"], items["usual.wav"]
    assert latents_size(loud[1]["latents"]) == pytest.approx(1.0, rel=0.06)  # a step of 0.5 dB is 6 %
    assert loud[0]["gain_db"] == pytest.approx(20 * np.log10(1 / 5), abs=0.51)
    assert latents_size(usual[1]["latents"]) == pytest.approx(1.2, rel=0.01)
    assert usual[0]["gain_db"] == 0
    assert "1 of 2 files is encoded 14 dB quieter" in found.notes()[0]
    assert not list((tmp_path / "cache").glob(".*.part"))


def test_recordings_just_above_the_limit_are_turned_down_by_little(tmp_path):
    for number, size in enumerate((1.9, 1.99, 2.01, 2.1, 2.5, 3.2)):
        write_tone(tmp_path / "songs" / f"{number}.wav", size / 10)
    found, items = encode(tmp_path / "songs", tmp_path / "cache")
    sizes = [latents_size(items[f"{number}.wav"][1]["latents"]) for number in range(6)]
    assert sizes == pytest.approx([1.9, 1.99, 1.99, 1.90, 1.6, 1.25], rel=0.06)  # a step of 0.5 dB is 6 %
    assert found.gains_db[:3] == [0.0, 0.0, -0.5]


def test_the_wanted_size_has_no_jump():
    sizes = np.linspace(0.1, 50, 5000)
    wanted = np.array([wanted_size(size) for size in sizes])
    assert np.abs(np.diff(wanted)).max() <= 1.01 * np.diff(sizes).max()
    assert wanted.max() <= LARGE_LATENTS
    assert wanted_size(26.0) == 1.0  # very loud, dense music


def test_excerpts_louder_than_the_whole_do_not_turn_it_down_further(tmp_path):
    class Excerpts(LinearCodec):
        def encode(self, audio):
            return tuple(2 * part for part in super().encode(audio))  # twice the whole's size

    path = write_tone(tmp_path / "songs" / "loud.wav", 0.22)
    assert choose_gain_db(path, 2.0, Excerpts(), 2.2) == choose_gain_db(path, 2.0, LinearCodec(), 2.2) == -2.0


def test_what_was_turned_down_is_said_again_where_it_is_not_encoded_again(tmp_path):
    write_tone(tmp_path / "songs" / "loud.wav", 0.5)
    encode(tmp_path / "songs", tmp_path / "cache")
    codec = LinearCodec()
    found, _ = encode(tmp_path / "songs", tmp_path / "cache", codec)
    assert codec.calls == 0
    assert "quieter" in found.notes()[0]


def test_a_recording_at_a_usual_level_is_encoded_once(tmp_path):
    write_tone(tmp_path / "songs" / "usual.wav", 0.12)
    codec = LinearCodec()
    found, _ = encode(tmp_path / "songs", tmp_path / "cache", codec)
    assert codec.calls == 1
    assert found.notes() == []


@pytest.mark.parametrize(("size", "kept"), [(0.9, True), (LARGE_LATENTS * 1.5, False)])
def test_latents_of_an_earlier_version_are_kept_unless_they_are_too_large(tmp_path, size, kept):
    latents = np.full((21, 2), size, np.float32)
    (tmp_path / "cache").mkdir()
    put_latents(tmp_path / "cache" / "abc.safetensors", {"latents": latents}, codec="f", posterior="mean")
    write_index(
        tmp_path / "cache",
        [{"source": "a.wav", "start": 0.0, "end": 1.0, "sha256": "abc", "codec": "f", "posterior": "mean"}],
    )
    assert ("abc" in known_items(tmp_path / "cache", "f", "mean", LinearCodec())) == kept


def test_notes_count_the_recordings_and_name_the_span():
    assert level_notes([0.0, 0.0]) == []
    assert level_notes([-8.5, -13.0, 0.0])[0].startswith("2 of 3 files are encoded 8.5 to 13 dB quieter")
