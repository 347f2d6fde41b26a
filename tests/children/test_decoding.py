"""Decoding in a child: the parent's decoder is not used, and a crash or a hang costs one file."""

from __future__ import annotations

import numpy as np
import pytest
from require import require

from musiclora.audio.files.health import measure_health
from musiclora.audio.files.sound import read_recording
from musiclora.children import process, sound
from musiclora.children.sound import DecodedFile, DecodeError
from musiclora.evaluation.measure import read_excerpt

soundfile = require("soundfile")
RATE = 44100


@pytest.fixture
def recording(tmp_path):
    wave = 0.5 * np.sin(np.arange(2 * RATE) * 0.05)
    soundfile.write(tmp_path / "a.flac", np.stack([wave, -wave], 1), RATE)
    return tmp_path / "a.flac"


@pytest.fixture
def fresh_child():
    """Begin and end without a child that waits for the next file."""
    sound._kill_children()
    yield
    sound._kill_children()


def test_recordings_are_never_decoded_in_the_parent(recording, monkeypatch):
    monkeypatch.setattr(soundfile, "SoundFile", lambda *args, **options: pytest.fail("decoded in the parent"))

    assert measure_health(recording).frames == 2 * RATE
    assert read_recording(recording, RATE).shape == (2, 2 * RATE)
    assert read_excerpt(recording)[0].shape == (2, 2 * RATE)


def test_a_file_is_read_as_the_decoder_has_it(recording):
    whole, _ = soundfile.read(recording, dtype="float32")
    with DecodedFile(recording) as file:
        assert (file.rate, file.channels, file.frames, file.container) == (RATE, 2, 2 * RATE, "FLAC")
        blocks = [file.read(RATE), file.read(RATE), file.read(RATE)]

    assert [len(block) for block in blocks] == [RATE, RATE, 0]
    assert np.array_equal(np.concatenate(blocks), whole)


def test_one_child_serves_one_file_after_another(recording, fresh_child):
    for _ in range(3):
        with DecodedFile(recording) as file:
            file.read(10)
    (child,) = sound._spare
    assert child.process.poll() is None


SPOILED = "import soundfile, os, time; soundfile.SoundFile.read = lambda *a, **k: {}; "


def test_a_file_that_crashes_the_decoder_costs_only_itself(recording, fresh_child, monkeypatch):
    code = process._CHILD_CODE
    monkeypatch.setattr(process, "_CHILD_CODE", code.replace("serve(sys", SPOILED.format("os.abort()") + "serve(sys"))
    assert measure_health(recording).problem.startswith("holds no sound (is damaged after 0.0 s")

    monkeypatch.setattr(process, "_CHILD_CODE", code)
    assert measure_health(recording).problem == ""


def test_a_file_that_stops_the_decoder_is_given_up(recording, fresh_child, monkeypatch):
    spoiled = process._CHILD_CODE.replace("serve(sys", SPOILED.format("time.sleep(600)") + "serve(sys")
    monkeypatch.setattr(process, "_CHILD_CODE", spoiled)
    with DecodedFile(recording) as file:
        monkeypatch.setattr(sound, "TIME_LIMIT_SECONDS", 0.2)
        with pytest.raises(DecodeError, match=r"longer than 0.2 s"):
            file.read(10)
