"""The copy meter: threshold from songs that nobody copied, and the figures of a piece."""

from __future__ import annotations

import numpy as np
import pytest
from melodies import changed, inserted, rows_of, tune

from musiclora.errors import DataError
from musiclora.evaluation.copies.calibration import DEFAULT_THRESHOLD, Reference
from musiclora.evaluation.copies.meter import CopyMeter
from musiclora.evaluation.copies.notes import note_list

SONGS = [tune(i) for i in range(15)]


@pytest.fixture(scope="module")
def meter():
    return CopyMeter.from_songs(SONGS, [tune(i) for i in range(20, 26)])


def test_inserted_bars_are_a_copy_and_are_located(meter):
    found = meter.measure(inserted(tune(40), SONGS[6], first_bar=2, bars=4, at_bar=10))
    assert found.copied
    assert found.song == "tune-6"
    assert found.as_json() == {
        "copied": True,
        "longest_match_notes": found.longest_match_notes,
        "content_notes": found.content,
        "longest_match_bars": found.bars[1] - found.bars[0] + 1,
        "share": pytest.approx(found.share, abs=1e-4),
        "song": "tune-6",
        "bars": list(found.bars),
        "song_bars": [found.bars[0] - 8, found.bars[1] - 8],
        "threshold": found.threshold,
        "unseen": {
            "songs": 6,
            "held_out": True,
            "content_notes": [meter.reference.lengths[0], meter.reference.lengths[-1]],
            "shorter": 6,
            "smaller_share": 6,
        },
    }
    assert found.bars[0] in (10, 11)
    assert 16 <= found.longest_match_notes <= 19
    assert found.line().startswith("copied: longest match ")
    assert f"of tune-6; unseen songs of this artist: {meter.reference.describe().rpartition(': ')[2]}" in found.line()


def test_a_transposed_and_re_timed_copy_is_a_copy(meter):
    found = meter.measure(changed(SONGS[2], semitones=5, tempo=2.0, jitter=0.05, edit="add"))
    assert found.copied
    assert found.song == "tune-2"


@pytest.mark.parametrize("seed", range(60, 80))
def test_unseen_tunes_are_no_copies(meter, seed):
    found = meter.measure(tune(seed))
    assert not found.copied
    assert "copied" not in found.line()


def test_the_scale_is_the_held_out_songs_or_the_training_songs_among_each_other(meter):
    assert meter.reference.held_out
    own = CopyMeter.from_songs(SONGS).reference
    assert not own.held_out
    assert len(own.lengths) == 15
    assert "with each other" in own.describe()
    both = CopyMeter.from_songs(SONGS, [tune(20)]).reference
    assert (both.held_out, len(both.lengths)) == (False, 16)


def test_other_versions_of_a_song_do_not_raise_the_threshold(meter):
    versions = [changed(SONGS[0], semitones=2), changed(SONGS[1], edit="change")]
    held_out = [tune(i) for i in range(20, 26)]
    found = CopyMeter.from_songs(SONGS, held_out + versions)
    assert found.reference == Reference(**{**vars(meter.reference), "duplicates": 2})
    assert any("2 held-out songs are versions" in note for note in found.notes)


def test_a_longer_piece_may_share_more_by_chance():
    reference = Reference((6, 7, 7, 8, 9, 7), (0.0,) * 6, 60.0, True)
    assert reference.threshold(60) == reference.threshold() == reference.threshold(10)
    assert reference.threshold(60) < reference.threshold(6000)


def test_the_threshold_is_the_99_percent_quantile_of_the_fitted_distribution():
    rng = np.random.default_rng(0)
    drawn = rng.gumbel(9.0, 1.2, 4000).round().astype(int)
    expected = 9.0 - 1.2 * np.log(-np.log(0.99))  # of the Gumbel distribution itself
    assert Reference(tuple(sorted(drawn.tolist())), notes=60.0).threshold() == pytest.approx(expected, abs=1)


def test_with_one_song_the_default_threshold_holds_and_is_said():
    meter = CopyMeter.from_songs(SONGS[:1])
    assert meter.threshold == DEFAULT_THRESHOLD
    assert any("too few songs (1 trained on, 0 to compare)" in note for note in meter.notes)
    assert meter.measure(SONGS[0]).copied
    assert meter.measure(SONGS[0]).line().endswith("notes in bars 1 to 16, bars 1 to 16 of tune-0")


def test_songs_without_an_n_gram_are_left_out_and_counted():
    short = [note_list("short", rows_of(SONGS[0])[:4], [0.0]), note_list("empty", [], [])]
    meter = CopyMeter.from_songs([*SONGS, *short])
    assert any(note.startswith("2 of the training songs have fewer than 6 notes") for note in meter.notes)
    with pytest.raises(DataError, match="no song to compare with has 6 notes"):
        CopyMeter.from_songs(short)


@pytest.mark.parametrize("notes", [[], [(0.0, 60, 0)]])
def test_a_piece_without_notes_has_no_match(meter, notes):
    found = meter.measure(note_list("x", notes, []))
    assert (found.copied, found.longest_match_notes, found.longest_match_bars, found.share) == (False, 0, 0, 0.0)
    assert (found.song, found.bars, found.song_bars) == (None, None, None)
    assert found.rank == (0, 0)
