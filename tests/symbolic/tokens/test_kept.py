"""Counts of what tokens keep: they add up, agree with what decodes, and a second round trip loses nothing more."""

from pathlib import Path

import miditok
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from symusic import Note, Pedal, PitchBend, Score, Tempo, TimeSignature, Track

from musiclora.symbolic.tokens.arrival import ArrivalTokenizer
from musiclora.symbolic.tokens.band_bases import BAND_BASES, name_band_bases
from musiclora.symbolic.tokens.kept import Kept, add_kept, encode_and_count, kept_from_json
from musiclora.symbolic.tokens.kept_lines import describe_kept
from musiclora.symbolic.tokens.tokenizer import MusicTokenizer
from musiclora.symbolic.tokens.tokenizers import load_tokenizer, own_tokenizer, public_tokenizer

FOUND = Path(__file__).parents[2] / "golden" / "found"
TOKENIZERS = {
    "own": own_tokenizer(),
    "public": public_tokenizer(),
    "programs": load_tokenizer(FOUND / "remi_programs_no_pitchdrum.json"),
    "midi-like": MusicTokenizer(miditok.MIDILike(miditok.TokenizerConfig(use_programs=True))),
}
OWN, PUBLIC, PROGRAMS = (TOKENIZERS[name] for name in ("own", "public", "programs"))
ARRIVAL = ArrivalTokenizer()
EACH = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
REASONS = ("drums", "foreign", "crowded", "outside", "unisons", "merged")


def score_of(*tracks, tpq=480, drums=(), programs=()):
    score = Score(tpq)
    for i, notes in enumerate(tracks):
        track = Track(program=programs[i] if programs else i, is_drum=i in drums)
        track.notes = [Note(*note) for note in sorted(notes)]
        score.tracks.append(track)
    return score


def counted(tokenizer, score):
    return encode_and_count(tokenizer, score)[1]


@EACH
def test_notes_a_few_ticks_apart_are_merged_on_the_grid_and_counted(tokenizer):
    score = Score(str(FOUND / "nearunison.mid"))
    ids, kept = encode_and_count(tokenizer, score)
    assert (kept.notes, kept.kept, kept.unisons, kept.merged) == (16, 8, 0, 8)
    assert tokenizer.decode(ids).note_num() == 8
    np.testing.assert_array_equal(tokenizer.encode(tokenizer.decode(ids)), ids)


@pytest.mark.parametrize("tokenizer", [OWN, PUBLIC, PROGRAMS], ids=["own", "public", "programs"])
def test_of_24_notes_the_20_outside_the_tokenizers_pitches_are_counted(tokenizer):
    kept = counted(tokenizer, Score(str(FOUND / "highlow.mid")))
    assert (kept.notes, kept.kept, kept.outside) == (24, 4, 20)


@EACH
@settings(max_examples=25, deadline=None)
@given(
    tracks=st.lists(
        st.lists(
            st.tuples(st.integers(0, 4000), st.integers(1, 3000), st.integers(10, 120), st.integers(1, 127)),
            min_size=1,
            max_size=12,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_reasons_add_up_and_what_decodes_is_what_is_counted_and_stays(tokenizer, tracks):
    score = score_of(*tracks, drums={2}, programs=[0, 25, 0, 48])
    ids, kept = encode_and_count(tokenizer, score)
    assert kept.notes == kept.kept + sum(getattr(kept, name) for name in REASONS)
    decoded = tokenizer.decode(ids)
    assert kept.kept == decoded.note_num()
    assert min(kept.as_json().values()) >= 0
    again, kept_again = encode_and_count(tokenizer, decoded)
    np.testing.assert_array_equal(again, ids)
    assert kept_again.kept == kept_again.notes == kept.kept


def test_a_strummed_chord_and_a_tempo_change_survive_a_second_round():
    score = score_of([(0, 480, 67, 80), (4, 480, 60, 80), (9, 480, 64, 80), (960, 480, 60, 80), (1925, 480, 72, 80)])
    score.tempos = [Tempo(0, 90.0), Tempo(1925, 150.0)]
    ids = PUBLIC.encode(score)
    decoded = PUBLIC.decode(ids)
    np.testing.assert_array_equal(PUBLIC.encode(decoded), ids)
    assert [PUBLIC.tokens[i] for i in ids if PUBLIC.tokens[i].startswith("Pitch")][:3] == [
        "Pitch_60",
        "Pitch_64",
        "Pitch_67",
    ]
    assert [t.time for t in decoded.tempos] == [0, 1280]  # of 320 a quarter: with the note, not one onset early


def test_the_longest_of_a_near_unison_stays():
    score = score_of([(0, 240, 60, 90)], [(5, 960, 60, 30)])
    (note,) = PUBLIC.decode(PUBLIC.encode(score)).tracks[0].notes
    assert note.duration == 2 * 320


def full_score():
    """A waltz of two instruments and drums with everything that tokens may lose."""
    melody = [(0, 480, 60, 30), (0, 480, 60, 40), (480, 480, 64, 100), (960, 480 * 20, 67, 120)]
    score = score_of(melody, [(0, 480, 43, 90)], [(0, 10, 36, 90), (480, 10, 38, 90)], drums={2}, programs=[40, 25, 0])
    score.tempos = [Tempo(0, 60.0), Tempo(960, 90.0)]
    score.time_signatures = [TimeSignature(0, 3, 4)]
    score.tracks[0].pedals = [Pedal(0, 480)]
    score.tracks[0].pitch_bends = [PitchBend(0, 100), PitchBend(10, 0)]
    return score


def test_everything_that_our_base_loses_is_counted():
    kept = counted(OWN, full_score())
    expected = Kept(
        songs=1,
        notes=7,
        kept=4,
        drums=2,
        unisons=1,
        shortened=1,
        levelled=4,
        retimed=1,
        seconds=2 + 20 * 60 / 90,
        seconds_kept=9.0,  # two quarters and the longest duration, sixteen, at 120
        tempos=1,
        metres=1,
        pedals=1,
        bends=2,
        tracks=3,
        tracks_kept=1,
        instruments=3,
        instruments_kept=0,
    )
    assert kept.as_json() == pytest.approx(expected.as_json(), abs=1e-3)


def test_everything_that_arrival_times_lose_is_counted():
    kept = counted(ARRIVAL, full_score())
    expected = Kept(
        songs=1,
        notes=7,
        kept=7,
        shortened=1,
        levelled=7,
        retimed=0,
        seconds=2 + 20 * 60 / 90,
        seconds_kept=2 + 9.99,
        tempos=1,
        metres=1,
        pedals=1,
        bends=2,
        tracks=3,
        tracks_kept=3,
        instruments=3,
        instruments_kept=3,
    )
    assert kept.as_json() == pytest.approx(expected.as_json(), abs=1e-3)
    assert describe_kept(kept, ARRIVAL.holds) == [
        "the tokens keep all 7 notes",
        "the tokens lose the loudness of 7 notes, 1 tempo change (kept in the notes' times only), "
        "1 time signature, 1 pedal event, 2 pitch bends, 1 duration over 9.99 seconds (cut)",
    ]


def test_two_tracks_of_one_program_become_one_and_are_counted():
    kept = counted(ARRIVAL, score_of([(0, 480, 60, 90)], [(0, 480, 60, 90)], [(0, 480, 50, 90)], programs=[4, 4, 5]))
    assert (kept.kept, kept.tracks, kept.tracks_kept, kept.instruments, kept.instruments_kept) == (3, 3, 2, 2, 2)


def test_of_forty_instruments_the_fifteen_with_the_most_notes_and_the_drums_stay():
    tracks = [[(480 * k, 240, 60, 90) for k in range(1 + (7 * i) % 40)] for i in range(40)]
    score = score_of(*tracks, [(0, 240, 36, 90)], programs=[*range(40), 0], drums={40})
    before = score.copy()
    ids, kept = encode_and_count(ARRIVAL, score)
    assert score == before
    lengths = sorted(map(len, tracks))
    assert (kept.crowded, kept.kept) == (sum(lengths[:-15]), sum(lengths[-15:]) + 1)
    assert (kept.instruments, kept.instruments_kept) == (41, 16)
    assert kept.notes == kept.kept + sum(getattr(kept, name) for name in REASONS)
    held = {(track.program, track.is_drum): len(track.notes) for track in ARRIVAL.decode(ids).tracks}
    assert sorted(held.values()) == [1, *lengths[-15:]]
    assert (0, True) in held
    assert describe_kept(kept, ARRIVAL.holds)[0] == (
        f"the tokens keep {kept.kept} of 821 notes (60 %); left out: {kept.crowded} notes of instruments past the 15 "
        "that a song may have"
    )


def test_bases_for_bands_are_named_where_drums_or_instruments_are_lost_only():
    (line,) = name_band_bases(counted(OWN, full_score()), OWN.holds)
    assert all(name in line for name in BAND_BASES)
    two = counted(OWN, score_of([(0, 480, 60, 90)], [(0, 480, 50, 90)]))
    one = counted(OWN, score_of([(0, 480, 60, 90)], programs=[40]))
    assert name_band_bases(two, OWN.holds) == [line]
    assert name_band_bases(one, OWN.holds) == []
    for tokenizer in (ARRIVAL, PROGRAMS):
        assert name_band_bases(counted(tokenizer, full_score()), tokenizer.holds) == []
    assert name_band_bases(Kept(), OWN.holds) == []


def test_a_tokenizer_with_programs_and_metres_keeps_these():
    kept = counted(PROGRAMS, full_score())
    assert (kept.kept, kept.drums, kept.unisons, kept.metres) == (6, 0, 1, 0)
    assert (kept.tracks_kept, kept.instruments_kept) == (3, 3)
    assert kept.levelled == 0


def test_a_tokenizer_without_a_program_counts_its_notes_as_foreign():
    inner = miditok.REMI(miditok.TokenizerConfig(use_programs=True, programs=[0, 40]))
    kept = counted(MusicTokenizer(inner), full_score())
    assert (kept.kept, kept.foreign, kept.drums, kept.unisons) == (3, 1, 2, 1)


def test_durations_are_measured_in_the_beats_of_the_metre():
    score = score_of([(0, 480 * 7, 60, 90), (480 * 8, 480 * 5, 62, 90)])
    score.time_signatures = [TimeSignature(0, 6, 8)]
    assert PROGRAMS.holds.longest == 12  # eighths in 6/8: six quarters
    assert counted(PROGRAMS, score).shortened == 1


@pytest.mark.filterwarnings("error")
def test_a_metre_without_a_token_is_counted_and_without_a_warning():
    score = score_of([(0, 480, 60, 90), (4800, 480, 62, 90)])
    score.time_signatures = [TimeSignature(0, 11, 16), TimeSignature(4 * 1320, 3, 4)]
    assert counted(PROGRAMS, score).metres == 1


def test_the_tempo_of_a_waltz_is_kept_by_tempo_tokens_only():
    score = Score(str(FOUND / "waltz.mid"))
    own, public = counted(OWN, score), counted(PUBLIC, score)
    assert (own.seconds, own.seconds_kept, own.retimed, own.metres) == pytest.approx((19.2, 24.0, 1, 1))
    assert (public.retimed, public.metres) == (0, 1)
    assert public.seconds_kept == pytest.approx(19.2, rel=0.05)  # the tempo tokens' grid


@EACH
def test_encoding_does_not_change_a_score_of_the_tokenizers_resolution(tokenizer):
    score = score_of([(8, 8, 64, 80), (0, 8, 60, 80), (0, 4, 60, 80)], tpq=tokenizer.inner.time_division)
    before = score.copy()
    encode_and_count(tokenizer, score)
    assert score == before


def test_nothing_gives_no_notes_and_counts_of_zero():
    ids, kept = encode_and_count(OWN, score_of([(0, 10, 36, 90)], drums={0}))
    assert (len(ids), kept.notes, kept.kept, kept.drums, kept.seconds_kept) == (0, 1, 0, 1, 0.0)


def test_the_lines_name_every_loss_and_are_short():
    first, second = describe_kept(add_kept([counted(OWN, full_score())] * 3), OWN.holds)
    assert first == "the tokens keep 12 of 21 notes (57 %); left out: 6 drum notes, 3 unisons"
    assert second == (
        "the tokens lose the loudness of 12 notes, the tempo of 3 songs (46.0 s of music decode to 27.0 s), "
        "3 tempo changes, 3 time signatures, 3 pedal events, 6 pitch bends, 3 durations over 16 quarters (cut), "
        "6 of 9 tracks (merged), 9 of 9 instruments"
    )
    plain = score_of([(0, 480, 60, 90), (480, 480, 62, 90)])
    assert describe_kept(counted(OWN, plain), OWN.holds) == ["the tokens keep all 2 notes"]
    assert describe_kept(Kept(), OWN.holds) == []


def test_counts_come_back_from_json_and_unknown_or_missing_ones_do_no_harm():
    kept = counted(OWN, full_score())
    assert kept_from_json(kept.as_json()).as_json() == kept.as_json()
    assert kept_from_json({"notes": 3, "of a later version": 1}) == Kept(notes=3)
    for record in ([], {"notes": "3"}, {"notes": None}, {"notes": True}):
        with pytest.raises(TypeError):
            kept_from_json(record)
