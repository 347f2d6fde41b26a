"""Pieces drawn again from before a passage: what stays, what changes, and that it is the same every time."""

from __future__ import annotations

import pytest
from numpy_model import NumpyModel
from symusic import Note, Score, Tempo, Track

from musiclora.symbolic.decoding.pieces import generate_pieces
from musiclora.symbolic.decoding.redraw import Redraw, redraw_seed
from musiclora.symbolic.decoding.request import GenerationRequest
from musiclora.symbolic.tokens.tokenizers import own_tokenizer, public_tokenizer


@pytest.fixture(params=[own_tokenizer, public_tokenizer], ids=["own", "public"])
def tokenizer(request):
    return request.param()


def melody(score: Score) -> list[tuple[float, int]]:
    return sorted((n.time / score.ticks_per_quarter, n.pitch) for t in score.tracks for n in t.notes)


def copies_at(onset: float, unwanted: list[list[tuple[float, int]]]) -> Redraw:
    """Build a rule that takes certain pieces for copies from an onset on."""
    return Redraw(lambda score, given: onset if melody(score) in unwanted else None)


def test_a_piece_that_copies_keeps_what_comes_before_and_is_drawn_again_from_there(tokenizer):
    request = GenerationRequest(300, seed=3, count=3)
    plain = generate_pieces(NumpyModel(tokenizer), tokenizer, request)
    rows = melody(plain[1].score)
    onset = rows[3 * len(rows) // 4][0]
    rule = copies_at(onset, [rows])
    request = GenerationRequest(300, seed=3, count=3, redraw=rule)
    found = generate_pieces(NumpyModel(tokenizer), tokenizer, request)
    assert [piece.redraws for piece in found] == [0, 1, 0]
    assert [found[i].ids for i in (0, 2)] == [plain[i].ids for i in (0, 2)]
    shared = next(i for i, (a, b) in enumerate(zip(plain[1].ids, found[1].ids, strict=False)) if a != b)
    assert shared > len(plain[1].ids) // 3
    kept = [row for row in rows if row[0] < onset - 4]  # whole bars before it
    assert len(kept) > 2
    assert melody(found[1].score)[: len(kept)] == kept
    assert melody(found[1].score) != rows
    again = generate_pieces(NumpyModel(tokenizer), tokenizer, request)
    assert [piece.ids for piece in again] == [piece.ids for piece in found]


def test_a_piece_that_always_copies_is_drawn_again_a_bounded_number_of_times(tokenizer):
    rule = Redraw(lambda score, given: 4.0, most=3)
    (piece,) = generate_pieces(NumpyModel(tokenizer), tokenizer, GenerationRequest(120, seed=1, redraw=rule))
    assert piece.redraws == 3
    assert piece.notes > 0


def test_the_prompt_stays_and_is_told_as_given(tokenizer):
    prompt = Score(480)
    prompt.tracks.append(Track())
    for beat in range(8):
        prompt.tracks[0].notes.append(Note(beat * 480, 480, 60 + beat, 90))
    prompt.tempos.append(Tempo(0, 120.0))
    seen = []

    def find_copy(score, given):
        seen.append(melody(given))
        return 0.0

    request = GenerationRequest(120, seed=1, prompt=prompt, redraw=Redraw(find_copy, most=2))
    (piece,) = generate_pieces(NumpyModel(tokenizer), tokenizer, request)
    assert melody(piece.score)[:8] == melody(prompt)
    assert seen == [melody(prompt)] * 2
    assert piece.prompt_notes == 8


def test_every_attempt_has_its_own_random_numbers():
    assert redraw_seed(42, 0) == 42
    seeds = {redraw_seed(seed, attempt) for seed in (0, 1, 2**63 - 1) for attempt in range(4)}
    assert len(seeds) == 12
    assert max(seeds) < 2**63
