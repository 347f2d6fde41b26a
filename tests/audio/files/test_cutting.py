"""Cutting recordings: where, what is written of each segment, what is left out and said."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from require import require

from musiclora.audio.files.cutting import CutOptions, cut_folder
from musiclora.audio.files.segments import TRUE_PEAK_LIMIT
from musiclora.errors import ConfigError, DataError, OutputError
from musiclora.formats import read_manifest

soundfile = require("soundfile")
RATE = 44100


def sound(seconds, rate=RATE, level=0.3):
    """A stereo tone, quieter on the right."""
    tone = level * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return np.stack([tone, 0.8 * tone], 1)


def write(path, audio, rate=RATE, subtype=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, subtype=subtype)
    return path


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "in"


def cut(folder, times=None, **options):
    return cut_folder(folder, folder.parent / "out", CutOptions(**options), times)


def test_given_spans_are_cut_into_segments_of_a_length(folder, tmp_path):
    write(folder / "a.wav", sound(9))
    times = tmp_path / "times.txt"
    times.write_text("a, 1, 6, part\n")
    found = cut(folder, times, seconds=2).segments
    assert [(i["file"], i["start"], i["end"]) for i in found] == [
        ("part.wav", 1, 3),
        ("part-002.wav", 3, 5),
        ("part-003.wav", 5, 6),
    ]


def test_leftovers_that_are_dropped_are_said_and_in_the_manifest(folder):
    write(folder / "a.wav", sound(5))
    write(folder / "b.wav", sound(1.5))
    result = cut(folder, seconds=2, leftover="drop")
    left = json.loads((folder.parent / "out" / "manifest.json").read_text())["left_out"]
    assert [(i["source"], i["start"], i["end"]) for i in left] == [("a.wav", 4, 5), ("b.wav", 0, 1.5)]
    assert sum("--leftover drop" in line for line in result.notes) == 2


def test_a_recording_beyond_full_scale_is_turned_down_as_a_whole_and_not_clipped(folder):
    audio = sound(4, level=2.0)
    audio[: 2 * RATE] *= 0.25
    write(folder / "a.wav", audio, subtype="FLOAT")
    result = cut(folder, seconds=2, fade=0)
    first, second = (np.abs(soundfile.read(folder.parent / "out" / i["file"])[0]).max() for i in result.segments)
    assert (first, second) == (pytest.approx(0.25, abs=1e-3), pytest.approx(1, abs=1e-3))
    assert any("turned down" in line for line in result.notes)


def test_true_peaks_between_samples_count(folder):
    # A quarter of the rate, 45 degrees off: samples at 0.707 of the peak.
    wave = 0.1 * np.sin(np.pi / 2 * np.arange(RATE * 2) + np.pi / 4)
    ramp = np.minimum(1, np.arange(RATE * 2)[::-1] / RATE) * np.minimum(1, np.arange(RATE * 2) / RATE)
    write(folder / "a.wav", np.stack([wave * ramp] * 2, 1), subtype="FLOAT")
    item = cut(folder, loudness=0).segments[0]
    audio = soundfile.read(folder.parent / "out" / item["file"])[0]
    assert np.abs(audio).max() == pytest.approx(TRUE_PEAK_LIMIT * 0.7071, abs=0.01)


def test_overlapping_segments_share_their_sound(folder):
    audio = sound(6)
    write(folder / "a.wav", audio, subtype="FLOAT")
    result = cut(folder, seconds=3, overlap=1.5, fade=0)
    assert [(i["start"], i["end"]) for i in result.segments] == [(0, 3), (1.5, 4.5), (3, 6)]
    for item in result.segments:
        part = soundfile.read(folder.parent / "out" / item["file"])[0]
        first = round(item["start"] * RATE)
        np.testing.assert_allclose(part, audio[first : first + len(part)], atol=1e-4)


def test_the_output_may_not_lie_inside_the_input(folder):
    write(folder / "a.wav", sound(2))
    with pytest.raises(ConfigError, match="inside"):
        cut_folder(folder, folder / "out", CutOptions())


def test_too_small_a_disk_is_known_before_anything_is_cut(folder, monkeypatch):
    import shutil

    write(folder / "a.wav", sound(2))
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=1000))
    with pytest.raises(OutputError, match="MB are needed"):
        cut(folder)
    assert not (folder.parent / "out").exists()


def test_manifests_of_several_cut_folders_below_one_are_told_apart(folder, tmp_path):
    for name in ("x", "y"):
        write(tmp_path / name / "a.wav", sound(2))
        cut_folder(tmp_path / name, tmp_path / "all" / name, CutOptions())
    found = read_manifest(tmp_path / "all")
    assert {name: item["source"] for name, item in found.items()} == {
        "x/a-001.wav": "x/a.wav",
        "y/a-001.wav": "y/a.wav",
    }
    (tmp_path / "all" / "x" / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="manifest"):
        read_manifest(tmp_path / "all")


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "aiff", "mp3"])
def test_every_format_becomes_stereo_of_16_bits_at_44100(folder, ending):
    write(folder / f"a.{ending}", sound(5, 48_000), 48_000)
    result = cut(folder, seconds=2)
    assert len(result.segments) == 3
    for item in result.segments:
        info = soundfile.info(folder.parent / "out" / item["file"])
        assert (info.samplerate, info.channels, info.subtype) == (RATE, 2, "PCM_16")
        assert info.frames == pytest.approx((item["end"] - item["start"]) * RATE, abs=RATE // 50)


def test_segments_put_together_are_the_recording(folder):
    audio = sound(7.3)
    write(folder / "a.wav", audio, subtype="FLOAT")
    result = cut(folder, seconds=2, fade=0)
    parts = [soundfile.read(folder.parent / "out" / item["file"])[0] for item in result.segments]
    together = np.concatenate(parts)
    assert together.shape == audio.shape
    np.testing.assert_allclose(together, audio, atol=1e-4)  # 16 bits


def test_fades_are_at_cuts_and_not_at_the_ends_of_the_recording(folder):
    write(folder / "a.wav", np.full((RATE * 4, 2), 0.5), subtype="FLOAT")
    result = cut(folder, seconds=2, fade=10)
    first, second = (soundfile.read(folder.parent / "out" / item["file"])[0][:, 0] for item in result.segments)
    assert first[0] == pytest.approx(0.5, abs=1e-4)
    assert second[-1] == pytest.approx(0.5, abs=1e-4)
    assert abs(first[-1]) < 1e-3
    assert abs(second[0]) < 1e-3
    assert first[-RATE // 50] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(("loudness", "limited"), [(-20, False), (-1, True)], ids=["reached", "limited by the peak"])
def test_loudness_is_reached_unless_peaks_would_clip(folder, loudness, limited):
    write(folder / "a.wav", sound(3, level=0.05), subtype="FLOAT")
    item = cut(folder, seconds=10, loudness=loudness).segments[0]
    audio = soundfile.read(folder.parent / "out" / item["file"])[0]
    if limited:
        assert np.abs(audio).max() == pytest.approx(TRUE_PEAK_LIMIT, abs=1e-3)
    else:
        assert 20 * np.log10(np.sqrt((audio**2).mean())) == pytest.approx(loudness, abs=0.05)


def test_the_manifest_names_source_times_and_checksum_of_every_segment(folder):
    write(folder / "sub" / "a.wav", sound(5))
    cut(folder, seconds=2, flac=True)
    out = folder.parent / "out"
    manifest = json.loads((out / "manifest.json").read_text())
    assert sorted(item["file"] for item in manifest["segments"]) == sorted(p.name for p in out.glob("*.flac"))
    for item in manifest["segments"]:
        assert item["source"] == "sub/a.wav"
        assert item["sha256"] == hashlib.sha256((out / item["file"]).read_bytes()).hexdigest()
    assert [(i["start"], i["end"]) for i in manifest["segments"]] == [(0, 2), (2, 4), (4, 5)]
    assert read_manifest(out)["sub_a-002.flac"] == {"source": "sub/a.wav", "start": 2.0, "end": 4.0}


def test_given_times_are_cut_under_their_names(folder, tmp_path):
    write(folder / "a.wav", sound(8))
    times = tmp_path / "times.txt"
    times.write_text("a, 0:01, 3.5, intro\na.wav, 4, -\n")
    found = cut(folder, times).segments
    assert [(i["file"], i["start"], i["end"]) for i in found] == [("intro.wav", 1, 3.5), ("a-001.wav", 4, 8)]


def test_names_that_would_be_alike_are_told_apart(folder):
    write(folder / "a.wav", sound(2))
    write(folder / "a.flac", sound(2))
    assert len({item["file"] for item in cut(folder).segments}) == 2


def bad(path, kind):
    """One file of each kind that is not music."""
    if kind == "zero bytes":
        path.write_bytes(b"")
    elif kind == "no samples":
        write(path, np.zeros((0, 2)))
    elif kind == "mislabelled":
        path.write_bytes(b"<html>not found</html>" * 50)
    elif kind == "not finite":
        audio = sound(3)
        audio[1000] = np.nan
        write(path, audio, subtype="FLOAT")
    else:
        write(path, np.zeros((RATE * 3, 2)))


KINDS = ["zero bytes", "no samples", "mislabelled", "not finite", "silent"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_music_is_left_out_with_a_line_and_the_rest_is_cut(folder, kind):
    write(folder / "good.wav", sound(3))
    bad(folder / "bad.wav", kind)
    result = cut(folder)
    assert [item["source"] for item in result.segments] == ["good.wav"]
    assert any("left out" in line and "bad.wav" in line for line in result.notes)


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_is_left_that_is_an_error_and_no_folder(folder, kind):
    folder.mkdir()
    bad(folder / "bad.wav", kind)
    with pytest.raises(DataError, match=r"bad\.wav"):
        cut(folder)
    assert [p.name for p in folder.parent.iterdir()] == ["in"]


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3"])
@pytest.mark.slow
def test_a_truncated_recording_is_used_up_to_where_it_breaks_off(folder, ending):
    whole = np.random.default_rng(0).uniform(-0.3, 0.3, (RATE * 40, 2))
    path = write(folder / f"a.{ending}", whole)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = cut(folder, seconds=5)
    assert 2 <= len(result.segments) <= 5
    assert 9 < max(item["end"] for item in result.segments) < 21


def test_clipped_recordings_are_cut_and_said(folder):
    write(folder / "a.wav", np.clip(5 * sound(3), -1, 1))
    assert any("clipped" in line and "a.wav" in line for line in cut(folder).notes)


@pytest.mark.parametrize(("rate", "subtype"), [(8000, "PCM_16"), (192_000, "PCM_24")])
def test_mono_of_other_rates_is_doubled_and_resampled(folder, rate, subtype):
    write(folder / "a.wav", sound(1, rate)[:, 0], rate, subtype)
    item = cut(folder).segments[0]
    audio = soundfile.read(folder.parent / "out" / item["file"])[0]
    assert np.array_equal(audio[:, 0], audio[:, 1])
    assert np.abs(np.fft.rfft(audio[:RATE, 0])).argmax() == pytest.approx(440, abs=1)


@pytest.mark.slow
def test_an_hour_is_cut_without_holding_it(folder):
    resource = pytest.importorskip("resource")
    folder.mkdir()
    clicks = np.zeros(8000 * 600, np.float32)
    clicks[::8000] = 0.5
    with soundfile.SoundFile(folder / "long.flac", "w", 8000, 1) as file:
        for _ in range(6):
            file.write(clicks)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = cut(folder, seconds=300, flac=True)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert len(result.segments) == 12
    assert result.segments[-1]["end"] == 3600
    assert grown < 900  # MB; an hour of stereo at 44.1 kHz is 1270


def test_an_existing_output_folder_is_refused(folder):
    write(folder / "a.wav", sound(2))
    cut(folder)
    with pytest.raises(OutputError, match="exists"):
        cut(folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seconds": 0.5}, "--seconds"),
        ({"seconds": 10, "overlap": 8}, "--overlap"),
        ({"fade": -1}, "--fade"),
        ({"loudness": 3}, "--loudness"),
        ({"leftover": "hide"}, "--leftover"),
        ({"seconds": float("nan")}, "--seconds"),
    ],
)
def test_options_out_of_range_are_named(options, words):
    with pytest.raises(ConfigError, match=words):
        CutOptions(**options)
