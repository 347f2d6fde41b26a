"""Copy meter of recordings: inserted spans are found where they are, unseen recordings are no copies."""

from __future__ import annotations

import numpy as np
import pytest
from require import require
from sung_lines import RATE, sung

from musiclora.errors import DataError
from musiclora.evaluation.audio_copies.calibration import DEFAULT_THRESHOLD
from musiclora.evaluation.audio_copies.features import Frames, latent_frames, sound_frames
from musiclora.evaluation.audio_copies.meter import AudioCopyMeter

for _name in ("librosa", "soundfile", "soxr"):
    require(_name)

HOP = 0.56  # seconds from one patch to the next, the resolution of a span's ends


@pytest.fixture(scope="module")
def meter():
    return AudioCopyMeter([sound_frames(f"song-{seed}", sung(seed), RATE) for seed in range(8)])


def insert(change=None, shift: int = 0, seconds: float = 6.0) -> Frames:
    """Replace the seconds from 8 on of an unseen melody by those of song 3 from second 5 on."""
    length = int(seconds * RATE)
    span = sung(3, shift=shift)[5 * RATE : 5 * RATE + length]
    piece = sung(100)
    piece[8 * RATE : 8 * RATE + length] = change(span) if change else span
    return sound_frames("piece", piece, RATE)


@pytest.mark.parametrize(
    ("change", "shift", "seconds"),
    [
        (None, 0, 6.0),
        (None, 0, 3.4),
        (lambda span: 0.3 * span, 0, 6.0),
        (lambda span: span + np.random.default_rng(0).normal(0, 0.02, len(span)).astype(np.float32), 0, 6.0),
        (None, 3, 6.0),
    ],
    ids=["plain", "short", "quieter", "noise", "three semitones higher"],
)
def test_inserted_span_is_found_where_it_is(meter, change, shift, seconds):
    found = meter.measure(insert(change, shift, seconds))
    assert (found.copied, found.song, found.unseen_above) == (True, "song-3", 0)
    (span,) = found.spans
    assert span.window.key == -shift
    # An end may lie a patch further out where the next note happens to agree, or further in where the cut blurs it.
    np.testing.assert_allclose(span.seconds, (8, 8 + seconds), atol=2 * HOP)
    assert span.song_seconds[0] - span.seconds[0] == pytest.approx(-3, abs=0.2)  # two rows of the coarser view
    assert found.share == pytest.approx(seconds / 24, abs=3 * HOP / 24)
    assert found.copied_spans == (span.seconds,)


def test_whole_copy_is_copied_from_end_to_end(meter):
    found = meter.measure(sound_frames("again", sung(5), RATE))
    assert (found.copied, found.song) == (True, "song-5")
    assert found.share > 0.95  # the last patch may not fill the piece


def test_unseen_recordings_are_not_copies(meter):
    found = [meter.measure(sound_frames("piece", sung(seed), RATE)) for seed in range(200, 212)]
    assert not any(result.copied for result in found)
    assert {(result.share, result.copied_spans) for result in found} == {(0, ())}
    assert "not copied; most similar" in found[0].line()


def test_figures_for_json_hold_one_threshold_and_numbers(meter):
    row = meter.measure(insert()).as_json()
    assert (row["copied"], row["song"], row["measure"]) == (True, "song-3", "mel")
    assert row["similarity"] > meter.threshold
    assert row["seconds"][0] < row["seconds"][1]
    assert row["unseen"] == {"excerpts": len(meter.calibration.scores), "as_similar": 0}
    assert row["semitones"] == 0
    assert 0.8 < row["cosine"] <= 1.0001  # the patches at both ends are not whole copies


def test_transposition_is_that_of_the_piece(meter):
    found = meter.measure(insert(shift=3))
    assert found.as_json()["semitones"] == 3
    assert "3 semitones higher" in found.line()


def test_held_out_recordings_are_the_scale_where_there_are_four():
    train = [sound_frames(f"song-{seed}", sung(seed, 12), RATE) for seed in range(3)]
    held_out = [sound_frames(f"other-{seed}", sung(seed, 12), RATE) for seed in range(20, 24)]
    meter = AudioCopyMeter(train, held_out)
    assert meter.notes == ("scale of copies: 4 held-out recordings",)
    assert meter.measure(sound_frames("again", sung(1, 12), RATE)).copied


def test_few_recordings_take_the_stated_threshold_and_say_so():
    meter = AudioCopyMeter([sound_frames("one", sung(1), RATE)])
    assert meter.threshold == DEFAULT_THRESHOLD
    assert "fewer than 4" in meter.notes[0]
    assert meter.measure(sound_frames("again", sung(1), RATE)).copied
    assert not meter.measure(sound_frames("other", sung(2), RATE)).copied


def test_segments_of_one_recording_are_not_compared_for_the_scale():
    """Halves of a recording that repeats would otherwise make every copy look usual."""
    songs = [
        sound_frames(f"song-{seed}-{half}", sung(seed, 12), RATE, f"song-{seed}") for seed in range(5) for half in "ab"
    ]
    meter = AudioCopyMeter(songs)
    assert "5 training recordings against each other" in meter.notes[0]
    assert meter.measure(sound_frames("again", sung(2, 12), RATE)).copied


def test_latents_are_compared_frame_by_frame_whatever_their_scale():
    rng = np.random.default_rng(3)
    scale = np.logspace(-2, 2, 8)
    songs = [np.cumsum(rng.normal(size=(600, 8)), axis=0) * scale for _ in range(6)]
    meter = AudioCopyMeter([latent_frames(f"song-{i}", song, 21.5) for i, song in enumerate(songs)], piece_seconds=9)
    piece = np.cumsum(rng.normal(size=(200, 8)), axis=0) * scale
    assert not meter.measure(latent_frames("piece", piece, 21.5)).copied
    piece[60:160] = songs[4][300:400]
    found = meter.measure(latent_frames("piece", piece, 21.5))
    assert (found.copied, found.song, found.measure) == (True, "song-4", "latents")
    np.testing.assert_allclose(found.spans[0].song_seconds[0], 300 / 21.5, atol=2 * HOP)


def test_given_frames_do_not_count_as_copied():
    rng = np.random.default_rng(4)
    songs = [np.cumsum(rng.normal(size=(400, 8)), axis=0) for _ in range(6)]
    meter = AudioCopyMeter([latent_frames(f"song-{i}", song, 21.5) for i, song in enumerate(songs)])
    piece = np.concatenate([songs[2][:200], np.cumsum(rng.normal(size=(200, 8)), axis=0)])
    assert meter.measure(latent_frames("piece", piece, 21.5)).copied
    new = np.arange(400) >= 200
    found = meter.measure(latent_frames("piece", piece, 21.5, new=new))
    assert not found.copied
    assert found.spans[0].seconds[0] >= 200 / 21.5 - HOP


@pytest.mark.parametrize(
    ("audio", "said"),
    [(sung(1, 1.5), r"spans of at least 2\.23 s"), (np.zeros(5 * RATE, np.float32), "silent")],
    ids=["shorter than a span", "silent"],
)
def test_recording_that_cannot_be_compared_is_refused(audio, said):
    with pytest.raises(DataError, match=said):
        sound_frames("a", audio, RATE)


def test_no_training_recording_is_refused():
    with pytest.raises(DataError, match="no training recording"):
        AudioCopyMeter([])
