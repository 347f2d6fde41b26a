"""Long recordings as latents: block by block as at once, within bounds, and taken up after a kill."""

from __future__ import annotations

import numpy as np
import pytest
import toy_audio
from level_codec import Levels, Stopping, long_recording
from require import require

from musiclora.audio.files.sound import read_recording
from musiclora.audio.latents import encode as encoding
from musiclora.audio.latents.encode import Encoding, encode_recordings
from musiclora.audio.latents.store import put_latents, read_latents
from musiclora.backends.registry import get_backend
from musiclora.convert.files.folder_lock import locked_folder
from musiclora.errors import ConfigError, DataError, OutputError

soundfile = require("soundfile")


@pytest.mark.parametrize("rate", [44100, 48000, 22050], ids=["44.1 kHz", "48 kHz", "22.05 kHz"])
@pytest.mark.slow
def test_blocks_of_a_long_recording_give_what_the_whole_gives(tmp_path, any_backend, monkeypatch, rate):
    monkeypatch.setattr(encoding, "BLOCK_FRAMES", 200)
    toy_audio.write_codec(tmp_path / "vae")
    codec = get_backend(any_backend).load_codec(tmp_path / "vae")
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "long.wav", toy_audio.tone(50, 1, rate), rate, subtype="FLOAT")
    encode_recordings(tmp_path / "in", tmp_path / "cache", codec, "f")
    ((_, arrays),) = read_latents(tmp_path / "cache")
    mean, _ = codec.encode(read_recording(tmp_path / "in" / "long.wav", 44100)[None])
    assert arrays["latents"].shape == mean[0].shape
    assert len(mean[0]) > 5 * 200
    np.testing.assert_allclose(arrays["latents"], mean[0], atol=1e-4)


@pytest.mark.slow
def test_an_hour_is_encoded_without_holding_it(tmp_path):
    resource = pytest.importorskip("resource")
    (tmp_path / "in").mkdir()
    clicks = np.zeros(8000 * 600, np.float32)
    clicks[::8000] = 0.5
    with soundfile.SoundFile(tmp_path / "in" / "long.flac", "w", 8000, 1) as file:
        for _ in range(6):
            file.write(clicks)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    encoded = encode_recordings(tmp_path / "in", tmp_path / "cache", Levels(), "f")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    ((item, arrays),) = read_latents(tmp_path / "cache")
    assert arrays["latents"].shape == (3600 * 44100 // 2048, 2)
    assert item["end"] == pytest.approx(3600, abs=0.1)
    assert encoded.seconds == pytest.approx(3600, abs=0.1)
    assert grown < 300  # MB; an hour of stereo at 44.1 kHz is 1270
    heard = arrays["latents"][:, 0] > 1e-6
    assert heard.sum() >= 3600  # a click every second, none lost at a seam


def test_samples_of_the_posterior_depend_on_the_seed_alone(tmp_path):
    toy_audio.write_recordings(tmp_path / "in", 1, 2.0)

    def drawn(name, seed):
        encode_recordings(tmp_path / "in", tmp_path / name, Levels(), "f", None, Encoding("sample", seed))
        return read_latents(tmp_path / name)[0][1]["latents"]

    first = drawn("a", 1)
    assert np.array_equal(first, drawn("b", 1))
    assert not np.array_equal(first, drawn("c", 2))
    encode_recordings(tmp_path / "in", tmp_path / "d", Levels(), "f")
    off = first - read_latents(tmp_path / "d")[0][1]["latents"]
    assert off.std() == pytest.approx(np.log(2), rel=0.3)  # softplus(0)


def test_another_kind_of_latents_is_not_taken_from_the_cache(tmp_path):
    toy_audio.write_recordings(tmp_path / "in", 1, 2.0)
    found = []
    for wanted in (Encoding(), Encoding("sample", 1), Encoding()):
        encode_recordings(tmp_path / "in", tmp_path / "cache", Levels(), "f", None, wanted)
        found.append(np.array(read_latents(tmp_path / "cache")[0][1]["latents"]))
    assert not np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_latents_that_say_they_are_another_codecs_than_the_index_says_are_made_anew(tmp_path):
    folder = long_recording(tmp_path / "in", 2)
    encode_recordings(folder, tmp_path / "cache", Levels(), "f")
    index = (tmp_path / "cache" / "index.json").read_text()
    encode_recordings(folder, tmp_path / "cache", Levels(), "g")
    (tmp_path / "cache" / "index.json").write_text(index)  # as if stopped between the two files
    assert encode_recordings(folder, tmp_path / "cache", Levels(), "f").fresh == 1


def test_two_processes_cannot_encode_into_one_folder(tmp_path):
    folder = long_recording(tmp_path / "in", 2)
    with locked_folder(tmp_path / "cache"), pytest.raises(OutputError, match="another process is writing here"):
        encode_recordings(folder, tmp_path / "cache", Levels(), "f")
    assert encode_recordings(folder, tmp_path / "cache", Levels(), "f").fresh == 1
    assert not list((tmp_path / "cache").glob(".*"))


@pytest.mark.parametrize("name", ["index.json", "thesis.txt"])
def test_recordings_are_not_encoded_into_another_programs_folder(tmp_path, name):
    cache = tmp_path / "mine-latents"
    cache.mkdir()
    (cache / name).write_text('{"pages": []}')
    with pytest.raises(ConfigError, match="something else than latents"):
        encode_recordings(long_recording(tmp_path / "in", 2), cache, Levels(), "f")
    assert [(p.name, p.read_text()) for p in cache.iterdir()] == [(name, '{"pages": []}')]


def test_the_lock_is_taken_before_the_cache_is_looked_at(tmp_path, monkeypatch):
    folder, known = long_recording(tmp_path / "in", 2), encoding.known_items

    def look(*arguments):
        with pytest.raises(OutputError, match="another process"), locked_folder(tmp_path / "cache"):
            pytest.fail("entered")
        return known(*arguments)

    monkeypatch.setattr(encoding, "known_items", look)
    assert encode_recordings(folder, tmp_path / "cache", Levels(), "f").fresh == 1


@pytest.mark.parametrize("change", [lambda x: np.concatenate([x, x]), lambda x: x[:-1]], ids=["more", "fewer"])
def test_latents_whose_frames_are_not_the_recordings_do_not_count(tmp_path, change):
    folder, cache = long_recording(tmp_path / "in", 2), tmp_path / "cache"
    encode_recordings(folder, cache, Levels(), "f")
    (item, arrays) = read_latents(cache)[0]
    put_latents(cache / f"{item['sha256']}.safetensors", {"latents": change(arrays["latents"])}, codec="f")
    with pytest.raises(DataError, match=r"holds \d+ frames of 43"):
        read_latents(cache)
    assert encode_recordings(folder, cache, Levels(), "f").fresh == 1
    assert len(read_latents(cache)[0][1]["latents"]) == 43


def test_progress_is_told_in_seconds_of_all_recordings(tmp_path, monkeypatch):
    import contextlib

    from musiclora.progress import Reporter

    monkeypatch.setattr(encoding, "BLOCK_FRAMES", 200)
    told = {}

    class Listening(Reporter):
        @contextlib.contextmanager
        def task(self, title):
            yield lambda done, total: told.setdefault(title, []).append((done, total))

    encode_recordings(long_recording(tmp_path / "in"), tmp_path / "cache", Levels(), "f", Listening())
    assert told["reading recordings"] == [(1, 1)]
    seconds = told["encoding recordings (seconds)"]
    assert len(seconds) == 7
    assert seconds == sorted(seconds)
    assert seconds[-1] == (50, 50)


def test_the_same_recording_twice_is_encoded_once(tmp_path):
    folder, codec = long_recording(tmp_path / "in", 2), Stopping()
    (folder / "copy.wav").write_bytes((folder / "long.wav").read_bytes())
    found = encode_recordings(folder, tmp_path / "cache", codec, "f")
    assert (found.recordings, found.fresh, codec.calls) == (2, 1, 1)


def test_a_style_of_each_recording_is_made_once_and_replaced_by_another(tmp_path):
    toy_audio.write_recordings(tmp_path / "in", 2, 1.0)
    made = []

    def style(path):
        made.append(path.name)
        return np.full(512, len(made), np.float32)

    for _ in range(2):
        encode_recordings(
            tmp_path / "in", tmp_path / "cache", Levels(), "f", None, Encoding(style=style, style_name="s")
        )
    assert made == ["tone-0.wav", "tone-1.wav"]
    assert [arrays["style"][0] for _, arrays in read_latents(tmp_path / "cache")] == [1, 2]
    encode_recordings(tmp_path / "in", tmp_path / "cache", Levels(), "f", None, Encoding(style=style, style_name="t"))
    assert [arrays["style"][0] for _, arrays in read_latents(tmp_path / "cache")] == [3, 4]
    encode_recordings(tmp_path / "in", tmp_path / "cache", Levels(), "f")
    assert all("style" not in arrays for _, arrays in read_latents(tmp_path / "cache"))


def test_a_damaged_index_is_made_anew(tmp_path):
    toy_audio.write_recordings(tmp_path / "in", 2, 1.0)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "index.json").write_text('{"items": [')
    assert encode_recordings(tmp_path / "in", tmp_path / "cache", Levels(), "f").recordings == 2
