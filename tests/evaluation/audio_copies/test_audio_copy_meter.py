"""Audio copy meter: inserted spans are found where they are, unseen recordings are not, and bad input is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from require import require

from musiclora.errors import DataError
from musiclora.evaluation.audio_copies.features import FRAMES_PER_SECOND, WINDOW_FRAMES, Frames, frame_features
from musiclora.evaluation.audio_copies.meter import DEFAULT_THRESHOLD, AudioCopyMeter, fit_threshold
from musiclora.evaluation.audio_copies.windows import best_windows

for _name in ("librosa", "soundfile", "soxr"):
    require(_name)

RATE = 22050


def melody(seed: int, seconds: float = 24.0, shift: int = 0) -> np.ndarray:
    """Play random notes of random lengths with four harmonics, float32 [N]."""
    rng = np.random.default_rng(seed)
    parts = []
    while sum(map(len, parts)) < seconds * RATE:
        time = np.arange(int(rng.choice([0.2, 0.3, 0.45]) * RATE)) / RATE
        pitch = 220 * 2 ** ((int(rng.integers(0, 24)) + shift) / 12)
        tone = sum(np.sin(2 * np.pi * pitch * n * time) / n for n in range(1, 5))
        parts.append(tone * np.exp(-3 * time))
    return np.concatenate(parts)[: int(seconds * RATE)].astype(np.float32)


@pytest.fixture(scope="module")
def meter():
    return AudioCopyMeter([frame_features(f"song-{seed}", melody(seed), RATE) for seed in range(8)])


def insert(change=None, shift: int = 0) -> Frames:
    """Replace seconds 8 to 14 of an unseen melody by seconds 5 to 11 of song 3."""
    span = melody(3, shift=shift)[5 * RATE : 11 * RATE]
    piece = melody(100)
    piece[8 * RATE : 14 * RATE] = change(span) if change else span
    return frame_features("piece", piece, RATE)


@pytest.mark.parametrize(
    ("change", "shift"),
    [
        (None, 0),
        (lambda span: 0.3 * span, 0),
        (lambda span: span + np.random.default_rng(0).normal(0, 0.02, len(span)).astype(np.float32), 0),
        (None, 3),
    ],
    ids=["plain", "quieter", "noise", "three semitones higher"],
)
def test_inserted_span_is_found_where_it_is(meter, change, shift):
    found = meter.measure(insert(change, shift))
    assert (found.copied, found.song, found.unseen_above) == (True, "song-3", 0)
    # The window lies inside the span, but for a frame at each end.
    assert found.seconds[0] >= 7.9
    assert found.seconds[1] <= 14.1
    assert found.song_seconds[0] - found.seconds[0] == pytest.approx(-3, abs=2 / FRAMES_PER_SECOND)
    # 6 of 24 s are copied; windows that reach over an end by less than half their length may count.
    assert 0.1 < found.share < 8.1 / 24


def test_unseen_recordings_are_not_copies(meter):
    found = [meter.measure(frame_features("piece", melody(seed), RATE)) for seed in range(200, 206)]
    assert not any(result.copied for result in found)


def test_window_similarity_equals_the_correlation_of_centred_windows():
    rng = np.random.default_rng(1)
    piece, song = (rng.normal(size=(length, 5)).astype(np.float32) for length in (30, 41))
    scores, places = best_windows(piece, song)

    def centred(rows, start):
        window = rows[start : start + WINDOW_FRAMES].astype(np.float64)
        return (window - window.mean(axis=0)).ravel() / np.linalg.norm(window - window.mean(axis=0))

    expected = np.array([[centred(piece, i) @ centred(song, j) for j in range(20)] for i in range(9)])
    # Sums of 110 float32 products of size 1.
    np.testing.assert_allclose(scores, expected.max(axis=1), atol=1e-4)
    np.testing.assert_array_equal(places, expected.argmax(axis=1))


def test_few_recordings_take_the_stated_threshold_and_say_so():
    meter = AudioCopyMeter([frame_features("one", melody(1), RATE)])
    assert meter.thresholds == {"mel": DEFAULT_THRESHOLD, "chroma": DEFAULT_THRESHOLD}
    assert "fewer than 4" in meter.notes[0]
    assert meter.measure(frame_features("again", melody(1), RATE)).share == 1


def test_threshold_lies_above_the_unseen_recordings():
    assert 0.6 < fit_threshold([0.5, 0.52, 0.55, 0.6]) < 0.97


@pytest.mark.parametrize(
    ("audio", "said"),
    [(melody(1, 1.5), "windows of 2.04 s"), (np.zeros(5 * RATE, np.float32), "silent")],
    ids=["shorter than a window", "silent"],
)
def test_recording_without_a_window_is_refused(audio, said):
    with pytest.raises(DataError, match=said):
        frame_features("a", audio, RATE)


def test_no_training_recording_is_refused():
    with pytest.raises(DataError, match="no training recording"):
        AudioCopyMeter([])


def test_evaluate_names_the_copy_and_leaves_out_what_cannot_be_read(tmp_path):
    import soundfile
    from click.testing import CliRunner

    from musiclora.cli import main

    made, train = tmp_path / "made", tmp_path / "train"
    for folder, seeds in ((made, (2, 50)), (train, range(5))):
        folder.mkdir()
        for seed in seeds:
            soundfile.write(folder / f"{seed}.wav", melody(seed, 8), RATE)
    (train / "broken.wav").write_bytes(b"RIFF")
    done = CliRunner().invoke(
        main, ["evaluate", "--generated-dir", str(made), "--train-dir", str(train), "--json"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    rows = {row["file"]: row for row in result["copies"]}
    assert [rows["2.wav"][key] for key in ("copied", "song", "share")] == [True, "2.wav", 1]
    assert [rows["50.wav"][key] for key in ("copied", "share")] == [False, 0]
    assert set(result["threshold"]) == {"mel", "chroma"}
    assert any("left out 1 of 6" in note and "broken.wav" in note for note in result["notes"])
