"""Style card of a run's samples: which songs are the reference, and when there is none."""

from __future__ import annotations

import pytest
from melodies import score_of, tune

from musiclora.symbolic.dataset.pieces import Piece
from musiclora.symbolic.dataset.songs import Songs
from musiclora.symbolic.decoding.request import GeneratedPiece
from musiclora.symbolic.style import events_of, style_of_samples
from musiclora.symbolic.tokens.tokenizers import own_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return own_tokenizer()


def pieces(tokenizer, seeds):
    scores = [score_of(tune(seed)) for seed in seeds]
    return [Piece(f"{i}", f"{i}", tokenizer.encode(score), 64) for i, score in zip(seeds, scores, strict=True)]


def samples(seeds):
    return [GeneratedPiece(i, score_of(tune(seed)), [], 0, 64, True) for i, seed in enumerate(seeds, 1)]


def card(tokenizer, trained, held_out, made=range(90, 94), base=range(95, 99)):
    songs = Songs(pieces(tokenizer, trained), pieces(tokenizer, held_out), [], [])
    return style_of_samples(songs, tokenizer, samples(made), samples(base), matched=True)


def test_held_out_songs_are_the_reference_and_the_others_the_scale(tokenizer):
    found = card(tokenizer, range(10), range(20, 24))
    assert found.counts == {"reference": 4, "generated": 4, "baseline": 4, "rest": 10}
    assert not any("trained on" in note for note in found.notes)


def test_with_few_held_out_songs_all_songs_are_the_reference_and_it_is_said(tokenizer):
    found = card(tokenizer, range(10), range(20, 22))
    assert found.counts == {"reference": 12, "generated": 4, "baseline": 4}
    assert any("songs it was trained on are the reference" in note for note in found.notes)


def test_a_song_and_its_copies_count_once(tokenizer):
    songs = pieces(tokenizer, range(6))
    copies = [Piece(f"{p.name}-up", p.group, p.tokens, p.notes, is_original=False) for p in songs]
    found = style_of_samples(Songs([*copies, *songs], [], [], []), tokenizer, samples([1, 2]), [], matched=False)
    assert found.counts["reference"] == 6


def test_no_card_with_three_songs_or_one_sample(tokenizer):
    assert card(tokenizer, range(2), range(3, 4)) is None
    assert card(tokenizer, range(8), range(20, 24), made=[90]) is None


def test_notes_that_were_given_are_not_measured():
    score, given = score_of(tune(1)), score_of(tune(1))
    given.tracks[0].notes = given.tracks[0].notes[:10]
    found = events_of("piece", score, given)
    assert len(found) == len(events_of("piece", score)) - 10
    assert found.onsets[0] == events_of("piece", score).onsets[10]


@pytest.mark.parametrize("program", [0, 33])
def test_programs_velocities_and_durations_are_the_scores(program):
    score = score_of(tune(1))
    score.tracks[0].program = program
    found = events_of("piece", score)
    assert set(found.programs.tolist()) == {program}
    assert set(found.velocities.tolist()) == {80}
    assert found.durations.sum() == pytest.approx(64)
    assert found.bar_starts[1] == 4.0
