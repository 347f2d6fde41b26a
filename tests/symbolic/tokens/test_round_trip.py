"""Round trips: the measure itself, MidiTok's own as the least, and the bounds of arrival-time tokens."""

from __future__ import annotations

import numpy as np
import pytest
from arrival_recordings import MIDI, NAMES
from symusic import Note, Score, Tempo, Track
from vocabularies import TOKENIZERS

from musiclora.symbolic.tokens.arrival import MAX_DURATION_STEPS, ArrivalTokenizer
from musiclora.symbolic.tokens.round_trip import RoundTrip, add_round_trips, compare_scores
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer
from musiclora.symbolic.tokens.tokenizers import own_tokenizer, public_tokenizer

ARRIVAL = ArrivalTokenizer()
QUARTERS, MILLISECONDS = own_tokenizer().holds, ARRIVAL.holds
PLAYED_ALONE = {"own": own_tokenizer, "public": public_tokenizer}
WITH_PROGRAMS = [name for name in TOKENIZERS if name in ("pertok-programs", "remi-plus", "remi-drums")]


def score_of(*tracks: list[tuple[int, int, int]], programs: tuple[int, ...] = (0, 25), ticks: int = 480) -> Score:
    """Build tracks of (time, duration, pitch); program -1 is drums."""
    score = Score(ticks)
    for program, notes in zip(programs, tracks, strict=False):
        score.tracks.append(Track(program=max(program, 0), is_drum=program < 0))
        score.tracks[-1].notes = [Note(*note, 64) for note in notes]
    return score


def decoded_by_miditok(tokenizer: MusicTokenizer, score: Score) -> Score:
    """Encode and decode by MidiTok alone, without what this package mends."""
    plain = type(tokenizer.inner)(tokenizer.inner.config)
    return plain.decode(plain.encode(score))


def test_errors_are_the_distances_of_the_nearest_notes_of_one_pitch():
    before = score_of([(0, 480, 60), (480, 480, 60), (480, 240, 64), (960, 480, 60)])
    after = score_of([(48, 480, 60), (480, 480, 62), (912, 240, 60)])
    found = compare_scores(before, after, QUARTERS)
    assert (found.notes, found.kept) == (4, 2)
    assert np.allclose(found.onset_errors, [0.1, 0.1])
    assert np.allclose(found.duration_errors, [0.0, 0.5])
    json = found.as_json(QUARTERS)
    assert json["unit"] == "quarters"
    assert json["onset_error"] == pytest.approx({"median": 0.1, "p95": 0.1})


def test_of_notes_that_begin_together_one_comes_back_and_the_next_keep_their_partners():
    before = score_of([(0, 480, 60)], [(0, 480, 60), (200, 480, 60)], [(0, 240, 60)], programs=(0, 25, 26))
    found = compare_scores(before, score_of([(0, 480, 60), (200, 480, 60)]), QUARTERS)
    assert (found.kept, found.onset_errors.max(), found.duration_errors.max()) == (2, 0, 0)


def test_a_note_too_far_from_all_others_is_lost():
    found = compare_scores(score_of([(0, 480, 60)]), score_of([(480, 480, 60)]), QUARTERS)
    assert (found.kept, found.instruments, found.instruments_kept) == (0, 1, 0)
    assert found.as_json(QUARTERS)["onset_error"] == {"median": None, "p95": None}


def test_programs_count_where_tokens_hold_them_and_drums_match_drums_only():
    before = score_of([(0, 480, 60)], [(0, 480, 60)], programs=(40, -1))
    piano = score_of([(0, 480, 60)])
    assert compare_scores(before, piano, QUARTERS).kept == 1
    assert compare_scores(before, piano, MILLISECONDS).kept == 0
    same = compare_scores(before, before, MILLISECONDS)
    assert (same.kept, same.instruments, same.instruments_kept) == (2, 2, 2)


def test_milliseconds_follow_the_tempo_and_do_not_depend_on_ticks():
    before = score_of([(480, 480, 60), (960, 480, 60)])
    before.tempos = [Tempo(0, 60.0), Tempo(960, 120.0)]
    after = score_of([(100, 100, 60), (201, 50, 60)], ticks=50)
    after.tempos = [Tempo(0, 120.0)]
    found = compare_scores(before, after, MILLISECONDS)
    assert np.allclose(found.onset_errors, [0, 10])
    assert np.allclose(found.duration_errors, [0, 0])


def test_sums_and_the_line_hold_all_songs():
    one = compare_scores(score_of([(0, 480, 60)]), score_of([(0, 480, 60)]), QUARTERS)
    total = add_round_trips([one, RoundTrip(notes=2, instruments=1), one])
    assert total.describe(QUARTERS) == [
        "round trip through the tokens: 2 of 4 notes come back; onsets are off by 0 quarters (median), 0 (95 %); "
        "durations are off by 0 quarters (median), 0 (95 %); 2 of 3 instruments"
    ]
    assert add_round_trips([]).describe(QUARTERS) == []


@pytest.mark.parametrize("name", NAMES)
def test_arrival_times_come_back_within_half_a_step_with_every_note_and_instrument(name):
    score = Score(MIDI / f"{name}.mid")
    found = compare_scores(score, ARRIVAL.decode(ARRIVAL.encode(score)), MILLISECONDS)
    assert found.kept == found.notes == score.note_num()
    assert found.instruments_kept == found.instruments
    half = 5.0 + 1e-3  # float32 of milliseconds
    assert found.onset_errors.max() <= half
    longest = max(note.duration for track in score.to("second").tracks for note in track.notes)
    assert found.duration_errors.max() <= max(half, 1000 * longest - 10 * MAX_DURATION_STEPS + 1e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", WITH_PROGRAMS)
def test_our_way_through_tokens_with_programs_keeps_what_miditoks_keeps(name, kind):
    tokenizer = MusicTokenizer(TOKENIZERS[kind]())
    compare_with_miditok(tokenizer, Score(MIDI / f"{name}.mid"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", PLAYED_ALONE)
def test_our_way_through_a_piano_keeps_what_miditoks_keeps(name, kind):
    score = Score(MIDI / f"{name}.mid")
    tracks = [track for track in score.tracks if not track.is_drum][:1]
    tracks[0].program = 0
    score.tracks = tracks
    compare_with_miditok(PLAYED_ALONE[kind](), score)


def compare_with_miditok(tokenizer: MusicTokenizer, score: Score) -> None:
    ours = compare_scores(score, tokenizer.decode(tokenizer.encode(score)), tokenizer.holds)
    plain = compare_scores(score, decoded_by_miditok(tokenizer, score), tokenizer.holds)
    assert ours.kept >= plain.kept
    assert ours.instruments_kept >= plain.instruments_kept
    for errors, least in ((ours.onset_errors, plain.onset_errors), (ours.duration_errors, plain.duration_errors)):
        assert np.percentile(errors, 95) <= np.percentile(least, 95) + 1e-6
        assert np.median(errors) <= np.median(least) + 1e-6


def test_large_errors_are_written_without_an_exponent():
    errors = np.array([999.7, 21_900.0], np.float32)
    (line,) = RoundTrip(2, 2, 1, 1, errors[:1], errors[1:]).describe(ArrivalTokenizer().holds)
    assert "onsets are off by 1,000 ms (median), 1,000 (95 %); durations are off by 21,900 ms" in line
