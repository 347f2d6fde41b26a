"""Reading recordings: any format and rate, block by block; what is in them and what is wrong with them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import tolerance
from click.testing import CliRunner
from require import require

from musiclora.audio.files.cutting import CutOptions, cut_folder
from musiclora.audio.files.health import (
    audio_health_json,
    audio_health_table,
    examine_folder,
    group_notes,
    measure_health,
)
from musiclora.audio.files.sound import Sound, audio_files, read_recording, recordings_of
from musiclora.cli import main
from musiclora.errors import DataError
from musiclora.evaluation.artefacts.clipping import clipped_samples

soundfile = require("soundfile")
soxr = require("soxr")
RATE = 44100


def tone(seconds, rate=RATE, level=0.5):
    t = np.arange(int(seconds * rate)) / rate
    return (level * np.stack([np.sin(2 * np.pi * 441 * t), np.sin(2 * np.pi * 620 * t)], 1)).astype(np.float32)


def write(path, audio, rate=RATE, subtype=None, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, subtype=subtype, **more)
    return path


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000, 192000])
def test_a_stream_of_blocks_is_what_resampling_the_whole_gives(tmp_path, rate):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (rate * 3 + 17, 2)).astype(np.float32)
    path = write(tmp_path / "a.wav", noise, rate, "FLOAT")
    with Sound(path) as sound:
        blocks = list(sound.stream(RATE))
    whole = noise if rate == RATE else soxr.resample(noise, rate, RATE)
    assert rate < RATE or len(blocks) > 2
    # A windowed sinc of some hundred taps, whose absolute values sum to about four, over samples up to a half.
    tolerance.assert_near(np.concatenate(blocks), whole, tolerance.rounding(400, 4 * 0.5))


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "ogg", "opus", "aiff", "aif", "au", "caf", "w64"])
def test_every_format_that_is_listed_is_read(tmp_path, ending):
    more = {"opus": {"format": "OGG", "subtype": "OPUS"}, "aif": {"format": "AIFF"}}.get(ending, {})
    path = write(tmp_path / f"a.{ending}", tone(1, 48000), 48000, **more)
    found = measure_health(path)
    assert (found.problem, found.notes) == ("", ())
    assert (found.rate, found.channels) == (48000, 2)
    assert found.seconds == pytest.approx(1, abs=0.06)
    assert read_recording(path, RATE).shape[0] == 2


def test_what_is_really_there_counts_and_not_what_the_header_says(tmp_path):
    path = write(tmp_path / "a.wav", tone(3), subtype="PCM_24")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    found = measure_health(path)
    assert found.problem == ""
    assert found.seconds == pytest.approx(1, abs=0.01)
    assert "cut off: 33 %" in found.notes[0]


@pytest.mark.parametrize("ending", ["flac", "mp3", "ogg"])
def test_a_damaged_file_is_used_up_to_the_damage_and_says_so(tmp_path, ending, capfd):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (RATE * 20, 2))
    path = write(tmp_path / f"a.{ending}", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = measure_health(path)
    assert found.problem == ""
    assert 8 < found.seconds < 12
    if ending != "ogg":  # which does not promise a length
        assert "cut off" in found.notes[0] or "damaged after" in found.notes[0]
    assert capfd.readouterr().err == ""  # the MP3 decoder talks to the terminal by itself


@pytest.mark.parametrize(
    ("content", "ending", "words"),
    [
        (b"", "wav", "empty file"),
        (b"hello world " * 50, "wav", "cannot be read"),
        (b"hello world " * 50, "mp3", "cannot be read"),
        (b"hello world " * 50, "flac", "cannot be read"),
        (b"hello world " * 50, "m4a", "convert it"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "wav", "cannot be read"),
    ],
    ids=["empty", "text as WAV", "text as MP3", "text as FLAC", "a format that is not read", "only a header"],
)
def test_what_is_no_recording_is_told_in_one_line(tmp_path, content, ending, words, capfd):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(content)
    found = measure_health(path)
    assert words in found.problem
    assert "\n" not in found.problem
    assert capfd.readouterr().err == ""
    if ending != "m4a":
        with pytest.raises(DataError, match=words):
            read_recording(path, RATE)


def test_an_mp3_that_is_called_wav_is_read_and_said(tmp_path):
    write(tmp_path / "a.mp3", tone(1)).rename(tmp_path / "a.wav")
    found = measure_health(tmp_path / "a.wav")
    assert found.problem == ""
    assert found.notes == ("is MP3 by its content, whatever its name says",)


@pytest.mark.parametrize(
    ("audio", "rate", "subtype", "words"),
    [
        (np.zeros((0, 2)), RATE, None, "holds no sound"),
        (np.zeros((RATE, 2)), RATE, None, "is silent"),
        (np.full((RATE, 2), 2e-5), RATE, "PCM_24", "is silent (peak -94 dB)"),
        (np.where(np.arange(RATE)[:, None] == 30000, np.nan, tone(1)), RATE, "FLOAT", "no sound at"),
        (np.where(np.arange(RATE)[:, None] == 30000, np.inf, tone(1)), RATE, "FLOAT", "no sound at"),
        (tone(1) * 1e6, RATE, "FLOAT", "far beyond full scale"),
    ],
    ids=["zero length", "silent", "nearly silent", "NaN", "infinite", "absurdly loud"],
)
def test_sound_that_cannot_be_used_is_told(tmp_path, audio, rate, subtype, words):
    assert words in measure_health(write(tmp_path / "a.wav", audio, rate, subtype)).problem


@pytest.mark.parametrize(
    ("audio", "rate", "subtype", "words"),
    [
        (tone(1)[:, 0], RATE, None, "mono"),
        (np.repeat(tone(1), 3, 1), RATE, None, "6 channels"),
        (tone(1, 8000), 8000, None, "nothing above 4000 Hz"),
        (np.clip(3 * tone(1), -1, 1), RATE, None, "clipped"),
        (3 * tone(1), RATE, "FLOAT", "beyond full scale"),
        (0.9 * np.clip(3 * tone(1), -1, 1), RATE, None, "flat tops at its peak"),
    ],
    ids=["mono", "six channels", "8 kHz", "clipped", "float beyond full scale", "clipped, then turned down"],
)
def test_what_is_usable_with_a_remark_says_so(tmp_path, audio, rate, subtype, words):
    found = measure_health(write(tmp_path / "a.wav", audio, rate, subtype))
    assert found.problem == ""
    assert len(found.notes) == 1
    assert words in found.notes[0]


def test_clipping_is_flat_tops_and_not_a_full_scale_peak():
    sine = np.sin(np.arange(RATE) * 0.05)[:, None].astype(np.float32)
    assert clipped_samples(np.round(sine * 32767) / 32767) == 0
    hard = np.clip(2 * sine, -1, 1)
    assert clipped_samples(hard) == pytest.approx((np.abs(hard) == 1).sum(), rel=0.01)
    assert clipped_samples(np.array([[0.2], [1], [1], [1], [0.3]], np.float32)) == 3
    assert clipped_samples(np.array([[0.2], [1], [1], [-1], [0.3], [1.5]], np.float32)) == 1


@pytest.mark.parametrize("level", [0.95, 0.3, 0.02])
def test_the_crest_of_a_low_tone_is_no_clipping(tmp_path, level):
    low = level * np.sin(np.arange(RATE) * 2 * np.pi * 20 / RATE)
    notes = measure_health(write(tmp_path / "a.wav", np.stack([low, low], 1))).notes
    assert not any("clipped" in note for note in notes)


@pytest.mark.parametrize("ending", ["m4a", "mkv", "MP4", "wma"])
def test_formats_that_are_not_read_are_named_with_what_to_do(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"x" * 100)
    assert "convert it to WAV or FLAC" in measure_health(path).problem
    with pytest.raises(DataError, match=r"a\.\w+ is in a format that is not read; convert it"):
        recordings_of(tmp_path)
    with pytest.raises(DataError, match="convert it to WAV or FLAC"):
        read_recording(path, RATE)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_and_a_link_that_leads_nowhere_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    assert measure_health(tmp_path / "pipe.wav").problem == "is not a regular file"
    assert measure_health(tmp_path / "gone.wav").problem == "is a link that leads nowhere"


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names are always text on this system")
def test_a_name_that_is_no_utf8_text_is_told_and_the_other_recordings_are_cut(tmp_path):
    write(tmp_path / "in" / "good.wav", tone(1))
    bad = Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xff.wav"))
    bad.write_bytes((tmp_path / "in" / "good.wav").read_bytes())
    assert measure_health(bad).problem == "has a name that is no UTF-8 text; rename it"
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/out\xfe"))
    found = cut_folder(tmp_path / "in", out, CutOptions())
    assert [item["source"] for item in found.segments] == ["good.wav"]
    assert [item["source"] for item in found.left_out] == [r"\udcff.wav"]
    assert len(read_recording(out / found.segments[0]["file"], RATE)[0]) > 0


def test_files_of_a_folder_are_found_in_order_and_hidden_ones_are_not(tmp_path):
    for name in ("b.WAV", "a/z.flac", ".hidden.wav", ".git/x.wav", "__MACOSX/y.wav", "notes.txt", "c.m4a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    files, foreign = audio_files(tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in files] == ["a/z.flac", "b.WAV"]
    assert [p.name for p in foreign] == ["c.m4a"]


def test_remarks_that_are_the_same_share_a_line():
    notes = [(f"{i}.wav", "is mono") for i in range(6)] + [("x.wav", "is clipped")]
    assert group_notes(notes) == ["0.wav, 1.wav, 2.wav, 3.wav and 2 more: is mono", "x.wav: is clipped"]


@pytest.fixture
def mixed(tmp_path):
    write(tmp_path / "in" / "good.wav", tone(2))
    write(tmp_path / "in" / "mono.wav", tone(1, 8000)[:, 0], 8000)
    write(tmp_path / "in" / "silent.wav", np.zeros((RATE, 2)))
    (tmp_path / "in" / "text.wav").write_text("no sound")
    return tmp_path / "in"


def test_the_health_table_puts_problems_first_and_counts(mixed):
    rows = examine_folder(mixed, lambda done, total: None)
    assert [cells[:2] for cells in audio_health_table(rows)] == [
        ("silent.wav", "skipped"),
        ("text.wav", "skipped"),
        ("mono.wav", "noted"),
        ("good.wav", "kept"),
    ]
    found = audio_health_json(rows)
    assert (found["kept"], found["noted"], found["skipped"], found["seconds"]) == (1, 1, 2, 3.0)
    assert [row["silent"] for row in found["rows"]] == [False, False, True, True]


def test_doctor_shows_the_health_of_recordings(mixed):
    result = CliRunner().invoke(main, ["doctor", str(mixed)])
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[-1] == "2 recordings can be used (1 with a remark), 2 cannot; 0.1 minutes"
    assert any("mono.wav" in line and "8000" in line and "nothing above 4000 Hz" in line for line in lines)
    assert any("silent.wav" in line and "-120.0 dB" in line for line in lines)
    found = json.loads(CliRunner().invoke(main, ["doctor", str(mixed), "--json"]).stdout)
    assert found["recordings"]["skipped"] == 2
    assert "data" not in found


def test_doctor_of_an_empty_folder_says_so(tmp_path):
    result = CliRunner().invoke(main, ["doctor", str(tmp_path)])
    assert result.exit_code == 2
    assert "no music in this folder" in result.stderr
