"""Recordings as training data: encoding once, resuming, and refusing what is no sound."""

from __future__ import annotations

import json

import numpy as np
import pytest
import toy_audio
from require import require

from musiclora.audio.files.sound import read_recording
from musiclora.audio.latents.encode import encode_recordings
from musiclora.audio.latents.load import load_recordings
from musiclora.audio.model import codec_fingerprint
from musiclora.backends.registry import get_backend
from musiclora.convert.files.folder_lock import locked_folder
from musiclora.convert.files.safetensors_file import write_safetensors
from musiclora.errors import DataError, MusicLoraError, OutputError
from musiclora.jobs import open_session, train
from musiclora.models import find_model
from musiclora.progress import Reporter
from musiclora.training.config import TrainConfig

soundfile = require("soundfile")
RATE, CHANNELS = 44100, toy_audio.CODEC.latent_dim


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_audio.write_base(tmp_path_factory.mktemp("audio") / "tiny")


@pytest.fixture
def codec(base, backend_name):
    return get_backend(backend_name).load_codec(base / "vae")


@pytest.fixture
def folder(tmp_path):
    return toy_audio.write_recordings(tmp_path / "in", 3, 1.0)


def write(path, audio, rate=RATE, subtype=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, subtype=subtype)
    return path


@pytest.mark.parametrize(
    ("rate", "subtype", "ending"),
    [(8000, "PCM_16", "wav"), (192_000, "PCM_24", "wav"), (RATE, "FLOAT", "wav"), (48_000, "PCM_24", "flac")],
    ids=["8 kHz", "192 kHz 24 bit", "float", "flac"],
)
def test_any_rate_and_width_becomes_stereo_at_the_codecs_rate(tmp_path, rate, subtype, ending):
    t = np.arange(rate) / rate
    path = write(tmp_path / f"a.{ending}", np.stack([0.5 * np.sin(2 * np.pi * 440 * t)] * 2, 1), rate, subtype)
    audio = read_recording(path, RATE)
    assert audio.shape == (2, pytest.approx(RATE, abs=2))
    spectrum = np.abs(np.fft.rfft(audio[0]))
    assert spectrum.argmax() == pytest.approx(440, abs=1)  # one second: a bin is one hertz
    assert np.abs(audio).max() == pytest.approx(0.5, abs=0.02)


def test_mono_is_doubled_and_of_more_channels_the_first_two_are_taken(tmp_path):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (1000, 4))
    mono = read_recording(write(tmp_path / "m.wav", sound[:, 0], subtype="FLOAT"), RATE)
    assert np.array_equal(mono[0], mono[1])
    four = read_recording(write(tmp_path / "f.wav", sound, subtype="FLOAT"), RATE)
    np.testing.assert_allclose(four, sound[:, :2].T, atol=1e-6)


def broken(path, kind):
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "mislabelled":
        path.write_bytes(b"<html>not found</html>" * 50)
    elif kind == "empty file":
        path.write_bytes(b"")
    elif kind == "no samples":
        write(path, np.zeros((0, 2)))
    elif kind == "not finite":
        write(path, np.full((9000, 2), np.nan), subtype="FLOAT")
    elif kind == "one frame short":
        write(path, np.zeros((2000, 2)))
    elif kind == "dangling link":
        path.symlink_to(path.with_name("nowhere.wav"))


KINDS = ["mislabelled", "empty file", "no samples", "not finite", "one frame short", "dangling link"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_recording_is_left_out_with_a_line_and_the_rest_is_kept(codec, folder, tmp_path, kind):
    broken(folder / "b.wav", kind)
    problems = encode_recordings(folder, tmp_path / "cache", codec, "f").left_out
    assert len(problems) == 1
    assert "b.wav" in problems[0]
    items = json.loads((tmp_path / "cache" / "index.json").read_text())["items"]
    assert [item["source"] for item in items] == ["tone-0.wav", "tone-1.wav", "tone-2.wav"]


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_can_be_used_that_is_one_line(codec, tmp_path, kind):
    broken(tmp_path / "in" / "b.wav", kind)
    with pytest.raises(DataError, match=r"no recording can be used.*b\.wav"):
        encode_recordings(tmp_path / "in", tmp_path / "cache", codec, "f")


def test_a_folder_without_recordings_is_refused(codec, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="holds no recordings"):
        encode_recordings(tmp_path / "in", tmp_path / "cache", codec, "f")
    assert not (tmp_path / "cache").exists()


def test_what_is_in_the_cache_is_not_encoded_again_and_what_is_gone_leaves_it(codec, folder, tmp_path):
    calls = []

    class Counting:
        sample_rate, hop = codec.sample_rate, codec.hop
        latent_channels, audio_channels = codec.latent_channels, codec.audio_channels

        def encode(self, audio):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return codec.encode(audio)

    def encode(fingerprint="f"):
        encode_recordings(folder, tmp_path / "cache", Counting(), fingerprint)

    with pytest.raises(KeyboardInterrupt):
        encode()
    encode()
    assert len(calls) == 4  # two, the interrupted one, and only that one again
    (folder / "tone-1.wav").unlink()
    (folder / "tone-0.wav").rename(folder / "renamed.wav")
    encode()
    assert len(calls) == 4
    items = json.loads((tmp_path / "cache" / "index.json").read_text())["items"]
    assert [item["source"] for item in items] == ["renamed.wav", "tone-2.wav"]
    encode("another codec")
    assert len(calls) == 6


def test_too_little_disk_is_one_line_and_what_was_done_is_kept(codec, folder, tmp_path, monkeypatch):
    import collections
    import shutil

    free = iter([10**12, 10**12, 1000])  # before all, before the first, before the second
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, next(free)))
    with pytest.raises(OutputError, match="MB are needed"):
        encode_recordings(folder, tmp_path / "cache", codec, "f")
    assert len(json.loads((tmp_path / "cache" / "index.json").read_text())["items"]) == 1


@pytest.mark.slow
def test_training_on_a_folder_of_recordings_encodes_them_beside_the_run_once(base, folder, tmp_path, backend_name):
    config = TrainConfig(
        data_dir=str(folder),
        output_dir=str(tmp_path / "run"),
        model=str(base),
        backend=backend_name,
        max_seq_len=20,
        max_steps=2,
        lora_r=2,
        val_split=0.3,
    )
    result = train(config)
    assert result.after is not None
    cache = tmp_path / "run-latents"
    written = {p.name: p.stat().st_mtime_ns for p in cache.glob("*.safetensors")}
    assert len(written) == 3
    assert train(config).already_finished
    assert {p.name: p.stat().st_mtime_ns for p in cache.glob("*.safetensors")} == written
    from_cache = open_session(
        TrainConfig(**{**config.as_toml(), "data_dir": str(cache), "output_dir": str(tmp_path / "b")})
    )
    assert from_cache.task.hash_data() == open_session(config).task.hash_data()


def test_the_latents_are_the_posterior_means(base, codec, folder, tmp_path, backend_name):
    found = load_recordings(folder, find_model(str(base)), None, backend_name, tmp_path / "cache", Reporter())
    audio = read_recording(folder / "tone-1.wav", RATE)
    mean, _ = codec.encode(audio[None])
    assert np.array_equal(next(r.latents for r in found.recordings if r.name == "tone-1.wav"), mean[0])
    assert found.codec == codec_fingerprint(base / "vae")


def damaged(folder, name):
    """Change one thing in a latents folder."""
    index = json.loads((folder / "index.json").read_text())
    first = folder / f"{index['items'][0]['sha256']}.safetensors"
    latents = np.zeros((30, toy_audio.CODEC.latent_dim), np.float32)
    arrays = {
        "another codec": None,
        "wide": {"latents": np.zeros((30, 9), np.float32)},
        "nan": {"latents": latents + np.nan},
        "style": {"latents": latents, "style": np.zeros(100, np.float32)},
        "text": {"latents": latents, "text": np.zeros(12, np.int32)},
        "missing": None,
        "no list": None,
    }[name]
    first.unlink()
    if arrays:
        write_safetensors(first, arrays)
    if name == "another codec":
        write_safetensors(first, {"latents": latents})
        index["items"][0]["codec"] = "f" * 64
    if name == "no list":
        index = {"items": "none"}
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("another codec", "another codec"),
        ("wide", "9 channels"),
        ("nan", "finite"),
        ("style", r"\[100\]"),
        ("text", "12 values for 30 frames"),
        ("missing", "safetensors"),
        ("no list", "preprocess"),
    ],
)
def test_latents_that_do_not_fit_are_refused_in_one_line(base, any_backend, tmp_path, name, words):
    folder = toy_audio.write_latents(tmp_path / "latents", base, count=3)
    damaged(folder, name)
    with pytest.raises(MusicLoraError, match=words):
        load_recordings(folder, find_model(str(base)), None, any_backend, tmp_path / "cache", Reporter())


@pytest.mark.parametrize("begun", [True, False], ids=["with an index", "before the first recording"])
def test_a_folder_that_another_process_still_encodes_into_is_refused(base, tmp_path, begun):
    folder = tmp_path / "latents"
    if begun:
        toy_audio.write_latents(folder, base, count=3)
    with locked_folder(folder), pytest.raises(DataError, match="still encoding recordings into it; wait until it ends"):
        load_recordings(folder, find_model(str(base)), None, "numpy", tmp_path / "cache", Reporter())


def test_a_folder_whose_encoding_was_interrupted_says_that_recordings_are_missing(base, codec, folder, tmp_path):
    class Interrupted:
        calls = 0

        def __getattr__(self, name):
            return getattr(codec, name)

        def encode(self, audio):
            Interrupted.calls += 1
            if Interrupted.calls == 2:
                raise KeyboardInterrupt
            return codec.encode(audio)

    latents, model, fingerprint = tmp_path / "latents", find_model(str(base)), codec_fingerprint(base / "vae")

    def notes():
        found = load_recordings(latents, model, None, "numpy", tmp_path / "cache", Reporter())
        return "".join(found.notes)

    with pytest.raises(KeyboardInterrupt):
        encode_recordings(folder, latents, Interrupted(), fingerprint)
    assert "it holds 1 recordings, and others are missing" in notes()
    encode_recordings(folder, latents, codec, fingerprint)
    assert "missing" not in notes()
