"""Pieces of arrival-time tokens drawn again from before a passage."""

from __future__ import annotations

import pytest
from band_scores import band, notes_of
from reference_session import HashModel

from musiclora.symbolic.decoding.pieces import generate_pieces
from musiclora.symbolic.decoding.redraw import Redraw
from musiclora.symbolic.decoding.request import GenerationRequest
from musiclora.symbolic.tokens.arrival import ArrivalTokenizer

TOKENIZER = ArrivalTokenizer()


def write(request):
    return generate_pieces(HashModel(early=0.05), TOKENIZER, request)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_piece_keeps_what_comes_before_the_passage(seed):
    plain = write(GenerationRequest(240, seed=seed, count=3))
    known = notes_of(plain[1].score)
    onsets = sorted(row[1] for row in known.elements())
    quarter = plain[1].score.ticks_per_quarter
    tick = onsets[len(onsets) // 2]
    rule = Redraw(lambda score, given: tick / quarter if notes_of(score) == known else None)
    found = write(GenerationRequest(240, seed=seed, count=3, redraw=rule))
    assert [piece.redraws for piece in found] == [0, 1, 0]
    assert [found[i].ids for i in (0, 2)] == [plain[i].ids for i in (0, 2)]
    shared = next(i for i, (a, b) in enumerate(zip(plain[1].ids, found[1].ids, strict=False)) if a != b)
    assert shared >= 3 * sum(onset < tick - quarter // 8 for onset in onsets)
    again = write(GenerationRequest(240, seed=seed, count=3, redraw=rule))
    assert [piece.ids for piece in again] == [piece.ids for piece in found]


def test_given_parts_stay_when_the_others_are_drawn_again():
    score = band(0, 4)
    seen = []

    def find_copy(score, given):
        seen.append(notes_of(given))
        return 2.0

    request = GenerationRequest(90, accompany=score, parts=("melody",), seed=3, redraw=Redraw(find_copy, most=2))
    (piece,) = write(request)
    assert piece.redraws == 2
    given = notes_of(score, [0])
    assert given <= notes_of(piece.score)
    assert all(given <= notes for notes in seen)
