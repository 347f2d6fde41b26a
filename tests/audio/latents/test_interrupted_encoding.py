"""Encoding that was stopped or killed: taken up where it stopped, and nothing half done counts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import level_codec
import numpy as np
import pytest
import toy_audio
from level_codec import Levels, Stopping, long_recording
from require import require

from musiclora.audio.latents import encode as encoding
from musiclora.audio.latents.encode import Encoding, encode_recordings
from musiclora.audio.latents.store import read_latents

soundfile = require("soundfile")


_KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from level_codec import Levels
from musiclora.audio.latents.encode import encode_recordings
class Killed(Levels):
    calls = 0
    def encode(self, audio):
        Killed.calls += 1
        if Killed.calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(audio)
encode_recordings(Path(sys.argv[1]), Path(sys.argv[2]), Killed(), "f")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_killed_encoding_goes_on_where_it_stopped(tmp_path):
    toy_audio.write_recordings(tmp_path / "in", 4, 1.0)
    helpers = Path(level_codec.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, tmp_path / "in", tmp_path / "cache", helpers],
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*.safetensors")}
    assert len(kept) == 2
    encode_recordings(tmp_path / "in", tmp_path / "cache", Levels(), "f")
    now = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*.safetensors")}
    assert kept.items() <= now.items()
    assert len(json.loads((tmp_path / "cache" / "index.json").read_text())["items"]) == 4


@pytest.mark.parametrize("posterior", ["mean", "sample"])
def test_a_recording_that_was_stopped_goes_on_at_its_block(tmp_path, monkeypatch, posterior):
    monkeypatch.setattr(encoding, "BLOCK_FRAMES", 200)
    folder, wanted = long_recording(tmp_path / "in"), Encoding(posterior, 3)
    whole = Stopping()
    encode_recordings(folder, tmp_path / "whole", whole, "f", None, wanted)
    with pytest.raises(KeyboardInterrupt):
        encode_recordings(folder, tmp_path / "cache", Stopping(4), "f", None, wanted)
    (part,) = (tmp_path / "cache").glob(".*.part")
    with part.open("ab") as file:
        file.write(b"a torn block")
    again = Stopping()
    assert encode_recordings(folder, tmp_path / "cache", again, "f", None, wanted).fresh == 1
    assert (whole.calls, again.calls) == (6, 3)
    before, after = (read_latents(tmp_path / name)[0][1]["latents"] for name in ("whole", "cache"))
    assert np.array_equal(before, after)
    assert not list((tmp_path / "cache").glob(".*"))


def test_what_is_half_done_is_not_taken_for_another_codec_or_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "BLOCK_FRAMES", 200)
    folder = long_recording(tmp_path / "in")
    for fingerprint, wanted in (("f", Encoding()), ("g", Encoding()), ("g", Encoding("sample"))):
        with pytest.raises(KeyboardInterrupt):
            encode_recordings(folder, tmp_path / "cache", Stopping(3), fingerprint, None, wanted)
        assert len(list((tmp_path / "cache").glob(".*.part"))) == 1
    last = Stopping()
    encode_recordings(folder, tmp_path / "cache", last, "h")
    assert last.calls == 6


def test_a_part_file_with_more_frames_than_the_recording_has_is_begun_again(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "BLOCK_FRAMES", 16)
    folder = long_recording(tmp_path / "in", 2)  # 43 frames
    with pytest.raises(KeyboardInterrupt):
        encode_recordings(folder, tmp_path / "cache", Stopping(3), "f")
    (part,) = (tmp_path / "cache").glob(".*.part")
    part.write_bytes(part.read_bytes() * 2)  # as two encoders that append to one file leave it
    encode_recordings(folder, tmp_path / "cache", Levels(), "f")
    encode_recordings(folder, tmp_path / "whole", Levels(), "f")
    (item, found), (_, wanted) = (read_latents(tmp_path / name)[0] for name in ("cache", "whole"))
    assert item["frames"] == len(found["latents"]) == 43
    assert np.array_equal(found["latents"], wanted["latents"])


def test_a_part_of_a_recording_that_is_gone_does_not_stay(tmp_path):
    folder = long_recording(tmp_path / "in", 2)
    encode_recordings(folder, tmp_path / "cache", Levels(), "f")
    for name in (f".{'0' * 32}-{'1' * 16}.part", ".left.tmp"):
        (tmp_path / "cache" / name).write_bytes(b"x")
    encode_recordings(folder, tmp_path / "cache", Levels(), "f")
    assert not list((tmp_path / "cache").glob(".*"))
