"""Pieces of arrival-time tokens: given notes stay, gaps are filled, new notes get their place and their track."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from band_scores import QUARTER, band, notes_of
from reference_session import HashModel
from symusic import Note, Score, Track

from musiclora.errors import ConfigError, DataError
from musiclora.music.bars import bar_lines
from musiclora.symbolic.decoding.arrival.context import Given
from musiclora.symbolic.decoding.arrival.parts import program_of
from musiclora.symbolic.decoding.arrival.plan import ArrivalPlan
from musiclora.symbolic.decoding.arrival.score import build_score
from musiclora.symbolic.decoding.clock import Clock
from musiclora.symbolic.decoding.loudness import Loudness
from musiclora.symbolic.decoding.pieces import generate_pieces, write_midi_sample
from musiclora.symbolic.decoding.request import GenerationRequest
from musiclora.symbolic.tokens.arrival import DUR_OFFSET, NOTE_OFFSET, ArrivalTokenizer

TOKENIZER = ArrivalTokenizer()


def write(request, **model):
    return generate_pieces(HashModel(**{"early": 0.05, **model}), TOKENIZER, request)


def saved(piece):
    """The piece as a MIDI file holds it."""
    return Score.from_midi(bytes(piece.score.dumps_midi()))


@pytest.mark.parametrize("parts", [("melody",), ("#2", "kit"), ("bass", "drums")], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_given_parts_come_back_note_for_note(parts, seed):
    score = band(seed, 4)
    index = {"melody": 0, "#2": 1, "bass": 2, "kit": 3, "drums": 3}
    given = notes_of(score, [index[part] for part in parts])
    for piece in write(GenerationRequest(90, accompany=score, parts=parts, seed=seed, count=2)):
        for found in (piece.score, saved(piece)):
            every = notes_of(found)
            assert given <= every
        assert piece.prompt_notes == given.total()
        new = notes_of(piece.score) - given
        assert new.total() == piece.notes - piece.prompt_notes > 0
        last = max(at + length for _, at, length, _, _ in given)
        assert max(at for _, at, _, _, _ in new) < last
        for part in parts:
            track = next(t for t in piece.score.tracks if t.name == score.tracks[index[part]].name)
            assert notes_of(piece.score, [list(piece.score.tracks).index(track)]) == notes_of(score, [index[part]])
            assert track.controls == score.tracks[index[part]].controls
        assert piece.score.tempos == score.tempos
        assert piece.score.time_signatures == score.time_signatures
        assert piece.score.key_signatures == score.key_signatures


@pytest.mark.slow
def test_an_accompaniment_reaches_the_end_of_the_given_parts():
    score = band(2, 3)
    piece = write(GenerationRequest(accompany=score, parts=("melody",), seed=3))[0]
    assert not any("--max-new-tokens" in remark for remark in piece.remarks)
    new = notes_of(piece.score) - notes_of(score, [0])
    seconds = Clock(score).seconds(max(at for _, at, _, _, _ in new))
    assert score.to("second").end() - seconds < 3
    short = write(GenerationRequest(30, accompany=score, parts=("melody",), seed=3))[0]
    assert any("--max-new-tokens" in remark for remark in short.remarks)
    assert notes_of(score, [0]) <= notes_of(short.score)


@pytest.mark.parametrize("seed", range(3))
def test_a_filled_gap_leaves_everything_outside_untouched(seed):
    score = band(seed, 6)
    lines = bar_lines(score, score.end())
    clock = Clock(score)
    first, last = lines[2], lines[4]
    request = GenerationRequest(
        infill=score, from_seconds=clock.seconds(first), to_seconds=clock.seconds(last), seed=seed, count=2
    )
    outside = Counter({note: n for note, n in notes_of(score).items() if not first <= note[1] < last})
    for piece in write(request):
        for found in (piece.score, saved(piece)):
            every = notes_of(found)
            assert outside <= every
            new = every - outside
            assert new
            assert all(first <= at and at + length <= last for _, at, length, _, _ in new)
        assert piece.prompt_notes == outside.total()
        for track in score.tracks:
            kept = next(t for t in piece.score.tracks if t.name == track.name)
            assert program_of(kept) == program_of(track)
            assert kept.controls == track.controls
        assert piece.score.tempos == score.tempos


@pytest.mark.parametrize("chosen", [frozenset({-1}), frozenset({0, 33, -1})], ids=str)
def test_only_the_instruments_asked_for_are_drawn(chosen):
    free = write(GenerationRequest(60, instruments=chosen, count=2))
    for piece in free:
        assert {program_of(track) for track in piece.score.tracks} <= chosen
    score = band(4, 2)
    piece = write(GenerationRequest(60, instruments=chosen, accompany=score, parts=("melody",)))[0]
    assert {program_of(track) for track in piece.score.tracks} <= chosen | {40}


def test_a_free_piece_has_named_tracks_and_whole_notes():
    piece = write(GenerationRequest(90, instruments=frozenset({0, 33, -1})))[0]
    assert piece.score.ticks_per_quarter == 480
    assert {track.name for track in piece.score.tracks} <= {"Acoustic Grand Piano", "Electric Bass (finger)", "Drums"}
    assert len({track.name for track in piece.score.tracks}) == len(piece.score.tracks)
    assert piece.notes == piece.score.note_num() <= 30
    onsets = [note.time for track in piece.score.tracks for note in track.notes]
    assert min(onsets) >= 0


def test_doubles_are_merged_and_a_note_ends_where_the_next_begins():
    """A note that begins while a given one of its pitch and instrument sounds is left out."""
    score = Score(480)
    score.tracks.append(Track(program=40, name="fiddle"))
    score.tracks[0].notes = [Note(960, 480, 60, 99)]
    violin = NOTE_OFFSET + 128 * 40 + 60
    drawn = [
        (0, 50, violin),
        (0, 300, violin),
        (40, 400, violin),
        (100, 20, violin),
        (120, 9, violin),
        (300, 20, violin),
    ]
    drawn += [(100, 20, violin + 1), (100, 20, violin + 128), (100, 30, violin + 128)]
    events = np.array(drawn) + np.array([0, DUR_OFFSET, 0])
    plan = ArrivalPlan(Given(events[:0], events[:0]), score)
    found, new, cut = build_score(plan, events, Loudness(), limited=False)
    assert (new, cut) == (5, False)
    assert [(n.time, n.duration, n.pitch) for n in found.tracks[0].notes] == [
        (0, 384, 60),
        (384, 576, 60),
        (960, 480, 60),
        (960, 192, 61),
        (2880, 192, 60),
    ]
    assert [(n.time, n.duration) for n in found.tracks[1].notes] == [(960, 288)]
    assert found.tracks[1].name == "Viola"


@pytest.mark.slow
def test_the_same_seed_gives_the_same_midi_and_a_piece_is_the_same_among_others():
    score = band(1, 3)
    for request in ({"max_new_tokens": 45}, {"max_new_tokens": 45, "accompany": score, "parts": ("melody",)}):
        many = write(GenerationRequest(**request, count=9))
        again = write(GenerationRequest(**request, count=2))
        for one, other in zip(many, again, strict=False):
            assert one.score.dumps_midi() == other.score.dumps_midi()
        assert len({bytes(piece.score.dumps_midi()) for piece in many}) == 9


@pytest.mark.parametrize("from_end", [False, True])
def test_a_prompt_is_continued_from_its_bars(from_end):
    score = band(5, 8)
    lines = bar_lines(score, score.end())
    piece = write(GenerationRequest(90, prompt=score, prompt_bars=2, from_end=from_end, seed=2))[0]
    early = QUARTER // 32
    if from_end:
        first = lines[-3]
        given = Counter(
            (program, max(0, at - first), length, pitch, velocity)
            for (program, at, length, pitch, velocity), n in notes_of(score).items()
            for _ in range(n)
            if at >= first - early
        )
        assert [round(tempo.qpm, 2) for tempo in piece.score.tempos] == [77.7]
        assert piece.score.tempos[0].time == 0
    else:
        given = Counter({note: n for note, n in notes_of(score).items() if note[1] < lines[2] - early})
        new = notes_of(piece.score) - given
        assert min(at for _, at, _, _, _ in new) >= lines[2]
    assert given <= notes_of(piece.score)
    assert piece.prompt_notes == given.total() < piece.notes
    assert (piece.score.time_signatures[0].numerator, piece.score.time_signatures[0].denominator) == (3, 4)
    assert piece.score.key_signatures[0].key == -3
    assert {7, 10} == {control.number for control in piece.score.tracks[0].controls}
    assert piece.ending == ""  # cut at a bar line


def test_a_cut_continuation_ends_on_a_bar_line():
    """Of more tokens the first notes are the same, up to the bar line where the shorter piece was cut."""
    score = band(5, 8)
    short, long = (write(GenerationRequest(n, prompt=score, prompt_bars=2, seed=2))[0] for n in (120, 240))
    given = notes_of(score)
    onsets, every = ([at for _, at, _, _, _ in notes_of(p.score) - given] for p in (short, long))
    lines = bar_lines(score, score.end() * 2)
    end = next(line for line in lines if line > max(onsets))
    assert short.score.end() <= max(end, max(note[1] + note[2] for note in given & notes_of(short.score)))
    assert sorted(onsets) == sorted(at for at in every if at < end)
    assert len(onsets) < len(every)


def test_a_long_prompt_is_continued_from_what_fits():
    score = band(6, 60)
    piece = write(GenerationRequest(30, prompt=score), n_positions=200)[0]
    assert piece.prompt_notes == score.note_num()
    assert any("the model sees the last 33" in remark for remark in piece.remarks)
    assert notes_of(score) <= notes_of(piece.score)


def test_new_notes_have_the_loudness_of_the_songs():
    loudness = Loudness({0: (100, 60, 20), 33: (101, 61, 21), -1: (102, 62, 22)})
    piece = write(GenerationRequest(90, instruments=frozenset(loudness.velocities), loudness=loudness))[0]
    for track in piece.score.tracks:
        levels = loudness.velocities[program_of(track)]
        for note in track.notes:
            phase = note.time % 480
            expected = levels[2] if 20 < phase < 460 else levels[0] if (note.time + 20) % 1920 <= 40 else levels[1]
            assert note.velocity == expected
    assert any("training songs" in remark for remark in piece.remarks)
    plain = write(GenerationRequest(30))[0]
    assert any("default levels" in remark for remark in plain.remarks)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"accompany": band(0, 2), "parts": ("sax",)}, '--parts "sax": no such part; the file has #1 Violin "melody"'),
        ({"accompany": band(0, 2), "parts": ("#9",)}, '--parts "#9": no such part'),
        ({"accompany": Score(480)}, "--accompany: holds no notes"),
        ({"infill": Score(480), "to_seconds": 1.0}, "--infill: holds no notes"),
        ({"prompt": Score(480)}, "--prompt: holds no notes"),
        ({"infill": band(0, 2), "from_seconds": 99.0, "to_seconds": 100.0}, "--infill: the gap begins at 99.00 s"),
        ({"infill": band(0, 2), "from_seconds": 1.0, "to_seconds": 1.0}, "is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_one_clear_line(request_, message):
    with pytest.raises((DataError, ConfigError)) as caught:
        write(GenerationRequest(9, **request_))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_drums_alone_are_accompanied():
    score = band(3, 2)
    piece = write(GenerationRequest(60, accompany=score, parts=("drums",)))[0]
    assert notes_of(score, [3]) <= notes_of(piece.score)


def test_parts_by_name_number_and_instrument():
    from musiclora.symbolic.decoding.arrival.parts import find_parts

    score = band(0, 2, names=("Melody ", "bass", "Bass line", "kit"))
    assert find_parts(score, []) == [0, 1, 2, 3]
    assert find_parts(score, ["melody"]) == [0]
    assert find_parts(score, ["bass"]) == [1]  # a track of this name, though it is a piano
    assert find_parts(score, ["33", "#4"]) == find_parts(score, ["33", "track 4"]) == [2, 3]
    assert find_parts(score, ["Electric Bass"]) == [2]
    assert find_parts(score, ["violin", "percussion"]) == [0, 3]
    score.tracks[0].notes = []
    assert find_parts(score, ["#1"]) == [1]


def test_a_sample_is_written(tmp_path):
    path = write_midi_sample(HashModel(early=0.05, n_positions=64), TOKENIZER, tmp_path, "epoch-1", 3)
    assert path is not None
    assert Score(str(path)).note_num() > 3


def test_forty_instruments_are_accompanied_by_those_that_sound():
    score = Score(480)
    for program in range(40):
        score.tracks.append(Track(program=program, notes=[Note(480 * (program % 4), 100, 60, 90)]))
    score.tracks[0].notes.append(Note(4800, 100, 62, 90))
    piece = write(GenerationRequest(60, accompany=score))[0]
    assert notes_of(score) <= notes_of(piece.score)
    assert {program for program, *_ in notes_of(piece.score)} <= set(range(40))
    assert piece.notes > piece.prompt_notes
    assert any(remark.startswith("40 instruments: MIDI has 15 channels") for remark in piece.remarks)


def test_a_gap_may_be_the_whole_file():
    score = band(2, 2)
    request = GenerationRequest(infill=score, from_seconds=0, to_seconds=float(score.to("second").end()) + 1)
    piece = write(request)[0]
    assert piece.prompt_notes == 0 < piece.notes
    assert piece.score.tempos == score.tempos


def test_a_prompt_of_one_note_is_continued():
    score = Score(480)
    score.tracks.append(Track(program=24, name="lute", notes=[Note(7, 100, 60, 33)]))
    piece = write(GenerationRequest(60, prompt=score))[0]
    assert (24, 7, 100, 60, 33) in notes_of(piece.score)
    assert piece.notes > 1
