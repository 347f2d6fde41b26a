"""Tokenizers: exact round trips, counts that agree with decoding, and the choice for a checkpoint."""

import json
import pickle
import subprocess
import sys

import miditok
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from symusic import Note, Score, Tempo, TimeSignature, Track

from musiclora.convert.errors import DataError
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint
from musiclora.symbolic.tokens.merge import merge_tracks
from musiclora.symbolic.tokens.tokenizer import from_json
from musiclora.symbolic.tokens.tokenizers import (
    band_tokenizer,
    check_fits,
    infer_tokenizer,
    load_tokenizer,
    own_tokenizer,
    public_tokenizer,
)

OWN, PUBLIC, BAND = own_tokenizer(), public_tokenizer(), band_tokenizer()
BOTH = pytest.mark.parametrize("tokenizer", [OWN, PUBLIC], ids=["own", "public"])


def score_of(*tracks, tpq=24, drums=()):
    score = Score(tpq)
    for i, notes in enumerate(tracks):
        track = Track(program=i, is_drum=i in drums)
        for note in notes:
            track.notes.append(Note(*note))
        score.tracks.append(track)
    return score


def rows(score):
    tpq = score.ticks_per_quarter
    return sorted((n.time / tpq, n.duration / tpq, n.pitch) for t in score.tracks for n in t.notes)


NOTES = st.lists(
    st.tuples(st.integers(0, 400), st.integers(1, 48), st.integers(21, 108), st.just(100)),
    min_size=1,
    max_size=30,
    unique_by=lambda n: (n[0], n[2]),
)


@settings(max_examples=50, deadline=None)
@given(NOTES)
def test_own_tokens_give_back_every_note_on_a_grid_of_24(notes):
    score = score_of(notes)
    assert rows(OWN.decode(OWN.encode(score))) == rows(score)


@pytest.mark.parametrize(
    ("ticks", "what"),
    [([8, 8, 8], "triplet"), ([6, 6, 6, 6], "sixteenths"), ([3, 9, 9, 3], "snaps"), ([36, 12], "dotted")],
)
def test_own_tokens_hold_the_rhythms_of_fiddle_tunes(ticks, what):
    starts = np.cumsum([0, *ticks[:-1]])
    score = score_of([(int(s), d, 60, 100) for s, d in zip(starts, ticks, strict=True)])
    assert rows(OWN.decode(OWN.encode(score))) == rows(score), what


def test_own_vocabulary_is_small_and_has_nothing_but_notes_and_time():
    kinds = {t.split("_")[0] for t in OWN.tokens}
    assert kinds == {"PAD", "BOS", "EOS", "Bar", "Pitch", "Position", "Duration"}
    assert OWN.vocab_size == 285
    assert [OWN.tokens[i] for i in OWN.bar_ids] == ["Bar_None"]
    assert (OWN.pad_id, OWN.bos_id, OWN.eos_id) == (0, 1, 2)


def test_public_vocabulary_has_its_292_tokens():
    assert PUBLIC.vocab_size == 292
    assert PUBLIC.kind == "PerTok"
    assert len([t for t in PUBLIC.tokens if t.startswith("Velocity")]) == 8


@BOTH
@settings(max_examples=25, deadline=None)
@given(notes=NOTES, cut=st.integers(0, 60))
def test_note_count_is_what_decode_yields_also_for_cut_and_shuffled_tokens(tokenizer, notes, cut):
    ids = tokenizer.encode(score_of(notes))
    shuffled = np.random.default_rng(cut).permutation(ids)
    for some in (ids, ids[cut:], ids[: len(ids) - cut], shuffled):
        assert tokenizer.note_count(some) == tokenizer.decode(some).note_num()


@BOTH
def test_encode_merges_tracks_and_leaves_drums_and_extremes_out(tokenizer):
    melody, bass = [(0, 24, 72, 90), (24, 24, 74, 90)], [(0, 48, 40, 90), (0, 24, 72, 90)]
    score = score_of(melody, [(0, 6, 40, 99)], [*bass, (0, 24, 120, 90)], drums={1})
    assert sorted(p for _, _, p in rows(tokenizer.decode(tokenizer.encode(score)))) == [40, 72, 74]
    assert merge_tracks(score).note_num() == 3
    assert len(score.tracks) == 3  # the input is not changed


@BOTH
def test_special_tokens_are_skipped_and_nothing_decodes_to_nothing(tokenizer):
    ids = tokenizer.encode(score_of([(0, 24, 60, 100)]))
    wrapped = np.concatenate([[tokenizer.bos_id], ids, [tokenizer.eos_id, tokenizer.pad_id]])
    assert rows(tokenizer.decode(wrapped)) == rows(tokenizer.decode(ids))
    assert tokenizer.note_count(wrapped) == 1
    assert tokenizer.decode(np.zeros(0, np.int32)).note_num() == 0
    assert len(tokenizer.encode(score_of([]))) == 0
    assert tokenizer.encode(score_of([(0, 24, 60, 100)])).dtype == np.int32


@BOTH
def test_fingerprint_survives_saving_and_pickling(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint == pickle.loads(pickle.dumps(tokenizer)).fingerprint
    assert loaded.tokens == tokenizer.tokens
    assert load_tokenizer(tmp_path / "tokenizer.json").fingerprint == tokenizer.fingerprint
    score = score_of([(0, 24, 60, 100), (30, 12, 64, 50)])
    np.testing.assert_array_equal(loaded.encode(score), tokenizer.encode(score))


def test_fingerprints_tell_tokenizers_apart():
    other = miditok.REMI(miditok.TokenizerConfig(use_velocities=False))
    assert len({OWN.fingerprint, PUBLIC.fingerprint, from_json(json.dumps(other.to_dict())).fingerprint}) == 3


def test_a_tokenizer_with_programs_keeps_its_tracks():
    inner = miditok.TSD(miditok.TokenizerConfig(use_programs=True))
    tokenizer = from_json(json.dumps(inner.to_dict()))
    score = score_of([(0, 8, 72, 91)], [(0, 8, 40, 91)], tpq=8)
    decoded = tokenizer.decode(tokenizer.encode(score))
    assert sorted(t.program for t in decoded.tracks) == [0, 1]
    assert tokenizer.note_count(tokenizer.encode(score)) == 2


def test_a_trained_tokenizer_counts_and_decodes_its_merged_tokens(tmp_path):
    rng = np.random.default_rng(0)
    notes = [(12 * i, 12, int(60 + rng.integers(3)), 100) for i in range(200)]
    score_of(notes).dump_midi(str(tmp_path / "a.mid"))
    inner = miditok.REMI(miditok.TokenizerConfig(use_velocities=False, use_time_signatures=False))
    inner.train(vocab_size=300, files_paths=[tmp_path / "a.mid"])
    tokenizer = from_json(json.dumps(inner.to_dict()))
    ids = tokenizer.encode(score_of(notes))
    assert len(ids) < len(tokenizer.base_ids(ids))
    assert tokenizer.note_count(ids) == 200 == tokenizer.decode(ids).note_num()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a tokenizer saved by MidiTok"),
        ('{"version": "1.0", "model": {"type": "BPE"}}', "not a tokenizer saved by MidiTok"),
        ('{"tokenization": "os", "config": {}}', 'unknown tokenization "os"'),
        ('{"tokenization": ["a"], "config": {}}', r"tokenization is \[\"a\"\], expected text"),
        ('{"tokenization": "PerTok", "config": {"beat_res": 3}}', "beat_res is 3, expected an object"),
        (json.dumps(miditok.CPWord().to_dict()), "several ids a step"),
    ],
    ids=["no json", "text tokenizer", "unknown", "a list", "damaged", "several ids"],
)
def test_what_is_no_usable_tokenizer_is_refused(text, message, tmp_path):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(DataError, match=message):
        load_tokenizer(tmp_path)


def test_a_missing_tokenizer_is_refused_with_what_to_give(tmp_path):
    with pytest.raises(DataError, match="give 'public', 'own'"):
        load_tokenizer(tmp_path / "nothing")


def test_ids_outside_the_vocabulary_are_refused():
    with pytest.raises(DataError, match="has 285 tokens"):
        OWN.decode(np.array([3, 285]))


def test_the_tokenizer_beside_a_checkpoint_wins_over_its_size(tmp_path):
    OWN.save(tmp_path)
    found = infer_tokenizer(tmp_path, 292)
    assert (found.kind, found.inferred) == ("REMI", False)


def test_a_checkpoint_of_292_tokens_alone_means_the_public_tokenizer(tmp_path):
    found = infer_tokenizer(tmp_path, 292)
    assert (found.kind, found.inferred) == ("PerTok", True)


def test_a_checkpoint_that_says_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="model of 50257 tokens without a tokenizer"):
        infer_tokenizer(tmp_path, 50257)


def checkpoint(folder, vocab_size, scaled):
    shape = Gpt2Config(vocab_size, 16, 8, 1, 1, 16, scale_attn_by_inverse_layer_idx=scaled)
    write_checkpoint(folder, shape, fresh_tensors(shape, 1), "hf")
    return folder


def test_arrival_times_are_told_by_vocabulary_and_attention_and_never_by_one_alone(tmp_path):
    found = infer_tokenizer(checkpoint(tmp_path / "both", 55_028, True), 55_028)
    assert (found.kind, found.inferred) == ("ArrivalTime", True)
    with pytest.raises(DataError, match=r"name its tokenizer with --tokenizer \(arrival, if"):
        infer_tokenizer(checkpoint(tmp_path / "size", 55_028, False), 55_028)
    with pytest.raises(DataError, match=r"without a tokenizer.json beside it; name its tokenizer with --tokenizer$"):
        infer_tokenizer(checkpoint(tmp_path / "flag", 600, True), 600)


def test_arrival_times_load_by_name_and_from_their_file(tmp_path):
    named = load_tokenizer("arrival")
    named.save(tmp_path)
    found = load_tokenizer(tmp_path)
    assert (found.kind, found.inferred) == ("ArrivalTime", False)
    assert found.fingerprint == named.fingerprint
    assert infer_tokenizer(tmp_path, 55_040).kind == "ArrivalTime"  # a padded embedding is fine
    with pytest.raises(DataError, match="ArrivalTime has 55028 tokens, the model 292"):
        infer_tokenizer(tmp_path, 292)
    (tmp_path / "tokenizer.json").write_text('{"tokenization": "ArrivalTime", "vocab_size": 3}')
    with pytest.raises(DataError, match="vocab_size is 3"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_larger_than_the_model_does_not_fit(tmp_path):
    PUBLIC.save(tmp_path)
    with pytest.raises(DataError, match="a tokenizer that does not fit"):
        infer_tokenizer(tmp_path, 285)
    check_fits(OWN, 320)  # a padded embedding is fine


def test_importing_miditok_leaves_torch_alone():
    code = (
        "import sys; from musiclora.symbolic.tokens.tokenizers import own_tokenizer\n"
        "own_tokenizer(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd="/", check=False).returncode == 0


def test_band_tokens_keep_instruments_drums_loudness_metre_and_tempo():
    score = score_of(
        [(0, 24, 60, 95), (24, 12, 64, 63)], [(0, 48, 40, 79)], [(0, 3, 36, 127), (12, 3, 42, 47)], drums=(2,)
    )
    score.time_signatures.append(TimeSignature(0, 3, 4))
    score.tempos.append(Tempo(0, 120))

    decoded = BAND.decode(BAND.encode(score))

    assert rows(decoded) == rows(score)
    assert [(track.program, track.is_drum) for track in decoded.tracks] == [(0, False), (1, False), (0, True)]
    assert [(m.numerator, m.denominator) for m in decoded.time_signatures] == [(3, 4)]
    assert decoded.tempos[0].qpm == pytest.approx(120, rel=0.04)  # 32 tempos from 40 to 250 are 6 % apart


def test_band_tokenizer_is_found_by_name_and_has_every_program():
    assert load_tokenizer("band").to_json() == BAND.to_json()
    assert BAND.vocab_size == 722
    assert BAND.holds.programs == frozenset(range(-1, 128))
    assert (BAND.holds.velocities, BAND.holds.metres, BAND.holds.tempos) == (8, True, True)


def test_drums_of_the_band_tokens_are_no_pitches_that_a_transposition_moves():
    ids = BAND.encode(score_of([(0, 24, 60, 95)], [(0, 24, 36, 95)], drums=(1,)))

    assert [BAND.tokens[i] for i in ids[BAND.pitched(ids)]] == ["Pitch_60"]
    assert "PitchDrum_36" in [BAND.tokens[i] for i in ids]
