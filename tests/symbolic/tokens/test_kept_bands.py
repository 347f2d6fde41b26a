"""Counts of what tokens keep of a band."""

import numpy as np
import pytest
from bands import BANDS, band, instruments

from musiclora.symbolic.tokens.kept import encode_and_count
from musiclora.symbolic.tokens.kept_lines import describe_kept
from musiclora.symbolic.tokens.tokenizers import own_tokenizer, public_tokenizer

OWN, PUBLIC = own_tokenizer(), public_tokenizer()


def counted(tokenizer, score):
    return encode_and_count(tokenizer, score)[1]


@pytest.mark.parametrize("tokenizer", [BANDS[name]() for name in BANDS], ids=list(BANDS))
def test_a_band_of_six_tracks_keeps_five_instruments_and_its_drums(tokenizer):
    score = band(2)
    for note in score.tracks[2].notes[:3]:
        note.pitch = 64  # of the first guitar too
    ids, kept = encode_and_count(tokenizer, score)
    assert (kept.notes, kept.kept, kept.unisons, kept.merged, kept.drums) == (72, 69, 3, 0, 0)
    assert (kept.tracks, kept.tracks_kept, kept.instruments, kept.instruments_kept) == (6, 5, 5, 5)
    assert tokenizer.decode(ids).note_num() == tokenizer.note_count(ids) == 69
    assert sorted(set(instruments(score))) == instruments(tokenizer.decode(ids))
    assert "1 of 6 tracks (merged)" in describe_kept(kept, tokenizer.holds)[-1]


@pytest.mark.parametrize("name", [name for name in BANDS if name.startswith("pertok")])
def test_near_unisons_of_a_band_are_merged_and_counted_by_pertok(name):
    tokenizer, score = BANDS[name](), band(2)
    for note in score.tracks[2].notes:
        note.pitch, note.time = 64, note.time + 2
    ids, kept = encode_and_count(tokenizer, score)
    assert (kept.notes, kept.kept, kept.unisons, kept.merged) == (72, 64, 0, 8)
    decoded = tokenizer.decode(ids)
    np.testing.assert_array_equal(tokenizer.encode(decoded), ids)
    assert decoded.note_num() == 64


@pytest.mark.parametrize("tokenizer", [OWN, PUBLIC], ids=["own", "public"])
def test_a_band_of_six_tracks_becomes_one_piano_without_program_tokens(tokenizer):
    kept = counted(tokenizer, band(2))
    # the second guitar doubles a note of the keys, and so does the first
    assert (kept.notes, kept.kept, kept.unisons, kept.drums) == (72, 40, 16, 16)
    assert (kept.tracks, kept.tracks_kept, kept.instruments, kept.instruments_kept) == (6, 1, 5, 1)
    first, second = describe_kept(kept, tokenizer.holds)
    assert first == "the tokens keep 40 of 72 notes (55 %); left out: 16 drum notes, 16 unisons"
    assert "5 of 6 tracks (merged), 4 of 5 instruments" in second
