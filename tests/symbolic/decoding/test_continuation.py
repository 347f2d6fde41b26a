"""Generation: seeds, prompts, and endings on bar lines."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import mido
import numpy as np
import pytest
from numpy_model import NumpyModel
from symusic import KeySignature, Note, Score, Tempo, TimeSignature, Track

from musiclora.errors import ConfigError, DataError
from musiclora.symbolic.decoding.continuation import BATCH_PIECES
from musiclora.symbolic.decoding.grammar import grammar_for
from musiclora.symbolic.decoding.pieces import generate_pieces, write_midi_sample
from musiclora.symbolic.decoding.request import GenerationRequest
from musiclora.symbolic.tokens.tokenizers import own_tokenizer, public_tokenizer

FOUND = Path(__file__).parents[2] / "golden" / "found"


@pytest.fixture(params=[own_tokenizer, public_tokenizer], ids=["own", "public"])
def tokenizer(request):
    return request.param()


def tune(bars: int = 4, program: int = 0) -> Score:
    score = Score(480)
    track = Track(program=program)
    for beat in range(bars * 4):
        track.notes.append(Note(beat * 480, 480, 60 + beat * 5 % 12, 90))
    score.tracks.append(track)
    score.tempos.append(Tempo(0, 92.0))
    return score


def melody(score: Score) -> list[tuple[float, int]]:
    """List onset in quarters and pitch of each note."""
    return sorted((n.time / score.ticks_per_quarter, n.pitch) for t in score.tracks for n in t.notes)


def test_pieces_of_a_seed_do_not_depend_on_count_or_batch(tokenizer):
    several = generate_pieces(NumpyModel(tokenizer), tokenizer, GenerationRequest(60, seed=3, count=10))
    fewer = generate_pieces(NumpyModel(tokenizer), tokenizer, GenerationRequest(60, seed=3, count=2))
    other = generate_pieces(NumpyModel(tokenizer), tokenizer, GenerationRequest(60, seed=4, count=2))
    assert [p.number for p in several] == list(range(1, 11))
    assert [p.ids for p in several[:2]] == [p.ids for p in fewer]
    assert several[0].ids != several[1].ids
    assert fewer[0].ids != other[0].ids


def test_pieces_decode_open_in_symusic_and_mido_and_have_a_tempo_and_a_program(tokenizer, tmp_path):
    for piece in generate_pieces(NumpyModel(tokenizer), tokenizer, GenerationRequest(300, seed=1, count=3)):
        piece.save(tmp_path / "piece.mid")
        read = Score(tmp_path / "piece.mid")
        assert read.note_num() == piece.notes > 0
        assert 20 <= read.tempos[0].qpm <= 400
        messages = list(mido.MidiFile(file=io.BytesIO((tmp_path / "piece.mid").read_bytes())))
        assert any(m.type == "program_change" for m in messages)
        assert sum(m.type == "note_on" and m.velocity > 0 for m in messages) == piece.notes


def test_pieces_end_on_a_bar_line(tokenizer):
    for piece in generate_pieces(NumpyModel(tokenizer, 512), tokenizer, GenerationRequest(200, seed=2, count=4)):
        bar = 4 * piece.score.ticks_per_quarter
        tokens = grammar_for(tokenizer).base_tokens(piece.ids)
        bars = sum(t == "Bar_None" for t in tokens) - (tokens[0] == "Bar_None" and tokenizer.kind == "REMI")
        assert not piece.ended
        onsets = [n.time for t in piece.score.tracks for n in t.notes]
        ends = [n.time + n.duration for t in piece.score.tracks for n in t.notes]
        assert max(onsets) < bars * bar  # no note of the unfinished last bar
        assert max(ends) <= -(-(max(onsets) + 1) // bar) * bar  # no note crosses the final bar line


def test_piece_that_the_model_ends_keeps_its_last_bar(tokenizer):
    model = NumpyModel(tokenizer, eos_bias=2.0)
    pieces = generate_pieces(model, tokenizer, GenerationRequest(400, seed=5, count=4))
    assert any(p.ended for p in pieces)
    info = grammar_for(tokenizer)
    for piece in (p for p in pieces if p.ended):
        assert tokenizer.eos_id not in piece.ids
        assert piece.notes == tokenizer.note_count(np.array(piece.ids)) > 0
        assert info.whole[info.state_after(piece.ids)]


def test_piece_without_a_bar_line_keeps_its_whole_notes(tokenizer):
    piece = generate_pieces(NumpyModel(tokenizer), tokenizer, GenerationRequest(7, seed=0))[0]
    assert piece.notes == tokenizer.note_count(np.array(piece.ids)) > 0


def test_not_one_note_is_one_clear_error(tokenizer):
    with pytest.raises(DataError, match="not one note in 1 tokens"):
        generate_pieces(NumpyModel(tokenizer), tokenizer, GenerationRequest(1))


@pytest.mark.parametrize("bars", [0, 2], ids=["whole prompt", "two bars"])
def test_continuation_contains_its_prompt_and_goes_on(tokenizer, bars):
    prompt = tune(program=21)
    request = GenerationRequest(120, seed=6, prompt=prompt, prompt_bars=bars, count=2)
    for piece in generate_pieces(NumpyModel(tokenizer, 512), tokenizer, request):
        notes = [n for n in melody(prompt) if not bars or n[0] < bars * 4]
        assert piece.prompt_notes == len(notes)
        new = melody(piece.score)
        for note in notes:
            new.remove(note)
        assert new
        assert new[0][0] >= (bars * 4 or notes[-1][0])
        assert piece.score.tracks[0].program == 21
        assert piece.score.tempos[0].qpm == pytest.approx(92, abs=0.01)


def test_continuation_may_not_end_before_a_new_note(tokenizer):
    model = NumpyModel(tokenizer, 512, eos_bias=40.0)
    piece = generate_pieces(model, tokenizer, GenerationRequest(50, prompt=tune(2)))[0]
    assert piece.ended
    assert piece.notes == piece.prompt_notes + 1


def test_a_prompt_longer_than_the_context_is_continued_from_its_last_bars(tokenizer):
    model = NumpyModel(tokenizer, 64)
    piece = generate_pieces(model, tokenizer, GenerationRequest(40, prompt=tune(20)))[0]
    assert piece.prompt_notes == 80
    new = melody(piece.score)
    for note in melody(tune(20)):
        new.remove(note)
    assert new[0][0] >= 79
    assert "more than the model's 64 positions hold; the model sees the last" in piece.remarks[0]
    assert 10 < len(model.contexts[0]) <= 33


def test_every_piece_has_one_remark_on_a_prompt_longer_than_the_context(tokenizer):
    request = GenerationRequest(4, prompt=tune(20), count=BATCH_PIECES + 1)
    remarks = [" ".join(piece.remarks) for piece in generate_pieces(NumpyModel(tokenizer, 64), tokenizer, request)]
    assert [remark.count("positions hold") for remark in remarks] == [1] * (BATCH_PIECES + 1)


def metres(score):
    return [(t.time / score.ticks_per_quarter, t.numerator, t.denominator) for t in score.time_signatures]


@pytest.mark.parametrize("bars", [2, 3, 4])
def test_prompt_bars_are_counted_in_the_metre_of_the_prompt(tokenizer, bars):
    prompt = Score(FOUND / "waltz.mid")
    request = GenerationRequest(300, seed=6, prompt=prompt, prompt_bars=bars)
    piece = generate_pieces(NumpyModel(tokenizer, 512), tokenizer, request)[0]
    given = [note for note in melody(prompt) if note[0] < 3 * bars]
    assert piece.prompt_notes == len(given) == 3 * bars
    assert piece.prompt_notes < piece.notes
    assert metres(piece.score) == [(0, 3, 4)]
    assert piece.score.tempos[0].qpm == pytest.approx(prompt.tempos[0].qpm, abs=0.01)
    new = melody(piece.score)
    for note in given:
        new.remove(note)
    if bars == 4:  # a bar line of the tokens too
        assert new[0][0] >= 12
    ends = [(n.time + n.duration) / piece.score.ticks_per_quarter for t in piece.score.tracks for n in t.notes]
    assert max(ends) <= -(-max(onset + 1e-6 for onset, _ in melody(piece.score)) // 3) * 3  # ends on a bar of three


def test_prompt_keeps_its_later_metres_and_tempos(tokenizer):
    prompt = tune(8)
    prompt.time_signatures.extend([TimeSignature(0, 4, 4), TimeSignature(8 * 480, 3, 4), TimeSignature(14 * 480, 4, 4)])
    prompt.tempos.append(Tempo(8 * 480, 60.0))
    request = GenerationRequest(80, seed=6, prompt=prompt, prompt_bars=4)
    piece = generate_pieces(NumpyModel(tokenizer, 512), tokenizer, request)[0]
    assert piece.prompt_notes == 14  # two bars of four quarters and two of three
    assert metres(piece.score) == [(0, 4, 4), (8, 3, 4)]
    if tokenizer.kind == "REMI":  # its tokens hold no tempo
        assert [(t.time / piece.score.ticks_per_quarter, round(t.qpm)) for t in piece.score.tempos] == [
            (0, 92),
            (8, 60),
        ]


def test_prompt_keeps_its_key_signatures(tokenizer):
    prompt = tune(20)
    prompt.key_signatures.extend([KeySignature(0, -3, 1), KeySignature(3 * 480, 2, 0)])
    piece = generate_pieces(NumpyModel(tokenizer, 512), tokenizer, GenerationRequest(80, seed=6, prompt=prompt))[0]
    quarter = piece.score.ticks_per_quarter
    assert [(k.time / quarter, k.key, k.tonality) for k in piece.score.key_signatures] == [(0, -3, 1), (3, 2, 0)]


def test_notes_that_the_tokens_leave_out_of_a_prompt_are_said(tokenizer):
    prompt = Score(FOUND / "highlow.mid")
    piece = generate_pieces(NumpyModel(tokenizer), tokenizer, GenerationRequest(20, prompt=prompt))[0]
    assert piece.remarks == ("--prompt: left out 20 notes outside 21..109",)


def test_prompt_without_notes_is_refused(tokenizer):
    with pytest.raises(DataError, match="no notes"):
        generate_pieces(NumpyModel(tokenizer, 64), tokenizer, GenerationRequest(prompt=Score(480)))
    generate_pieces(NumpyModel(tokenizer, 64), tokenizer, GenerationRequest(20, prompt=tune(20), prompt_bars=2))


def test_long_piece_goes_on_from_its_last_bars(tokenizer):
    model = NumpyModel(tokenizer, n_positions=64, bar_bias=6)  # bars of a few notes each
    progress = []
    request = GenerationRequest(300, top_k=0, top_p=1.0, seed=8, count=2)
    pieces = generate_pieces(model, tokenizer, request, lambda done, total: progress.append((done, total)))
    info = grammar_for(tokenizer)
    for piece in pieces:
        assert len(piece.ids) == 300
        state = info.start
        for token in piece.ids:  # the grammar holds where a new context begins
            state = int(info.transitions[state, info.classes[token]])
            assert state >= 0
    later = [c for c in model.contexts if len(c) > 1]
    assert len(later) >= 2 * 300 // 64
    for context in later:
        assert context[0] == tokenizer.bos_id
        assert tokenizer.bos_id not in context[1:]
        assert len(context) <= 33  # half of the context length
        # the context begins on a bar line of the piece
        joined = [p.ids for p in pieces]
        place = next(
            (ids, i) for ids in joined for i in range(len(ids)) if ids[i : i + len(context) - 1] == context[1:]
        )
        ids, i = place
        assert info.opens_bar[ids[i]] or info.opens_bar[ids[i - 1]]
    assert progress[-1] == (600, 600)
    assert all(a <= b for (a, _), (b, _) in itertools.pairwise(progress))


def test_long_piece_with_bars_longer_than_the_context_goes_on():
    tokenizer = public_tokenizer()
    model = NumpyModel(tokenizer, n_positions=32, eos_bias=-200.0)
    silent = model.logits

    def no_bars(ids):
        found = silent(ids)
        found[[i for i, t in enumerate(tokenizer.tokens) if t.startswith(("Bar", "Tempo"))]] -= 100
        return found

    model.logits = no_bars
    piece = generate_pieces(model, tokenizer, GenerationRequest(100, seed=1))[0]
    assert len(piece.ids) == 100
    assert piece.notes >= 30  # a note takes three tokens


def test_model_with_more_ids_than_the_tokenizer_never_writes_them(tokenizer):
    model = NumpyModel(tokenizer, surplus=50)
    piece = generate_pieces(model, tokenizer, GenerationRequest(200, temperature=2.0, top_p=1.0))[0]
    assert max(piece.ids) < tokenizer.vocab_size


@pytest.mark.parametrize(
    ("field", "value"), [("max_new_tokens", 0), ("count", 0), ("seed", -1), ("prompt_bars", -1)], ids=str
)
def test_request_out_of_range_names_the_option(field, value):
    with pytest.raises(ConfigError, match="--" + field.replace("_", "-")):
        GenerationRequest(**{field: value})


def test_sample_to_folder_writes_a_file_or_leaves_nothing(tmp_path):
    tokenizer = own_tokenizer()
    path = write_midi_sample(NumpyModel(tokenizer), tokenizer, tmp_path / "samples", "epoch-001", 1)
    assert path == tmp_path / "samples" / "epoch-001.mid"
    assert Score(path).note_num() > 0
    assert write_midi_sample(NumpyModel(tokenizer, n_positions=2), tokenizer, tmp_path / "none", "x", 1) is None
    assert not (tmp_path / "none").exists()
